"""The routing figures, without Streamlit: what is drawn, on which scale, and what a click gives."""

import numpy as np
import plotly.graph_objects as go
import pytest

from emo_viz.analysis.bootstrap import Interval
from emo_viz.analysis.runs import Run, compare
from emo_viz.figures import routing
from emo_viz.figures.comparison import Compared, by_run
from emo_viz.figures.theme import DIVERGING, RUN_COLOURS, SEQUENTIAL, colour_at

RUNS = compare([Run("emo-nano", "EMO"), Run("std-nano", "Standard MoE")])
ONE = compare([Run("mine", "mine")])

TOKENS = ["one", "<b>two</b>", "three"]
GATES = np.array([[0, 0.2, 0, 0.1], [0.4, 0, 0, 0], [0, 0, 0, 0.3]], dtype=np.float32)


@pytest.fixture
def expert_map() -> go.Figure:
    maps = {
        "emo-nano": routing.ExpertMap(GATES, np.array([3, 0, 1, 2])),
        "std-nano": routing.ExpertMap(GATES / 2, np.arange(4)),
    }
    return routing.expert_map(RUNS, maps, TOKENS, layer=1, selected=2)


def test_click_targets_carry_position_expert_and_model(expert_map: go.Figure):
    targets = expert_map.data[1]
    cells = {tuple(row[:3].astype(int)) for row in targets.customdata}
    assert cells == {(1, 1, 0), (1, 3, 0), (2, 0, 0), (3, 3, 0)}
    assert {int(row[2]) for row in expert_map.data[3].customdata} == {1}


def test_columns_follow_the_order_of_the_experts(expert_map: go.Figure):
    targets = expert_map.data[1]
    column_of = {int(row[1]): int(x) for row, x in zip(targets.customdata, targets.x, strict=True)}
    assert column_of == {3: 0, 0: 1, 1: 2}
    assert list(expert_map.layout.xaxis.ticktext) == ["3"]


def test_both_models_share_one_scale(expert_map: go.Figure):
    emo, standard = expert_map.data[0], expert_map.data[2]
    assert emo.coloraxis == standard.coloraxis == "coloraxis"
    # A half in weight is the root of a half on the scale.
    assert (emo.z.max(), standard.z.max()) == (255, 181)
    assert expert_map.layout.coloraxis.colorbar.ticktext[-1] == "0.4"


def test_unused_cells_are_clear_and_used_ones_never(expert_map: go.Figure):
    assert (expert_map.data[0].z == 0).sum() == (GATES == 0).sum()
    faint = np.where(GATES == 0.1, np.float32(1e-9), GATES)
    one = routing.ExpertMap(faint, np.arange(4))
    again = routing.expert_map(RUNS, {"emo-nano": one, "std-nano": one}, TOKENS, 0, None)
    assert (again.data[0].z == 0).sum() == (GATES == 0).sum()


def test_followed_expert_is_marked_where_its_column_stands():
    maps = dict.fromkeys(RUNS.ids, routing.ExpertMap(GATES, np.array([3, 0, 1, 2])))
    (mark,) = routing.expert_map(RUNS, maps, TOKENS, 0, None, ("std-nano", 1)).layout.shapes
    assert (mark.xref, mark.x0, mark.x1) == ("x2", 1.5, 2.5)


def test_token_texts_are_escaped(expert_map: go.Figure):
    assert "&lt;b&gt;two&lt;/b&gt;" in expert_map.data[1].text
    assert not any("<b>" in text for text in expert_map.data[1].text)
    assert list(expert_map.layout.yaxis.ticktext)[1] == "&lt;b&gt;two&lt;/b&gt;"


def test_selected_token_is_marked_in_both_maps(expert_map: go.Figure):
    assert [(shape.y0, shape.y1) for shape in expert_map.layout.shapes] == [(1.5, 2.5)] * 2


def test_along_text_puts_both_models_on_one_scale():
    entropy = {"emo-nano": np.array([[1.0, 2, 3]]), "std-nano": np.array([[2.0, 4, 5]])}
    loss = {"emo-nano": np.array([1.0, 2, 3]), "std-nano": np.array([3.0, 2, 1])}
    fig = routing.along_text(RUNS, entropy, loss, TOKENS, selected=None)
    assert (fig.layout.coloraxis.cmin, fig.layout.coloraxis.cmax) == (1, 5)
    lines = [trace for trace in fig.data if trace.name in ("EMO", "Standard MoE")]
    assert [line.line.color for line in lines] == list(RUN_COLOURS)
    np.testing.assert_array_equal(lines[1].customdata[:, 0], [1, 2, 3])
    assert not fig.layout.shapes


