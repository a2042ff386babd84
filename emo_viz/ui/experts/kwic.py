"""Where an expert weighs most: lines of text around a marked token, walked by keys and clicked.

A Streamlit component without an iframe; text reaches the page as data and is written with
textContent.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import streamlit as st

_HTML = '<ul class="kwic" tabindex="0" role="listbox"></ul>'
_CSS = Path(__file__).with_name("kwic.css").read_text(encoding="utf-8")
_JS = Path(__file__).with_name("kwic.js").read_text(encoding="utf-8")
_COMPONENT = st.components.v2.component("emo_viz_kwic", html=_HTML, css=_CSS, js=_JS)


@dataclass(frozen=True)
class Line:
    """One place in a text: what stands before and after the token, and what is said of it."""

    before: str
    token: str
    after: str
    weight: str
    document: str


def lines(
    shown: Sequence[Line], label: str, colour: str, key: str, on_open: Callable[[int], None]
) -> None:
    """Draw the lines; `on_open` gets the number (the first is 0) of the one that was opened.

    label: what they are, for those who hear the page. colour: of the marked token's line.
    """

    def opened() -> None:
        event = st.session_state[key]["opened"]
        if event is not None:
            on_open(int(event["line"]))

    data = {"lines": [asdict(line) for line in shown], "label": label, "colour": colour}
    _COMPONENT(key=key, data=data, on_opened_change=opened)
