"""The guided tour: five steps, a page each, with a note on what to look at.

A strip under the page's title, where the address asks for it (`tour=2`): it is on the pages of the
tour alone, and whoever goes elsewhere has left it. Shift with an arrow key turns it, Esc ends it.
"""

from dataclasses import dataclass, field

import streamlit as st

from emo_viz.analysis.runs import Comparison
from emo_viz.server import library
from emo_viz.ui.shell import at_home, links, routes, slots
from emo_viz.ui.shell.address import whole_number

TOUR, _BEGUN = routes.TOUR, "tour_begun"
STEPS = 5


@dataclass(frozen=True)
class Step:
    """Where a step is, what it is called and what it says; params: of the page's address."""

    page: str
    title: str
    note: str
    params: dict[str, str] = field(default_factory=dict)


def steps(runs: Comparison) -> tuple[Step, ...]:
    """The tour of these runs; the pages of one text show that of the first screen."""
    return (
        Step(
            routes.HOME,
            "Take experts away",
            "Drag the slider, or press Play: what turns grey is routing that the cut takes away.",
        ),
        Step(
            routes.ROUTING,
            "Follow single tokens",
            "The same text and layer. Point at a token, choose it, or walk with the arrow keys.",
            at_home.routing(runs),
        ),
        Step(
            routes.CLUSTERS,
            "See what shares experts",
            "Each point is a token, placed by its experts alone. Which subjects lie together?",
        ),
        Step(
            routes.ABLATION,
            "Ask what a cut costs",
            "Drag the slider: the curve is of all held-out documents, the coloured text of one.",
            at_home.ablation(runs),
        ),
        Step(
            routes.LIBRARY,
            "Bring your own",
            "Add a checkpoint, a model of the Hugging Face hub, or a routing file.",
        ),
    )


def begin() -> None:
    """A button's callback: the run that follows, of the home page, shows the first step."""
    st.session_state[_BEGUN] = True


def running() -> bool:
    """Whether this page shows a step."""
    return st.session_state.get(TOUR) is not None


def show() -> None:
    """The strip of the step that the address asks for, if it asks for one."""
    if st.session_state.pop(_BEGUN, False):
        st.session_state[TOUR] = 1
    elif TOUR not in st.query_params:
        for key in (TOUR, f"{TOUR}_kept"):  # of another page
            st.session_state.pop(key, None)
    kind = whole_number("step of the tour", 1, STEPS, "no tour is shown")
    number: int | None = links.value(TOUR, kind, None)
    if number is None:
        return
    try:
        found = steps(library.comparison())
    except library.Missing:
        return  # the page says what is missing
    _strip(found, number)


def _strip(found: tuple[Step, ...], number: int) -> None:
    step = found[number - 1]
    note, buttons = st.columns([7, 3], vertical_alignment="center")
    note.caption(f":material/tour: **Tour, {number} of {STEPS}: {step.title}.** {step.note}")
    with buttons.container(horizontal=True, horizontal_alignment="right", gap="small"):
        _turn("Previous", "tour_previous", found, number - 1, "Shift and the left arrow key")
        label = "Next" if number < STEPS else "Finish"
        _turn(label, "tour_next", found, number + 1, "Shift and the right arrow key")
        st.button("End", key="tour_end", help="Esc", on_click=_end)


def _turn(label: str, key: str, found: tuple[Step, ...], number: int, keys: str) -> None:
    """A button that goes to a step; from the last one on to Home, where the tour is over."""
    if not st.button(label, key=key, help=keys, disabled=number < 1):
        return
    if number > STEPS:
        st.switch_page(routes.HOME, query_params=slots.params())
    step = found[number - 1]
    st.switch_page(step.page, query_params=slots.params() | step.params | {TOUR: str(number)})


def _end() -> None:
    st.session_state[TOUR] = None
