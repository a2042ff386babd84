"""The text itself, token by token: coloured, clickable, and walked with the arrow keys.

A Streamlit component without an iframe. Tokens reach the page as data and are written with
textContent, so a token that looks like markup stays a token.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from emo_viz.figures.theme import SELECTION_COLOUR
from emo_viz.ui.parts import character_parts, look
from emo_viz.ui.parts.heard import hear
from emo_viz.ui.parts.readable import READABLE_JS
from emo_viz.ui.shell.component import component

_HTML = '<div class="strip" tabindex="0" role="listbox" aria-label="Tokens of the text"></div>'

_CSS = Path(__file__).with_name("strip.css").read_text(encoding="utf-8") + character_parts.CSS
_JS = (
    READABLE_JS
    + character_parts.JS
    + Path(__file__).with_name("strip.js").read_text(encoding="utf-8")
)
_COMPONENT = component("emo_viz_token_strip", html=_HTML, css=_CSS, js=_JS)


@dataclass(frozen=True)
class StripToken:
    """One token as the strip shows it.

    text: "" for a token that only continues the character before. sign: the text is a stand-in (a
    line break). breaks: line breaks after it. lean: 1 or -1 draws a line above or below it, so that
    the two ends of a colour scale differ without their colours too.
    """

    text: str
    title: str
    colour: str
    marked: bool = False
    sign: bool = False
    breaks: int = 0
    lean: int = 0


def token_strip(
    tokens: Sequence[StripToken],
    selected: int | None,
    mark_colour: str,
    pixels: int,
    key: str,
    on_pick: Callable[[int | None], None],
    group: str = "",
    code: bool = False,
) -> None:
    """Draw the tokens; `on_pick` gets the position chosen (the first token is 1), or None.

    The choice travels in a message of its own, so that a pick does not send the text again.
    pixels: the height from which on the text scrolls. group: what shows the same hover and choice,
    told by the page (`look.tell`); by default the text is alone. code: in letters of one width.
    """

    def picked() -> None:
        event = st.session_state[key]["picked"]
        if event is not None:
            hear(group or key, event)
            on_pick(event["token"])

    with st.container(gap=None):
        if not group:
            look.tell(key, selected, None, key=f"{key}_look")
        _COMPONENT(
            key=key,
            data={
                "group": group or key,
                "tokens": [vars(token) for token in tokens],
                "mark_colour": mark_colour,
                "selection_colour": SELECTION_COLOUR,
                "pixels": pixels,
                "code": code,
            },
            on_picked_change=picked,
        )
