"""The first line of every page: its name, and what can be done with what it shows.

Copy link, undo and redo are the browser's own (its history has every choice as a step). Presenting,
by the button or the key p, hides the side bar and sets everything in large type; it stands in the
address as `present`, and stays from page to page.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from emo_viz.ui.shell import links, report, routes, session_file
from emo_viz.ui.shell.address import Kind, one_of
from emo_viz.ui.shell.component import HEARD_ALONE, HEARD_CSS, component

PRESENT = routes.PRESENT
_ASK = "The link asks for the presentation {asked}, which is neither 1 nor 0; "
_KIND: Kind[bool] = replace(
    one_of("presentation", (False, True), form=lambda on: "1" if on else "0"),
    sentence=f"{_ASK}it is off.",
)
_HERE = Path(__file__)
_COMPONENT = component(
    "emo_viz_frame",
    html='<div class="frame" role="toolbar" aria-label="This view"></div>'
    '<div class="said" role="status"></div><div class="heard" role="status"></div>',
    css=HEARD_CSS + _HERE.with_suffix(".css").read_text(encoding="utf-8"),
    js="".join(
        _HERE.with_name(name).read_text(encoding="utf-8")
        for name in ("steps.js", "walk.js", "frame.js")
    ),
)
# Text of charts has sizes in pixels, which do not follow the page's; Plotly measures by them too.
_LARGER = {9: 12, 10: 13, 11: 15, 12: 16, 13: 17, 14: 18, 15: 20, 17: 22}
_HIGHER = 1.25  # a chart, for its larger text
_LARGE_TYPE = (
    "html { font-size: 20px; }"
    '[data-testid="stSidebar"] { display: none; }'
    # Streamlit's ring around the page, where a key follows a click beside everything.
    '[data-testid="stMain"]::before { box-shadow: none !important; }'
    '.js-plotly-plot .js-line:not([style*="stroke-width: 0px"])'
    " { stroke-width: 4px !important; }"
    + "".join(
        f':is(.js-plotly-plot, #js-plotly-tester) text[style*="font-size: {small}px"]'
        f" {{ font-size: {large}px !important; }}"
        for small, large in _LARGER.items()
    )
)


# Buttons of which one sees the arrow alone: without a label Streamlit calls them by their icon.
ARROWS = (
    *(f"{each}_{way}" for each in ("routing", "subset", "cluster") for way in ("previous", "next")),
    "routing_previous_layer",
    "routing_next_layer",
)
NO_LABELS = (
    f":is({', '.join(f'.st-key-{key}' for key in ARROWS)})"
    f' button [data-testid="stMarkdownContainer"] {HEARD_ALONE}'
)
# Streamlit's grey of a chart's axes on a light page has a contrast of 3.7 to white.
AXES = (
    '.js-plotly-plot text[style*="fill: rgb(128, 132, 149)"]'
    " { fill: rgb(92, 96, 108) !important; } "
)
# Where nothing hovers, a chart's buttons would always stand on its title.
TOUCH = "@media (hover: none) { .js-plotly-plot .modebar { display: none; } } "
# What Streamlit leaves blank around a page, more of it beside a folded side bar; wide enough for
# the arrow that unfolds it.
TIGHT = (
    "@media (min-width: 641px) {"
    '[data-testid="stMainBlockContainer"] { padding: 1rem 3.5rem 3rem !important; }'
    '[data-testid="stMarkdown"] h2 { padding-top: 0.5rem; }'
    # As high as the fields beside it: the labels of a row stand on one line.
    'button[data-variant="segmented_control"] { min-height: 2.5rem; }'
    '[data-testid="stHeader"] { background: transparent; }'
    '[data-testid="stHeader"], [data-testid="stHeader"] * { pointer-events: none; }'
    '[data-testid="stHeader"] :is(button, a, button *) { pointer-events: auto; } }'
)


def title(words: str) -> Any:
    """Draw the line; returns where a report that is made is given to the browser."""
    row = st.container(horizontal=True, vertical_alignment="center", key="frame")
    row.title(words, width="stretch")
    with row:
        _COMPONENT(
            key="frame_buttons",
            data={"presenting": presenting(), "drawers": routes.DRAWERS},
            width="content",
            on_present_change=_turn,
        )
        with st.popover("Save", icon=":material/save:", key="frame_save"):
            st.button(
                "Report as HTML",
                icon=":material/article:",
                on_click=report.ask,
                key="frame_report",
                help="This page as one file that opens anywhere: sentences, figures, tables.",
            )
            reported = st.container()
            session_file.controls(words)
    return reported


def read() -> None:
    """Take from the address whether the visitor presents."""
    # A link without it leaves it as it is; a step back to before it was chosen does not.
    kind = replace(_KIND, lasting=not links.went_back())
    if links.value(PRESENT, kind, False):
        st.html(f"<style>{_LARGE_TYPE}</style>")


def presenting() -> bool:
    """Whether this visitor presents."""
    return bool(st.session_state.get(PRESENT, st.session_state.get(f"{PRESENT}_kept", False)))


def sized(chart: go.Figure) -> go.Figure:
    """The chart; higher while one presents, so that its larger text has room."""
    if presenting() and chart.layout.height:
        return go.Figure(chart).update_layout(height=round(_HIGHER * chart.layout.height))
    return chart


def params() -> dict[str, str]:
    """What a link to another page carries of it."""
    return {PRESENT: "1"} if presenting() else {}


def _turn() -> None:
    st.session_state[PRESENT] = not presenting()
