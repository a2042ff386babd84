"""Which expert the page is about: what the address and a click say of it."""

from collections.abc import Callable
from dataclasses import replace

import streamlit as st

from emo_viz.ui.parts.known import Data, Known, Place
from emo_viz.ui.shell import links, routes
from emo_viz.ui.shell.address import Kind, one_of
from emo_viz.ui.shell.words import escape_markdown


def form(place: Place) -> str:
    """As it stands in the address: "2.17"."""
    return f"{place[0]}.{place[1]}"


def chosen(data: Data) -> tuple[Known, Place | None]:
    """The run and the expert that the address or a click has chosen; None: all are shown."""
    ids = list(data.known)
    runs = one_of("run", ids)
    run = links.value(routes.EXPERT_RUN, runs, ids[0])
    known = data.known[run]
    place = links.value(routes.EXPERT, kind(known, "all experts are shown"), None)
    if place is not None:  # whose expert it is stands in the link, whatever is shown by default
        links.leave(routes.EXPERT_RUN, replace(runs, always=True), run, ids[0])
    return known, place


def kind(known: Known, instead: str) -> Kind[Place]:
    """The experts of a run as the address has them."""
    return one_of(f"expert of {escape_markdown(known.run.label)}", known.places, form, instead)


def open_expert(run: str, place: Place | None) -> None:
    """Show an expert from the next run of the script on, or all of them."""
    st.session_state[routes.EXPERT_RUN] = run
    st.session_state[routes.EXPERT] = place


def opener(run: str, place: Place | None) -> Callable[[], None]:
    """`open_expert` as a callback."""
    return lambda: open_expert(run, place)
