"""Independent jobs in processes of their own: a pool for whatever has many to do."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Thread
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def nothing() -> None:
    """What a process that needs no preparing begins with."""


@contextmanager
def in_workers(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    number: int,
    begin: Callable[[], None] = nothing,
) -> Iterator[Iterable[Result]]:
    """What `work` makes of each job, in the jobs' order, by so many processes (1: this one).

    begin: called first in each process but this one. They end with the block, at once if it is
    left early. Raises ValueError if one was killed.
    """
    number = min(number, len(jobs))
    if number < 2:
        yield map(work, jobs)
        return
    context = get_context("spawn")  # not forked: threads of torch, Arrow and tokenizers are lost
    theirs, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(number, context, _begin, (theirs, begin))
    try:
        with _no_interrupt():  # which those that start would hear before they can ignore it
            futures = [pool.submit(work, job) for job in jobs]
        yield (future.result() for future in futures)
    except BrokenProcessPool as error:
        raise ValueError(
            "A worker process ended unexpectedly, perhaps for want of memory; what is finished "
            "is kept: call again with fewer --workers."
        ) from error
    finally:
        ours.close()
        pool.shutdown()  # cancels nothing: without workers whatever waits has failed
        theirs.close()


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Ctrl-C waits for the end of the block, and never reaches a process that starts in it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(line: Connection, begin: Callable[[], None]) -> None:
    # Ctrl-C reaches every process of a terminal: the first one alone decides what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with, args=(line,), daemon=True).start()
    begin()


def _end_with(line: Connection) -> None:
    """The other end closes when the work is over, or its process was killed: then this one would
    hold a model in memory for nothing, or wait for work for ever."""
    line.poll(None)
    os._exit(1)
