"""Token routing: how the two models route one text, token by token."""

import streamlit as st

from emo_viz.ui import chrome, resources, routing, routing_view

with chrome.page("Token routing"):
    documents, pair = resources.documents(), resources.pair()

    headline = st.container()
    chosen = routing.choose_text(documents)
    if chosen is None:
        st.stop()
    reading = routing.read(pair, chosen)
    with headline:
        routing.answer(reading)
    routing.cut_notice(reading)
    routing_view.explore(reading)
    routing_view.export(reading)
