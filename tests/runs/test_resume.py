"""A recording that was stopped goes on and ends with the same bytes; anything else begins anew."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from tiny import save_tiny

from emo_viz.runs import record as recipe
from emo_viz.runs.partial import Partial
from emo_viz.runs.record import Options, record
from emo_viz.trace import Trace

ROOT = Path(__file__).parents[2]
WINDOW = 24  # tokens: some three documents
# Dies as a process does that is killed: at once, in the middle of the third window.
KILLED = """
import os, signal, sys
import pandas as pd
from emo_viz.runs import record as recipe
from model.run.recording import Recorder
recipe.WINDOW_TOKENS = int(sys.argv[4])
run, calls = Recorder._run, []
def killed(*arguments):
    calls.append(1)
    if len(calls) == int(sys.argv[5]):
        os.kill(os.getpid(), signal.SIGKILL)
    return run(*arguments)
Recorder._run = killed
options = recipe.Options(level="tokens", max_tokens=32)
recipe.record(sys.argv[1], pd.read_parquet(sys.argv[2]), recipe.Path(sys.argv[3]), options)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    save_tiny("mixtral", folder)
    return folder


@pytest.fixture
def documents() -> pd.DataFrame:
    texts = [" ".join(f"w{4 + (n * n + m) % 90}" for m in range(4 + n)) for n in range(10)]
    ids = [f"é{n}" for n in range(10)]
    return pd.DataFrame({"id": ids, "domain": "words", "text": texts})


@pytest.fixture
def recorded(checkpoint, documents, tmp_path, monkeypatch):
    """Record into tmp_path/trace; says what was told."""
    monkeypatch.setattr(recipe, "WINDOW_TOKENS", WINDOW)

    def run(out="trace", documents=documents, checkpoint=checkpoint, report=None, **changes):
        told: list[str] = []
        options = Options(**{"level": "tokens", "max_tokens": 32} | changes)
        more = {"report": report} if report else {}
        record(str(checkpoint), documents, tmp_path / out, options, tell=told.append, **more)
        return " ".join(told)

    return run


def content(trace: Path) -> dict[str, object]:
    """All bytes, but for the time in the manifest."""
    files: dict[str, object] = {path.name: path.read_bytes() for path in trace.iterdir()}
    manifest = json.loads((trace / "manifest.json").read_text())
    return files | {"manifest.json": {k: v for k, v in manifest.items() if k != "created"}}


def stop_at(count: int):
    def report(done: int, total: int) -> None:
        if done == count:
            raise KeyboardInterrupt

    return report


def windows(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / ".trace.partial").glob("*.npz"))


@pytest.mark.parametrize("call", [1, 6])
def test_killed_and_started_again_it_ends_with_the_same_bytes(
    call, recorded, checkpoint, documents, tmp_path
) -> None:
    documents.to_parquet(tmp_path / "documents.parquet")
    arguments = [checkpoint, tmp_path / "documents.parquet", tmp_path / "trace", WINDOW, call]
    command = [sys.executable, "-c", KILLED, *map(str, arguments)]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (tmp_path / "trace").exists() and (tmp_path / ".trace.partial").is_dir()
    told = recorded()
    assert ("goes on after" in told) == (call > 1)
    recorded(out="whole")
    assert content(tmp_path / "trace") == content(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "documents.parquet",
        "trace",
        "whole",
    ]


def test_it_records_only_what_is_left(recorded, tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        recorded(report=stop_at(8))
    seen: list[int] = []
    told = recorded(report=lambda done, total: seen.append(done))
    assert "goes on after 7 documents" in told and seen == [7, 8, 9, 10]


def test_the_order_of_batches_is_not_that_of_the_trace(recorded, documents, tmp_path) -> None:
    backwards = documents.iloc[::-1]
    recorded(documents=backwards, batch_tokens=40)
    assert Trace.open(tmp_path / "trace").documents["id"].tolist() == backwards["id"].tolist()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_tokens": 31}, "another set of options"),
        ({"level": "documents"}, "another set of options"),
        ({"batch_tokens": 40}, "another set of options"),
        ({"dtype": "bfloat16"}, "another set of options"),
        ({"documents": "fewer"}, "another collection of documents"),
        ({"checkpoint": "other"}, "another model and another tokenizer or config"),
    ],
)
def test_a_recording_of_anything_else_begins_anew(
    change, words, recorded, documents, tmp_path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        recorded(report=stop_at(8))
    assert len(windows(tmp_path)) == 2
    if "documents" in change:
        change = {"documents": documents.head(9)}
    if "checkpoint" in change:
        save_tiny("olmoe", tmp_path / "other")
        change = {"checkpoint": tmp_path / "other"}
    assert f"is of {words}; it begins anew" in recorded(**change)
    recorded(out="whole", **change)
    assert content(tmp_path / "trace") == content(tmp_path / "whole")
    assert not (tmp_path / ".trace.partial").exists()


@pytest.mark.parametrize("left", [0, 40])
def test_a_window_that_the_disk_lost_is_recorded_again(left, recorded, tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        recorded(report=stop_at(8))
    last = tmp_path / ".trace.partial" / windows(tmp_path)[-1]
    last.write_bytes(last.read_bytes()[:left])
    assert "goes on after 4 documents" in recorded()
    recorded(out="whole")
    assert content(tmp_path / "trace") == content(tmp_path / "whole")


def test_two_processes_do_not_record_to_one_place(recorded, tmp_path) -> None:
    with (
        Partial.place(tmp_path / "trace", {}),
        pytest.raises(ValueError, match="Another process is recording to the same place"),
    ):
        recorded()
    assert recorded() == ""


def test_what_no_recording_wrote_is_left_alone(recorded, tmp_path) -> None:
    folder = tmp_path / ".trace.partial"
    folder.mkdir()
    (folder / "diary.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not an unfinished recording; move it away"):
        recorded()
    assert (folder / "diary.txt").read_text() == "mine"
