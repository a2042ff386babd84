"""Document clusters: which tokens and documents share experts."""

import streamlit as st

from emo_viz.ui.clusters import documents_view, page, token_view
from emo_viz.ui.shell import chrome

with chrome.page("Document clusters"):
    data = page.load_data()

    headline = st.container()
    controls = st.container(horizontal=True, vertical_alignment="bottom", gap="medium")
    view = token_view if page.level(controls) == page.TOKENS else documents_view
    view.show(data, headline, controls)
