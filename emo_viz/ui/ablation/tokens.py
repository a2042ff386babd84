"""Subset ablation page: the document token by token in every run, coloured by what it loses.

A Streamlit component without an iframe, given the losses of every stop of the slider at once. Text
reaches the browser as data and is written with textContent.
"""

from functools import cache
from typing import Any

import numpy as np
import streamlit as st

from emo_viz.figures.theme import BETTER_NAME, DIVERGING, MARKED_CHANGE, WORSE_NAME, colour_at
from emo_viz.ui.ablation.live import WORSE, Live
from emo_viz.ui.ablation.parts import loss_change, runs_data, view
from emo_viz.ui.parts import character_parts
from emo_viz.ui.parts.heard import hear, heard
from emo_viz.ui.shell import links, routes
from emo_viz.ui.shell.words import by_hand, share, visible

KEY, TOKEN = "subset_tokens", routes.SUBSET_TOKEN
# Nats. Fixed, so that colours mean the same at every keep-k: a token at the end of the scale has
# become 20 times less (or more) likely.
COLOUR_REACH = 3.0
STEPS = 41
STRONGEST = 0.66  # so that text on any colour has a contrast of 4.5, on a light and a dark page
PIXELS = 105  # four lines
_VIEW = view("tokens", '<div class="tokens"></div>', css=character_parts.CSS, js=character_parts.JS)


def draw(live: Live) -> None:
    """The text of each run. A click or an arrow key chooses a token, here and in the address."""
    token = links.token(TOKEN, live.num_tokens)
    _VIEW(
        key=KEY,
        data={
            "tokens": _tokens(live),
            "runs": [named | _losses(live, named["id"]) for named in runs_data(live.runs)],
            "palette": palette(),
            "reach": COLOUR_REACH,
            "marked": MARKED_CHANGE,
            "pixels": PIXELS,
            "selected": token,
            "heard": heard(KEY),
            "hint": _hint(live),
            "code": live.shown.is_code,
        },
        on_picked_change=lambda: _picked(live.num_tokens),
    )


@cache
def palette() -> list[str]:
    """From a loss that fell by COLOUR_REACH nats to one that rose by as much."""
    places = np.linspace(1, 0, STEPS)
    return [_faded(colour_at(DIVERGING, place)) for place in places]


def _faded(rgba: str) -> str:
    *colour, alpha = rgba[len("rgba(") : -1].split(",")
    return f"rgba({','.join(colour)}, {float(alpha) * STRONGEST:.3f})"


def _picked(tokens: int) -> None:
    event = st.session_state[KEY]["picked"]
    hear(KEY, event)
    token = event.get("token") if isinstance(event, dict) else None
    if token is None or isinstance(token, int) and 1 <= token <= tokens:
        st.session_state[TOKEN] = token


def _tokens(live: Live) -> list[dict[str, Any]]:
    return [
        {
            "text": visible(piece),
            "label": label,
            "sign": piece.isspace() and "\n" in piece,
            "breaks": piece.count("\n"),
        }
        for piece, label in zip(live.pieces[1:], live.labels[1:], strict=True)
    ]


def _losses(live: Live, run: str) -> dict[str, Any]:
    cut = {str(stop): _short(own[run]) for stop, own in live.losses.items()}
    numbers = {str(stop): _numbers(live, run, stop) for stop in live.losses}
    return {"full": _short(live.full[run]), "cut": cut, "numbers": numbers}


def _short(values: Any) -> list[float]:
    shortened: list[float] = np.round(values[1:].astype(np.float64), 2).tolist()
    return shortened


def _numbers(live: Live, run: str, stop: int) -> str:
    """What the cut costs one model on this document."""
    full, cut = (float(np.nanmean(each[run])) for each in (live.full, live.losses[stop]))
    worse = share(live.worse(run, stop) / live.num_tokens)
    return f"{loss_change(full, cut)}, {worse} of tokens worse"


def _hint(live: Live) -> str:
    seen = "compare it in both" if len(live.runs) > 1 else "see its numbers"
    return (
        f"{WORSE_NAME.capitalize()}, underlined from {MARKED_CHANGE:g} nat: the subset predicts "
        f"the token worse; {BETTER_NAME}, dotted: better. Worse by more than {WORSE} nats counts."
        + by_hand(f" Click a token to {seen}.")
    )