def test_token_bars_carry_the_expert_ids_of_both_models():
    experts = np.array([[5, 2], [7, 1]], dtype=np.int16)
    gates = np.array([[0.4, 0.1], [0.3, 0.2]], dtype=np.float32)
    one = routing.TokenExperts(experts, gates, np.array([1.25, 2.5]))
    fig = routing.token_experts(RUNS, {"emo-nano": one, "std-nano": one})
    bars = [trace for trace in fig.data if isinstance(trace, go.Bar)]
    assert [list(bar.text) for bar in bars] == [["5", "7"], ["2", "1"]] * 2
    np.testing.assert_allclose(bars[0].x, [0.4, 0.3])
    assert (bars[0].y < bars[2].y).all()  # EMO on top: the axis is reversed
    assert fig.layout.xaxis.range == pytest.approx((0, 0.625))
    assert list(fig.data[2].text) == [" 1.25 nats", " 2.50 nats"]


def test_a_layer_with_fewer_experts_than_a_token_uses_has_fewer_pieces():
    experts = np.array([[1, 0, -1], [7, 1, 4]], np.int16)
    gates = np.array([[0.6, 0.4, 0], [0.3, 0.2, 0.1]], np.float32)
    one = routing.TokenExperts(experts, gates, np.array([0.5, 2.5]))
    fig = routing.token_experts(RUNS, {"emo-nano": one, "std-nano": one})
    bars = [trace for trace in fig.data if isinstance(trace, go.Bar)]
    assert [list(bar.text) for bar in bars[:3]] == [["1", "7"], ["0", "1"], ["", "4"]]
    assert np.isnan(bars[2].x[0]) and bars[2].x[1] == np.float32(0.1)
    assert bars[2].x.dtype == np.float32


def test_by_layer_draws_even_use_only_if_known():
    values = {"emo-nano": np.array([3, 4]), "std-nano": np.array([5, 6])}
    drawn = routing.by_layer(RUNS, values, "Distinct", "experts", np.array([7.0, 5.5])).data
    assert [list(line.y) for line in drawn] == [[3, 4], [5, 6], [7, 5.5]]
    assert len(routing.by_layer(RUNS, values, "Distinct", "experts").data) == 2


def test_comparison_draws_intervals_from_the_mean():
    values = {"emo-nano": Interval(2, 1.5, 3, 9), "std-nano": Interval(4, 4, 4, 9)}
    compared = Compared(values, "experts", 5.0, "random")
    emo = by_run(RUNS, compared, "Title").data[0]
    assert (emo.error_x.arrayminus[0], emo.error_x.array[0]) == (0.5, 1)


def test_one_run_alone_has_one_panel():
    one, loss = routing.ExpertMap(GATES, np.arange(4)), np.arange(3.0)
    fig = routing.expert_map(ONE, {"mine": one}, TOKENS, 0, selected=1, followed=("mine", 3))
    assert len(fig.data) == 2 and len(fig.layout.shapes) == 2
    entropy = {"mine": np.array([[1.0, 2, 3]])}
    along = routing.along_text(ONE, entropy, {"mine": loss}, TOKENS, selected=2)
    assert [trace.yaxis for trace in along.data] == ["y", "y", "y2"]
    assert len(along.layout.shapes) == 2
    chosen = routing.TokenExperts(np.array([[5]], np.int16), np.ones((1, 1)), np.ones(1))
    bars = routing.token_experts(ONE, {"mine": chosen})
    assert list(bars.data[0].y) == [0] and bars.data[0].name == "mine"
    assert len(routing.by_layer(ONE, {"mine": loss}, "Distinct", "experts").data) == 1
    value = Compared({"mine": Interval(2, 1, 3, 9)}, "experts")
    assert list(by_run(ONE, value, "Title").data[0].y) == ["mine"]


@pytest.mark.parametrize("scale", [SEQUENTIAL, DIVERGING])
def test_colour_at_meets_the_ends_and_stays_inside(scale: list):
    assert colour_at(scale, 0) == colour_at(scale, -3)
    assert colour_at(scale, 1) == colour_at(scale, 9)
    assert colour_at(scale, 1).startswith(scale[-1][1].rsplit(",", 1)[0])


def test_colour_at_mixes_neighbours():
    scale = [[0, "rgba(0, 0, 0, 0)"], [1, "rgba(100, 200, 50, 1)"]]
    assert colour_at(scale, 0.5) == "rgba(50, 100, 25, 0.500)"
