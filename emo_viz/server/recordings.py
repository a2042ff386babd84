"""Traces that lie here without any checkpoint: what a server wrote, and nothing to run."""

from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from emo_viz.server import assets
from emo_viz.server.library import Missing
from emo_viz.trace.schema import MANIFEST

if TYPE_CHECKING:
    from emo_viz.trace import Trace

IMPORT = "python -m emo_viz import FILE --out {folder}"


def without_checkpoint() -> list[str]:
    """Names of the traces, where there is no checkpoint at all; else none."""
    if any(assets.root().glob("checkpoints/*/config.json")):
        return []
    return sorted(path.parent.name for path in assets.root().glob(f"traces/*/{MANIFEST}"))


def opened(name: str) -> "Trace":
    """A trace by its name. Raises Missing where it cannot be read."""
    path = assets.root() / "traces" / name
    try:
        # The manifest says the sizes of all files and when they were made.
        return _open(path, (path / MANIFEST).read_bytes())
    except (ValueError, OSError) as error:
        raise Missing(str(error), IMPORT.format(folder=path)) from error


@st.cache_resource(max_entries=4, show_spinner=False)
def _open(path: Path, manifest: bytes) -> "Trace":
    from emo_viz.trace import Trace

    return Trace.open(path)
