"""The page as it stands, as one HTML file that opens anywhere: sentences, pictures, tables.

A visitor who asks for it has the page run once more; what that run sends to the browser is kept
until it ends, and becomes the file (`report_html`). The browser adds what is seen of
components, and saves it. Nothing is kept for a visitor who does not ask.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.runtime.scriptrunner import get_script_run_ctx

from emo_viz.server import library
from emo_viz.ui.shell import viewed
from emo_viz.ui.shell.component import component
from emo_viz.ui.shell.picture import PICTURE_JS, provenance
from emo_viz.ui.shell.report_html import Shown, document

_WANTED, _MADE = "report_wanted", "report_made"
ENDS_EARLY = (
    "No report: this page ends early, because something is missing or a run is a recording alone. "
    "Its charts and tables can still be exported one by one."
)
_FOLDER, _SCRIPTS = Path(__file__).parent, ("report_copy.js", "report.js")
_COMPONENT = component(
    "emo_viz_report",
    html='<span role="status"></span>',
    css="span { font: 0.85rem var(--st-font); color: var(--st-text-color); }",
    js=PICTURE_JS + "".join((_FOLDER / name).read_text(encoding="utf-8") for name in _SCRIPTS),
)


def ask() -> None:
    """Have the next run of the page make its report."""
    st.session_state[_WANTED] = True


@contextmanager
def made(title: str, place: Any) -> Iterator[None]:
    """Around all of a page: where its report was asked for, the browser is given it in `place`."""
    if not st.session_state.pop(_WANTED, False):
        yield
        return
    shown, note = Shown(), place.empty()
    note.caption(ENDS_EARLY)  # after st.stop() nothing more reaches the browser
    with _heard(shown.take):
        yield
    with note:
        _hand_over(title, shown)


def _hand_over(title: str, shown: Shown) -> None:
    number = st.session_state[_MADE] = st.session_state.get(_MADE, 0) + 1
    _COMPONENT(
        key="report",
        data={
            "html": document(title, shown, _about()),
            "plotly": _plotly() if shown.has_charts else "",
            "name": "-".join(title.lower().split()),
            "number": number,
        },
    )


def _about() -> list[tuple[str, str]]:
    """Of what the report is: runs with digests, and what every control of the page holds."""
    try:
        runs = provenance(library.comparison())
    except library.Missing:
        runs = "EMO Viz"
    held = [(each.label, each.value) for each in viewed.controls() if each.value]
    return [("Runs", runs), *held]


@contextmanager
def _heard(take: Callable[[ForwardMsg], None]) -> Iterator[None]:
    """Have `take` see what this run of the page sends to the browser."""
    context = get_script_run_ctx()
    if context is None:
        yield
        return
    send = context.enqueue

    def both(message: ForwardMsg) -> None:
        take(message)
        send(message)

    context.enqueue = both  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del context.enqueue


def _plotly() -> str:
    """Plotly's own script, as the installed package has it (4.8 MB)."""
    import plotly

    script = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    return script.read_text(encoding="utf-8")
