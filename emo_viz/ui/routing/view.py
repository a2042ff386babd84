"""Token routing page: the views of one text, in a fragment of their own.

Choosing a token, an expert or a layer reruns only this part; the models are not asked again.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.routing import expert_order, gate_matrix, routing_table
from emo_viz.figures import routing as figures
from emo_viz.figures.theme import (
    DIVERGING,
    SELECTION_COLOUR,
    SEQUENTIAL,
    chart_config,
    colour_at,
    colour_of,
)
from emo_viz.ui.parts import pins
from emo_viz.ui.parts.pins import Pin
from emo_viz.ui.parts.reading import Reading
from emo_viz.ui.parts.strip import StripToken, token_strip
from emo_viz.ui.parts.together import in_each, name
from emo_viz.ui.routing import panel
from emo_viz.ui.routing.page import EXPERT, FIELD, TOKEN, or_none
from emo_viz.ui.shell import links, routes, slots
from emo_viz.ui.shell.words import count, isolated, visible

LAYER, ORDER, COLOUR = routes.ROUTING_LAYER, routes.ROUTING_ORDER, routes.ROUTING_COLOUR
BY_USE, BY_ID = "By use in this text", "By id"
DIFFERENCE, PLAIN = "Loss difference", "None"
# One height whether a token is chosen or not: the maps below stay where the pointer is.
PANEL_PIXELS, TEXT_PIXELS = 720, 620
# Where on the sequential scale a text's colours end: letters stay legible on them.
DEEPEST = 0.75
NO_VALUE = "rgba(0, 0, 0, 0)"


@dataclass(frozen=True)
class View:
    """What the visitor has chosen to look at; token is a position, expert (run, id)."""

    layer: int
    token: int | None
    expert: tuple[str, int] | None
    order: str
    colour: str


@dataclass(frozen=True)
class Colouring:
    """A place on a colour scale for every position [T] (NaN: none), and the scale in words."""

    places: NDArray[np.float64]
    scale: list[list[Any]]
    legend: str


@st.fragment
def explore(reading: Reading) -> None:
    """The text, the chosen token and the maps: all that follows the layer, token and expert."""
    with links.fragment():
        _explore(reading)


def _explore(reading: Reading) -> None:
    view = _controls(reading)
    with st.grid(2, min_column_width=380) as grid:
        with grid.cell():
            _text(reading, view)
        with grid.cell(), st.container(border=True, height=PANEL_PIXELS):
            if view.token is None:
                panel.of_text(reading)
            else:
                panel.of_token(reading, view.token)
    _expert_maps(reading, view)
    _along_text(reading, view)


def _controls(reading: Reading) -> View:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        layer = links.choice(st, "Layer", range(reading.num_layers), LAYER)
        _layer_button(layer, -1, reading.num_layers)
        _layer_button(layer, +1, reading.num_layers)
        token = links.number_or_none(
            st,
            "token",
            "Token",
            reading.num_tokens,
            TOKEN,
            placeholder="none",
            width=130,
            help="Position in the text. Or click a token; in the text, the arrow keys move it "
            "and Esc clears it.",
        )
        expert = links.select_or_none(
            st,
            "expert",
            "Expert to follow",
            _expert_names(reading, layer),
            EXPERT,
            placeholder="none",
            width=190,
            help="Underlines every token that uses it in the chosen layer, and marks its column in "
            "the map.",
        )
        with st.popover("View", icon=":material/tune:"):
            order, colour = _view_options(reading)
        _ablation_link(reading)
    return View(layer, token, _parse_expert(reading, expert), order, colour)


def _ablation_link(reading: Reading) -> None:
    """To the same text on the page that cuts the models down."""
    chosen = reading.chosen
    st.page_link(
        routes.ABLATION,
        label="Cut the models",
        icon=":material/content_cut:",
        query_params=slots.params()
        | (
            routes.ablation_of_document(chosen.document)
            if chosen.document
            else routes.ablation_of_text(FIELD.in_link(chosen.text))
        ),
    )
    pin = Pin(chosen.document) if chosen.document else pins.of_text(chosen.text)
    pins.popover(pin, st.session_state.get(TOKEN), "routing")


def _layer_button(layer: int, step: int, num_layers: int) -> None:
    """To the layer below (-1) or above (+1), by click or key."""
    name, key = ("previous", "up") if step < 0 else ("next", "down")
    st.button(
        "",
        icon=":material/keyboard_arrow_up:" if step < 0 else ":material/keyboard_arrow_down:",
        help=f"Go to the {name} layer (Shift and {key} arrow key)",
        key=f"routing_{name}_layer",
        disabled=not 0 <= layer + step < num_layers,
        on_click=_open_layer,
        args=(layer + step,),
    )


def _open_layer(layer: int) -> None:
    st.session_state[LAYER] = layer


def _view_options(reading: Reading) -> tuple[str, str]:
    order = links.choice(st, "Order of the experts", [BY_USE, BY_ID], ORDER, default=BY_ID)
    difference = [DIFFERENCE] if len(reading.runs) > 1 and reading.knows_losses else []
    options = [*difference, *_measures(reading), PLAIN]
    return order, links.select(st, "Colour of the text", options, COLOUR)


def _expert_names(reading: Reading, layer: int) -> list[str]:
    """The experts of a layer that can be followed in it."""
    return [
        f"{run.label} {expert}"
        for run in reading.runs
        for expert in range(reading.routed[run.id][layer])
    ]


def _parse_expert(reading: Reading, name: str | None) -> tuple[str, int] | None:
    if name is None:
        return None
    label, _, expert = name.rpartition(" ")
    return next(run.id for run in reading.runs if run.label == label), int(expert)


def _pick_token(position: int | None) -> None:
    st.session_state[TOKEN] = position
    if position is None:
        st.session_state[EXPERT] = None


def _pick_point(reading: Reading, chart: str) -> Callable[[], None]:
    """A callback that reads (position, expert or layer, run) from the clicked marker."""

    def picked() -> None:
        points = st.session_state[chart]["selection"]["points"]
        if not points:
            return
        # The browser sends a row of a typed array as an object with the keys "0", "1", ...
        position, which, run = (int(points[0]["customdata"][key]) for key in "012")
        st.session_state[TOKEN] = position
        if chart == "routing_map":
            st.session_state[EXPERT] = f"{reading.runs.runs[run].label} {which}"
        elif which >= 0:
            st.session_state[LAYER] = which

    return picked


def _text(reading: Reading, view: View) -> None:
    colouring = _colouring(reading, view)
    marked = _marked(reading, view)
    token_strip(
        [
            _strip_token(reading, position, colouring, bool(marked[position]))
            for position in range(1, len(reading.pieces))
        ],
        view.token,
        mark_colour=colour_of(reading.runs[view.expert[0]]) if view.expert else NO_VALUE,
        selection_colour=SELECTION_COLOUR,
        pixels=TEXT_PIXELS,
        key="routing_strip",
        on_pick=_pick_token,
    )
    followed = ""
    if view.expert:
        run, expert = view.expert
        followed = (
            f" Underlined: the {count(int(marked.sum()), 'token')} that {name(reading.runs[run])} "
            f"routes to expert {expert} in layer {view.layer}."
        )
    st.caption(colouring.legend + followed)


def _marked(reading: Reading, view: View) -> NDArray[np.bool_]:
    """Whether each position [T] uses the followed expert; EOS never counts."""
    if view.expert is None:
        return np.zeros(len(reading.pieces), dtype=bool)
    run, expert = view.expert
    used = reading.recordings[run].expert_ids[view.layer] == expert
    marked: NDArray[np.bool_] = used.any(axis=1)
    marked[0] = False
    return marked


def _strip_token(reading: Reading, position: int, colouring: Colouring, marked: bool) -> StripToken:
    piece = reading.pieces[position]
    place = colouring.places[position]
    losses = " · ".join(
        f"{run.label} {or_none(reading.recordings[run.id].loss[position])}" for run in reading.runs
    )
    return StripToken(
        text=visible(piece),
        title=f"Token {position}: {reading.labels[position]}\nLoss in nats: {losses}",
        colour=NO_VALUE if np.isnan(place) else colour_at(colouring.scale, place),
        marked=marked,
        sign=piece.isspace() and "\n" in piece,
        breaks=piece.count("\n"),
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


def _colouring(reading: Reading, view: View) -> Colouring:
    if view.colour == DIFFERENCE:
        return _difference(reading)
    if view.colour == PLAIN:
        return Colouring(np.full(len(reading.pieces), np.nan), SEQUENTIAL, "")
    what, run = _measures(reading)[view.colour]
    every = {
        each: one.entropy[view.layer, 1:] if what == "Router entropy" else one.loss[1:]
        for each, one in reading.recordings.items()
    }
    # Entropies lie close together, far from 0: their colours begin at the lowest.
    known = {each: values for each, values in every.items() if not np.isnan(values).all()}
    low = min(float(values.min()) for values in known.values()) if what != "Loss" else 0.0
    top = max(float(values.max()) for values in known.values())
    values = np.concatenate([[np.nan], every[run]])
    where = f" in layer {view.layer}" if what == "Router entropy" else ""
    same = ", the same for both models" if len(reading.runs) > 1 else ""
    return Colouring(
        places=(values - low) / ((top - low) or 1.0) * DEEPEST,
        scale=SEQUENTIAL,
        legend=f"Colour: {what.lower()} of {name(reading.runs[run])}{where}, from {low:.2f} (pale) "
        f"to {top:.2f} nats (deep){same}.",
    )


def _difference(reading: Reading) -> Colouring:
    """Which of two runs predicts each token better."""
    first, second = reading.runs
    gain = reading.recordings[second.id].loss - reading.recordings[first.id].loss
    reach = float(np.nanmax(np.abs(gain))) or 1.0
    return Colouring(
        places=(gain / reach + 1) / 2,
        scale=DIVERGING,
        legend=f"Colour: which model predicts the token better, blue {name(first)}, orange "
        f"{name(second)}; the full colour is a loss lower by {reach:.1f} nats.",
    )


def _expert_maps(reading: Reading, view: View) -> None:
    maps = {
        run: figures.ExpertMap(
            gate_matrix(one, view.layer, reading.routed[run][view.layer]),
            _order(reading, view, run),
        )
        for run, one in reading.recordings.items()
    }
    used = in_each(reading.runs, lambda run: f"{reading.routing[run].distinct[view.layer]}")
    st.plotly_chart(
        figures.expert_map(
            reading.runs, maps, _labels(reading), view.layer, view.token, view.expert
        ),
        key="routing_map",
        on_select=_pick_point(reading, "routing_map"),
        selection_mode="points",
        config=chart_config("routing map"),
        alt=f"Which routed experts each of {count(reading.num_tokens, 'token')} uses in layer "
        f"{view.layer}, from left to right: {used} different experts; colour is gate weight.",
    )
    st.caption(
        f"1 document, {count(reading.num_tokens, 'token')}. Different routed experts used in layer "
        f"{view.layer}: {used}. The colours follow a square-root scale. Click a cell to choose its "
        "token and follow its expert; drag to zoom, double-click to zoom out."
    )


def _order(reading: Reading, view: View, run: str) -> NDArray[np.int64]:
    """The expert at each column of a run's map."""
    routed = reading.routed[run][view.layer]
    by_use = view.order == BY_USE
    return (
        expert_order(reading.recordings[run], view.layer, routed) if by_use else np.arange(routed)
    )


