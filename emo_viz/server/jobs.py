"""Long work on a background thread: its progress, its end, and a way to call it off.

A job belongs to the server, not to a visitor: whoever asks for the same work (the same key) sees
the same job, and what it found stays for the next one. Work holds a model's lock for moments only
(`politely`), so that nobody waits for the whole job.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from emo_viz.runs.progress import Report
from emo_viz.server import caches

MAX_JOBS = 32
HAND_OVER_SECONDS = 0.005
WAIT_SECONDS = 0.2


class Cancelled(Exception):
    """Raised inside the work, by its own report of progress, once it has been called off."""


class Job:
    """One piece of work on its own thread.

    work(report) does it; it calls report(done, total) between its steps, which ends it there if
    the job was called off. `result` and `error` are set once `running` is False; a job that was
    called off has neither.
    """

    def __init__(self, work: Callable[[Report], Any]) -> None:
        self.done, self.total = 0, 0
        self.result: Any = None
        self.error: Exception | None = None
        self._started = time.monotonic()
        self._cancel = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    @property
    def cancelled(self) -> bool:
        """Whether it was asked to stop (it may still be finishing a step)."""
        return self._cancel.is_set()

    @property
    def share(self) -> float:
        """Share of the steps that are done, 0 to 1."""
        return self.done / self.total if self.total else 0.0

    @property
    def seconds_left(self) -> float | None:
        """An estimate from the pace so far; None before the first step."""
        passed = time.monotonic() - self._started
        return passed * (self.total - self.done) / self.done if self.done else None

    def cancel(self) -> None:
        self._cancel.set()

    def wait(self, seconds: float | None = None) -> None:
        """Block until the thread has ended, or `seconds` have passed."""
        self._thread.join(seconds)

    def _report(self, done: int, total: int) -> None:
        if self._cancel.is_set():
            raise Cancelled
        self.done, self.total = done, total

    def _run(self, work: Callable[[Report], Any]) -> None:
        try:
            self.result = work(self._report)
        except Cancelled:
            pass
        except Exception as error:  # the page shows it; the thread has nobody to raise it to
            logging.getLogger(__name__).exception("A background job failed")
            self.error = error


class Registry:
    """The jobs of this server by key; the oldest finished ones are forgotten."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: str) -> Job | None:
        with self._lock:
            return self._jobs.get(key)

    def running(self) -> dict[str, Job]:
        """Those that have not ended, by key."""
        with self._lock:
            return {key: job for key, job in self._jobs.items() if job.running}

    def start(self, key: str, work: Callable[[Report], Any]) -> Job:
        """Start the work, unless it runs or has been done: then that job is returned."""
        with self._lock:
            job = self._jobs.get(key)
            if job is None or not (job.result is not None or job.running and not job.cancelled):
                job = self._jobs[key] = Job(work)
            self._jobs.move_to_end(key)
            finished = [name for name, one in self._jobs.items() if not one.running]
            for name in finished[: max(0, len(self._jobs) - MAX_JOBS)]:
                del self._jobs[name]
            return job


@caches.for_all(1)
def registry() -> Registry:
    """The one registry that all visitors share."""
    return Registry()


_turn = threading.Lock()


def in_turn(work: Callable[[Report], Any]) -> Callable[[Report], Any]:
    """The same work, one piece at a time: it waits for what came before, and can be called off."""

    def waiting(report: Report) -> Any:
        while not _turn.acquire(timeout=WAIT_SECONDS):
            report(0, 0)
        try:
            return work(report)
        finally:
            _turn.release()

    return waiting


def politely(lock: threading.Lock) -> Callable[[], AbstractContextManager[None]]:
    """A guard around single steps of long work: holds the lock, then lets others go first."""

    @contextmanager
    def hold() -> Iterator[None]:
        with lock:
            yield
        # A lock is not fair: without this pause the same thread takes it again at once.
        time.sleep(HAND_OVER_SECONDS)

    return hold
