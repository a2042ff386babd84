"""The guided tour: five steps, a page each, with a note on what to look at.

A strip under the page's title, where the address asks for it (`tour=2`): it is on the pages of the
tour alone, and whoever goes elsewhere has left it. Shift with an arrow key turns it, Esc ends it.
"""

from dataclasses import dataclass, field

import streamlit as st

from emo_viz.analysis.runs import Comparison
from emo_viz.server import library, typical
from emo_viz.ui.shell import links, routes, slots
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
    try:
        document = str(typical.document(runs)["id"])
        text, cut = routes.routing_of_document(document), routes.ablation_of_document(document)
    except library.Missing:  # the pages have a document of their own, or say there is none
        text, cut = {}, {}
    return (
        Step(
            routes.HOME,
            "Take experts away",
            "Drag the slider, or press Play. What keeps its colour is routing that the kept "
            "experts still serve; underlined tokens have become harder to predict.",
        ),
        Step(
            routes.ROUTING,
            "Follow single tokens",
            "The same text, with each token's experts in every layer. Point at a token, choose "
            "it, or walk with the arrow keys.",
            text,
        ),
        Step(
            routes.CLUSTERS,
            "See what shares experts",
            "Each point is a token, placed by its experts alone and coloured by the subject of its "
            "document. Look where the colours lie together and where they mix.",
        ),
        Step(
            routes.ABLATION,
            "Ask what a cut costs",
            "The curve is of all held-out documents, the text beside it of one: which tokens pay "
            "for the experts that are gone?",
            cut,
        ),
        Step(
            routes.LIBRARY,
            "Bring your own",
            "Add a checkpoint, a model of the Hugging Face hub, or a routing file that a server "
            "wrote. Any two runs stand side by side on every page.",
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
    with st.container(border=True):
        note, buttons = st.columns([7, 3], vertical_alignment="center")
        note.markdown(f":material/tour: **Tour, {number} of {STEPS}: {step.title}.** {step.note}")
        with buttons.container(horizontal=True, horizontal_alignment="right", gap="small"):
            _turn("Previous", "tour_previous", found, number - 1, "Shift and the left arrow key")
            _turn("Next", "tour_next", found, number + 1, "Shift and the right arrow key")
            st.button("End", key="tour_end", help="Esc", on_click=_end)


def _turn(label: str, key: str, found: tuple[Step, ...], number: int, keys: str) -> None:
    """A button that goes to a step, if there is one of that number."""
    there = 1 <= number <= STEPS
    pressed = st.button(label, key=key, help=keys, disabled=not there)
    if pressed and there:
        step = found[number - 1]
        way = slots.params() | step.params | {TOUR: str(number)}
        st.switch_page(step.page, query_params=way)


def _end() -> None:
    st.session_state[TOUR] = None
