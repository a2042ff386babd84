"""Home's picture is drawn with the names and colours that the runs have now."""

import json
from types import SimpleNamespace

import pytest

from emo_viz.analysis.runs import Run, compare
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
