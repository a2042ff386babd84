"""What is done by content is not done again, and what is not is."""

from pathlib import Path

import pytest

from emo_viz.runs.ledger import Ledger, Step
from emo_viz.runs.progress import unreported


def copying(name: str, source: Path, goal: Path, log: list[str], **options: int) -> Step:
    def work(_: object) -> None:
        log.append(name)
        goal.write_bytes(source.read_bytes()[:2])

    return Step(name, (source,), (goal,), work, options)


@pytest.fixture
def place(tmp_path):
    (tmp_path / "a").write_text("abc")
    return tmp_path


def steps(place, log, **options):
    return [
        copying("first", place / "a", place / "b", log, **options),
        copying("second", place / "b", place / "c", log),
    ]


def make(place, **options):
    """The names of the steps that are done by one call."""
    log: list[str] = []
    ledger = Ledger(place / "made.json")
    ledger.begin()
    pending = [step.name for step in ledger.pending(steps(place, log, **options))]
    for step in steps(place, log, **options):
        ledger.make(step, unreported)
    assert set(log) <= set(pending), "nothing is done that was not told beforehand"
    return log


def test_a_step_is_done_once(place):
    assert make(place) == ["first", "second"]
    assert make(place) == []


@pytest.mark.parametrize(
    ("file", "text", "again"),
    [
        ("a", "xyz", ["first", "second"]),  # another input, and what comes of it
        ("a", "abz", ["first"]),  # another input, but nothing else comes of it
        ("a", "abc", []),  # touched alone
        ("b", "??", ["first"]),  # an output that somebody replaced is made again
        ("c", "??", ["second"]),
    ],
)
def test_what_differs_is_made_anew(place, file, text, again):
    make(place)
    (place / file).write_text(text)
    assert make(place) == again


def test_an_output_that_is_gone_and_other_options_count(place):
    make(place)
    (place / "c").unlink()
    assert make(place) == ["second"]
    assert make(place, clusters=3) == ["first"]


def test_a_step_that_failed_is_done_again_and_a_damaged_ledger_costs_only_time(place):
    ledger = Ledger(place / "made.json")
    ledger.begin()

    def fails(_: object) -> None:
        raise ValueError("no room")

    broken = Step("first", (place / "a",), (place / "b",), fails)
    with pytest.raises(ValueError, match="no room"):
        ledger.make(broken, unreported)
    assert make(place) == ["first", "second"]
    (place / "made.json").write_text("{")
    assert not ledger.exists
    assert make(place) == ["first", "second"]


def test_a_folder_counts_with_all_that_is_in_it(place):
    folder = place / "trace"
    folder.mkdir()
    (folder / "one").write_text("1")
    log: list[str] = []
    step = Step("read", (folder,), (), log.append)
    ledger = Ledger(place / "made.json")
    assert ledger.make(step, unreported) and not ledger.make(step, unreported)
    (folder / "two").write_text("2")
    assert ledger.make(step, unreported)
