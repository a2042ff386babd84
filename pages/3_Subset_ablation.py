"""What each model loses when only some experts of every layer are kept."""

import streamlit as st

from emo_viz.ui import ablation, ablation_controls, ablation_view, chrome

with chrome.page("Subset ablation"):
    study = ablation.open_study()
    first_line = st.container()
    choice = ablation_controls.controls(study)
    live = ablation.compute_live(study, choice)
    found = ablation.measured(study, choice)
    with first_line:
        ablation_controls.answer(study, choice, found, live)
    both = st.grid(2, min_column_width=ablation_view.NARROWEST)
    with both.cell():  # first: on a narrow page it stands right below the slider
        ablation_view.document(choice, live)
    with both.cell():
        ablation_view.curve(study, choice, found, live)
    ablation_view.continuations(study, choice, live)
