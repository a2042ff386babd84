"""Token routing page: the views of one text, in a fragment of their own.

Choosing a token, an expert or a layer reruns only this part; the models are not asked again.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import streamlit as st

from emo_viz.analysis.routing import routing_table
from emo_viz.figures import routing as figures
from emo_viz.figures.theme import CHART_CONFIG
from emo_viz.ui.parts import heatmap, pins, same_experts
from emo_viz.ui.parts.export import by_label, offer
from emo_viz.ui.parts.heatmap import Follow, Pick
from emo_viz.ui.parts.pins import Pin
from emo_viz.ui.parts.reading import Reading
from emo_viz.ui.routing import follow, matching, page, panel, pictures, text
from emo_viz.ui.routing.follow import EXPERT, Experts
from emo_viz.ui.routing.matching import Others
from emo_viz.ui.routing.page import FIELD, TOKEN, measured
from emo_viz.ui.shell import at_home, links, routes, slots
from emo_viz.ui.shell.words import by_hand, count, isolated

LAYER, ORDER, COLOUR = routes.ROUTING_LAYER, routes.ROUTING_ORDER, routes.ROUTING_COLOUR
PICTURE = routes.ROUTING_PICTURE
BY_USE, BY_ID = "By use in this text", "By id"
MOST_BUTTONS = 12  # layers: more are a list
# The text and the token stay in sight while the pictures are scrolled, where both have room.
STICKY = """<style>
.st-key-routing_views { align-items: flex-start; }
.st-key-routing_views > :has(> .st-key-routing_pictures) { flex: 1 1 360px; min-width: 0; }
.st-key-routing_views > :has(> .st-key-routing_beside) { flex: 0 1 390px; min-width: 280px;
  position: sticky; top: 3.5rem; }
