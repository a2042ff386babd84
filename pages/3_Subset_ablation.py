"""What each model loses when only some experts of every layer are kept."""

import streamlit as st

from emo_viz.ui.ablation import continuations, controls, page, view
from emo_viz.ui.shell import chrome

with chrome.page("Subset ablation"):
    study = page.open_study()
    first_line = st.container()
    choice = controls.controls(study)
    live = page.compute_live(study, choice)
    found = page.measured(study, choice)
    with first_line:
        controls.answer(study, choice, found, live)
    both = st.grid(2, min_column_width=view.NARROWEST)
    with both.cell():  # first: on a narrow page it stands right below the slider
        view.document(choice, live)
    with both.cell():
        if found is None:
            view.unmeasured(study, choice, live)
        else:
            view.curve(study, choice, found, live)
    continuations.continuations(study, choice, live)
