"""Figures of document clusters: every document is drawn once, and selections carry over."""

import numpy as np
import pandas as pd
import pytest

from emo_viz.analysis.runs import Run, compare
from emo_viz.figures.clusters import (
    DIMMED,
    Shown,
    colour_groups,
    map_config,
    point_map,
    share_heatmap,
)
from emo_viz.figures.theme import GROUP_COLOURS, OTHER_COLOUR

POINTS = np.array([[0, 0], [1, 2], [2, 4], [-3, 1]], np.float32)
RUNS = compare([Run("emo-nano", "EMO"), Run("std-nano", "Standard MoE")])
HOVER = ["a", "b", "c", "d"]
NAMES = ["x", "y", "x", "y"]


def rows_of(fig):
    """(hover text, x, y) of all points drawn."""
    return sorted(
        (text, float(x), float(y))
        for trace in fig.data
        for text, x, y in zip(trace.hovertext, trace.x, trace.y, strict=True)
    )


def test_up_to_ten_groups_have_a_colour_and_a_marker_each():
    names = [name for i, name in enumerate("abcdefghij") for _ in range(20 - i)]
    groups = colour_groups(names)
    assert [group.name for group in groups] == list("abcdefghij")
    assert {group.colour for group in groups} == set(GROUP_COLOURS)
    assert len({group.symbol for group in groups}) == len({group.sign for group in groups}) == 10
    assert [len(group.rows) for group in groups] == list(range(20, 10, -1))


def test_more_groups_fall_into_others():
    names = [f"g{i:02}" for i in range(13) for _ in range(30 - i)]
    groups = colour_groups(names)
    assert [group.name for group in groups][-2:] == ["g09", "3 others"]
    assert groups[-1].colour == OTHER_COLOUR
    assert sorted(np.concatenate([group.rows for group in groups])) == list(range(len(names)))
    assert groups[-1].symbol not in {group.symbol for group in groups[:-1]}


def test_a_single_group_too_many_keeps_its_name():
    groups = colour_groups([f"g{i:02}" for i in range(11) for _ in range(30 - i)])
    assert groups[-1].name == "g10" and groups[-1].colour == OTHER_COLOUR


def test_a_small_group_can_be_given_a_colour():
    names = [f"g{i:02}" for i in range(13) for _ in range(30 - i)]
    groups = colour_groups(names, first=["g12"])
    assert groups[0].name == "g12" and groups[0].colour == GROUP_COLOURS[0]
    assert "g12" not in [group.name for group in groups[1:]]


def test_thirty_groups_differ_in_colour_or_marker():
    groups = colour_groups([f"g{i:02}" for i in range(30)], most=30)
    assert OTHER_COLOUR not in {group.colour for group in groups}
    assert len({(group.colour, group.symbol) for group in groups}) == 30
    assert len({(group.colour, group.sign) for group in groups}) == 30


def test_others_are_drawn_below_and_fainter():
    names = ["a"] * 3 + ["b"]
    fig = point_map(POINTS, colour_groups(names, most=1), HOVER, "t", "UMAP")
    assert [trace.name for trace in fig.data] == ["b", "a"]
    assert fig.data[0].marker.opacity < fig.data[1].marker.opacity


def test_a_point_carries_its_row():
    fig = point_map(POINTS, colour_groups(NAMES), HOVER, "t", "UMAP")
    rows = {
        int(row): text
        for t in fig.data
        for row, text in zip(t.customdata, t.hovertext, strict=True)
    }
    assert rows == dict(enumerate(HOVER))


def test_map_draws_every_document_once_with_its_hover():
    fig = point_map(POINTS, colour_groups(NAMES), HOVER, "EMO: UMAP", "UMAP")
    points = [(text, *map(float, place)) for text, place in zip(HOVER, POINTS, strict=True)]
    assert rows_of(fig) == sorted(points)
    assert {trace.type for trace in fig.data} == {"scattergl"}
    assert fig.layout.xaxis.title.text == "UMAP 1 (no unit)"
    assert fig.layout.xaxis.range[0] < -3 and fig.layout.yaxis.range[1] > 4
    assert all(trace.selectedpoints is None for trace in fig.data)


