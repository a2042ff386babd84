"""clusters, map, token-map, curves: what is wrong is one sentence, and said before the work."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from emo_viz.__main__ import main
from emo_viz.analysis import ablation
from emo_viz.analysis.curves import Measured, read_curves
from emo_viz.analysis.origins import present_origins
from emo_viz.analysis.projection import load_maps
from emo_viz.analysis.token_map import load_token_map
from emo_viz.analysis.tokens import load_token_clusters
from model.emo.config import EmoConfig
from model.emo.modeling import EmoForCausalLM
from model.run import inference
from model.run.live import open_live
from model.run.loading import export_model, load_model, load_tokenizer


def invoke(command: str, *arguments: object):
    return CliRunner().invoke(main, [command, *map(str, arguments)])


@pytest.fixture
def ready(tiny_assets: Path) -> dict[str, list[object]]:
    """Arguments with which each command works, apart from --out."""
    models = [tiny_assets / "checkpoints" / name for name in ("emo-nano", "std-nano")]
    documents = tiny_assets / "documents"
    clusters = [tiny_assets / "analysis" / f"clusters-{folder.name}.npz" for folder in models]
    table = ["--documents", documents / "documents.parquet"]
    return {
        "clusters": ["--model", models[0], *table, "--clusters", 4],
        "map": ["--traces", *(tiny_assets / "traces" / folder.name for folder in models)],
        "token-map": ["--models", *models, *table, "--clusters", *clusters, "--per-domain", 9],
        "curves": ["--models", *models, *table, "--calibration", documents / "calibration.parquet"],
    }


ENDINGS = {"clusters": "npz", "map": "npz", "token-map": "npz", "curves": "parquet"}


@pytest.fixture
def refused(ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a command that must stop before any model runs, leave nothing, and say why."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the work had begun")

    def run(command: str, *more: object, out: object = None) -> str:
        monkeypatch.setattr(inference, "record", never)
        monkeypatch.setattr(ablation, "measure", never)
        monkeypatch.setattr("emo_viz.analysis.projection.umap_map", never)
        before = sorted(tmp_path.rglob("*"))
        out = out or tmp_path / f"out.{ENDINGS[command]}"
        result = invoke(command, *ready[command], *more, "--out", out)
        assert result.exit_code == 2, result.output
        assert result.stdout == "" and result.stderr.count("\n") <= 4
        assert sorted(tmp_path.rglob("*")) == before
        return result.stderr

    return run


@pytest.mark.parametrize("command", ENDINGS)
def test_an_output_that_cannot_be_written_is_said_before_the_work(refused, tmp_path, command):
    (tmp_path / "a file").write_text("")
    out = tmp_path / "a file" / f"x.{ENDINGS[command]}"
    assert "cannot be written (" in refused(command, out=out)
    (tmp_path / f"folder.{ENDINGS[command]}").mkdir()
    out = tmp_path / f"folder.{ENDINGS[command]}"
    assert f"{out.name} is a folder; name a file." in refused(command, out=out)


def test_curves_go_to_a_parquet_file(refused, tmp_path):
    assert "does not end in .parquet" in refused("curves", out=tmp_path / "curves.json")


# Documents


def written(tmp_path: Path, rows: pd.DataFrame, name: str = "own") -> Path:
    path = tmp_path / f"{name}.parquet"
    rows.to_parquet(path, index=False)
    return path


@pytest.fixture
def rows(tiny_assets: Path) -> pd.DataFrame:
    return pd.read_parquet(tiny_assets / "documents" / "documents.parquet")


@pytest.mark.parametrize("command", ["clusters", "token-map", "curves"])
def test_documents_that_cannot_be_used_are_named(refused, rows, tmp_path, command):
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(written(tmp_path, rows).read_bytes()[:2000])
    assert "broken.parquet is not a Parquet file" in refused(command, "--documents", broken)
    assert "There is no file" in refused(command, "--documents", tmp_path / "none.parquet")
    twice = written(tmp_path, pd.concat([rows, rows]), "twice")
    assert "an id that no other document has" in refused(command, "--documents", twice)
    without = written(tmp_path, rows.drop(columns="domain"), "without")
    if command == "curves":
        assert "lack the column domain" in refused(command, "--documents", without)


def test_a_file_of_clusters_that_is_not_there_is_named_with_what_writes_it(refused, tmp_path):
    none = tmp_path / "none.npz"
    said = refused("token-map", "--clusters", none, none)
    assert f"There is no file {none}; python -m emo_viz clusters writes it." in said


@pytest.mark.parametrize("columns", ["id", "domain"])
def test_whole_numbers_are_ids_and_domains_like_words(ready, rows, tmp_path, columns):
    numbered = rows.assign(**{columns: pd.factorize(rows[columns])[0]})
    out = tmp_path / "c.npz"
    documents = ["--documents", written(tmp_path, numbered)]
    result = invoke("clusters", *ready["clusters"], *documents, "--out", out)
    assert result.exit_code == 0, result.output
    as_words = numbered.assign(**{columns: numbered[columns].astype(str)})
    again = tmp_path / "again.npz"
    documents = ["--documents", written(tmp_path, as_words, "words")]
    assert invoke("clusters", *ready["clusters"], *documents, "--out", again).exit_code == 0
    assert load_token_clusters(out).info == load_token_clusters(again).info


def test_text_that_is_no_unicode_is_named(refused, rows, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    ids = pa.array([b"\xff" + str(i).encode() for i in range(len(rows))], pa.binary())
    table = pa.Table.from_pandas(rows, preserve_index=False)
    bad = pa.Array.from_buffers(pa.string(), len(ids), ids.buffers())
    path = tmp_path / "bad.parquet"
    pq.write_table(table.set_column(0, "id", bad), path)
    assert "holds bytes that are not UTF-8" in refused("clusters", "--documents", path)
    assert present_origins({}, path).documents is None


def test_more_clusters_than_tokens_is_said_before_recording(refused):
    said = refused("clusters", "--clusters", 99_999)
    assert "99999 clusters need as many tokens and the documents have" in said
    assert "choose fewer with --clusters" in said


def test_what_is_left_of_long_documents_is_said(ready, tmp_path):
    out = tmp_path / "c.npz"
    result = invoke("clusters", *ready["clusters"], "--max-tokens", 20, "--out", out)
    assert result.exit_code == 0, result.output
    assert "Clustering 456 tokens (" in result.output
    assert " more of 24 longer documents left out)." in result.output


def test_documents_of_one_domain_are_clustered_and_measured(ready, rows, tmp_path):
    one = ["--documents", written(tmp_path, rows[rows["domain"] == "garden"])]
    result = invoke("clusters", *ready["clusters"], *one, "--out", tmp_path / "c.npz")
    assert result.exit_code == 0, result.output
    out = tmp_path / "c.parquet"
    result = invoke("curves", *ready["curves"], *one, "--random-seeds", 1, "--out", out)
    assert result.exit_code == 0, result.output
    methods = set(read_curves(out).rows["method"])
    assert methods == {"full", "router_probability", "greedy", "random"}


def test_parents_need_not_be_known(ready, rows, tmp_path):
    out = tmp_path / "c.parquet"
    documents = ["--documents", written(tmp_path, rows.drop(columns="parent"))]
    result = invoke(
        "curves", *ready["curves"], *documents, "--out", out, "--methods", "random", "--keep", "4,4"
    )
    assert result.exit_code == 0, result.output


# Curves


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--keep", "8,eight", "is not a list such as 8,16,32"),
        ("--keep", "", "is not a list such as 8,16,32"),
        ("--keep", "8.5", "is not a list such as 8,16,32"),
        ("--keep", "3", "keep-k must be 4 (the experts each token uses) to 16, not 3"),
        ("--keep", "17", "keep-k must be 4 (the experts each token uses) to 16, not 17"),
        ("--methods", "random,magic", "no method 'magic'"),
        ("--methods", "", "no method ''"),
        ("--workers", "0", "0 is not in the range x>=1"),
    ],
)
def test_settings_of_curves_that_make_no_sense(refused, option, value, sentence):
    assert sentence in " ".join(refused("curves", option, value).split())


def test_what_is_asked_for_twice_is_measured_once(ready, tmp_path):
    out = tmp_path / "curves.parquet"
    again = ["--keep", "8,4,8", "--methods", "random,random", "--random-seeds", 1]
    result = invoke("curves", *ready["curves"], *again, "--out", out)
    assert result.exit_code == 0, result.output
    rows = read_curves(out).rows
    assert not rows.duplicated(["model", "method", "keep_k", "seed", "document"]).any()
    assert set(rows["keep_k"]) == {4, 8, 16}


def test_the_default_is_every_doubling_and_every_method(tiny_assets: Path):
    config = load_model(tiny_assets / "checkpoints" / "emo-nano").config
    assert ablation.default_keep(config) == [4, 8]
    assert ablation.default_methods(2) == ablation.METHODS
    assert "other_domain" not in ablation.default_methods(1)


def test_a_model_that_gives_no_numbers_is_named(tiny_assets: Path, monkeypatch):
    live = open_live(tiny_assets / "checkpoints" / "emo-nano")
    texts = ablation.Texts("sea", ("one",), (np.array([0, 5, 6]),))
    monkeypatch.setattr(ablation, "_loss_sums", lambda *_: [float("inf")])
    with pytest.raises(ValueError, match="losses on sea are not finite; train the model again"):
        ablation.measure(live, ablation.Task(texts, texts, None, (ablation.Cut("full", 16),)))


# One run, and runs that differ


def saved(tiny_assets: Path, folder: Path, **changes: object) -> Path:
    """An untrained checkpoint like the tiny ones but for some fields."""
    fields = load_model(tiny_assets / "checkpoints" / "std-nano").config.to_dict()
    torch.manual_seed(0)
    model = EmoForCausalLM(EmoConfig(**fields | changes))
    export_model(model, load_tokenizer(tiny_assets / "checkpoints" / "std-nano"), folder)
    return folder


UNEVEN = {"num_experts_per_layer": [16, 8]}
DENSE_LAYER = {"num_experts_per_layer": [16, 0], "dense_intermediate_size": 24}


@pytest.mark.parametrize("command", ["curves", "token-map"])
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"objective": "dense"}, "is a dense model and has no routers"),
        (DENSE_LAYER, "has no experts in layer 1"),
    ],
)
def test_models_without_routers_are_named(
    refused, tiny_assets, tmp_path, command, changes, sentence
):
    other = saved(tiny_assets, tmp_path / "other", **changes)
    emo = tiny_assets / "checkpoints" / "emo-nano"
    assert sentence in " ".join(refused(command, "--models", emo, other).split())


@pytest.mark.parametrize("command", ["curves", "token-map"])
def test_one_folder_is_not_two_runs(refused, tiny_assets, command):
    emo = tiny_assets / "checkpoints" / "emo-nano"
    said = " ".join(refused(command, "--models", emo, emo).split())
    assert "are both called checkpoints-emo-nano; name different folders" in said


FEW = ["--methods", "router_probability", "--keep", 4]


def test_curves_of_one_run_and_of_three_that_differ(ready, tiny_assets, tmp_path):
    """Other numbers of experts, layers and experts a token: each is measured as it is."""
    out, emo = tmp_path / "c.parquet", tiny_assets / "checkpoints" / "emo-nano"
    result = invoke("curves", *ready["curves"], "--models", emo, *FEW, "--out", out)
    assert result.exit_code == 0, result.output
    assert read_curves(out).runs == ("emo-nano",)
    others = [
        saved(tiny_assets, tmp_path / "wide", num_experts=24, num_hidden_layers=1),
        saved(tiny_assets, tmp_path / "uneven", num_experts_per_tok=3, **UNEVEN),
    ]
    result = invoke("curves", *ready["curves"], "--models", emo, *others, *FEW, "--out", out)
    assert result.exit_code == 0, result.output
    found = read_curves(out)
    assert found.runs == ("emo-nano", "wide", "uneven")
    assert [found.experts(run) for run in found.runs] == [(16,), (24,), (16, 8)]
    full = found.rows[found.rows["method"] == "full"].groupby("model", observed=True)["keep_k"]
    assert dict(full.max()) == {"emo-nano": 16, "wide": 24, "uneven": 16}
    assert {len(found.info["ranking"][run]["garden"]) for run in found.runs} == {1, 2}


def test_curves_of_another_run_stay_in_the_file_if_the_documents_are_the_same(
    ready, rows, tiny_assets, tmp_path
):
    out = tmp_path / "c.parquet"
    emo, std = (tiny_assets / "checkpoints" / name for name in ("emo-nano", "std-nano"))
    together = tmp_path / "together.parquet"
    for file, models in ((out, [emo]), (out, [std]), (together, [emo, std])):
        result = invoke("curves", *ready["curves"], "--models", *models, *FEW, "--out", file)
        assert result.exit_code == 0, result.output
    assert (
        "rows of std-nano, emo-nano"
        in invoke("curves", *ready["curves"], "--models", std, *FEW, "--out", out).stdout
    )
    one, other = (Measured.of(read_curves(file).rows).table for file in (out, together))
    pd.testing.assert_frame_equal(one, other)
    assert read_curves(out).origins == read_curves(together).origins
    seen = ["--documents", written(tmp_path, rows.assign(seen=0.0), "seen"), "--seen-below", 0.5]
    there = out.read_bytes()
    result = invoke("curves", *ready["curves"], "--models", emo, *FEW, *seen, "--out", out)
    assert result.exit_code == 2 and out.read_bytes() == there
    assert "curves of std-nano, measured without --seen-below" in result.stderr
    fewer = ["--documents", written(tmp_path, rows.head(20))]
    invoke("curves", *ready["curves"], "--models", emo, *FEW, *fewer, "--out", out)
    assert read_curves(out).runs == ("emo-nano",)


def test_findings_of_one_run(ready, tiny_assets, tmp_path):
    out = tmp_path / "a" / "b" / "c.parquet"
    emo = tiny_assets / "checkpoints" / "emo-nano"
    clusters = tiny_assets / "analysis" / "clusters-emo-nano.npz"
    invoke("curves", *ready["curves"], "--models", emo, *FEW, "--out", out)
    result = invoke("findings", "--curves", out, "--clusters", clusters)
    assert result.exit_code == 0, result.output
    assert "| EMO, experts of the domain | " in result.stdout
    assert "Standard MoE" not in result.stdout and " less " not in result.stdout
    other = tiny_assets / "analysis" / "clusters-std-nano.npz"
    result = invoke("findings", "--curves", out, "--clusters", other)
    assert result.exit_code == 2
    assert "curves are of emo-nano and the token clusters of std-nano" in result.stderr


def pca(points: np.ndarray, *_: object) -> np.ndarray:
    return points[:, :2].astype(np.float32)


def test_maps_of_one_run_and_of_two_that_differ(tiny_assets, rows, tmp_path, monkeypatch):
    monkeypatch.setattr("emo_viz.analysis.projection.umap_map", pca)
    saved(tiny_assets, tmp_path / "wide", num_experts=24, num_hidden_layers=1)
    trace, documents = tmp_path / "traces" / "wide", tiny_assets / "documents"
    source = ["--model", tmp_path / "wide", "--documents", documents / "documents.parquet"]
    assert invoke("record", *source, "--out", trace).exit_code == 0
    std, out = tiny_assets / "traces" / "std-nano", tmp_path / "m.npz"
    assert invoke("map", "--traces", std, "--out", out).exit_code == 0
    assert list(load_maps(out).places) == ["std-nano"]
    result = invoke("map", "--traces", trace, std, "--out", out)
    assert result.exit_code == 0, result.output
    assert "5 maps of wide, std-nano, 24 documents" in result.stdout
    shapes = {run: places.shape for run, places in load_maps(out).places.items()}
    assert shapes == {"wide": (2, 24, 2), "std-nano": (3, 24, 2)}
    three = ["--traces", trace, std, tiny_assets / "traces" / "emo-nano", "--out", out]
    result = invoke("map", *three)
    assert result.exit_code == 2 and "one or two runs, not of 3" in result.stderr


def test_a_token_map_of_one_run_or_in_any_order(ready, tiny_assets, tmp_path, monkeypatch):
    monkeypatch.setattr("emo_viz.analysis.projection.umap_map", pca)
    std, emo = (tiny_assets / "checkpoints" / name for name in ("std-nano", "emo-nano"))
    of_std, of_emo = (tiny_assets / "analysis" / f"clusters-{n}-nano.npz" for n in ("std", "emo"))
    for models, clusters in (([std], [of_std]), ([std, emo], [of_std, of_emo])):
        out = tmp_path / "t.npz"
        asked = ["--models", *models, "--clusters", *clusters, "--out", out]
        result = invoke("token-map", *ready["token-map"], *asked)
        assert result.exit_code == 0, result.output
        assert list(load_token_map(out).places) == [folder.name for folder in models]


def test_clusters_and_models_of_a_token_map_are_as_many(refused, tiny_assets):
    said = refused("token-map", "--models", tiny_assets / "checkpoints" / "emo-nano")
    assert "--models names 1 and --clusters 2; name the clusters of each" in " ".join(said.split())


def test_models_with_different_tokenizers_have_no_common_tokens(refused, tiny_assets, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_assets / "checkpoints" / "std-nano", other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[-2:]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    emo = tiny_assets / "checkpoints" / "emo-nano"
    said = " ".join(refused("token-map", "--models", emo, other).split())
    assert "EMO and other have different tokenizers" in said and "Map each of them alone." in said


def test_a_model_that_cannot_be_clustered_is_named(refused, tiny_assets, tmp_path):
    for changes, sentence in (
        ({"objective": "dense"}, "is a dense model and has no routers"),
        (DENSE_LAYER, "has no experts in layer 1"),
    ):
        other = saved(tiny_assets, tmp_path / "other", **changes)
        assert sentence in " ".join(refused("clusters", "--model", other).split())
        shutil.rmtree(other)
    assert "600 tokens a document are not within" in refused("clusters", "--max-tokens", 600)
    assert "There is no checkpoint at" in refused("clusters", "--model", tmp_path / "none")


def test_a_sharded_checkpoint_has_clusters_like_any_other(ready, tiny_assets, tmp_path):
    source = tiny_assets / "checkpoints" / "emo-nano"
    shutil.copytree(source, tmp_path / "emo-nano")
    (tmp_path / "emo-nano" / "model.safetensors").unlink()
    load_model(source).bfloat16().save_pretrained(tmp_path / "emo-nano", max_shard_size="20kB")
    assert len(list((tmp_path / "emo-nano").glob("*.safetensors"))) > 1
    out = tmp_path / "c.npz"
    result = invoke("clusters", *ready["clusters"], "--model", tmp_path / "emo-nano", "--out", out)
    assert result.exit_code == 0, result.output
    whole = tmp_path / "whole.npz"
    invoke("clusters", *ready["clusters"], "--out", whole)
    assert (load_token_clusters(out).centroids == load_token_clusters(whole).centroids).all()


# Maps


def test_clusters_of_another_model_or_of_other_documents_are_named(
    refused, ready, rows, tiny_assets, tmp_path
):
    emo, standard = (tiny_assets / "analysis" / f"clusters-{n}-nano.npz" for n in ("emo", "std"))
    shorter = tmp_path / "short.npz"
    invoke("clusters", *ready["clusters"], "--max-tokens", 20, "--out", shorter)
    said = refused("token-map", "--clusters", standard, emo)
    assert "The clusters in clusters-std-nano.npz were made with another EMO checkpoint" in said
    assert "run `python -m emo_viz clusters --out" in said
    changed = written(tmp_path, rows.assign(text=rows["text"] + " more"))
    assert "were made with other documents" in refused("token-map", "--documents", changed)
    assert "made from 20 and 256 tokens a document" in refused(
        "token-map", "--clusters", shorter, standard
    )


def test_one_trace_is_not_two_runs(refused, tiny_assets):
    emo = tiny_assets / "traces" / "emo-nano"
    assert "are both called traces-emo-nano" in " ".join(
        refused("map", "--traces", emo, emo).split()
    )


def record(tiny_assets: Path, name: str, documents: Path, out: Path) -> Path:
    model = tiny_assets / "checkpoints" / name
    assert invoke("record", "--model", model, "--documents", documents, "--out", out).exit_code == 0
    return out


def test_maps_of_few_documents(ready, tiny_assets, rows, tmp_path):
    for name in ("emo-nano", "std-nano"):
        record(tiny_assets, name, written(tmp_path, rows.head(3)), tmp_path / "three" / name)
    three = ["--traces", *(tmp_path / "three" / name for name in ("emo-nano", "std-nano"))]
    for more in ([], ["--neighbours", 2]):
        result = invoke("map", *three, *more, "--out", tmp_path / "m.npz")
        assert result.exit_code == 2, result.output
        assert "3 documents make no map; it takes at least 4." in result.stderr
    changed = written(tmp_path, rows.head(3).assign(text="soil and other words"))
    record(tiny_assets, "std-nano", changed, tmp_path / "other")
    result = invoke("map", "--traces", three[1], tmp_path / "other", "--out", tmp_path / "m.npz")
    assert "hold different documents; record both from one file" in result.stderr


def test_a_map_takes_fewer_neighbours_where_there_are_few_documents(
    ready, tmp_path, monkeypatch, refused
):
    asked = []

    def laid_out(points: np.ndarray, neighbours: int, *_: object) -> np.ndarray:
        asked.append(neighbours)
        return points[:, :2].astype(np.float32)

    monkeypatch.setattr("emo_viz.analysis.projection.umap_map", laid_out)
    result = invoke("map", *ready["map"], "--out", tmp_path / "m.npz")
    assert result.exit_code == 0, result.output
    with np.load(tmp_path / "m.npz") as file:
        assert json.loads(str(file["info"]))["neighbours"] == 23
    assert set(asked) == {23}
    said = refused("map", "--neighbours", 24)
    assert "24 neighbours need more than 24 documents; choose fewer with --neighbours" in said


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_trace_that_holds_no_numbers_is_named(refused, tiny_assets, tmp_path, bad):
    trace = tmp_path / "traces" / "emo-nano"
    shutil.copytree(tiny_assets / "traces" / "emo-nano", trace)
    usage = np.load(trace / "usage.npy")
    usage[2, 1, 3] = bad
    np.save(trace / "usage.npy", usage)
    standard = tiny_assets / "traces" / "std-nano"
    assert "holds NaN or infinity; record it again" in refused("map", "--traces", trace, standard)


@pytest.mark.parametrize("command", ["clusters", "curves"])
def test_a_name_that_is_no_unicode_is_written_and_printed(ready, tmp_path, command):
    out = tmp_path / f"\udcff.{ENDINGS[command]}"
    few = ["--methods", "random", "--random-seeds", 1, "--keep", 4] if command == "curves" else []
    result = invoke(command, *ready[command], *few, "--out", out)
    assert result.exit_code == 0, result.output
    assert f"\\udcff.{ENDINGS[command]}: " in result.stdout
    assert out.exists()
