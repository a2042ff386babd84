"""One visitor at a time on one model; the others see that they wait."""

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from emo_viz.server.library import LoadedModel


@contextmanager
def run_exclusive(loaded: LoadedModel) -> Iterator[None]:
    """Hold `loaded` for this run; shows a notice as long as another visitor holds it.

    The wait polls, and the notice is written anew at each turn: that is where Streamlit can end
    a run whose visitor has moved on, so that nobody waits for an answer no longer wanted.
    """
    if not loaded.lock.acquire(blocking=False):
        _wait(loaded)
    try:
        yield
    finally:
        loaded.lock.release()


def _wait(loaded: LoadedModel) -> None:
    notice = st.empty()
    while not loaded.lock.acquire(timeout=0.5):
        notice.info(
            f"{loaded.label} is busy with another visitor's text. Yours runs next.",
            icon=":material/hourglass_top:",
        )
    notice.empty()
