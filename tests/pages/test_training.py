"""The Training page: curves and alarms of runs, and the load of their experts."""

import base64
import json
import shutil
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
from emo_viz.server import home
from tests.pages.opened import charts, components, follow_link, numbers, texts

PAGE = "pages/11_Training.py"
STEPS = 80


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """Two runs: one whole with loads, one that stopped in the middle with a spike."""
    for name, length in (("whole", STEPS), ("stopped", STEPS - 10)):
        folder = tmp_path / name
        folder.mkdir()
        preset = {"steps": STEPS, "rows": 4, "context": 16, "objective": "emo"}
        (folder / "training.json").write_text(json.dumps(preset))
        rows = [
            {"step": s, "loss": 3.0 + 2 * (s == 60 and name == "stopped"), "own <b>value": s}
            for s in range(length)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    load = [{"step": s, "load": [[], [0.25, 0.75]]} for s in range(0, STEPS, 20)]
    (tmp_path / "whole" / "load.jsonl").write_text("".join(json.dumps(row) + "\n" for row in load))
    return tmp_path


def opened(trained: Path, **params: str):
    both = [str(trained / name) for name in ("whole", "stopped")]
    return follow_link(PAGE, training_folder=str(trained), training_run=both, **params)


def test_runs_are_drawn_beside_each_other_with_what_rings(tiny_assets: Path, trained: Path):
    at = opened(trained, training_smooth="0")
    said = texts(at).replace("\\", "")
    assert "ended at step **80**" in said and "is at step **70** of 80" in said
    assert "**Loss spike**: 1 step, the largest 2.00 nats at step 60" in said
    assert "(limit: a step 0.5 nats above" in said
    (chart,) = charts(at)
    lines = [trace for trace in chart["data"] if trace.get("showlegend")]
    assert [len(numbers(line["x"])) for line in lines] == [80, 70]
    assert [line["line"]["color"] for line in lines] == ["#0c8a7f", "#c96a04"]
    titles = [note["text"] for note in chart["layout"]["annotations"]]
    assert "own &lt;b&gt;value" in titles  # a value that the page does not know, as text


def test_along_tokens_a_step_is_as_wide_as_its_tokens(tiny_assets: Path, trained: Path):
    (chart,) = charts(opened(trained, training_along="Tokens", training_smooth="0"))
    assert numbers(chart["data"][0]["x"])[:2] == [64, 128]


def test_the_loads_of_a_layer_are_multiples_of_even_use(tiny_assets: Path, trained: Path):
    at = opened(trained, training_view="Expert load")
    layers = at.get("button_group")[0]
    assert layers.options == ["1"]  # layer 0 is dense
    (chart,) = charts(at)
    trace = chart["data"][0]
    assert trace["x"] == ["0", "20", "40", "60"]
    values = trace["z"]
    assert values["shape"] == "2, 4"
    assert numbers(values) == [0.5] * 4 + [1.5] * 4
    assert "stopped** has no load.jsonl" in texts(at)


def test_without_a_run_the_page_says_how_to_get_one(tiny_assets: Path):
    at = follow_link(PAGE)
    assert "There is no training run here" in texts(at)


def test_a_folder_that_is_not_there_is_one_sentence(tiny_assets: Path):
    at = follow_link(PAGE, training_folder="/not/here")
    assert "There is no folder /not/here; check the path." in texts(at).replace("\\", "")


def test_checkpoints_are_sent_to_the_browser_at_once(tiny_assets: Path, tmp_path: Path):
    moments = tuple(moment(step) for step in (10, 20))
    documents = Documents(
        ("a", "b", "c", "d"), ("sea", "sea", "hill", "hill"), ("<i>",) * 4, ("text",) * 4, (5,) * 4
    )
    history = History("EMO", "a run of its own", "key", documents, 3, (2, 4), 64, moments)
    folder = home.folder() / "training"
    for name in ("one", "two"):
        write_history(folder / f"training-{name}.npz", replace(history, run=name))
    (folder / "training-zzz.npz").write_bytes(b"nothing")
    try:
        at = follow_link(PAGE, training_view="Checkpoints", training_history=["two", "zzz"])
    finally:
        shutil.rmtree(folder)
    (data,) = [each for each in components(at) if "measures" in each]
    assert [run["label"] for run in data["runs"]] == ["two"]  # zzz is damaged, and said to be
    assert "training-zzz.npz is damaged" in texts(at).replace("\\", "")
    assert data["steps"] == [10, 20] and data["keeps"] == [2, 4]
    places = np.frombuffer(base64.b64decode(data["runs"][0]["places"]), "<u2")
    assert places.shape == (2 * 4 * 2,) and places.max() == 65_535
    assert [group["name"] for group in data["groups"]] == ["hill", "sea"]
    assert data["documents"][0] == ["sea", "<i>", "text"]
    assert data["runs"][0]["cuts"][0][0][0] == pytest.approx(0.5, abs=1e-4)
    said = texts(at)
    assert "two: a run of its own; 2 checkpoints, the last at step 20" in said
    assert "4 held-out documents of 2 domains, 20 tokens" in said and "3 other documents" in said


def moment(step: int) -> Moment:
    usage = np.random.default_rng(step).dirichlet(np.ones(3), (4, 2)).astype(np.float32)
    losses = np.tile(np.array([3.5, 3.0], np.float32), (4, 1))
    return Moment(step, "digest", usage, losses, {m: Interval(0.5, 0.4, 0.6, 4) for m in MEASURES})


def test_without_a_history_the_page_says_how_one_is_made(tiny_assets: Path):
    at = follow_link(PAGE, training_view="Checkpoints")
    assert "No checkpoints of a training run have been measured" in texts(at)
    assert "training-history --checkpoints" in at.code[0].value
