"""Library page: adding a run, from a checkpoint folder, the hub, or another tool's routing file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamlit as st

from emo_viz.server import home, making
from emo_viz.server.jobs import Job, registry
from emo_viz.ui.parts import progress
from emo_viz.ui.shell import slots
from emo_viz.ui.shell.words import escape_markdown

FOLDER, HUB, FILE = "Checkpoint folder", "Hugging Face hub", "Routing file"
IN_CACHE = (
    " What has arrived of the checkpoint stays in the Hugging Face cache, and is not fetched again."
)
_JOB, _SAID, _ADDED = "library_job", "library_said", "library_added"


def popover() -> None:
    """The way to add a run."""
    # Another key is another popover, which is closed: it has done what it was opened for.
    number = st.session_state.get(_ADDED, 0)
    with st.popover("Add a run", icon=":material/add:", key=f"library_add_{number}"):
        way = st.segmented_control(
            "From", [FOLDER, HUB, FILE], default=FOLDER, required=True, key="library_way"
        )
        {FOLDER: _folder, HUB: _hub, FILE: _file}[way]()


def watch() -> None:
    """What is being added, and what came of it."""
    if said := st.session_state.pop(_SAID, ""):
        st.success(said, icon=":material/check:")
    key = st.session_state.get(_JOB)
    job = registry().find(key) if key else None
    if job is None:
        return
    fetched = making.FETCH in str(key).split("|")
    if job.running:
        _watch(job, fetched)
        return
    del st.session_state[_JOB]
    if job.cancelled and job.result is None:
        st.info(f"Stopped; nothing was added.{IN_CACHE if fetched else ''}")
    elif job.error is not None:
        st.error(f"Nothing was added: {escape_markdown(str(job.error))}", icon=":material/error:")
    elif isinstance(job.result, str):
        _added(job.result)


def _watch(job: Job, fetched: bool) -> None:
    what, noun = ("Fetching the checkpoint", "MB") if fetched else ("Adding the run", "documents")
    progress.watch(job, what, noun)


def _folder() -> None:
    path = st.text_input("Folder", key="library_folder", placeholder="/models/OLMoE-1B-7B")
    st.caption("With config.json and .safetensors files. It is read where it lies, never copied.")
    if st.button("Add the folder", disabled=not path.strip()):
        _tried(lambda: _add_folder(path))


def _add_folder(path: str) -> None:
    if known := making.listed(path):
        _put(known, f"{escape_markdown(known)} is this folder already, and stands in slot A.")
    else:
        _added(making.add_folder(path))


def _hub() -> None:
    name = st.text_input("Name on the hub", key="library_hub", placeholder="owner/model")
    st.caption(
        "What is not in the Hugging Face cache of this machine is fetched. It can be stopped, and "
        "goes on from there when it is asked for again."
    )
    if st.button("Fetch and add", disabled=not name.strip()):
        _tried(lambda: _started(making.add_hub(name)))


def _file() -> None:
    uploaded = st.file_uploader("File", key="library_upload")
    path = st.text_input("Or its path on this machine", key="library_file")
    name = st.text_input("Name of the run", key="library_name", placeholder="as in the file")
    with st.container(horizontal=True):
        layers, top_k, experts = (
            st.number_input(label, 1, None, value=None, key=key, width=120)
            for label, key in (
                ("Layers", "library_layers"),
                ("Top-k", "library_top_k"),
                ("Experts", "library_experts"),
            )
        )
    st.caption(
        "What vLLM, SGLang, llama.cpp, Megatron and others write. The three numbers are needed "
        "only where the file does not say them."
    )
    if st.button("Import", disabled=uploaded is None and not path.strip()):
        _tried(
            lambda: _started(
                making.add_file(_given(uploaded, path), name.strip(), top_k, layers, experts)
            )
        )


def _given(uploaded: Any, path: str) -> Path:
    """The file, kept in the user's folder if it was uploaded."""
    if uploaded is None:
        return home.given_path(path)
    return home.upload(uploaded.name, uploaded.getvalue(), "imports")


def _tried(work: Callable[[], None]) -> None:
    try:
        work()
    except ValueError as error:
        st.error(escape_markdown(str(error)), icon=":material/error:")


def _started(key: str) -> None:
    st.session_state[_JOB] = key
    _close()
    st.rerun()


def _added(run: str) -> None:
    """The new run is what its visitor wants to see: it goes to slot A."""
    _put(run, f"{escape_markdown(run)} is added, and stands in slot A.")


def _put(run: str, said: str) -> None:
    st.session_state[_SAID] = said
    slots.put(a=run)
    _close()
    st.rerun()


def _close() -> None:
    """Have the next run draw the popover anew."""
    st.session_state[_ADDED] = st.session_state.get(_ADDED, 0) + 1
