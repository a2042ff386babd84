"""Selections: which documents a region holds, and how an address carries them."""

import numpy as np
import pytest
import streamlit as st

from emo_viz.ui.parts.selection import (
    BITS,
    EMPTY_REGION,
    MOST_IDS,
    Selection,
    decode,
    encode,
    rows_inside,
)

IDS = [f"doc-{i:04}" for i in range(500)]
POINTS = np.array([[0, 0], [1, 1], [2, 2], [3, 0], [1.5, -1]], np.float32)


def region(box=(), lasso=()):
    return {"box": list(box), "lasso": list(lasso)}


def test_box_in_any_direction_of_the_gesture():
    box = {"x": [2.5, -0.5], "y": [1.5, -0.5], "xref": "x", "yref": "y"}
    assert rows_inside(region(box=[box]), POINTS).tolist() == [0, 1]


def test_lasso_that_is_not_convex():
    # A "U" open to the top: the point (1, 1) lies between its arms.
    u = {"x": [-1, -1, 4, 4, 1.6, 1.6, 0.5, 0.5], "y": [3, -2, -2, 3, 3, -0.5, -0.5, 3]}
    assert rows_inside(region(lasso=[u]), POINTS).tolist() == [0, 2, 3, 4]


def test_several_regions_add_up():
    boxes = [{"x": [-0.1, 0.1], "y": [-0.1, 0.1]}, {"x": [2.9, 3.1], "y": [-0.1, 0.1]}]
    assert rows_inside(region(box=boxes), POINTS).tolist() == [0, 3]


def test_lasso_around_a_circle():
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    circle = {"x": (2 + np.cos(angles)).tolist(), "y": (1 + np.sin(angles)).tolist()}
    points = np.random.default_rng(0).uniform(-1, 4, size=(2000, 2)).astype(np.float32)
    distance = np.linalg.norm(points - [2, 1], axis=1)
    clear = np.abs(distance - 1) > 0.01  # the polygon lies just inside the circle
    found = np.isin(np.arange(2000), rows_inside(region(lasso=[circle]), points))
    assert (found[clear] == (distance < 1)[clear]).all() and found.any()


def test_no_region_holds_nothing():
    assert rows_inside(region(), POINTS).tolist() == []


@pytest.mark.parametrize("size", [0, 1, MOST_IDS, MOST_IDS + 1, 499, 500])
def test_rows_come_back_from_the_address(size):
    rows = np.sort(np.random.default_rng(size).permutation(500)[:size])
    code = encode(rows, IDS)
    assert decode(code, IDS).tolist() == rows.tolist()
    assert code.startswith(BITS) == (size > MOST_IDS)
    assert len(code) <= 20 * MOST_IDS


def test_few_documents_are_named():
    assert encode(np.array([3, 7]), IDS) == "doc-0003,doc-0007"
    assert decode("doc-0007,doc-0003", IDS).tolist() == [3, 7]


def test_ids_with_commas_survive():
    ids = ["a,b", "c", "d"]
    assert decode(encode(np.array([0, 2]), ids), ids).tolist() == [0, 2]


@pytest.mark.parametrize("change", ["", "x", "-", "A" * 40])
def test_damaged_links_select_nothing(change):
    code = encode(np.arange(100), IDS)
    assert decode(code[: len(code) // 2] + change, IDS) is None


def test_a_link_of_other_documents_is_not_followed():
    code = encode(np.arange(100), IDS)
    assert decode(code, IDS[:-1] + ["other"]) is None
    assert decode("doc-0001,gone", IDS) is None
    assert decode(BITS + "zz", IDS) is None


def taken(monkeypatch, selection):
    """The selection of the address after this was drawn on EMO's map, and its rows."""
    monkeypatch.setattr(st, "session_state", {"chart": {"selection": selection}})
    rows = Selection("some").take("emo", "chart", POINTS, IDS[:5])
    return Selection("some").current(), rows.tolist()


def test_a_click_selects_the_point_by_its_own_row(monkeypatch):
    point = {"curve_number": 2, "point_index": 0, "customdata": 3}
    assert taken(monkeypatch, region() | {"points": [point]}) == ("doc-0003", [3])
    as_list = point | {"customdata": [3]}
    assert taken(monkeypatch, region() | {"points": [as_list]}) == ("doc-0003", [3])


def test_a_region_counts_and_not_the_points_that_the_browser_saw(monkeypatch):
    box = {"x": [5, 6], "y": [5, 6]}
    drawn = region(box=[box]) | {"points": [{"customdata": 3}]}
    assert taken(monkeypatch, drawn) == (EMPTY_REGION, [])


def test_nothing_clicked_is_nothing_selected(monkeypatch):
    assert taken(monkeypatch, region() | {"points": []}) == ("", [])
