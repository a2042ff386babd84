"""What each model loses when only some experts of every layer are kept."""

import streamlit as st

from emo_viz.analysis.curves import Measured
from emo_viz.ui.ablation import (
    against,
    chosen,
    controls,
    export,
    grid,
    importance,
    lines,
    live,
    measured,
    more_points,
    page,
    slider,
    tokens,
    writing,
)
from emo_viz.ui.shell import chrome, links

NARROWEST = 330  # pixels: narrower, the text and the curve stand one below the other


@st.fragment
def at_the_slider(study: page.Study, choice: page.Choice, found: Measured | None) -> None:
    """What follows the slider, in a fragment: a move runs this part, not the page around it."""
    with links.fragment():
        _at_the_slider(study, controls.moved(study, choice), found)


def _at_the_slider(study: page.Study, choice: page.Choice, found: Measured | None) -> None:
    notches = live.notches(study, choice, found)
    shown = live.compute_live(study, choice, found)
    stops = sorted({*notches, *shown.losses})
    lines.draw(study, choice, found, shown, stops)
    both = st.grid(2, min_column_width=NARROWEST)
    with both.cell():
        slider.draw(study, choice, found, shown, stops, notches, controls.measure())
        taken = st.container(horizontal=True, vertical_alignment="center", gap="small")
        against.say(study, choice, shown)
        export.offer_cut(study, choice, shown)
    beside = both.cell()
    with beside:
        texts = st.container()
        tokens.draw(shown)
    with taken:  # once the token is known
        export.offer(study, choice, found, shown)
        measured.routing_link(choice)
    grid.offer(study, choice, shown)
    measured.explain(study, choice, found, shown)
    importance.offer(study, shown)
    chosen.offer(study, choice, shown)
    more_points.offer(study, choice)
    with texts:  # last: it is slower than the rest
        writing.draw(study, choice, shown, notches)


with chrome.page("Subset ablation"):
    opened = page.open_study()
    asked = controls.controls(opened)
    at_the_slider(opened, asked, page.measured(opened, asked))