</style>"""


@dataclass(frozen=True)
class View:
    """What the visitor has chosen to look at; token is a position from 1. whole: all rows of the
    text at first."""

    layer: int
    picture: str
    token: int | None
    follow: Follow | None
    order: str
    colour: str
    matched: bool
    whole: bool


@st.fragment
def explore(reading: Reading, others: Others | None = None) -> None:
    """The pictures, the text and the chosen token: what follows the layer, token and expert.

    others: documents to match the experts of two runs by.
    """
    with links.fragment():
        _explore(reading, others)


def _explore(reading: Reading, others: Others | None) -> None:
    experts = experts_of(reading)
    view = _controls(reading, experts, others)
    with st.container(horizontal=True, key="routing_views"):
        with st.container(key="routing_pictures"):
            by_use = view.order == BY_USE
            match = partial(matching.matched, reading, others) if others and view.matched else None
            same = matching.same_ids(reading, others)
            pick = _pick_cell(experts)
            pictures.draw(reading, view.picture, view.layer, by_use, match, pick, same, view.whole)
            _more(reading, view)
        with st.container(key="routing_beside", gap="small"):
            text.draw(reading, view.layer, view.token, view.follow, view.colour, _pick_token)
            panel.draw(reading, view.token, _follow(experts))
            if reading.tokenizer is not None:
                _ablation_link(reading)
    st.html(STICKY)
    heatmap.tell(pictures.GROUP, view.token, view.follow, key="routing_look")


def experts_of(reading: Reading) -> Experts:
    """The experts of all runs and layers, by name."""
    return Experts(reading.runs.labels, reading.numbers, reading.routed)


def _controls(reading: Reading, experts: Experts, others: Others | None) -> View:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="xsmall"):
        layer = _layer(reading.numbers)
        picture = links.choice(st, "Picture", pictures.options(reading), PICTURE)
        token = links.token_field(reading.num_tokens, TOKEN, width=104)
        followed = follow.choose(experts, layer)
        further = _further(reading, picture, others)
        view = View(layer, picture, token, followed, *further, page.is_whole_at_first())
        export(reading, view)
    return view


def _further(reading: Reading, picture: str, others: Others | None) -> tuple[str, str, bool]:
    """The order of the experts, the colour of the text, and whether experts are matched."""
    with st.popover("View", icon=":material/tune:"):
        order = links.choice(st, "Order of the experts", [BY_USE, BY_ID], ORDER)
        colour = links.select(st, "Colour of the text", text.options(reading), COLOUR)
        matched = picture == pictures.DIFFERENCE and _is_matched(reading, others)
    return order, colour, matched


def _is_matched(reading: Reading, others: Others | None) -> bool:
    """Whether the experts of a difference are matched by use: an id means the same in one model
    only."""
    if others is None:
        return False
    how = links.choice(
        st,
        "Same experts of both runs",
        matching.options(reading, others),
        routes.ROUTING_MATCH,
        what="matching of experts",
        help="In two models that were trained apart an id means nothing: there, experts are "
        "matched by the tokens of other documents that chose both.",
    )
    return how == same_experts.BY_USE


def _layer(numbers: Sequence[int]) -> int:
    choose = links.choice if len(numbers) <= MOST_BUTTONS else links.select
    layer = choose(st, "Layer", numbers, LAYER, default=at_home.usual_layer(numbers))
    _layer_button(layer, -1, numbers)
    _layer_button(layer, +1, numbers)
    return layer


def _layer_button(layer: int, step: int, numbers: Sequence[int]) -> None:
    """To the layer below (-1) or above (+1), by click or key."""
    place = numbers.index(layer) + step
    name, key = ("previous", "up") if step < 0 else ("next", "down")
    st.button(
        f"{name.capitalize()} layer",
        icon=":material/keyboard_arrow_up:" if step < 0 else ":material/keyboard_arrow_down:",
        help=f"Go to the {name} layer (Shift and {key} arrow key)",
        key=f"routing_{name}_layer",
        disabled=not 0 <= place < len(numbers),
        on_click=_open_layer,
        args=(numbers[place % len(numbers)],),
    )


def _open_layer(layer: int) -> None:
    st.session_state[LAYER] = layer


def _pick_token(position: int | None) -> None:
    st.session_state[TOKEN] = position
    if position is None:
        st.session_state[EXPERT] = None


def _pick_cell(experts: Experts) -> Callable[[Pick], None]:
    def picked(pick: Pick) -> None:
        _pick_token(pick.token)
        if pick.follow is not None:
            st.session_state[EXPERT] = experts.name(pick.follow)
        elif pick.back:
            st.session_state[EXPERT] = None

    return picked


def _follow(experts: Experts) -> Callable[[Follow], None]:
    def followed(which: Follow) -> None:
        st.session_state[EXPERT] = experts.name(which)

    return followed


def _ablation_link(reading: Reading) -> None:
    """To the same text, and the same token, on the page that cuts the models down."""
    chosen, token = reading.chosen, st.session_state.get(TOKEN)
    st.page_link(
        routes.ABLATION,
        label="Cut the models on this text",
        icon=":material/content_cut:",
        query_params=slots.params()
        | (
            routes.ablation_of_document(chosen.document)
            if chosen.document
            else routes.ablation_of_text(FIELD.in_link(chosen.text))
        )
        | ({} if token is None else {routes.SUBSET_TOKEN: str(token)}),
    )
    pin = Pin(chosen.document) if chosen.document else pins.of_text(chosen.text)
    pins.popover(pin, token, "routing")


def _more(reading: Reading, view: View) -> None:
    """What is a step further: made when it is opened."""
    if view.token is not None:
        with st.expander(
            "The token's experts as a table", key="routing_table_open", on_change="rerun"
        ) as table:
            if table.open:
                panel.table(reading, view.token)
    if all(reading.knows(run, "entropy") for run in reading.runs.ids):  # else it has been said
        with st.expander(
            "Router entropy and loss along the text", key="routing_along_open", on_change="rerun"
        ) as along:
            if along.open:
                _along_text(reading, view)
    with st.expander("How it was measured"):
        measured(reading)


def _pick_point(numbers: Sequence[int]) -> None:
    """Reads (position, layer's place, run) from the clicked marker of the chart along the text."""
    points = st.session_state["routing_along"]["selection"]["points"]
    if not points:
        return
    # The browser sends a row of a typed array as an object with the keys "0", "1", ...
    position, layer = (int(points[0]["customdata"][key]) for key in "01")
    st.session_state[TOKEN] = position
    if layer >= 0:
        st.session_state[LAYER] = numbers[layer]


def _along_text(reading: Reading, view: View) -> None:
    st.plotly_chart(
        figures.along_text(
            reading.runs,
            {run: one.entropy[:, 1:] for run, one in reading.recordings.items()},
            {run: one.loss[1:] for run, one in reading.recordings.items()},
            reading.numbers,
            [isolated(label) for label in reading.labels[1:]],
            view.token,
        ),
        key="routing_along",
        on_select=partial(_pick_point, reading.numbers),
        selection_mode="points",
        config=CHART_CONFIG,
        alt=f"Router entropy of {count(reading.num_layers, 'layer')} and the loss, at each of "
        f"{count(reading.num_tokens, 'token')}, for {reading.runs.names} on one scale.",
    )
    both = "; both models on one colour scale" if len(reading.runs) > 1 else ""
    st.caption(
        f"1 document, {count(reading.num_tokens, 'token')}{both}."
        + by_hand(" Click to choose a token, and in the colours its layer too.")
    )


def export(reading: Reading, view: View) -> None:
    """The pictures that stand on the page, and everything they show as a table."""
    charts = {"Tokens by experts": "routing_map"}
    if view.token is None:
        charts["Experts that carry half"] = "routing_half"
    if st.session_state.get("routing_along_open"):
        charts["Router entropy and loss"] = "routing_along"
    tables = {"Every token, layer and run": lambda: table(reading)}
    if view.token is None:
        tables["Layers"] = lambda: panel.layers_of_runs(reading)
    own = "" if reading.chosen.document else "own text, "
    offer(
        "token routing",
        reading.runs,
        charts=charts,
        tables=tables,
        shown=f"{own}{count(reading.num_tokens, 'token')}",
    )


def table(reading: Reading) -> pd.DataFrame:
    """The routing table; tokens as JSON strings, so that none is taken for something else. What a
    trace lacks is empty, and what all of them lack is left out."""
    quoted = [json.dumps(piece, ensure_ascii=False) for piece in reading.pieces]
    found = routing_table(reading.recordings, quoted)
    found["layer"] = np.array(reading.numbers)[found["layer"]]
    weights = [column for column in found if str(column).startswith("gate_weight")]
    found.loc[found["model"].isin(reading.unweighed), weights] = np.nan
    if reading.tokenizer is None:
        found["token_id"] = found["token_id"].astype("Int64").mask(found["token_id"] < 0)
        found = found.dropna(axis="columns", how="all")
    return by_label(found, reading.runs)
