"""Routing difference: the same tokens by two runs, and where they choose other experts."""

import streamlit as st

from emo_viz.ui.difference import page, view
from emo_viz.ui.shell import chrome

with chrome.page("Routing difference"):
    headline = st.container()
    found = page.found()
    with headline:
        page.answer(found)
    view.explore(found)
    page.measured(found)
