"""Document clusters: which tokens and documents share experts, in both models."""

import streamlit as st

from emo_viz.ui import chrome, cluster_view, clusters, token_view

with chrome.page("Document clusters"):
    data = clusters.load_data()

    headline = st.container()
    controls = st.container(horizontal=True, vertical_alignment="bottom", gap="medium")
    view = token_view if clusters.level(controls) == clusters.TOKENS else cluster_view
    view.show(data, headline, controls)
