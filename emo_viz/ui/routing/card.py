"""One token: its experts in every layer as bars, its loss, and what could follow it.

A component that the browser draws, because it changes with every token and is small. A piece of a
bar is one expert; a click on it follows that expert.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import streamlit as st

from emo_viz.ui.parts.heatmap import Follow
from emo_viz.ui.parts.readable import READABLE_JS
from emo_viz.ui.parts.scripts import scripts
from emo_viz.ui.shell.component import component

_HERE = Path(__file__)
_COMPONENT = component(
    "emo_viz_token_card",
    html='<div class="card"></div>\n',
    css=_HERE.with_suffix(".css").read_text(encoding="utf-8"),
    js=READABLE_JS + scripts("make") + _HERE.with_suffix(".js").read_text(encoding="utf-8"),
)


@dataclass(frozen=True)
class Bar:
    """A token's experts in one layer of one run, the largest gate weight first.

    weights: [] where they are not known. entropy: in nats, None where it is not known.
    """

    layer: int
    experts: Sequence[int]
    weights: Sequence[float]
    entropy: float | None


@dataclass(frozen=True)
class Part:
    """What one run says of the token. loss: in words; next: likely next tokens and their shares."""

    id: str
    label: str
    colour: str
    bars: Sequence[Bar]
    loss: str = ""
    next: Sequence[tuple[str, float]] = ()


def token_card(
    title: str, parts: Sequence[Part], key: str, on_follow: Callable[[Follow], None]
) -> None:
    """Draw the card; `on_follow` gets the expert of a clicked piece."""

    def picked() -> None:
        event = st.session_state[key]["picked"]
        if event is not None:
            on_follow(Follow(**event))

    _COMPONENT(
        key=key,
        data={"title": title, "parts": [asdict(part) for part in parts]},
        on_picked_change=picked,
    )