def _along_text(reading: Reading, view: View) -> None:
    if not all(reading.knows(run, "entropy") for run in reading.runs.ids):
        return  # `say_absent` has said so
    st.plotly_chart(
        figures.along_text(
            reading.runs,
            {run: one.entropy[:, 1:] for run, one in reading.recordings.items()},
            {run: one.loss[1:] for run, one in reading.recordings.items()},
            _labels(reading),
            view.token,
        ),
        key="routing_along",
        on_select=_pick_point(reading, "routing_along"),
        selection_mode="points",
        config=chart_config("routing along"),
        alt=f"Router entropy of {count(reading.num_layers, 'layer')} and the loss, at each of "
        f"{count(reading.num_tokens, 'token')}, for {reading.runs.names} on one scale.",
    )
    both = "; both models on one colour scale" if len(reading.runs) > 1 else ""
    st.caption(
        f"1 document, {count(reading.num_tokens, 'token')}{both}. Click to choose a token, and in "
        "the colours its layer too."
    )


def export(reading: Reading) -> None:
    """A button that hands out everything the charts show as a table."""
    st.download_button(
        "Routing table as CSV",
        data=lambda: _csv(reading),
        file_name="token_routing.csv",
        mime="text/csv",
        icon=":material/download:",
        on_click="ignore",
        help="Every token, layer and model: experts, gate weights, entropy, loss. The figures "
        "have a camera button of their own.",
    )


def _csv(reading: Reading) -> str:
    """The routing table; tokens as JSON strings, so that no spreadsheet takes one for a formula."""
    quoted = [json.dumps(piece, ensure_ascii=False) for piece in reading.pieces]
    return routing_table(reading.recordings, quoted).to_csv(index=False)


def _labels(reading: Reading) -> list[str]:
    return [isolated(label) for label in reading.labels[1:]]
