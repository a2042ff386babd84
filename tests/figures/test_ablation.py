"""Figures of expert subsets: what is drawn is what was given."""

import numpy as np
import pandas as pd
import pytest

from emo_viz.analysis.runs import Run, compare
from emo_viz.figures import ablation as figures
from emo_viz.figures.theme import AMBER, RUN_COLOURS, TEAL

RUNS = compare([Run("emo-nano", "EMO"), Run("std-nano", "Standard MoE")])
ONE = compare([Run("mine", "mine")])
OTHERS = compare([Run("mine", "<b>"), Run("emo-nano", "EMO")])


def point(model: str, method: str, keep_k: int, increase: float, seeds: int = 1) -> dict:
    spread = {"low": -0.1, "high": 0.1, "min": -0.2, "max": 0.2}
    row = {"model": model, "method": method, "keep_k": keep_k, "seeds": seeds}
    for name, value in (("increase", increase), ("loss", increase + 3)):
        row |= {name: value} | {f"{name}_{edge}": value + d for edge, d in spread.items()}
    return row


@pytest.fixture
def points() -> pd.DataFrame:
    """Out of order; EMO loses a tenth of what the standard model loses."""
    rows = []
    for model, scale in (("std-nano", 1.0), ("emo-nano", 0.1)):
        rows += [
            point(model, "full", 128, 0),
            point(model, "router_probability", 32, 1 * scale),
            point(model, "router_probability", 8, 3 * scale),
            point(model, "random", 8, 5, seeds=5),
            point(model, "random", 32, 4, seeds=5),
        ]
    return pd.DataFrame(rows)


def drawn(points, measure="increase", method="router_probability", live=None, runs=RUNS, most=128):
    experts = dict.fromkeys(runs.ids, [most, most]) if isinstance(most, int) else most
    said = "A title: 48 documents"
    return figures.curve(runs, points, measure, method, 16, live or {}, said, experts)


def line(fig, name):
    return next(trace for trace in fig.data if trace.name == name)


def test_each_model_has_its_line_from_the_smallest_subset_to_all_experts(points):
    fig = drawn(points)
    emo, standard = line(fig, "EMO"), line(fig, "Standard MoE")
    assert list(emo.x) == [8, 32, 128]
    assert list(emo.y) == pytest.approx([0.3, 0.1, 0])
    assert list(standard.y) == pytest.approx([3, 1, 0])
    assert (emo.line.color, standard.line.color) == (TEAL, AMBER)
    assert emo.marker.symbol != standard.marker.symbol


def test_the_loss_view_shows_losses(points):
    assert list(line(drawn(points, "loss"), "EMO").y) == pytest.approx([3.3, 3.1, 3.0])
    assert "nats a token" in drawn(points, "loss").layout.yaxis.title.text


def test_bands_are_the_interval_of_the_method_and_the_range_of_the_random_subsets(points):
    bands = [trace for trace in drawn(points).data if trace.fill == "toself"]
    tops = [float(max(band.y)) for band in bands]
    assert tops == pytest.approx([5.2, 0.4, 5.2, 3.1])  # EMO random, EMO, standard's
    assert list(bands[1].x) == [8, 32, 128, 128, 32, 8]
    assert {band.mode for band in bands} == {"lines"}


def test_random_subsets_are_the_baseline_of_any_other_method_only(points):
    def names(fig):
        return [trace.name for trace in fig.data if trace.showlegend is not False]

    assert names(drawn(points)) == ["EMO", "Standard MoE", "Random subsets"]
    assert line(drawn(points), "EMO, random subsets").line.dash == "dash"
    assert names(drawn(points, method="random")) == ["EMO", "Standard MoE"]
    assert names(drawn(points, live={"emo-nano": 1.0}))[-1] == "The document shown"


def test_keep_k_is_marked_and_the_document_stands_at_it(points):
    fig = drawn(points, live={"emo-nano": 0.2, "std-nano": 2.0})
    mark = line(fig, "Standard MoE, the document shown")
    assert (list(mark.x), list(mark.y)) == ([16], [2.0])
    assert mark.marker.color == AMBER
    assert fig.layout.shapes[0].x0 == fig.layout.shapes[0].x1 == 16
    (note,) = fig.layout.annotations
    assert note.text == "keep-k 16"
    assert note.x == pytest.approx(np.log10(16))


def test_the_axis_is_logarithmic_with_a_tick_at_each_doubling(points):
    axis = drawn(points).layout.xaxis
    assert axis.type == "log"
    assert list(axis.tickvals) == [8, 16, 32, 64, 128]
    assert "of 128" in axis.title.text
    low, high = 10 ** np.array(axis.range)
    assert low < 8 and high > 128


def test_a_method_that_was_not_measured_draws_no_points(points):
    assert len(line(drawn(points, method="greedy"), "EMO").x) == 0


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


def test_one_run_alone_has_one_line_one_panel_and_the_first_colour(points):
    mine = points[points["model"] == "emo-nano"].assign(model="mine")
    fig = drawn(mine, runs=ONE, live={"mine": 0.2})
    names = [trace.name for trace in fig.data if trace.showlegend is not False]
    assert names == ["mine", "Random subsets", "The document shown"]
    assert line(fig, "mine").line.color == TEAL
    assert len(figures.kept_map(ONE, {"mine": [(0, 3)]}, {"mine": (4,)}).data) == 1
    assert len(figures.overlap_bars(ONE, pd.DataFrame({"mine": [0.2]}), 0.1).data) == 1


def test_runs_of_different_numbers_of_experts_stand_on_an_axis_of_shares(points):
    few = points[points["model"] == "std-nano"].assign(model="mine")
    few["keep_k"] = few["keep_k"] // 2  # of 64 experts, the same shares as of 128
    both = pd.concat([few, points[points["model"] == "emo-nano"]])
    most = {"mine": [64, 64], "emo-nano": [128, 128]}
    fig = drawn(both, runs=OTHERS, most=most)
    assert list(line(fig, "&lt;b&gt;").x) == list(line(fig, "EMO").x) == [6.25, 25, 100]
    assert list(line(fig, "EMO").customdata[:, 2]) == [8, 32, 128]
    assert fig.layout.xaxis.title.text == "Share of the experts kept in every layer (log scale)"
    assert fig.layout.xaxis.ticksuffix == " %"
    assert fig.layout.shapes[0].x0 == 25  # 16 of the first run's 64


def test_a_bundled_run_keeps_its_colour_beside_any_other(points):
    both = points.assign(model=points["model"].replace("std-nano", "mine"))
    fig = drawn(both, runs=OTHERS)
    assert (line(fig, "EMO").line.color, line(fig, "&lt;b&gt;").line.color) == (TEAL, AMBER)
