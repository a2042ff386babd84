"""Which training runs are found, and that a growing file is read on from where it was left."""

import json
import os
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


def test_a_folder_that_may_not_be_entered_is_passed_over(
    place: Path, monkeypatch: pytest.MonkeyPatch
):
    write(place / "runs" / "mine", 0)
    locked = [place / "runs" / "theirs", place / "assets" / "checkpoints" / "emo-nano"]
    for folder in locked:
        write(folder, 0)
    stat = os.stat

    def refuse(path, *rest, **how):
        if isinstance(path, str | Path) and Path(path).parent in locked:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *rest, **how)

    monkeypatch.setattr(os, "stat", refuse)
    assert [one.id for one in training.runs()] == ["runs/mine"]
    with pytest.raises(ValueError, match="no folder"):
        training.runs(str(locked[0] / "inside"))
    assert training.silent_seconds(TrainingRun("", "", locked[0])) == float("inf")


def test_of_many_runs_those_of_the_typed_folder_are_all_there(
    place: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(training, "MOST_RUNS", 3)
    for number in range(5):
        write(place / "runs" / f"run-{number}", 0)
    write(place / "elsewhere" / "emo", 0)
    found = training.runs(str(place / "elsewhere"))
    assert [one.label for one in found][3:] == ["elsewhere/emo"] and len(found) == 4


def test_of_a_wide_folder_only_so_many_folders_are_looked_at(
    place: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(training, "MOST_FOLDERS", 30)
    for number in range(100):
        (place / "wide" / str(number // 10) / str(number % 10)).mkdir(parents=True)
    write(place / "wide" / "0" / "0", 0)
    write(place / "wide" / "9" / "9", 0)
    looked = list[str]()
    isfile = os.path.isfile
    monkeypatch.setattr(os.path, "isfile", lambda path: (looked.append(str(path)), isfile(path))[1])
    found = training.runs(str(place / "wide"))
    assert [one.label for one in found] == ["0/0"]
    assert len([path for path in looked if "wide" in path]) == 30


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
