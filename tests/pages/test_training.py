"""The Training page: curves and alarms of runs, and the load of their experts."""

import json
from pathlib import Path

import pytest

from tests.pages.opened import charts, follow_link, numbers, texts

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
    load = [{"step": s, "load": [[0.25, 0.75], [0.5, 0.5]]} for s in range(0, STEPS, 20)]
    (tmp_path / "whole" / "load.jsonl").write_text("".join(json.dumps(row) + "\n" for row in load))
    return tmp_path


def opened(trained: Path, **params: str):
    both = [str(trained / name) for name in ("whole", "stopped")]
    return follow_link(PAGE, training_folder=str(trained), training_run=both, **params)


def test_runs_are_drawn_beside_each_other_with_what_rings(tiny_assets: Path, trained: Path):
    at = opened(trained, training_smooth="0")
    said = texts(at).replace("\\", "")
    assert "ended at step **80**" in said and "is at step **70** of 80" in said
    assert "loss spike.** 1 step, the largest 2.00 nats at step 60" in said
    assert "Limit: a step 0.5 nats above" in said
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
