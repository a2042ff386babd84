"""What is saved of a page: tables that any program opens as they are, and where they come from."""

import hashlib
import io

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from emo_viz.analysis.runs import Run, compare
from emo_viz.server import assets
from emo_viz.server.training import TrainingRun
from emo_viz.ui.parts import export
from emo_viz.ui.shell import picture
from tests.pages.training_runs import write_runs

FRAME = pd.DataFrame(
    {
        "Token": ["=SUM(A1)", "plain", "@x", 'سلام, "quoted"\n'],
        "Loss": [-1.5, np.nan, 0.0, 2.0],
        "Layer": [0, "never", 1, None],
    }
)


def test_a_csv_has_no_formula_and_keeps_every_number_and_text():
    read = pd.read_csv(io.BytesIO(export.csv(FRAME)))
    assert read["Token"].tolist() == ["'=SUM(A1)", "plain", "'@x", 'سلام, "quoted"\n']
    assert read["Loss"].tolist()[0] == -1.5 and np.isnan(read["Loss"][1])


def test_runs_are_called_by_their_labels_in_columns_and_cells():
    runs = compare([Run("a", "A"), Run("b_a", "B")])
    table = pd.DataFrame({"model": ["a", "b_a"], "loss_a": [1, 2], "loss_b_a": [3, 4], "a": 0})
    named = export.by_label(table, runs)
    assert list(named) == ["run", "loss_A", "loss_B", "A"]
    assert named["run"].tolist() == ["A", "B"] and list(table)[0] == "model"


def test_a_parquet_keeps_texts_as_they_are_and_says_where_it_comes_from():
    table = pq.read_table(io.BytesIO(export.parquet(FRAME, "EMO (emo-nano)")))
    assert table.schema.metadata[b"provenance"] == b"EMO (emo-nano)"
    assert table["Token"].to_pylist() == FRAME["Token"].tolist()
    assert table["Layer"].to_pylist() == ["0", "never", "1", None]


def test_provenance_names_runs_digests_and_what_is_shown(tiny_assets):
    runs = compare(assets.runs()[:2])
    said = picture.provenance(runs, "24 documents of all domains")
    for run in runs:
        assert run.digest is not None
        assert f"{run.label} ({run.id}, weights {run.digest[:12]})" in said
    documents = assets.origins(run.id for run in runs).documents
    assert documents is not None and f"documents {documents[:12]}" in said
    assert said.endswith("24 documents of all domains; EMO Viz")


def test_a_run_without_weights_has_its_name_alone(tiny_assets):
    assert picture.provenance([Run("heard", "Heard")]) == "Heard (heard); EMO Viz"


def test_a_training_run_is_named_by_how_far_its_metrics_go(tmp_path):
    write_runs(tmp_path)
    run = TrainingRun("runs/whole", "runs/whole", tmp_path / "whole")
    assert picture.provenance([run]) == "runs/whole (metrics.jsonl of 80 steps); EMO Viz"
    (tmp_path / "whole" / "model.safetensors").write_bytes(b"weights")
    said = picture.provenance([run, "EMO (to step 20)"])
    digest = hashlib.sha256(b"weights").hexdigest()[:12]
    assert said.startswith(f"runs/whole (weights {digest}, metrics") and "; EMO (to step" in said


@pytest.mark.parametrize(
    ("words", "name"),
    [("Experts in common", "experts-in-common"), ("../../etc", "etc"), ("مرحبا", "export")],
)
def test_a_file_name_is_safe(words: str, name: str):
    assert export.file_name(words) == name
