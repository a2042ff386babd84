"""One run alone is a full citizen: every page opens and shows what is measured of it."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from streamlit.testing.v1 import AppTest

from emo_viz.analysis.curves import ROUTER_PROBABILITY, Measured, read_curves
from emo_viz.analysis.tokens import headline
from emo_viz.figures.theme import AMBER, TEAL
from emo_viz.server import home
from model.emo.config import EmoConfig
from model.emo.modeling import EmoForCausalLM
from model.run.inference import encode, record
from model.run.loading import export_model, load_model, load_tokenizer
from tests.pages.ablation_page import lines, slider
from tests.pages.opened import cards, charts, follow_link, heatmaps, sent_maps, strips, texts
from tests.uneven import measure, shown

ROUTING, CLUSTERS, ABLATION, KERNEL = (
    "pages/1_Token_routing.py",
    "pages/2_Document_clusters.py",
    "pages/3_Subset_ablation.py",
    "pages/4_Kernel.py",
)


@pytest.fixture(scope="module")
def mine(tiny_assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of another name, measured by the commands."""
    folder = tmp_path_factory.mktemp("mine") / "assets"
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copytree(tiny_assets / "checkpoints" / "std-nano", folder / "checkpoints" / "my model")
    (folder / "checkpoints" / "my model").rename(folder / "checkpoints" / "mine")
    measure(tiny_assets, folder, ["mine"])
    return folder


@pytest.fixture
def alone(mine: Path) -> Iterator[Path]:
    with shown(mine) as folder:
        yield folder


