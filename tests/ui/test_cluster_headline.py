"""The clusters page's headline: what it says of a difference is what was measured."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from emo_viz.analysis.bootstrap import Interval
from emo_viz.analysis.runs import Run, compare
from emo_viz.ui.clusters import documents
from emo_viz.ui.clusters.data import Data
from emo_viz.ui.clusters.page import compared, of_documents

RUNS = compare([Run("a", "A*"), Run("b", "B")])
NMI = {"a": Interval(0.918, 0.9, 0.93, 9), "b": Interval(0.32, 0.3, 0.34, 9)}


@pytest.mark.parametrize(
    ("difference", "how"),
    [
        (Interval(0.35, 0.3, 0.4, 9), " better in A\\*"),
        (Interval(-0.35, -0.4, -0.3, 9), " better in B"),
        (Interval(0.35, -0.1, 0.8, 9), " about equally well in both"),
        (Interval(0.01, 0.005, 0.015, 9), " about equally well in both"),
    ],
)
def test_two_runs_are_told_apart_only_where_they_differ(difference: Interval, how: str):
    said = compared(RUNS, "tokens", NMI.__getitem__, difference)
    assert said == f"tokens cluster by domain{how} (NMI **0.92** in A\\*, **0.32** in B)"


def test_equally_well_is_said_of_equal_numbers_alone():
    same = {"a": NMI["a"], "b": Interval(0.922, 0.9, 0.94, 9)}
    said = compared(RUNS, "tokens", same.__getitem__, Interval(0.004, -0.01, 0.01, 9))
    assert (
        said
        == "tokens cluster by domain equally well in both (NMI **0.92** in A\\*, **0.92** in B)"
    )


def test_one_run_stands_for_itself():
    said = compared(compare([Run("b", "B")]), "tokens", NMI.__getitem__, None)
    assert said == "tokens cluster by domain (NMI **0.32** in B)"


def test_the_headline_describes_no_cluster_that_nobody_looks_at(monkeypatch):
    monkeypatch.setattr(documents, "cluster_table", lambda *_: pytest.fail("described"))
    usage = np.random.default_rng(0).random((40, 2, 8), np.float32)
    runs = compare([Run("a", "A")])
    domains = ["x", "y"] * 20
    traces, rows = {"a": SimpleNamespace(usage=usage)}, pd.DataFrame(index=range(40))
    data = Data(runs, traces, rows, domains, "headline")
    assert of_documents(data).startswith("Whole documents cluster by domain (NMI")
