"""Selections: which documents a region holds, and how an address carries them."""

import base64

import numpy as np
import pytest
import streamlit as st

from emo_viz.ui.parts.point_maps import Event, read_event
from emo_viz.ui.parts.selection import (
    BITS,
    EMPTY_REGION,
    MOST_IDS,
    Selection,
    decode,
    encode,
)

IDS = [f"doc-{i:04}" for i in range(500)]


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


def taken(monkeypatch: pytest.MonkeyPatch, rows: list[int], region: bool) -> tuple[str, int]:
    """The selection of the address after a gesture, the 4th, and how many have been taken."""
    monkeypatch.setattr(st, "session_state", {})
    some = Selection("some")
    some.take(Event(np.array(rows, np.int64), 4, region), IDS[:5])
    return some.current(), some.gesture


def test_what_a_gesture_holds_is_selected(monkeypatch):
    assert taken(monkeypatch, [3], region=False) == ("doc-0003", 4)
    assert taken(monkeypatch, [0, 2], region=True) == ("doc-0000,doc-0002", 4)


def test_an_empty_region_is_one_and_a_click_on_nothing_is_none(monkeypatch):
    assert taken(monkeypatch, [], region=True) == (EMPTY_REGION, 4)
    assert taken(monkeypatch, [], region=False) == ("", 4)


@pytest.mark.parametrize("count", [1, 8, 9, 500])
def test_rows_come_as_a_bit_each(count: int):
    chosen = np.random.default_rng(count).random(count) < 0.5
    sent = {"rows": base64.b64encode(np.packbits(chosen)).decode(), "n": 2, "region": True}
    event = read_event(sent, count)
    assert event.rows.tolist() == np.flatnonzero(chosen).tolist() and event.gesture == 2
    with pytest.raises(ValueError, match="does not fit"):
        read_event(sent, count + 8)