@pytest.fixture
def one_of_two(tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The standard model alone, with maps and curves that hold both."""
    folder = tmp_path / "assets"
    shutil.copytree(tiny_assets, folder)
    for part in ("checkpoints", "traces"):
        shutil.rmtree(folder / part / "emo-nano")
    (folder / "analysis" / "clusters-emo-nano.npz").unlink()
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(folder))
    return folder


def words(at: AppTest) -> str:
    """What the page says beside the glossary."""
    parts = [*at.main.markdown, *at.main.caption, *at.main.info]
    return "\n".join(part.value for part in parts)


def without_the_other(said: str) -> bool:
    return not re.search(r"EMO\b(?! Viz)|\bless\b|\bboth (models|maps)\b|in both\b", said)


def test_home_says_what_one_run_shows(alone: Path):
    at = follow_link("")
    said = words(at)
    found = Measured.of(read_curves(alone / "analysis" / "curves.parquet").rows)
    kept = 100 * np.exp(-found.increase("mine", ROUTER_PROBABILITY, 16).mean)
    assert "This is **mine**." in said and "What the model shows" in at.subheader[0].value
    assert f"**{kept:.0f}\u00a0%**" in said and "in mine" in said
    assert (
        f"With all 16 experts, the loss in nats a token is **{found.full_loss('mine').mean:.3f}**"
        in said
    )
    assert without_the_other(said)
    assert [len(chart["data"]) for chart in charts(at)] == [1, 1, 1]
    assert charts(at)[0]["data"][0]["marker"]["color"] == TEAL
    assert at.table[0].value.index.tolist() == ["mine"]


def test_a_text_is_routed_by_one_run(alone: Path):
    text = pd.read_parquet(alone / "documents" / "documents.parquet")["text"][0]
    checkpoint = alone / "checkpoints" / "mine"
    ids = encode(load_tokenizer(checkpoint), text, 512).token_ids
    loss = record(load_model(checkpoint), ids).loss
    at = follow_link(ROUTING, routing_token="5")
    (part,) = cards(at)[0]["parts"]
    assert part["loss"].startswith(f"{loss[5]:.2f} nats (") and part["label"] == "mine"
    assert f"Loss in nats a token: {np.nanmean(loss):.2f} in mine" in words(at)
    assert without_the_other(words(at))
    assert at.selectbox(key="routing_expert").options[0] == "L1 E0"
    assert [side["label"] for side in heatmaps(at)[0]["sides"]] == ["mine"]
    assert "Loss difference" not in at.selectbox(key="routing_colour").options


def test_clusters_of_one_run(alone: Path):
    measured = headline(alone / "analysis" / "clusters-mine.npz").runs["mine"]
    at = follow_link(CLUSTERS)
    said = words(at)
    assert f"**{measured.domain.mean:.2f} [" in said and without_the_other(said)
    assert panels(at) == ["mine"] and "cluster_mine" in at.dataframe[0].value
    assert len(charts(follow_link(CLUSTERS, cluster_part="Domains"))) == 1
    document = at.dataframe[0].value["document"].iloc[0]
    documents = follow_link(CLUSTERS, cluster_level="Documents", cluster_document=document)
    assert panels(documents) == ["mine"] and len(strips(documents)) == 1
    assert without_the_other(words(documents)) and sent_maps(documents)["method"] == "UMAP"


def panels(at: AppTest) -> list[str]:
    """The runs that have a map."""
    return [panel["name"] for panel in sent_maps(at)["panels"]]


def test_the_cut_of_one_run(alone: Path, everything_open):
    at = follow_link(ABLATION, k="8")
    found = Measured.of(read_curves(alone / "analysis" / "curves.parquet").rows)
    increase = found.increase("mine", ROUTER_PROBABILITY, 8)
    assert f"{increase.mean:+.3f} ({increase.low:+.3f} to {increase.high:+.3f}) in mine" in words(
        at
    )
    assert without_the_other(words(at))
    assert [code.value for code in at.code if "emo_viz cut" in code.value][0].startswith(
        f"python -m emo_viz cut --model {alone / 'checkpoints' / 'mine'} --subset mine-"
    )
    assert len(strips(at)) == 1


def test_one_of_two_runs_has_what_was_measured_of_both(one_of_two: Path):
    home = follow_link("")
    assert without_the_other(words(home)) and len(charts(home)) == 3
    assert charts(home)[0]["data"][0]["marker"]["color"] == AMBER
    clusters = follow_link(CLUSTERS)
    assert panels(clusters) == ["Standard MoE"] and "in Standard MoE" in words(clusters)
    documents = follow_link(CLUSTERS, cluster_level="Documents")
    assert sent_maps(documents)["method"] == "UMAP"
    assert "in Standard MoE" in words(follow_link(ABLATION))
    assert without_the_other(words(follow_link(ROUTING)))


def test_a_run_without_weights_shows_all_that_needs_none(one_of_two: Path):
    shutil.rmtree(one_of_two / "checkpoints" / "std-nano")
    assert len(charts(follow_link(""))) == 3
    document = follow_link(CLUSTERS).dataframe[0].value["document"].iloc[0]
    clusters = follow_link(CLUSTERS, cluster_document=document)
    assert panels(clusters) == ["Standard MoE"]
    assert "There is no checkpoint of Standard MoE here" in texts(clusters)  # the reader needs one
    routing = follow_link(ROUTING)  # what the trace knows of each document
    assert len(charts(routing)) == 1 and "std\\-nano" in words(routing)
    at = follow_link(ABLATION)
    assert "There is no checkpoint of Standard MoE here" in words(at) and not charts(at)


def test_a_run_without_a_trace_is_left_out_of_the_clusters(
    tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(tiny_assets, tmp_path / "assets")
    shutil.rmtree(tmp_path / "assets" / "traces" / "emo-nano")
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(tmp_path / "assets"))
    at = follow_link(CLUSTERS, cluster_level="Documents")
    assert "There is no trace of EMO here" in words(at)
    assert panels(at) == ["Standard MoE"] and "in Standard MoE" in words(at)
    assert len(heatmaps(follow_link(ROUTING))[0]["sides"]) == 2


@pytest.mark.parametrize("page", [CLUSTERS, "pages/8_Experts.py", "pages/9_Domains.py"])
def test_what_records_a_run_that_is_left_out_stands_below_the_sentence(
    tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str
):
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(tiny_assets))
    monkeypatch.setenv("EMO_VIZ_HOME", os.fspath(tmp_path / "home"))
    home.add("mine", str(tiny_assets / "checkpoints" / "emo-nano"), [])
    at = follow_link(page, a="mine", cluster_level="Documents")
    assert "There is no trace of mine here" in words(at)
    ways = [link.proto.label for link in at.get("page_link")]
    assert ways.count("Record and measure it") == 1
    shutil.copytree(tiny_assets, tmp_path / "assets")
    shutil.rmtree(tmp_path / "assets" / "traces" / "emo-nano")
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(tmp_path / "assets"))
    at = follow_link(page, cluster_level="Documents")
    assert "There is no trace of EMO here" in words(at)
    assert "emo_viz record --model assets/checkpoints/emo-nano" in at.code[0].value


def test_with_more_runs_here_a_difference_asks_for_a_run_b(
    tiny_assets: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(tiny_assets))
    said = words(follow_link("pages/7_Routing_difference.py", a="emo-nano", b="none"))
    assert "To compare it with another run, choose it as run B in the side bar." in said


def test_home_says_of_which_run_nothing_is_measured(
    tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(tiny_assets))
    monkeypatch.setenv("EMO_VIZ_HOME", os.fspath(tmp_path / "home"))
    home.add("mine", str(tiny_assets / "checkpoints" / "emo-nano"), [])
    said = words(follow_link("", a="mine", b="std-nano")).replace("\\", "")
    assert "Not measured yet: there are no subset curves of mine." in said
    assert "Not measured yet: there are no token clusters of mine." in said


def other_tokenizer(checkpoint: Path) -> None:
    """Two tokens change their ids."""
    import json

    tokenizer = json.loads((checkpoint / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (checkpoint / "tokenizer.json").write_text(json.dumps(tokenizer))


def test_runs_of_different_tokenizers_are_read_one_at_a_time(
    tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "assets"
    shutil.copytree(tiny_assets, folder)
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(folder))
    other_tokenizer(folder / "checkpoints" / "std-nano")
    for page in (ROUTING, ABLATION):
        at = follow_link(page)
        assert "EMO and Standard MoE have different tokenizers" in words(at)
        assert "in EMO" in words(at) and "in Standard MoE" not in words(at)
        at = follow_link(page, run="std-nano")
        assert "in Standard MoE" in words(at) and "in EMO" not in words(at)
    first = follow_link(CLUSTERS, cluster_level="Documents").dataframe[0].value["id"].iloc[0]
    documents = follow_link(CLUSTERS, cluster_level="Documents", cluster_document=first)
    assert len(panels(documents)) == 2  # documents compare; their tokens do not
    assert len(strips(documents)) == 1


def test_the_kernel_page_needs_no_run(alone: Path):
    assert "kernel" in words(follow_link(KERNEL)).lower()


@pytest.fixture(scope="module")
def unlike(tiny_assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of other names: of one layer of 24 experts, and of two layers of 16."""
    folder = tmp_path_factory.mktemp("unlike") / "assets"
    like = tiny_assets / "checkpoints" / "std-nano"
    fields = load_model(like).config.to_dict() | {"num_experts": 24, "num_hidden_layers": 1}
    fields["num_experts_per_layer"] = None
    torch.manual_seed(0)
    wide, deep = folder / "checkpoints" / "a-wide", folder / "checkpoints" / "b-deep"
    wide.parent.mkdir(parents=True)
    export_model(EmoForCausalLM(EmoConfig(**fields)), load_tokenizer(like), wide)
    shutil.copytree(like, deep)
    measure(tiny_assets, folder, ["a-wide", "b-deep"])
    return folder


def test_runs_of_different_layers_and_experts_are_compared_where_that_makes_sense(unlike: Path):
    with shown(unlike):
        home = follow_link("")
        assert "**a\\-wide** stands beside **b\\-deep**" in words(home)
        titles = [chart["layout"]["xaxis"]["title"]["text"] for chart in charts(home)]
        assert titles[0] == "% of the routed experts" and len(titles) == 3
        assert "mean over the layers of each" in words(home)
        clusters = follow_link(CLUSTERS, cluster_level="Documents")
        assert "a\\-wide has 1 layer with experts and b\\-deep 2, so they do not" in words(clusters)
        assert clusters.selectbox(key="cluster_layer").options == ["All layers"]
        assert panels(clusters) == panels(follow_link(CLUSTERS)) == ["a-wide", "b-deep"]
        ablation = follow_link(ABLATION, k="12")
        assert "with 12 of 24 in a-wide, 8 of 16 in b-deep experts" in lines(ablation)["all"]
        axis = slider(ablation)["x_title"]
        assert axis == "Share of the experts kept in every layer (log scale)"


def test_runs_of_different_layers_are_read_one_at_a_time(unlike: Path):
    with shown(unlike):
        first = follow_link(ROUTING)
        assert "a\\-wide has 1 layer" in words(first) and "in b\\-deep" not in words(first)
        second = follow_link(ROUTING, run="b-deep")
        assert "in b\\-deep" in words(second) and "in a\\-wide" not in words(second)
        lost = follow_link(ROUTING, run="gone")
        assert "asks for the run gone, which is not here" in lost.warning[0].value


def test_a_checkpoint_that_cannot_be_opened_is_named_and_the_other_shown(
    tiny_assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "assets"
    shutil.copytree(tiny_assets, folder)
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(folder))
    (folder / "checkpoints" / "std-nano" / "config.json").write_text('{"model_type": "gpt2"}')
    for page in (ROUTING, ABLATION):
        at = follow_link(page)
        said = words(at).replace("\\", "")
        assert "gpt2" in said and "in EMO" in said
        assert charts(at) if page == ROUTING else slider(at)["runs"][0]["points"]
