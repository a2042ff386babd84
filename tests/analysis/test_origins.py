"""What a derived file was made from: every file says it, and a replaced checkpoint is noticed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from emo_viz.__main__ import main
from emo_viz.analysis.curves import Curves, read_curves, write_curves
from emo_viz.analysis.origins import (
    Origins,
    Weights,
    assets_origins,
    documents_digest,
    of_trace,
    present_origins,
    stale,
)
from emo_viz.analysis.projection import load_maps
from emo_viz.analysis.token_map import load_token_map
from emo_viz.analysis.tokens import headline, load_token_clusters
from emo_viz.trace import Trace

BUNDLED = Path(__file__).parents[2] / "assets"
OLD, NEW = Weights("emo-nano", "3f2a77" * 10), Weights("emo-nano", "91bc00" * 10)


def test_another_checkpoint_is_named_with_both_digests():
    assert stale("The curves", Origins({"emo-nano": OLD}), Origins({"emo-nano": NEW})) == [
        "The curves were made with another EMO checkpoint (emo-nano 3f2a77…, now emo-nano "
        "91bc00…); run `make assets`."
    ]


def test_other_documents_and_calibration_are_named():
    made, present = Origins({}, "a" * 64, "b" * 64), Origins({}, "c" * 64, "d" * 64)
    said = stale("The maps", made, present, "run it")
    assert [sentence.split(" (")[0] for sentence in said] == [
        "The maps were made with other documents",
        "The maps were made with other calibration documents",
    ]
    assert said[0].endswith("(aaaaaa…, now cccccc…); run it.")


def test_what_is_the_same_or_not_known_is_not_stale():
    whole = Origins({"emo-nano": OLD, "std-nano": NEW}, "a", "b")
    assert stale("The curves", whole, whole) == []
    assert stale("The curves", Origins(), whole) == stale("The curves", whole, Origins()) == []
    moved = Origins({"emo-nano": Weights("another name", OLD.sha256)})
    assert stale("The curves", moved, whole) == []


def test_origins_survive_json_and_what_is_unknown_stays_unknown():
    for origins in (Origins(), Origins({"emo-nano": OLD}), Origins({"emo-nano": OLD}, "a", "b")):
        assert Origins.from_dict(json.loads(json.dumps(origins.to_dict()))) == origins


def test_the_digest_is_of_ids_domains_and_texts_in_order():
    rows = pd.DataFrame({"id": ["a", "b"], "domain": ["x", "x"], "text": ["one", "two"]})
    others = [
        rows.assign(id=["a", "c"]),
        rows.assign(domain=["x", "y"]),
        rows.assign(text=["on", "etwo"]),
        rows.iloc[::-1],
        rows.head(1),
    ]
    digests = [documents_digest(each) for each in (rows, *others)]
    assert len(set(digests)) == 6
    assert documents_digest(rows.assign(source="s")) == digests[0]


def test_whole_numbers_are_the_same_ids_as_their_digits():
    rows = pd.DataFrame({"id": [1, 2], "domain": [3, 3], "text": ["one", "two"]})
    assert documents_digest(rows) == documents_digest(rows.astype(str))


def test_every_derived_file_says_what_it_was_made_from(tiny_assets: Path):
    present, analysis = assets_origins(tiny_assets), tiny_assets / "analysis"
    assert (
        set(present.models) == {"emo-nano", "std-nano"}
        and present.documents
        and present.calibration
    )
    curves = read_curves(analysis / "curves.parquet")
    assert curves.origins == present
    assert curves.info["settings"]["keep"] == [4, 8, 16]
    tokens = Origins(present.models, present.documents)
    assert load_token_map(analysis / "token_map.npz").origins == tokens
    paths = [analysis / f"clusters-{weights.name}.npz" for weights in present.models.values()]
    assert headline(*paths).origins == tokens
    for path, (run, weights) in zip(paths, present.models.items(), strict=True):
        one = Origins({run: weights}, present.documents)
        assert load_token_clusters(path).origins == one
        assert of_trace(Trace.open(tiny_assets / "traces" / weights.name), run) == one


def test_the_bundled_files_belong_together():
    """What they were made from is known only in part; what is known is what lies beside them."""
    present, analysis = assets_origins(BUNDLED), BUNDLED / "analysis"
    names = list(present.models)
    known = [
        read_curves(analysis / "curves.parquet").origins,
        headline(*(analysis / f"clusters-{name}.npz" for name in names)).origins,
        *(of_trace(Trace.open(BUNDLED / "traces" / name), name) for name in names),
        load_maps(analysis / "maps.npz").origins,
        load_token_map(analysis / "token_map.npz").origins,
    ]
    assert [sentence for each in known for sentence in stale("They", each, present)] == []
    assert known[0].models == known[1].models == present.models
    assert known[2].documents == known[3].documents == present.documents


def test_the_bundled_maps_are_those_of_the_bundled_runs():
    """They are of format version 1, which names no run."""
    analysis, runs = BUNDLED / "analysis", ("emo-nano", "std-nano")
    traces = {run: Trace.open(BUNDLED / "traces" / run) for run in runs}
    documents = traces["emo-nano"].documents
    usages = {run: trace.usage for run, trace in traces.items()}
    assert load_maps(analysis / "maps.npz").are_of(documents["id"], usages)
    clusters = {run: load_token_clusters(analysis / f"clusters-{run}.npz") for run in runs}
    assert [each.run for each in clusters.values()] == list(runs)
    token_map, texts = load_token_map(analysis / "token_map.npz"), documents["text"].tolist()
    assert token_map.is_of(documents["id"].tolist(), texts, clusters)
    assert read_curves(analysis / "curves.parquet").runs == runs


def test_a_replaced_file_is_read_again_and_a_missing_one_is_unknown(
    tiny_assets: Path, tmp_path: Path
):
    path = tmp_path / "documents.parquet"
    rows = pd.read_parquet(tiny_assets / "documents" / "documents.parquet")
    rows.to_parquet(path)
    first = present_origins({}, path)
    assert first.documents == documents_digest(rows)
    rows.head(3).to_parquet(path)
    assert present_origins({}, path).documents == documents_digest(rows.head(3))
    for content in (b"PAR1", b""):
        path.write_bytes(content)
        assert present_origins({}, path) == Origins()
    rows.drop(columns="text").to_parquet(path)
    assert present_origins({}, path) == Origins()
    gone = present_origins({"emo-nano": tmp_path / "none"}, tmp_path / "none", tmp_path / "none")
    assert gone == Origins()


# python -m emo_viz findings


@pytest.fixture
def folder(tiny_assets: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "assets"
    shutil.copytree(tiny_assets, copy)
    return copy


def findings(folder: Path, *more: str):
    return CliRunner().invoke(main, ["findings", f"--assets={folder}", *more])


def swap_checkpoints(folder: Path) -> None:
    emo, standard = (folder / "checkpoints" / name for name in ("emo-nano", "std-nano"))
    shutil.copy(standard / "model.safetensors", emo)


def other_documents(folder: Path) -> None:
    path = folder / "documents" / "documents.parquet"
    rows = pd.read_parquet(path)
    rows.assign(text=rows["text"] + " more").to_parquet(path)


def other_calibration(folder: Path) -> None:
    path = folder / "documents" / "calibration.parquet"
    pd.read_parquet(path).head(4).to_parquet(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (swap_checkpoints, "The curves were made with another EMO checkpoint (emo-nano "),
        (other_documents, "The curves were made with other documents ("),
        (other_calibration, "The curves were made with other calibration documents ("),
    ],
)
def test_findings_of_another_state_are_refused_unless_forced(folder: Path, change, sentence: str):
    fresh = findings(folder)
    assert fresh.exit_code == 0, fresh.output
    change(folder)
    stopped = findings(folder)
    assert stopped.exit_code == 2 and stopped.stdout == ""
    assert sentence in stopped.stderr and "run `make assets`" in stopped.stderr
    forced = findings(folder, "--force")
    assert forced.exit_code == 0
    assert forced.stdout == fresh.stdout
    assert f"Warning: {sentence}" in forced.stderr


def test_findings_without_the_models_are_printed(folder: Path):
    shutil.rmtree(folder / "checkpoints")
    shutil.rmtree(folder / "documents")
    assert findings(folder).exit_code == 0


def test_findings_of_curves_and_clusters_of_two_models_are_refused(folder: Path):
    shutil.rmtree(folder / "checkpoints")
    path = folder / "analysis" / "clusters-emo-nano.npz"
    with np.load(path) as file:
        arrays = dict(file)
    info = json.loads(str(arrays.pop("info")))
    info["made"]["checkpoint_sha256"] = "0" * 64
    np.savez(path, info=np.array(json.dumps(info)), **arrays)
    stopped = findings(folder)
    assert stopped.exit_code == 2
    assert "The token clusters were made with another EMO checkpoint" in stopped.stderr


def test_findings_without_a_spread_or_a_ratio_say_so(folder: Path):
    path = folder / "analysis" / "curves.parquet"
    found = read_curves(path)
    rows = found.rows[found.rows["document"].astype(str).str.endswith("-0")].copy()
    rows["loss_sum"] = np.where(rows["method"] == "full", 90.0, 80.0)
    chosen = rows[rows["keep_k"].isin([8]) & (rows["method"] != "full")]
    full = rows[rows["method"] == "full"].assign(keep_k=64)
    rows = pd.concat([full, *(chosen.assign(keep_k=keep_k) for keep_k in (8, 16, 32))])
    found.info["runs"] = dict.fromkeys(found.runs, {"num_experts": 64})
    write_curves(Curves(rows, found.info), path)
    said = findings(folder).stdout
    assert (
        "- Standard MoE over EMO at 16 experts: EMO loses nothing there, so it has no ratio."
        in said
    )
    assert "EMO, random experts | -" in said and " (no interval) |" in said
    assert "nan" not in said and "inf" not in said.replace("information", "")
    checked = findings(folder, "--check")
    assert checked.exit_code == 1, checked.output
    for claim in ("cost EMO at least 8 times its own", "as much as EMO with 16 experts"):
        assert any(
            line.startswith("MISSED") and line.endswith(f"{claim}: no ratio")
            for line in checked.stdout.splitlines()
        )
    assert "nan" not in checked.stdout and "inf" not in checked.stdout


def test_findings_print_no_minus_on_a_zero(folder: Path):
    path = folder / "analysis" / "curves.parquet"
    found = read_curves(path)
    rows = found.rows.assign(loss_sum=found.rows["tokens"] * 2.0)
    cut = rows["method"] != "full"
    rows.loc[cut, "loss_sum"] *= 1 - 1e-6
    write_curves(Curves(rows, found.info), path)
    assert " 0.000 [0.000, 0.000] |" in findings(folder).stdout
    assert "-0.000" not in findings(folder).stdout
