"""The queue: several runs at a time in processes of their own, the most telling first.

Whatever is killed, a run or the queue itself, the same command goes on: finished runs are skipped,
a half-trained one continues from its checkpoint where it has one.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any

from model.study.runs import Run

SLACK = 1.1  # of the time that the longest run has taken; another may take a little more
POLL_SECONDS = 1.0

Report = tuple[str, Any]
"""What became of a run: ("done", result), ("failed", why) for bad input, else ("broken", why)."""


@dataclass
class Worker:
    """A process that does one run after another."""

    process: BaseProcess
    channel: Connection
    run: Run | None = None
    since: float = 0.0


@dataclass
class Queue:
    """What is to be done, and what came of it.

    minutes: no run is started that would not be over by then, and what still runs is stopped (0:
    no limit). tell: called with a sentence for every run that ends. A run whose process broke is
    tried once more, plainly: without what speeds it up, in a fresh process.
    """

    runs: Sequence[Run]
    jobs: int
    serve: Callable[[Connection], None]
    minutes: float = 0.0
    tell: Callable[[str], None] = print
    done: Callable[[Run, Any], None] = lambda run, result: None
    failed: dict[str, str] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)
    _longest: float = 0.0
    _plain: set[str] = field(default_factory=set)

    def work(self) -> None:
        """Until nothing is left that can be started, or time is up."""
        started = time.monotonic()
        waiting = [run for run in self.runs if run.key not in self.finished]
        workers: list[Worker] = []
        try:
            while waiting or any(worker.run for worker in workers):
                left = self.minutes * 60 - (time.monotonic() - started) if self.minutes else None
                if left is not None and left <= 0:
                    self._stopped(workers, waiting)
                    return
                self._start(waiting, workers, left)
                if not any(worker.run for worker in workers):
                    self._not_started(waiting)
                    return
                self._listen(workers, waiting)
        finally:
            for worker in workers:
                worker.process.kill()
                worker.process.join()

    def _start(self, waiting: list[Run], workers: list[Worker], left: float | None) -> None:
        if left is not None and left < SLACK * self._longest:
            return
        busy = {worker.run.key for worker in workers if worker.run}
        for run in list(waiting):
            needed = run.start_key
            if needed in self.failed or (needed and not self._will_be(needed, waiting, busy)):
                waiting.remove(run)
                self._fail(run, f"it starts from {needed}, which is not there")
            elif len(busy) < self.jobs and (needed is None or needed in self.finished):
                waiting.remove(run)
                self._give(run, workers)
                busy.add(run.key)

    def _will_be(self, needed: str, waiting: Sequence[Run], busy: set[str]) -> bool:
        return needed in self.finished | busy or any(run.key == needed for run in waiting)

    def _give(self, run: Run, workers: list[Worker]) -> None:
        idle = next((worker for worker in workers if worker.run is None), None)
        if idle is None:
            context = get_context("spawn")  # neither CUDA nor torch's threads survive a fork
            ours, theirs = context.Pipe()
            process = context.Process(target=self.serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            idle = Worker(process, ours)
            workers.append(idle)
        idle.run, idle.since = run, time.monotonic()
        idle.channel.send((run, run.key in self._plain))

    def _listen(self, workers: list[Worker], waiting: list[Run]) -> None:
        ready = wait([worker.channel for worker in workers if worker.run], POLL_SECONDS)
        for worker in [worker for worker in workers if worker.channel in ready]:
            try:
                report = worker.channel.recv()
            except (EOFError, OSError):
                report = ("broken", "its process was killed, perhaps for want of memory")
            if report[0] == "broken":  # whatever it did to the device ends with the process
                workers.remove(worker)
                worker.process.kill()
            self._take(worker, report, waiting)

    def _take(self, worker: Worker, report: Report, waiting: list[Run]) -> None:
        run, seconds = worker.run, time.monotonic() - worker.since
        assert run is not None
        worker.run = None
        kind, content = report
        if kind == "broken" and run.key not in self._plain:
            self._plain.add(run.key)
            waiting.insert(0, run)
            self.tell(f"{run.key} broke and is tried once more, plainly: {content}.")
            return
        if kind != "done":
            self._fail(run, content)
            return
        self.finished.add(run.key)
        self._longest = max(self._longest, seconds)
        self.done(run, content)
        full = content["evaluation"]["summary"]["all"]["full"][0]
        self.tell(f"{run.key}: {full:.3f} nats a token, {seconds:.0f} s.")

    def _fail(self, run: Run, why: str) -> None:
        self.failed[run.key] = why
        self.tell(f"{run.key} failed: {why}.")

    def _stopped(self, workers: Sequence[Worker], waiting: Sequence[Run]) -> None:
        running = [worker.run.key for worker in workers if worker.run]
        left = [*running, *(run.key for run in waiting)]
        self.tell(f"Time is up; not finished: {', '.join(left) or 'nothing'}.")

    def _not_started(self, waiting: Sequence[Run]) -> None:
        if waiting:
            names = ", ".join(run.key for run in waiting)
            self.tell(f"No time for another run; not started: {names}.")


def answer(channel: Connection, do: Callable[[Run, bool], Any]) -> None:
    """A worker's life: runs come in, reports go out, until the other side is gone.

    do: called with a run and whether to do it plainly.
    """
    Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            run, plainly = channel.recv()
        except (EOFError, OSError):
            return
        try:
            report: Report = ("done", do(run, plainly))
        except Exception as error:  # one run's fault is not the next one's
            why = " ".join(str(error).split()) or type(error).__name__
            report = ("failed" if isinstance(error, ValueError) else "broken", why.rstrip("."))
        channel.send(report)


def _end_with_parent() -> None:
    """A queue that was killed must not leave runs behind, which the next one would start again."""
    if parent := parent_process():
        parent.join()
        os._exit(1)


def cores_each(jobs: int) -> int:
    """CPU threads for each of so many processes."""
    return max(1, (os.cpu_count() or 1) // jobs)
