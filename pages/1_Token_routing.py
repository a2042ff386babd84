"""Token routing: how the models route one text, token by token."""

import streamlit as st

from emo_viz.server import library, recordings
from emo_viz.ui.parts import reading
from emo_viz.ui.routing import page, recorded, view
from emo_viz.ui.shell import chrome

with chrome.page("Token routing"):
    if traces := recordings.without_checkpoint():
        recorded.draw(traces)
        st.stop()

    documents, models = library.documents(), library.models()

    headline = st.container()
    chosen = page.choose_text(documents)
    if chosen is None:
        st.stop()
    read = reading.read(models, chosen)
    with headline:
        page.answer(read)
    reading.cut_notice(read)
    view.explore(read)
    view.export(read)
