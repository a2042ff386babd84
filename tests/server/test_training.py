"""Which training runs are found, and that a growing file is read on from where it was left."""

import json
from pathlib import Path

import pytest

from emo_viz.server import training
from emo_viz.server.training import TrainingRun


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own, without assets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMO_VIZ_ASSETS", str(tmp_path / "assets"))
    monkeypatch.setenv("EMO_VIZ_HOME", str(tmp_path / "home"))
    return tmp_path


def write(folder: Path, *steps: int) -> TrainingRun:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in steps)
    return TrainingRun(folder.name, folder.name, folder)


def test_runs_are_found_where_they_are_written(place: Path):
    write(place / "runs" / "nano-emo", 0)
    write(place / "runs" / "nano-emo" / "export", 0)  # of the run above, none of its own
    write(place / "runs" / "study" / "seed-1", 0)
    write(place / "runs" / "step-50", 0)  # a checkpoint
    write(place / "home" / "training" / "mine", 0)
    write(place / "elsewhere" / "pair" / "emo", 0)
    assert [one.id for one in training.runs()] == [
        "runs/nano-emo",
        "runs/study/seed-1",
        "training/mine",
    ]
    given = training.runs(str(place / "elsewhere"))[-1]
    assert given.folder == place / "elsewhere" / "pair" / "emo" and given.label == "pair/emo"


def test_a_folder_that_is_none_or_holds_nothing_is_one_sentence(place: Path):
    for typed, said in (
        ("nowhere", "no folder"),
        (str(place), "no metrics.jsonl"),
        ("\0", "no path"),
    ):
        with pytest.raises(ValueError, match=said):
            training.runs(typed)


def test_only_what_was_appended_is_read(place: Path, monkeypatch: pytest.MonkeyPatch):
    run = write(place / "run", 0, 1)
    fed = list[bytes]()
    feed = training.MetricsLog.feed
    monkeypatch.setattr(
        training.MetricsLog, "feed", lambda log, more: (fed.append(more), feed(log, more))
    )
    first = training.read(run).metrics
    write(place / "run", 2)
    second = training.read(run).metrics
    assert first is not None and first.steps.tolist() == [0, 1]
    assert second is not None and second.steps.tolist() == [0, 1, 2]
    assert [len(each.splitlines()) for each in fed] == [2, 1]


def test_a_file_that_was_written_anew_is_read_anew(place: Path):
    run = write(place / "run", 0, 1, 2)
    training.read(run)
    temporary = place / "other"
    temporary.write_text('{"step": 0, "loss": 5.0}\n{"step": 1, "loss": 5.0}\n' + " " * 200)
    temporary.replace(place / "run" / "metrics.jsonl")
    found = training.read(run).metrics
    assert found is not None and found.values["loss"].tolist() == [5.0, 5.0]
    (place / "run" / "metrics.jsonl").write_text('{"step": 7, "loss": 1.0}\n')
    found = training.read(run).metrics
    assert found is not None and found.steps.tolist() == [7]


def test_a_file_without_steps_says_so(place: Path):
    run = write(place / "run")
    assert "no step yet" in training.read(run).problem
    (place / "run" / "metrics.jsonl").write_text("epoch,loss\n1,2\n")
    assert "another kind" in training.read(run).problem
    (place / "run" / "metrics.jsonl").unlink()
    assert "cannot be read" in training.read(run).problem
    assert training.loads(run) is None