def test_map_marks_selected_and_highlighted_documents():
    selected, highlighted = np.array([0, 3]), np.array([True, False, False, False])
    fig = point_map(POINTS, colour_groups(NAMES), HOVER, "t", "PCA", (), highlighted, selected)
    by_name = {trace.name: trace for trace in fig.data}
    assert list(by_name["x"].selectedpoints) == [0]  # row 0 is the first point of group x
    assert list(by_name["y"].selectedpoints) == [1]
    assert by_name["x"].marker.opacity[0] > 0.9 and by_name["x"].marker.opacity[1] == DIMMED


def test_an_empty_selection_dims_all():
    fig = point_map(POINTS, colour_groups(NAMES), HOVER, "t", "PCA", selected=np.array([], int))
    assert [list(trace.selectedpoints) for trace in fig.data] == [[], []]


def test_map_carries_its_labels():
    fig = point_map(POINTS, colour_groups(NAMES), HOVER, "t", "PCA", [("chess", 1.0, 2.0)])
    note = fig.layout.annotations[0]
    assert (note.text, note.x, note.y) == ("chess", 1.0, 2.0)


def test_one_point_has_a_range():
    fig = point_map(POINTS[:1], colour_groups(["x"]), ["a"], "t", "PCA")
    assert fig.layout.xaxis.range[0] < 0 < fig.layout.xaxis.range[1]


def test_lasso_and_box_can_be_reached():
    removed = map_config("UMAP emo")["modeBarButtonsToRemove"]
    assert "lasso2d" not in removed and "select2d" not in removed
    assert "sendDataToCloud" in removed


def test_colours_can_be_claimed_in_an_order():
    groups = colour_groups(list("aaabbc"), first=["c", "missing", "b"])
    assert [group.name for group in groups] == ["c", "b", "a"]
    assert [group.colour for group in groups] == list(GROUP_COLOURS[:3])


def test_heatmap_gives_shares_of_domains_and_counts():
    tables = {
        "emo-nano": pd.DataFrame([[0, 4], [6, 2]], index=["law", "sea"], columns=[0, 1]),
        "std-nano": pd.DataFrame([[2, 2], [4, 4]], index=["law", "sea"], columns=[0, 1]),
    }
    fig = share_heatmap(RUNS, tables, "title", Shown("domain", "documents", matched=True))
    emo = fig.data[0]
    cells = {
        (y, x): (emo.z[i][j], emo.customdata[i][j])
        for i, y in enumerate(emo.y)
        for j, x in enumerate(emo.x)
    }
    assert cells == {
        ("law", "0"): (0, 0),
        ("law", "1"): (100, 4),
        ("sea", "0"): (75, 6),
        ("sea", "1"): (25, 2),
    }
    assert list(fig.data[1].y) == list(emo.y) and list(fig.data[1].x) == list(emo.x)
    assert [emo.z[i][i] for i in range(2)] == pytest.approx([75, 100])
    assert (fig.layout.coloraxis.cmin, fig.layout.coloraxis.cmax) == (0, 100)


def test_clusters_that_do_not_match_are_ordered_in_each_panel():
    tables = {
        "emo-nano": pd.DataFrame([[2, 2], [2, 2]], index=["law", "sea"], columns=["3", "5"]),
        "std-nano": pd.DataFrame([[0, 4], [6, 0]], index=["law", "sea"], columns=["7", "9"]),
    }
    fig = share_heatmap(RUNS, tables, "title", Shown("token", "tokens", matched=False))
    standard = fig.data[1]
    assert [standard.z[i][i] for i in range(2)] == [100, 100]  # rows follow the clearer table
    assert {fig.data[0].x[0], standard.x[0]} <= {"3", "5", "7", "9"}
    assert list(fig.data[0].y) == list(standard.y)
    assert "of the token's tokens" in standard.hovertemplate
