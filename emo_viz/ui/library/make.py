"""Library page: recording and measuring the runs in the slots, in the background."""

from pathlib import Path

import streamlit as st

from emo_viz.analysis.runs import Comparison
from emo_viz.server import assets, home, library, making, measurements
from emo_viz.server.making import Recording, Step
from emo_viz.ui.parts import progress
from emo_viz.ui.shell.words import escape_markdown

HELD_OUT, OTHER = "held-out", "other"
DEVICES = ("cpu", "cuda", "auto")


def show() -> None:
    """What is made of the runs in the slots, and what can be."""
    if not assets.runs():
        return
    runs = library.comparison()
    st.header("Record and measure")
    if said := _only_read(runs):
        st.markdown(said)
        return
    st.markdown(
        f"Of the runs in the slots, {escape_markdown(runs.names)}. One thing at a time is done, in "
        "the background; a recording that was stopped goes on where it was."
    )
    how = _how()
    for step in making.steps(runs, how):
        _draw(step)


def _only_read(runs: Comparison) -> str:
    """That nothing is made of these runs here, and who makes it; "" where something is."""
    if any(assets.place_of(run.id) is None for run in runs):
        return ""
    names, pair = escape_markdown(runs.names), assets.pair_of(runs.first.id)
    if said := measurements.why_not(runs):
        return (
            f"{escape_markdown(said)} Add the checkpoint of one as a run (“Where they lie” has its "
            "folder), put it beside the other, and record it here over the other's documents."
        )
    if pair is None:
        whose = "bundled" if assets.is_bundled(runs.first.id) else "of the assets folder"
        return (
            f"{names}: {whose}, and only read here. Put a run that was added into a slot to record "
            "and measure it."
        )
    return (
        f"{names}: yours, and recorded and measured by `python -m emo_viz analyse`. Put a run that "
        "was added into a slot to record and measure it here."
    )


def _how() -> Recording:
    """Over what and how a run is recorded."""
    with st.popover("Recording options", icon=":material/tune:"):
        whose = library.whose_documents()
        names = {HELD_OUT: f"{whose} held-out documents", OTHER: "A file of your own"}
        chosen = st.radio(
            "Documents", list(names), format_func=names.__getitem__, key="library_documents"
        )
        documents = _own_documents() if chosen == OTHER else None
        limit = st.number_input(
            "Only the first", 1, None, value=None, key="library_limit", placeholder="all"
        )
        device = st.selectbox("Device", DEVICES, key="library_device")
        dtype = st.selectbox("Weights as", library.DTYPES, key="library_dtype")
    return Recording(documents, limit, device, dtype)


def _own_documents() -> Path | None:
    uploaded = st.file_uploader(
        "Parquet, JSONL or CSV with a column text", key="library_documents_upload"
    )
    path: str = st.text_input("Or its path on this machine", key="library_documents_path")
    try:
        if uploaded is not None:
            return home.upload(uploaded.name, uploaded.getvalue())
        return home.given_path(path) if path.strip() else None
    except ValueError as error:
        st.error(escape_markdown(str(error)), icon=":material/error:")
        return None


def _draw(step: Step) -> None:
    job, name = step.job, escape_markdown(step.name)
    if job is not None and job.running:
        progress.watch(job, step.name, step.noun)
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        mark = ":material/check_circle:" if step.there else ":material/radio_button_unchecked:"
        st.markdown(f"{mark} {name}", width=360)
        if not step.why_not:
            verb = f"{step.verb} again" if step.there else step.verb
            if st.button(verb, key=f"library_make_{step.key}", help=f"{verb}: {step.name}"):
                _start(step)
        else:
            st.caption(escape_markdown(step.why_not), width="stretch")
    if job is not None and job.cancelled:
        st.caption("Stopped.")
    progress.failure(job, step.name)


def _start(step: Step) -> None:
    try:
        step.start()
    except (ValueError, library.Missing) as error:
        st.error(escape_markdown(str(error)), icon=":material/error:")
    else:
        st.rerun()
