"""Subset ablation page: what the models write after the document's first half, whole and cut."""

import streamlit as st

from emo_viz.ui.ablation import page
from emo_viz.ui.ablation.page import Choice, Live, Study
from emo_viz.ui.parts.together import name
from emo_viz.ui.shell.words import count

SHOWN_PROMPT = 240  # characters


@st.fragment
def continuations(study: Study, choice: Choice, live: Live) -> None:
    """What each model writes after the first half of the document, with and without the cut.

    Last on the page: it is slower than the rest, and a new choice ends it.
    """
    prompt = live.token_ids[: max(1, len(live.token_ids) // 2)]
    st.markdown("### What the models write next")
    st.caption(
        f"Prompt: the first {count(len(prompt) - 1, 'token')} of the document. Each model goes on "
        f"with its likeliest {page.NEW_TOKENS} tokens (greedy decoding)."
    )
    with st.container(border=True):
        st.text(_ending("".join(live.pieces[: len(prompt)])))
        goes_on = "".join(live.pieces[len(prompt) : len(prompt) + page.NEW_TOKENS])
        st.caption("The document itself goes on:")
        st.text(goes_on or "(it ends here)")
    places = []
    for kept in dict.fromkeys((study.num_experts, choice.keep_k)):
        columns = st.columns(len(study.runs), gap="medium")
        for column, loaded in zip(columns, study.models, strict=True):
            whole = kept == study.num_experts
            with column.container(border=True, height="stretch"):
                every = "all " if whole else ""
                words = study.kept_in_words(loaded.run, kept)
                st.markdown(f"**{name(study.runs[loaded.run])}**, {every}{words} experts")
                experts = () if whole else live.subsets[loaded.run].experts
                places.append((loaded, experts, st.empty()))
    for loaded, experts, place in places:
        with place, st.spinner("Writing …"):
            text = page.continuation(loaded, loaded.key, prompt, experts)
        place.text(text or "(it ends the text at once)")


def _ending(prompt: str) -> str:
    """The last characters of a prompt; an ellipsis where there are more before them."""
    return prompt if len(prompt) <= SHOWN_PROMPT else "… " + prompt[-SHOWN_PROMPT:]
