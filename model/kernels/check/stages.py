"""Stages that run one after another in processes of their own, within one budget of time.

Knows nothing of kernels or GPUs: a stage is a function by its dotted name that yields rows. A stage
that hangs is killed at its limit, one that dies is reported, and the rows that either had yielded
are kept.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.files import read_json, write_json

FINISHED, DIED, TIMED_OUT, NOT_REACHED = "finished", "died", "timed out", "not reached"
PASSED, WRONG, CANNOT_RUN, INCOMPLETE = 0, 1, 2, 3  # exit codes
LOG_CHARACTERS = 4000
LEAST_SECONDS = 1.0
Row = dict[str, Any]
Outcome = dict[str, Any]


@dataclass(frozen=True)
class Stage:
    """`entry` is module:function; what it yields are rows (JSON), `passed` among them or not.

    An optional stage need not finish, nor all of its rows run.
    """

    name: str
    entry: str
    seconds: float
    arguments: dict[str, Any] = field(default_factory=dict)
    optional: bool = False


def run_stages(
    stages: Sequence[Stage],
    minutes: float,
    write: Callable[[list[Outcome]], None],
    say: Callable[[str], None] = lambda line: None,
) -> list[Outcome]:
    """Run the stages within the budget; `write` gets all outcomes so far after each of them.

    Each outcome has name, status, seconds, rows, reason (what it died of) and log (the end of what
    it printed). Stages for which no time is left are not reached.
    """
    end = time.monotonic() + 60 * minutes
    outcomes: list[Outcome] = []
    for stage in stages:
        limit = min(stage.seconds, end - time.monotonic())
        if limit < min(LEAST_SECONDS, stage.seconds):
            outcomes.append(_outcome(stage, NOT_REACHED, 0.0, [], "no time was left", ""))
        else:
            outcomes.append(_run(stage, limit))
        write(outcomes)
        say(sentence(outcomes[-1]))
    return outcomes


def _run(stage: Stage, limit: float) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder, "rows.json"), Path(folder, "log.txt")
        write_json(result, {"rows": []})
        started = time.monotonic()
        with _process(stage, result, log) as process:
            try:
                code: int | None = process.wait(limit)
            except subprocess.TimeoutExpired:
                code = None
        seconds = time.monotonic() - started
        text = log.read_text(encoding="utf-8", errors="replace")[-LOG_CHARACTERS:]
        rows = read_json(result)["rows"]
    if code is None:
        reason = f"killed at its limit of {limit:.0f} s"
        return _outcome(stage, TIMED_OUT, seconds, rows, reason, text)
    if code:
        return _outcome(stage, DIED, seconds, rows, _cause(code, text), text)
    return _outcome(stage, FINISHED, seconds, rows, "", text)


@contextlib.contextmanager
def _process(stage: Stage, result: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The stage's process; it is gone afterwards, and so is everything that it started."""
    arguments = result.with_name("arguments.json")
    write_json(arguments, stage.arguments)
    command = [sys.executable, "-m", "model.kernels.check.child"]
    command += [stage.entry, str(result), str(arguments)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _cause(code: int, text: str) -> str:
    """What a process died of, in words: its signal, or the last line that it printed."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
        return f"killed by signal {-code}"
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
    return f"exit code {code}" + (f": {last.strip()[:300]}" if last else "")


def _outcome(
    stage: Stage, status: str, seconds: float, rows: list[Row], reason: str, log: str
) -> Outcome:
    return {
        "name": stage.name,
        "status": status,
        "seconds": round(seconds, 1),
        "optional": stage.optional,
        "rows": rows,
        "reason": reason,
        "log": log,
    }


def sentence(outcome: Outcome) -> str:
    """One line on an outcome: status, time and how many of its rows passed."""
    judged = [row["passed"] for row in outcome["rows"] if row.get("passed") is not None]
    found = f", {sum(judged)} of {len(judged)} passed" if judged else ""
    failed = sum("error" in row for row in outcome["rows"])
    found += f", {failed} could not run" if failed else ""
    reason = f" ({outcome['reason']})" if outcome["reason"] else ""
    return f"{outcome['name']}: {outcome['status']} in {outcome['seconds']:.0f} s{reason}{found}"


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0 all passed, 1 something is wrong, 3 nothing is wrong but some stage did not finish.

    A row that could not run (it has an `error`) leaves its stage unfinished.
    """
    if any(row.get("passed") is False for outcome in outcomes for row in outcome["rows"]):
        return WRONG
    needed = [outcome for outcome in outcomes if not outcome["optional"]]
    whole = all(outcome["status"] == FINISHED for outcome in needed)
    failed = any("error" in row for outcome in needed for row in outcome["rows"])
    return PASSED if whole and not failed else INCOMPLETE
