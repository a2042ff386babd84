"""What each model loses when only some experts of every layer are kept."""

import streamlit as st

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
from emo_viz.ui.shell import chrome

NARROWEST = 330  # pixels: narrower, the text and the curve stand one below the other

with chrome.page("Subset ablation"):
    study = page.open_study()
    choice = controls.controls(study)
    found = page.measured(study, choice)
    notches = live.notches(study, choice, found)
    shown = live.compute_live(study, choice, found)
    stops = sorted({*notches, *shown.losses})
    lines.draw(study, choice, found, shown, stops)
    against.say(study, choice, shown)
    both = st.grid(2, min_column_width=NARROWEST)
    with both.cell():
        slider.draw(study, choice, found, shown, stops, notches, controls.measure())
    beside = both.cell()
    with beside:
        texts = st.container()
        tokens.draw(shown)
    grid.offer(study, choice, shown)
    measured.explain(study, choice, found, shown)
    importance.offer(study, shown)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        chosen.offer(study, choice, shown)
        export.offer(study, choice, found, shown)
        measured.routing_link(choice)
    more_points.offer(study, choice)
    with texts:  # last: it is slower than the rest
        writing.draw(study, choice, shown, notches)
