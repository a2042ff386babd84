"""Files replaced under a running server: pages show the new ones, or say what is of the old."""

import base64
import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from streamlit.testing.v1 import AppTest

from emo_viz.__main__ import main
from model.emo.config import EmoConfig
from model.run.cut import cut_checkpoint
from model.run.inference import encode, record
from model.run.loading import load_model, load_tokenizer
from model.run.subset import ExpertSubset, random_subset
from tests.pages.ablation_page import written
from tests.pages.opened import charts, follow_link, heatmaps, losses
from tests.uneven import measure

ROUTING, CLUSTERS, ABLATION, KERNEL = (
    "pages/1_Token_routing.py",
    "pages/2_Document_clusters.py",
    "pages/3_Subset_ablation.py",
    "pages/4_Kernel.py",
)
DOCUMENTS = "documents/documents.parquet"


@pytest.fixture
def folder(tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the assets to replace files in."""
    copy = tmp_path / "assets"
    shutil.copytree(tiny_assets, copy)
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(copy))
    return copy


def words(at: AppTest) -> str:
    parts = [*at.markdown, *at.caption, *at.error, *at.info, *at.warning]
    return "\n".join(part.value for part in parts).replace("\\", "")


def weights(folder: Path, name: str = "emo-nano") -> Path:
    return folder / "checkpoints" / name / "model.safetensors"


def replace_emo(folder: Path) -> None:
    """Another model of the same shape and size in the place of EMO's."""
    shutil.copy(weights(folder, "std-nano"), weights(folder))


def put_cut(folder: Path, name: str, experts: list[int]) -> None:
    """A checkpoint cut to that many experts in each layer in the place of the whole one."""
    whole = folder / "checkpoints" / name
    config = EmoConfig.from_pretrained(whole)
    layers = zip(random_subset(config, 8, seed=0).experts, experts, strict=True)
    kept = [layer[: number - 1] + layer[-1:] for layer, number in layers]
    cut_checkpoint(whole, ExpertSubset(tuple(kept), "random", (), 8), folder / name)
    shutil.rmtree(whole)
    (folder / name).rename(whole)


def put_shards(checkpoint: Path) -> None:
    """The same weights in two files with an index."""
    tensors = load_file(checkpoint / "model.safetensors")
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in shards.items():
        save_file({name: tensors[name] for name in held}, checkpoint / file, {"format": "pt"})
    weight_map = {name: file for file, held in shards.items() for name in held}
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    (checkpoint / "model.safetensors").unlink()


def test_a_replaced_checkpoint_makes_old_findings_old(folder: Path):
    assert "the likelihood kept" in words(follow_link(""))
    replace_emo(folder)
    home = follow_link("")
    said = words(home)
    assert said.count("made with another EMO checkpoint") == 3
    assert (
        "the likelihood kept" not in said and "Clusters of" not in said and "With all" not in said
    )
    assert not charts(home)
    for page, command in ((CLUSTERS, "emo_viz record"), (ABLATION, "emo_viz curves")):
        at = follow_link(page)
        assert "made with another EMO checkpoint" in words(at)
        assert command in at.code[0].value and not charts(at)


def test_a_replaced_checkpoint_is_the_one_that_routes(folder: Path):
    text = "the anchor and a rope"
    link = {"routing_source": "Your own text", "routing_text": text, "routing_token": "3"}
    before = losses(follow_link(ROUTING, **link))
    replace_emo(folder)
    after = losses(follow_link(ROUTING, **link))
    checkpoint = folder / "checkpoints" / "emo-nano"
    token_ids = encode(load_tokenizer(checkpoint), text, 512).token_ids
    loss = record(load_model(checkpoint), token_ids).loss[3]
    said = f"{loss:.2f} nats ("
    assert after[0].startswith(said) and not before[0].startswith(said)


def test_replaced_token_clusters_are_read_again(folder: Path):
    before = words(follow_link(CLUSTERS))
    analysis = folder / "analysis"
    shutil.copy(analysis / "clusters-std-nano.npz", analysis / "clusters-emo-nano.npz")
    after = words(follow_link(CLUSTERS))
    assert "Clusters of single tokens agree" in before
    assert "Both files of token clusters are of the run std-nano" in after
    assert "Clusters of single tokens agree" not in after


def test_other_documents_make_the_curves_old_and_are_listed(folder: Path):
    follow_link(ROUTING)
    table = pd.read_parquet(folder / DOCUMENTS)
    table.assign(text="a new text of " + table["text"]).to_parquet(folder / DOCUMENTS)
    assert "The curves were made with other documents" in words(follow_link(""))
    assert "made with other documents" in words(follow_link(ABLATION))
    labels = follow_link(ROUTING).selectbox(key="routing_choice").options
    assert all("a new text of" in label for label in labels)


def test_traces_recorded_again_are_read_again(folder: Path):
    follow_link(CLUSTERS, cluster_level="Documents")
    table = pd.read_parquet(folder / DOCUMENTS).head(12)
    table.assign(domain="moor").to_parquet(folder / DOCUMENTS)
    assert "made with other documents" in words(follow_link(CLUSTERS))
    for name in ("emo-nano", "std-nano"):
        shutil.rmtree(folder / "traces" / name)
        parts = ("checkpoints", "traces")
        model, out = (os.fspath(folder / part / name) for part in parts)
        options = ["--model", model, "--documents", os.fspath(folder / DOCUMENTS), "--out", out]
        result = CliRunner().invoke(main, ["record", *options])
        assert result.exit_code == 0, result.output
    said = words(follow_link(CLUSTERS, cluster_level="Documents"))
    assert "with 1 domain, 12 documents" in said


def test_a_sharded_checkpoint_is_a_checkpoint(folder: Path):
    whole = follow_link("").table[0].value
    for name in ("emo-nano", "std-nano"):
        put_shards(folder / "checkpoints" / name)
    assert follow_link("").table[0].value.equals(whole)
    assert "routing goes to" in words(follow_link(ROUTING))
    assert "made with another EMO checkpoint" in words(follow_link(ABLATION))


@pytest.mark.parametrize(
    ("cuts", "sentence"),
    [
        ({"emo-nano": [8, 8]}, "EMO has 7 routed experts a layer and Standard MoE 15"),
        ({"std-nano": [8, 8]}, "EMO has 15 routed experts a layer and Standard MoE 7"),
        ({"emo-nano": [8, 6]}, "EMO has 7 routed experts in layer 0 and Standard MoE 15"),
        (
            {"emo-nano": [8, 8], "std-nano": [8, 6]},
            "EMO has 7 routed experts in layer 1 and Standard MoE 5",
        ),
    ],
)
def test_models_of_different_numbers_of_experts_say_what_does_not_compare(
    folder: Path, cuts: dict[str, list[int]], sentence: str
):
    for name, experts in cuts.items():
        put_cut(folder, name, experts)
    at = follow_link(ROUTING)
    assert f"{sentence}, so numbers of experts do not compare" in words(at)
    (half,), (picture,) = charts(at), heatmaps(at)
    assert [trace["name"] for trace in half["data"]] == ["EMO", "Standard MoE"]  # no even use
    orders = [base64.b64decode(side["layers"][0]["order"]) for side in picture["sides"]]
    last = [cuts.get(name, [16, 16])[-1] - 1 for name in ("emo-nano", "std-nano")]
    assert [len(order) // 2 for order in orders] == last
    assert sentence in words(follow_link(ROUTING, routing_picture="Difference"))
    for page in ("", CLUSTERS, ABLATION):
        at = follow_link(page)
        assert "the likelihood kept" not in words(at) and not charts(at)
    assert "the likelihood kept" not in words(follow_link(KERNEL))  # of the code, not of the pair
    table = follow_link("").table[0].value["Experts a layer"]
    experts = cuts.get("emo-nano", [16, 16])
    low, high = min(experts) - 1, max(experts) - 1
    assert table["EMO"] == f"{low if low == high else f'{low} to {high}'} routed + 1 shared"


def test_two_models_cut_alike_are_a_pair(folder: Path):
    for name in ("emo-nano", "std-nano"):
        put_cut(folder, name, [8, 8])
    at = follow_link(ROUTING)
    assert "of 7 experts in EMO" in words(at) and len(heatmaps(at)[0]["sides"]) == 2
    for page in ("", CLUSTERS, ABLATION):
        assert "made with another EMO checkpoint" in words(follow_link(page))


def exchange(path: Path, new: Path) -> None:
    """Another file under the same name, with the old one's size and time where that can be."""
    state = path.stat()
    shutil.copy(new, path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_a_file_of_the_same_name_size_and_time_is_another_file(folder: Path):
    """As an archive unpacked over the old files, or `rsync --times`, leaves them."""
    text = {"routing_source": "Your own text", "routing_text": "the anchor and a rope"}
    before = losses(follow_link(ROUTING, routing_token="3", **text))
    old, new = (folder / "checkpoints" / name for name in ("emo-nano", "std-nano"))
    size = weights(folder).stat().st_size
    exchange(old / "model.safetensors", new / "model.safetensors")
    assert weights(folder).stat().st_size == size
    after = losses(follow_link(ROUTING, routing_token="3", **text))
    loss = record(load_model(old), encode(load_tokenizer(old), text["routing_text"], 512).token_ids)
    said = f"{loss.loss[3]:.2f} nats ("
    assert after[0].startswith(said) and not before[0].startswith(said)
    assert "made with another EMO checkpoint" in words(follow_link(ABLATION))


def test_everything_made_again_under_a_running_server_is_shown(folder: Path, tmp_path: Path):
    """Every page, and what each model writes, which the path alone once named in a cache."""
    pages = ("", ROUTING, CLUSTERS, ABLATION)
    before = {page: words(follow_link(page)) for page in pages}
    old_text = written(follow_link(ABLATION), 16)
    new = tmp_path / "new" / "assets"
    (new / "checkpoints").mkdir(parents=True)
    for name, other in (("emo-nano", "std-nano"), ("std-nano", "emo-nano")):
        shutil.copytree(folder / "checkpoints" / other, new / "checkpoints" / name)
    measure(folder, new)
    for made in sorted(new.rglob("*")):
        place = folder / made.relative_to(new)
        if made.is_file() and not made.is_symlink() and place.exists():
            exchange(place, made)
    after = {page: words(follow_link(page)) for page in pages}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMO_VIZ_ASSETS", os.fspath(new))
        fresh = {page: words(follow_link(page)) for page in pages}
        new_text = written(follow_link(ABLATION), 16)
    assert after == fresh
    assert all(after[page] != before[page] for page in pages)
    assert written(follow_link(ABLATION), 16) == new_text != old_text
