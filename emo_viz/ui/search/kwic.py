"""Hits in their contexts, a line each, aligned at the hit; each leads to its token on other pages.

A Streamlit component without an iframe. Texts reach the page as data and are written with
textContent, so markup in a document stays text.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import streamlit as st

from emo_viz.ui.parts.scripts import scripts
from emo_viz.ui.shell.component import HEARD_CSS, component
from emo_viz.ui.shell.words import direction

_HTML = '<div class="kwic"></div><div class="heard" role="status"></div>'
_CSS = HEARD_CSS + Path(__file__).with_name("kwic.css").read_text(encoding="utf-8")
_JS = scripts("make") + Path(__file__).with_name("kwic.js").read_text(encoding="utf-8")
_COMPONENT = component("emo_viz_search_lines", html=_HTML, css=_CSS, js=_JS)

Did = Literal["routing", "clusters", "pin"]


@dataclass(frozen=True)
class Row:
    """One line. address, clusters: where its hit leads, beside this page's own address; "" where
    it leads nowhere. title: of that link. note: "" or a number. pinned: None without a button."""

    domain: str
    name: str
    before: str
    hit: str
    after: str
    address: str = ""
    clusters: str = ""
    title: str = ""
    note: str = ""
    pinned: bool | None = False


def as_drawn(row: Row) -> dict[str, object]:
    """A line as the browser gets it, with the direction that its context is read in."""
    return asdict(row) | {"direction": direction(row.before + row.hit + row.after)}


def kwic(
    rows: Sequence[Row],
    label: str,
    whole: bool,
    note: str,
    said: str,
    key: str,
    on_did: Callable[[int, Did], None],
) -> None:
    """Draw the lines; `on_did` gets the number of a line and what is to be done with it.

    whole: documents as a whole, whose title is the hit. note: what the notes are, "" for none.
    said: which lines these are, for a screen reader when they change.
    """

    def did() -> None:
        event = st.session_state[key]["did"]
        if event is not None and 0 <= int(event["row"]) < len(rows):
            on_did(int(event["row"]), event["what"])

    _COMPONENT(
        key=key,
        data={
            "rows": [as_drawn(row) for row in rows],
            "label": label,
            "where": "Domain and document" if any(row.domain for row in rows) else "Document",
            "whole": whole,
            "note": note,
            "said": said,
        },
        on_did_change=did,
    )
