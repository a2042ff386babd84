"""Where an expert weighs most: lines of text around a marked token, walked by keys and clicked.

A Streamlit component without an iframe; text reaches the page as data and is written with
textContent. A line that is opened presses the page link of its number: the browser goes there
without another run of this page, and comes back to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import streamlit as st

from emo_viz.ui.shell.component import component
from emo_viz.ui.shell.words import direction

_HTML = '<ul class="kwic" tabindex="0" role="listbox"></ul>'
_CSS = Path(__file__).with_name("kwic.css").read_text(encoding="utf-8")
_JS = Path(__file__).with_name("kwic.js").read_text(encoding="utf-8")
_COMPONENT = component("emo_viz_kwic", html=_HTML, css=_CSS, js=_JS)

LINKS = "kwic_link_"
_HIDDEN = "<style>.st-key-kwic_link_all { display: none; }</style>"


@dataclass(frozen=True)
class Line:
    """One place in a text: what stands before and after the token, and what is said of it."""

    before: str
    token: str
    after: str
    weight: str
    document: str


def as_drawn(line: Line) -> dict[str, str]:
    """A line as the browser gets it, with the direction that its context is read in."""
    return asdict(line) | {"direction": direction(line.before + line.token + line.after)}


def lines(
    shown: Sequence[Line],
    label: str,
    colour: str,
    key: str,
    page: str,
    ways: Sequence[Mapping[str, str] | None],
) -> None:
    """Draw the lines. label: what they are, for those who hear the page. colour: of the mark under
    the tokens. page, ways: where each line leads, and its parameters there; None: nowhere."""
    data = {"lines": [as_drawn(line) for line in shown], "label": label, "colour": colour}
    _COMPONENT(key=key, data=data | {"links": LINKS})
    st.html(_HIDDEN)
    hidden = st.container(key=f"{LINKS}all", gap=None)
    for number, way in enumerate(ways):
        if way is not None:
            with hidden.container(key=f"{LINKS}{number}"):
                st.page_link(page, label=shown[number].document, query_params=dict(way))
