"""The routing figures, without Streamlit: what is drawn, on which scale, and what a click gives."""

import numpy as np
import pytest

from emo_viz.analysis.bootstrap import Interval
from emo_viz.analysis.runs import Run, compare
from emo_viz.figures import routing
from emo_viz.figures.comparison import Compared, by_run
from emo_viz.figures.theme import (
    DIVERGING,
    RUN_COLOURS,
    SEQUENTIAL,
    TEAL,
    between,
    colour_at,
    shades_of,
)

RUNS = compare([Run("emo-nano", "EMO"), Run("std-nano", "Standard MoE")])
ONE = compare([Run("mine", "mine")])

TOKENS = ["one", "<b>two</b>", "three"]


def test_along_text_puts_both_models_on_one_scale():
    entropy = {"emo-nano": np.array([[1.0, 2, 3]]), "std-nano": np.array([[2.0, 4, 5]])}
    loss = {"emo-nano": np.array([1.0, 2, 3]), "std-nano": np.array([3.0, 2, 1])}
    fig = routing.along_text(RUNS, entropy, loss, [3], TOKENS, selected=None)
    assert (fig.layout.coloraxis.cmin, fig.layout.coloraxis.cmax) == (1, 5)
    lines = [trace for trace in fig.data if trace.name in ("EMO", "Standard MoE")]
    assert [line.line.color for line in lines] == list(RUN_COLOURS)
    np.testing.assert_array_equal(lines[1].customdata[:, 0], [1, 2, 3])
    assert not fig.layout.shapes and list(fig.layout.yaxis.ticktext) == ["3"]
    again = routing.along_text(RUNS, entropy, loss, [3], TOKENS, selected=2).layout
    assert len(again.shapes) == 3 and again.uirevision == fig.layout.uirevision


def test_token_texts_are_escaped():
    entropy = {run: np.array([[1.0, 2, 3]]) for run in RUNS.ids}
    loss = {run: np.arange(3.0) for run in RUNS.ids}
    fig = routing.along_text(RUNS, entropy, loss, [3], TOKENS, selected=None)
    texts = [text for trace in fig.data if trace.text is not None for text in trace.text]
    assert "&lt;b&gt;two&lt;/b&gt;" in texts and not any("<b>" in text for text in texts)


def test_by_layer_draws_even_use_only_if_known():
    values = {"emo-nano": np.array([3, 4]), "std-nano": np.array([5, 6])}
    fig = routing.by_layer(RUNS, values, [2, 5], "Distinct", "experts", np.array([7.0, 5.5]))
    assert all(list(line.x) == [2, 5] for line in fig.data)
    assert [list(line.y) for line in fig.data] == [[3, 4], [5, 6], [7, 5.5]]
    assert [line.showlegend for line in fig.data] == [None, None, False]
    (named,) = fig.layout.annotations
    assert (named.text, named.x, named.y) == ("even use", 5, 5.5)
    assert len(routing.by_layer(RUNS, values, [2, 5], "Distinct", "experts").data) == 2


def test_comparison_draws_intervals_from_the_mean():
    values = {"emo-nano": Interval(2, 1.5, 3, 9), "std-nano": Interval(4, 4, 4, 9)}
    compared = Compared(values, "experts", 5.0, "random")
    emo = by_run(RUNS, compared, "Title").data[0]
    assert (emo.error_x.arrayminus[0], emo.error_x.array[0]) == (0.5, 1)


def test_comparison_writes_numbers_as_the_words_beside_it_do():
    values = {"mine": Interval(7.19, 7.1, 7.3, 9)}
    point = by_run(ONE, Compared(values, "experts", form=".1f"), "Title").data[0]
    assert list(point.text) == ["  7.2  "] and "7.1 to 7.3" in point.hovertemplate


@pytest.mark.parametrize(("chance", "side"), [(3.9, "right"), (4.1, "left"), (1.0, "center")])
def test_no_number_is_struck_by_the_line_of_chance(chance: float, side: str):
    values = {"emo-nano": Interval(8, 8, 8, 9), "std-nano": Interval(4, 4, 4, 9)}
    drawn = by_run(RUNS, Compared(values, "experts", chance, "random"), "Title").data
    assert [point.textposition for point in drawn] == ["bottom center", f"bottom {side}"]


def test_one_run_alone_has_one_panel():
    loss = np.arange(3.0)
    entropy = {"mine": np.array([[1.0, 2, 3]])}
    along = routing.along_text(ONE, entropy, {"mine": loss}, [0], TOKENS, selected=2)
    assert [trace.yaxis for trace in along.data] == ["y", "y", "y2"]
    assert len(along.layout.shapes) == 2
    assert len(routing.by_layer(ONE, {"mine": loss}, [0, 1, 2], "Distinct", "experts").data) == 1
    value = Compared({"mine": Interval(2, 1, 3, 9)}, "experts")
    assert list(by_run(ONE, value, "Title").data[0].y) == ["mine"]


@pytest.mark.parametrize("scale", [SEQUENTIAL, DIVERGING, shades_of(TEAL), between(*RUNS)])
def test_colour_at_meets_the_ends_and_stays_inside(scale: list):
    assert colour_at(scale, 0) == colour_at(scale, -3)
    assert colour_at(scale, 1) == colour_at(scale, 9)
    assert colour_at(scale, 1).startswith(scale[-1][1].rsplit(",", 1)[0])


def test_colour_at_mixes_neighbours():
    scale = [[0, "rgba(0, 0, 0, 0)"], [1, "rgba(100, 200, 50, 1)"]]
    assert colour_at(scale, 0.5) == "rgba(50, 100, 25, 0.500)"
