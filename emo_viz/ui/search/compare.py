"""Two pins side by side: how far each model routes them through the same experts."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from emo_viz.analysis.alike import Alike, RoutedText, texts_alike, tokens_alike
from emo_viz.figures import alike as figures
from emo_viz.figures.theme import CHART_CONFIG
from emo_viz.ui.parts import export, pins, together
from emo_viz.ui.parts.pins import Pin
from emo_viz.ui.parts.together import in_each
from emo_viz.ui.search.sides import NotHere, Side, sides, title
from emo_viz.ui.shell import links, routes, slots
from emo_viz.ui.shell.words import (
    count,
    escape_markdown,
    in_direction,
    part_of_markdown,
    share,
    shorten,
)

CONTEXT = 24  # tokens on either side of a pinned one
MOST_EXPERTS = 8  # of a layer of two texts, in the table
OPENING = 220  # characters of a text
COMMON, COMMON_WEIGHT = "In common", "Weight in common"


def show(pinned: Sequence[Pin]) -> None:
    """Draw the comparison, or say what it takes."""
    if not pinned:
        st.markdown("## Nothing is pinned yet.")
        st.caption(
            "Pin two tokens or two documents, here beside a line that was found, or on the page "
            "Token routing: your own texts too. They then stand side by side here, and the address "
            "carries them."
        )
        return
    chosen = _choose(pinned)
    if chosen is None:
        return
    try:
        both = sides(chosen)
    except NotHere as error:
        st.info(str(error), icon=":material/visibility_off:")
        return
    _compared(*both)


def _choose(pinned: Sequence[Pin]) -> tuple[Pin, Pin] | None:
    """Which two stand side by side: of one sort, tokens or whole texts."""
    by_code = {pin.code: pin for pin in pinned}
    named = {pin.code: f"{place}. {title(pin)}" for place, pin in enumerate(pinned, start=1)}
    row = st.container(horizontal=True, vertical_alignment="bottom", gap="small")
    codes = sorted(by_code, key=lambda code: not _others(by_code[code], pinned))

    def pick(label: str, options: Sequence[str], key: str) -> Pin:
        code = links.select(
            row, label, options, key, "pin", format_func=named.__getitem__, width="stretch"
        )
        return by_code[code]

    left = pick("Left", codes, routes.PIN_LEFT)
    others = _others(left, pinned)
    right = pick("Right", others, routes.PIN_RIGHT) if others else None
    row.button("Unpin all", icon=":material/keep_off:", on_click=pins.clear, key="search_unpin")
    if right is None:
        _say_alone(left, by_code[codes[0]], pinned)
        return None
    return left, right


def _others(pin: Pin, pinned: Sequence[Pin]) -> list[str]:
    """Codes of those of its sort."""
    alike = [each for each in pinned if (each.token is None) == (pin.token is None)]
    return [each.code for each in alike if each != pin]


def _say_alone(left: Pin, first: Pin, pinned: Sequence[Pin]) -> None:
    """What a pin without another of its sort lacks. first: one that has another, if any has."""
    what = "document or text" if left.token is None else "token"
    st.markdown(f"## Pin another {what} to stand beside this one.")
    if number := len(_others(first, pinned)):
        kind = "document or text" if first.token is None else "token"
        kinds = "documents and texts" if first.token is None else "tokens"
        st.caption(f"The {number + 1} {kinds} can be compared: choose a {kind} as Left.")


def _compared(left: Side, right: Side) -> None:
    places = _places(left, right)
    found = {run: _alike(left.routed[run], right.routed[run], places) for run in left.runs.ids}
    _answer(left, found, places is not None)
    with st.grid(2, min_column_width=340) as grid:
        for side in (left, right):
            with grid.cell():
                _side(side)
    _chart(left, found, places is not None)
    _tables(left, right, found, places)
    export.offer(
        "pins",
        left.runs,
        charts={"Experts in common": "search_alike"},
        tables={
            run.label: partial(_table, left, right, run.id, found[run.id], places)
            for run in left.runs
        },
        shown="two texts" if places is None else "two tokens",
    )
    _how(places is not None)


def _places(left: Side, right: Side) -> tuple[int, int] | None:
    """Of two tokens in their texts, from 0; None where whole texts are compared."""
    if left.pin.token is None or right.pin.token is None:
        return None
    return left.pin.token - 1, right.pin.token - 1


def _alike(one: RoutedText, other: RoutedText, places: tuple[int, int] | None) -> Alike:
    return texts_alike(one, other) if places is None else tokens_alike(one, other, places)


def _tables(
    left: Side, right: Side, found: dict[str, Alike], places: tuple[int, int] | None
) -> None:
    for run in left.runs:
        st.markdown(f"**{together.name(run)}**")
        st.dataframe(
            _in_words(_table(left, right, run.id, found[run.id], places)),
            hide_index=True,
            key=f"search_table_{run.slot}",
            column_config=_columns(),
            alt=f"Experts of both pins in {run.label}, layer by layer.",
        )


def _columns() -> dict[str, Any]:
    """Widths: the numbers and what differs are in sight, in a narrow window too."""
    widths = {COMMON: 88, COMMON_WEIGHT: 136}
    widths |= {"Left more": 250, "Right more": 250, "Experts of both": 180}
    text = {name: st.column_config.TextColumn(width=width) for name, width in widths.items()}
    return {"Layer": st.column_config.NumberColumn(width=52), **text}


def _answer(left: Side, found: dict[str, Alike], tokens: bool) -> None:
    runs = left.runs

    def mean(run: str) -> str:
        return f"**{share(float(np.nanmean(found[run].overlap)))}**"

    what = "experts, the two tokens" if tokens else "routing, the two texts"
    layers = count(len(left.layers[runs.first.id]), "layer")
    st.markdown(f"## Of their {what} share {in_each(runs, mean)} (mean over {layers}).")
    known = {run: one.reference for run, one in found.items() if one.reference is not None}
    if len(known) == len(found):
        against = in_each(runs, lambda run: share(float(np.nanmean(known[run]))))
        said = "All pairs of tokens of the two texts" if tokens else "The two halves of one text"
        st.caption(f"{said}: {against}.")


def _side(side: Side) -> None:
    with st.container(border=True):
        st.markdown(f"**{side.title}**")
        if side.pieces:
            st.markdown(_excerpt(side))
        at = None if side.pin.token is None else side.pin.token - 1

        def loss(run: str) -> str:
            value = _loss(side.routed[run], at)
            return "none" if np.isnan(value) else f"**{value:.2f}**"

        what = "Loss of this token in nats" if at is not None else "Loss in nats a token"
        size = "" if at is not None or not side.pieces else f"{count(len(side.pieces), 'token')}. "
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.caption(f"{size}{what}: {in_each(side.runs, loss)}.", width="stretch")
            st.page_link(
                routes.ROUTING,
                label="Open in Token routing",
                icon=":material/alt_route:",
                query_params=slots.params() | side.pin.routing,
            )


def _loss(routed: RoutedText, at: int | None) -> float:
    if at is None or routed.loss is None:
        return routed.mean_loss
    return float(routed.loss[at])


def _excerpt(side: Side) -> str:
    """The token in its context, or the opening of the text, as Markdown."""
    pieces, token = side.pieces, side.pin.token
    if token is None:
        return escape_markdown(shorten("".join(pieces), OPENING))
    before = "".join(pieces[max(0, token - 1 - CONTEXT) : token - 1])
    after = "".join(pieces[token : token + CONTEXT])
    hit = f":grey-background[**{escape_markdown(side.labels[token - 1])}**]"
    line = f"… {part_of_markdown(before)} {hit} {part_of_markdown(after)} …"
    return in_direction(line, before + after)


def _chart(left: Side, found: dict[str, Alike], tokens: bool) -> None:
    title = "Experts in common by layer"
    reference = "all pairs of tokens" if tokens else "halves of one text"
    st.plotly_chart(
        figures.by_layer(left.runs, found, left.layers, title, reference),
        key="search_alike",
        config=CHART_CONFIG,
        alt=f"The share of experts in common of both pins in every layer, {left.runs.names}.",
    )


def _table(
    left: Side, right: Side, run: str, found: Alike, places: tuple[int, int] | None
) -> pd.DataFrame:
    """A row a layer: how much is in common, as shares of one (NaN where nothing is chosen), the
    experts of both, and those of one alone."""
    one, other = left.routed[run], right.routed[run]
    rows = []
    for layer, number in enumerate(left.layers[run]):
        if places is None:
            mine, theirs = one.use[layer], other.use[layer]
        else:
            mine, theirs = (
                _weights(s, layer, p) for s, p in zip((one, other), places, strict=True)
            )
        row: dict[str, object] = {"Layer": number, COMMON: found.overlap[layer]}
        if found.weight is not None:
            row[COMMON_WEIGHT] = found.weight[layer]
        row["Left more"] = _names(mine - theirs)
        row["Right more"] = _names(theirs - mine)
        row["Experts of both"] = _names(np.minimum(mine, theirs))
        rows.append(row)
    return pd.DataFrame(rows)


def _in_words(table: pd.DataFrame) -> pd.DataFrame:
    """The same as the page says it."""
    shares = [name for name in (COMMON, COMMON_WEIGHT) if name in table]
    said = {name: table[name].map(lambda one: share(one) if one >= 0 else "–") for name in shares}
    return table.assign(**said)


def _weights(routed: RoutedText, layer: int, place: int) -> np.ndarray:
    """Gate weight of every expert for a token, scaled to sum to 1; alike where it is not known."""
    assert routed.expert_ids is not None
    ids = routed.expert_ids[layer, place]
    dense = np.zeros(routed.use.shape[1])
    weights = (
        np.ones(len(ids)) if routed.gate_weights is None else routed.gate_weights[layer, place]
    )
    dense[ids[ids >= 0]] = weights[ids >= 0]
    return np.asarray(dense / max(float(dense.sum()), 1e-12))


def _names(weights: np.ndarray) -> str:
    """ "62 (31 %), 7 (20 %)": experts by falling weight."""
    order = np.argsort(-weights, kind="stable")[:MOST_EXPERTS]
    return ", ".join(f"{e} ({share(float(weights[e]))})" for e in order if weights[e] > 1e-6)


def _how(tokens: bool) -> None:
    with st.expander("How it was measured"):
        if tokens:
            st.write(
                "In common: routed experts that both tokens use over those that either uses "
                "(Jaccard). Weight in common: the sum over the experts of the smaller of the two "
                "gate weights, each token's scaled to sum to 1. In brackets: that smaller weight, "
                "or by how much one is larger. Dotted: the mean over all pairs of one token of "
                "either text, in the same model."
            )
            return
        st.write(
            "In common: the sum over the experts of the smaller of the two texts' shares of the "
            "expert choices of a layer. In brackets: that smaller share, or by how much one is "
            "larger. Dotted: the same for the two halves of one text, mean of both texts."
        )
