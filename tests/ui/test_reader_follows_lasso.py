"""A lasso and the reader: what is read lies in what is selected."""

import numpy as np
import pytest
import streamlit as st

from emo_viz.ui.clusters import documents_view
from emo_viz.ui.parts import reader

IDS = ["a", "b", "c"]
POINTS = np.array([[0, 0], [1, 1], [2, 2]], np.float32)


def drawn(monkeypatch: pytest.MonkeyPatch, box: dict, reading: str) -> str:
    """The document in the reader after a box was drawn while `reading` was open."""
    selection = {"box": [box], "lasso": []}
    state = {"chart": {"selection": selection}, reader.DOCUMENT: reading}
    monkeypatch.setattr(st, "session_state", state)
    rows = documents_view.SELECTION.take("emo", "chart", POINTS, IDS)
    documents_view._opened([IDS[row] for row in rows])
    return str(state[reader.DOCUMENT])


@pytest.mark.parametrize(("reading", "then"), [("a", "b"), ("c", "c")])
def test_the_reader_goes_to_the_first_selected_document(monkeypatch, reading: str, then: str):
    box = {"x": [0.5, 2.5], "y": [0.5, 2.5]}
    assert drawn(monkeypatch, box, reading) == then


def test_an_empty_region_leaves_the_reader_alone(monkeypatch):
    assert drawn(monkeypatch, {"x": [5, 6], "y": [5, 6]}, "a") == "a"
