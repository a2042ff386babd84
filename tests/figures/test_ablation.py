"""Figures of expert subsets: what is drawn is what was given."""

import numpy as np
import pandas as pd
import pytest

from emo_viz.analysis.runs import Run, compare
from emo_viz.figures import ablation as figures
from emo_viz.figures.theme import RUN_COLOURS

RUNS = compare([Run("emo-nano", "EMO"), Run("std-nano", "Standard MoE")])
ONE = compare([Run("mine", "mine")])


def row(method: str, keep_k: int) -> dict:
    return {"method": method, "keep_k": keep_k}


def test_a_line_goes_from_the_smallest_subset_to_all_experts():
    own = pd.DataFrame([row("full", 128), row("greedy", 32), row("random", 8), row("greedy", 8)])
    assert figures.line_of(own, "greedy")["keep_k"].tolist() == [8, 32, 128]
    assert figures.line_of(own, "other_domain").empty


def test_the_axis_holds_all_values_and_has_round_ticks():
    low, high, ticks = figures.axis_ticks([-0.014, 2.14])
    assert low < -0.014 and high > 2.14
    assert [text for _, text in ticks] == ["0.0", "0.5", "1.0", "1.5", "2.0"]
    assert [text for _, text in figures.axis_ticks([-0.02, 0.01])[2]][0] == "\u22120.02"
    assert figures.axis_ticks([3.0, 3.0])[2] and figures.axis_ticks([])[2]


def test_runs_of_different_numbers_of_experts_stand_on_an_axis_of_shares():
    axis = figures.Experts({"mine": [64, 64], "emo-nano": [128, 128]})
    assert [axis.places("mine", 16), axis.places("emo-nano", 32)] == [25, 25]
    assert "Share" in axis.title()
    same = figures.Experts({"mine": [12, 16], "emo-nano": [16, 16]})
    assert same.places("mine", 8) == 8 and "of 12 to 16" in same.title()


def test_the_map_fills_the_kept_experts_of_every_layer():
    kept = {"emo-nano": [(0, 5), (2, 5)], "std-nano": [(1, 5), (1, 5)]}
    fig = figures.kept_map(RUNS, kept, dict.fromkeys(RUNS.ids, (6, 6)))
    assert fig.data[0].z.tolist() == [[1, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 1]]
    assert fig.data[1].z.sum() == 4
    assert fig.data[0].customdata[1].tolist() == ["cut", "cut", "kept", "cut", "cut", "kept"]
    assert [fig.data[i].colorscale[1][1] for i in (0, 1)] == list(RUN_COLOURS)


def test_the_map_draws_no_expert_that_a_layer_lacks():
    kept = {"emo-nano": [(0, 3), (2, 5)], "std-nano": [(1, 3), (1, 5)]}
    fig = figures.kept_map(RUNS, kept, dict.fromkeys(RUNS.ids, (4, 6)))
    assert np.isnan(fig.data[0].z[0]).tolist() == [False] * 4 + [True] * 2
    assert fig.data[0].z[0][:4].tolist() == [1, 0, 0, 1]
    assert fig.data[0].z[1].tolist() == [0, 0, 1, 0, 0, 1]
    assert fig.data[0].hoverongaps is False
    assert "each layer's last is the shared one" in fig.layout.xaxis2.title.text


def test_overlap_is_drawn_in_percent_beside_chance():
    shares = pd.DataFrame({"emo-nano": [0.2, 0.1], "std-nano": [0.6, 0.5]}, index=["law", "chess"])
    fig = figures.overlap_bars(RUNS, shares, 0.125)
    assert list(fig.data[0].x) == pytest.approx([20, 10])
    assert list(fig.data[1].x) == pytest.approx([60, 50])
    assert list(fig.data[0].y) == ["law", "chess"]
    assert fig.layout.shapes[0].x0 == pytest.approx(12.5)


def test_one_run_alone_has_one_panel():
    assert len(figures.kept_map(ONE, {"mine": [(0, 3)]}, {"mine": (4,)}).data) == 1
    assert len(figures.overlap_bars(ONE, pd.DataFrame({"mine": [0.2]}), 0.1).data) == 1
