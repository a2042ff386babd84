"""Token routing: how the models route one text, token by token."""

import streamlit as st

from emo_viz.server import library, recordings
from emo_viz.ui.parts import reading
from emo_viz.ui.routing import matching, mixed, page, recorded, view
from emo_viz.ui.shell import chrome, missing
from emo_viz.ui.shell.words import escape_markdown

with chrome.page("Token routing"):
    if traces := recordings.without_checkpoint():
        recorded.draw(traces)
        missing.end()

    try:
        models = library.models()
    except library.Missing as error:  # perhaps too large for this machine; its recording is not
        if not (traces := recordings.of_shown()):
            raise
        st.info(escape_markdown(error.sentence), icon=":material/visibility_off:")
        recorded.draw(traces)
        missing.end()

    found = mixed.found(models)
    if isinstance(found, mixed.Beside):
        mixed.draw(found)
        missing.end()
    models = found

    documents = library.documents()
    headline = st.container()
    chosen = page.choose_text(documents)
    if chosen is None:
        missing.end()
    read = reading.read(models, chosen)
    with headline:
        page.answer(read)
    reading.cut_notice(read)
    others = matching.of_models(models.of(read.runs), documents) if len(read.runs) > 1 else None
    view.explore(read, others)
