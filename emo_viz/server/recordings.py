"""Traces of runs that cannot be run here: what a server wrote, or a model too large to load."""

from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from emo_viz.server import assets, library
from emo_viz.server.library import Missing
from emo_viz.trace.schema import MANIFEST

if TYPE_CHECKING:
    from emo_viz.trace import Trace

IMPORT = "python -m emo_viz import FILE --out {folder}"


def without_checkpoint() -> list[str]:
    """Ids of the runs that have a trace, where none of those that are shown can be run; else none.

    Raises Missing where there is no run at all.
    """
    runs = library.comparison().ids
    return [] if any(map(library.can_run, runs)) else of_shown()


def of_shown() -> list[str]:
    """Ids of the runs that are shown and have a trace. Raises Missing where there is no run."""
    runs = library.comparison().ids
    return [run for run in runs if (assets.trace_path(run) / MANIFEST).is_file()]


def opened(name: str) -> "Trace":
    """The trace of a run. Raises Missing where it cannot be read."""
    path = assets.trace_path(name)
    try:
        # The manifest says the sizes of all files and when they were made.
        return _open(path, (path / MANIFEST).read_bytes())
    except (ValueError, OSError) as error:
        raise Missing(str(error), IMPORT.format(folder=path)) from error


@st.cache_resource(max_entries=4, show_spinner=False)
def _open(path: Path, manifest: bytes) -> "Trace":
    from emo_viz.trace import Trace

    return Trace.open(path)
