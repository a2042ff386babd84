"""Home's picture is drawn with the names and colours that the runs have now."""

import json
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest

from emo_viz.analysis.glance import Glance
from emo_viz.analysis.runs import Run, compare
from emo_viz.figures.home import of_run
from emo_viz.figures.theme import colour_of
from emo_viz.ui.home import first


def test_another_name_or_colour_of_the_same_run_is_drawn(monkeypatch: pytest.MonkeyPatch):
    sent: list[list] = []
    monkeypatch.setattr(first.position, "tell", lambda *_: None)
    monkeypatch.setattr(first.position, "taker", lambda *_: None)
    monkeypatch.setattr(
        first, "_COMPONENT", lambda data, **_: sent.append(json.loads(data)["runs"])
    )
    monkeypatch.setattr(
        first,
        "picture",
        lambda runs, *_: {"runs": [(run.label, colour_of(run)) for run in runs], "start": 0},
    )
    found = SimpleNamespace(runs=dict.fromkeys(("emo-nano", "x"), None))
    alone = compare([Run("x", "One")])
    renamed = compare([Run("x", "Other")])
    beside = compare([Run("emo-nano", "EMO"), Run("x", "One")])
    moved = type(alone)(beside.runs[1:])
    for runs in (alone, renamed, moved):
        first.draw(runs, found, "key")
    assert sent[0] != sent[1] and sent[0] != sent[2]
    assert sent[2] == [["One", colour_of(moved.first)]]


def glance(layers: Sequence[int]) -> Glance:
    """One token, which chose the one expert of each of these layers."""
    ones = np.zeros((len(layers), 1), np.int64)
    cells = (ones[..., None], np.ones((len(layers), 1, 1), np.float32))
    return Glance(("a",), tuple(layers), (1,) * len(layers), 0, 1, 1, (1,), *cells, ones, None)


@pytest.mark.parametrize(
    ("own", "at", "aside"),
    [
        ((0, 1, 2, 3), [0, 1, 2, 3], [""] * 4),
        ((0, 1, 2), [0, 1, 2, 2], ["", "", "", "layer 2, "]),
        ((1, 2), [0, 0, 1, 1], ["layer 1, ", "", "", "layer 2, "]),
    ],
)
def test_a_run_without_the_layer_of_a_button_says_which_of_its_own_it_shows(
    own: tuple[int, ...], at: list[int], aside: list[str]
):
    drawn = of_run(Run("x", "One"), glance(own), ["a"], (0, 1, 2, 3))
    assert drawn["at"] == at and drawn["aside"] == aside
