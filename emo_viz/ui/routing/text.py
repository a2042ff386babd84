"""Token routing page: the text itself, token by token, and what its colours mean."""

from typing import Any, Literal

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from emo_viz.figures.kept import beside
from emo_viz.figures.theme import SEQUENTIAL, colour_of
from emo_viz.ui.parts.colouring import DEEPEST, NO_VALUE, Colouring, loss_difference, plain
from emo_viz.ui.parts.heatmap import Follow
from emo_viz.ui.parts.reading import Reading
from emo_viz.ui.parts.strip import StripToken, token_strip
from emo_viz.ui.parts.together import name
from emo_viz.ui.parts.token_text import looks_like_code
from emo_viz.ui.routing.page import or_none
from emo_viz.ui.routing.pictures import GROUP
from emo_viz.ui.shell.words import count, visible

DIFFERENCE, PLAIN = "Loss difference", "None"
PIXELS = 165


def draw(
    reading: Reading,
    layer: int,
    token: int | None,
    follow: Follow | None,
    colour: str,
    on_pick: Any,
) -> None:
    """The text, its colours in words, and how many tokens use the followed expert."""
    colouring = _colouring(reading, layer, colour)  # layer: its number
    marked = _marked(reading, follow)

    def strip() -> list[StripToken]:
        places = range(1, len(reading.pieces))
        return [_strip_token(reading, at, colouring, bool(marked[at])) for at in places]

    token_strip(
        strip() if follow else beside(reading, ("strip", layer, colour), strip),
        token,
        mark_colour=colour_of(reading.runs[follow.run]) if follow else NO_VALUE,
        pixels=PIXELS,
        key="routing_strip",
        on_pick=on_pick,
        group=GROUP,
        code=looks_like_code(reading.chosen.text),
    )
    followed = ""
    if follow:
        followed = (
            f" Underlined: the {count(int(marked.sum()), 'token')} sent to L{follow.layer} "
            f"E{follow.expert} of {name(reading.runs[follow.run])}"
            f"{'' if follow.layer == layer else f'; layer {layer} is shown'}."
        )
    st.caption(colouring.legend + followed)


def options(reading: Reading) -> list[str]:
    """What can colour the text."""
    difference = [DIFFERENCE] if len(reading.runs) > 1 and reading.knows_losses else []
    return [*difference, *_measures(reading), PLAIN]


def _marked(reading: Reading, follow: Follow | None) -> NDArray[np.bool_]:
    """Whether each position [T] uses the followed expert; EOS never counts."""
    if follow is None:
        return np.zeros(len(reading.pieces), dtype=bool)
    place = reading.place(follow.layer)
    used = reading.recordings[follow.run].expert_ids[place] == follow.expert
    marked: NDArray[np.bool_] = used.any(axis=1)
    marked[0] = False
    return marked


def _strip_token(reading: Reading, position: int, colouring: Colouring, marked: bool) -> StripToken:
    piece = reading.pieces[position]
    losses = " · ".join(
        f"{run.label} {or_none(reading.recordings[run.id].loss[position])}"
        for run in reading.runs
        if reading.knows(run.id, "loss")
    )
    said = f"\nLoss in nats: {losses}" if losses else ""
    return StripToken(
        text=visible(piece),
        title=f"Token {position}: {reading.labels[position]}{said}",
        colour=colouring.colour(position),
        marked=marked,
        sign=piece.isspace() and "\n" in piece,
        breaks=piece.count("\n"),
        lean=colouring.lean(position),
    )


def _measures(reading: Reading) -> dict[str, tuple[str, str]]:
    """Colour choices of one run: (what, run)."""
    parts: tuple[tuple[str, Literal["entropy", "loss"]], ...] = (
        ("Router entropy", "entropy"),
        ("Loss", "loss"),
    )
    return {
        f"{what}, {run.label}": (what, run.id)
        for what, part in parts
        for run in reading.runs
        if reading.knows(run.id, part)
    }


def _colouring(reading: Reading, layer: int, colour: str) -> Colouring:
    if colour == DIFFERENCE:
        return _difference(reading)
    if colour == PLAIN:
        return plain(len(reading.pieces))
    what, run = _measures(reading)[colour]
    place = reading.place(layer)
    every = {
        each: one.entropy[place, 1:] if what == "Router entropy" else one.loss[1:]
        for each, one in reading.recordings.items()
    }
    # Entropies lie close together, far from 0: their colours begin at the lowest.
    known = {each: values for each, values in every.items() if not np.isnan(values).all()}
    low = min(float(np.nanmin(values)) for values in known.values()) if what != "Loss" else 0.0
    top = max(float(np.nanmax(values)) for values in known.values())
    values = np.concatenate([[np.nan], every[run]])
    where = f" in layer {layer}" if what == "Router entropy" else ""
    same = ", the same for both models" if len(reading.runs) > 1 else ""
    return Colouring(
        places=(values - low) / ((top - low) or 1.0) * DEEPEST,
        scale=SEQUENTIAL,
        legend=f"Colour: {what.lower()} of {name(reading.runs[run])}{where}, from {low:.2f} (pale) "
        f"to {top:.2f} nats (deep){same}.",
    )


def _difference(reading: Reading) -> Colouring:
    """Which of two runs predicts each token better."""
    first, second = (reading.recordings[run].loss for run in reading.runs.ids)
    return loss_difference(second - first, reading.runs)
