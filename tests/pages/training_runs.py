"""Training runs and their measured checkpoints, small, for the tests of the Training page."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emo_viz.analysis.bootstrap import Interval
from emo_viz.analysis.training_history import (
    MEASURES,
    Documents,
    History,
    Moment,
    write_history,
)
from emo_viz.server import histories

STEPS = 80


def write_runs(place: Path) -> None:
    """Two runs: one whole with loads, one that stopped in the middle with a spike."""
    for name, length in (("whole", STEPS), ("stopped", STEPS - 10)):
        folder = place / name
        folder.mkdir(parents=True)
        preset = {"steps": STEPS, "rows": 4, "context": 16, "objective": "emo"}
        (folder / "training.json").write_text(json.dumps(preset))
        rows = [
            {"step": s, "loss": 3.0 + 2 * (s == 60 and name == "stopped"), "own <b>value": s}
            for s in range(length)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    load = [{"step": s, "load": [[], [0.25, 0.75]]} for s in range(0, STEPS, 20)]
    (place / "whole" / "load.jsonl").write_text("".join(json.dumps(row) + "\n" for row in load))


def write_histories(folder: Path, monkeypatch: pytest.MonkeyPatch, *runs: str) -> None:
    """Two checkpoints of each run, in the place of the user's own histories."""
    monkeypatch.setattr(histories, "OWN", str(folder))
    moments = tuple(moment(step) for step in (10, 20))
    documents = Documents(
        ("a", "b", "c", "d"), ("sea", "sea", "hill", "hill"), ("<i>",) * 4, ("text",) * 4, (5,) * 4
    )
    history = History("EMO", "a run of its own", "key", documents, 3, (2, 4), 64, moments)
    for number, run in enumerate(runs):
        write_history(folder / f"training-{number}.npz", replace(history, run=run))


def moment(step: int) -> Moment:
    usage = np.random.default_rng(step).dirichlet(np.ones(3), (4, 2)).astype(np.float32)
    losses = np.tile(np.array([3.5, 3.0], np.float32), (4, 1))
    return Moment(step, "digest", usage, losses, {m: Interval(0.5, 0.4, 0.6, 4) for m in MEASURES})
