"""The figures of two routings, without Streamlit: what is drawn, and what hover and click give."""

from dataclasses import replace

import numpy as np
import pytest

from emo_viz.analysis.bootstrap import Interval
from emo_viz.analysis.difference import LayerDifference, LossBin
from emo_viz.analysis.runs import Run, compare
from emo_viz.figures import difference as figures
from emo_viz.figures.theme import RUN_COLOURS

RUNS = compare([Run("emo-nano", "EMO"), Run("emo-nano-bfloat16", "EMO <bf16>")])


def interval(mean: float, n: int = 4) -> Interval:
    return Interval(mean, mean - 0.1 if n > 1 else np.nan, mean + 0.05 if n > 1 else np.nan, n)


def layer(shared: float, n: int = 4, weight: float | None = 0.2) -> LayerDifference:
    moved = None if weight is None else interval(weight, n)
    overlap = shared / (2 - shared)
    return LayerDifference(
        interval(shared / 2, n), interval(shared, n), interval(overlap, n), 0.1, 0.05, moved
    )


def test_agreement_stands_beside_chance_with_intervals():
    fig = figures.agreement([layer(0.8), layer(0.6)], names=[3, 4])
    shared, same, chance = fig.data
    assert list(shared.y) == [0.8, 0.6] and list(same.y) == [0.4, 0.3]
    assert list(chance.y) == [0.1, 0.1] and "chance" in chance.name
    assert list(shared.error_y.array) == pytest.approx([0.05, 0.05])
    assert list(shared.error_y.arrayminus) == pytest.approx([0.1, 0.1])
    # A layer is called by the model's own number, not by its place.
    assert list(shared.text) == ["3", "4"] == list(fig.layout.xaxis.ticktext)
    assert shared.customdata[0] == "80.00% [70.00%, 85.00%]"


def test_one_document_has_no_interval():
    shared = figures.agreement([layer(0.8, n=1)], names=[0]).data[0]
    assert list(shared.error_y.array) == [0] and shared.customdata[0] == "80.00%"


def test_weight_by_layer():
    (line,) = figures.weight([layer(0.8), layer(0.6, weight=0.3)], names=[0, 1]).data
    assert list(line.y) == [0.2, 0.3]


def test_divergence_counts_tokens_by_layer_and_documents_by_position():
    fig = figures.divergence(np.array([0.5, 0.2, 0.3]), np.array([4, -1, 0, 4]), names=[0, 1])
    bars, parted = fig.data
    assert list(bars.y) == [0.5, 0.2, 0.3]
    assert list(fig.layout.xaxis.ticktext) == ["0", "1", "never"]
    assert "never part" in bars.text[-1]
    assert list(parted.x) == [0, 1, 5, 5] and list(parted.y) == [0, 0.25, 0.5, 0.75]


def test_few_positions_are_whole_numbers():
    def step(last: int) -> float | None:
        parts_at = np.array([0, last])
        return figures.divergence(np.array([1.0, 0, 0]), parts_at, names=[0, 1]).layout.xaxis2.dtick

    assert step(1) == 1 and step(300) is None


def test_one_document_has_no_distribution_of_documents():
    fig = figures.divergence(np.array([0.5, 0.5]), np.array([4]), names=[0])
    assert len(fig.data) == 1 and list(fig.data[0].y) == [0.5, 0.5]


def test_a_token_has_the_colour_of_the_run_that_predicts_it_better():
    bins = [LossBin(0, 0.4, 0.2, 10, interval(0.5)), LossBin(1, 1, 1, 30, interval(0.2, n=1))]
    overlap, change = np.array([0.2, 0.4, 1.0, 1.0]), np.array([0.3, -0.2, 0.0, np.nan])
    fig = figures.loss(RUNS, bins, overlap, change, ["a", "<b>", "c", "d"])
    first, second, line = fig.data
    assert (list(first.x), list(first.y)) == ([0.2], [0.3])  # the second's loss is higher
    assert (list(second.x), list(second.y)) == ([0.4], [0.2]) and second.text[0] == "&lt;b&gt;"
    assert (first.marker.color, second.marker.color) == RUN_COLOURS
    assert "EMO &lt;bf16&gt;" in second.name
    assert list(line.x) == [0.2, 1] and list(line.y) == [0.5, 0.2]
    assert fig.layout.yaxis.type == "log"


def test_many_layers_have_some_labels_and_the_last():
    fig = figures.agreement([layer(0.8)] * 48, names=range(48))
    assert len(fig.layout.xaxis.ticktext) <= 13 and fig.layout.xaxis.ticktext[-1] == "47"


def test_intervals_end_inside_the_figure():
    wide = replace(layer(0.4), shared=Interval(0.4, 0.1, 0.7, 9))
    fig = figures.agreement([layer(0.4), wide], names=[0, 1])
    assert fig.layout.yaxis.range[1] > 0.7
