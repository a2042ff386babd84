"""What the first visitor would wait for, done as the server starts: imports, pages, the models.

On one background thread, a step at a time, and no step begins while a page is being drawn: who is
there comes first. A visitor who needs a model that is being loaded waits for that one loading.
"""

import gc
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any

from emo_viz.server import assets, caches, imports, library

# What pages import when they are first opened, in the order in which it is needed.
FOR_PAGES = ("pandas", "plotly.graph_objects", "plotly.io", "pyarrow.parquet", "scipy.sparse")
FOR_CLUSTERS = ("sklearn.cluster", "scipy.optimize")
MOST_SECONDS = 5.0  # that a step waits for pages to be drawn: they may never be done

Step = Callable[[], Any]
Pages = Callable[[], Iterable[Step]]


class _Drawing:
    """How many pages are being drawn, and a way to wait until there are none."""

    def __init__(self) -> None:
        self._count, self._changed = 0, threading.Condition()

    def __enter__(self) -> None:
        with self._changed:
            self._count += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify_all()

    def wait_for_none(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._count == 0, seconds)


class Warming:
    """The one warming of this process: `start` begins it once, `wait` is for its end."""

    def __init__(self) -> None:
        self.drawing = _Drawing()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self, pages: Pages = tuple) -> None:
        """Begin in the background, unless it has begun. pages: what the pages prepare."""
        with self._lock:
            if self._thread is None:
                run = partial(self._run, pages)
                self._thread = threading.Thread(target=run, name="warming", daemon=True)
                self._thread.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it has ended, after so many seconds at most."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self._thread is not None and not self._thread.is_alive()

    def _run(self, pages: Pages) -> None:
        for step in steps(pages):
            self.drawing.wait_for_none(MOST_SECONDS)
            # Whatever is wrong here is said to the visitor who asks for it.
            with suppress(library.Missing, ValueError, OSError, ImportError):
                step()
        self.drawing.wait_for_none(MOST_SECONDS)
        _leave_alone()


def steps(pages: Pages = tuple) -> Iterator[Step]:
    """What is done, in small steps: what stands on a page before what a page may ask for."""
    yield from map(_importing, FOR_PAGES)
    yield inspect.stack  # Streamlit asks for it once, and Python looks at every module for it
    yield lambda: assets.origins(library.default().ids)
    yield lambda: library.documents(_runs())
    for run in _runs():
        yield partial(library.trace, run)
    yield from pages()
    yield from map(_importing, imports.FOR_MODELS)
    for run in _runs():
        yield partial(library.warm_up, run)
    yield from map(_importing, FOR_CLUSTERS)


def _leave_alone() -> None:
    """What is here now stays: let Python's collection of garbage walk only what comes after. What
    visitors have here goes with them, so it is left where it is collected."""
    if not caches.visitors():
        gc.collect()
        gc.freeze()


def _importing(name: str) -> Step:
    return partial(imports.alone, name)


def _runs() -> tuple[str, ...]:
    """What a visitor sees who has chosen nothing."""
    with suppress(library.Missing, ValueError, OSError):
        return library.default().ids
    return ()


WARMING = Warming()


@contextmanager
def drawing() -> Iterator[None]:
    """Around the drawing of a page: no step of the warming begins meanwhile."""
    with WARMING.drawing:
        yield


def lifespan(pages: Pages) -> Callable[[object], AbstractAsyncContextManager[None]]:
    """Around the life of a server (see serve.py): warming begins as it starts."""

    @asynccontextmanager
    async def around(app: object) -> AsyncIterator[None]:
        WARMING.start(pages)
        yield

    return around
