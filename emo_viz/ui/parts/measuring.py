"""Subset ablation page: measuring in the background on request, with progress and a stop."""

import time
from collections.abc import Mapping

import numpy as np
import streamlit as st

from emo_viz.analysis import ablation
from emo_viz.server import measurements
from emo_viz.server.jobs import Job
from emo_viz.server.library import LoadedModel, Models
from emo_viz.ui.parts import opened, progress
from emo_viz.ui.parts.work import run_exclusive
from emo_viz.ui.shell.words import count, escape_markdown


def all_curves(models: Models, label: str) -> None:
    """Measure every domain with every method; the stored curves stay until the new are whole."""
    job = measurements.find(models)
    if job is not None and job.running:
        progress.watch(job, "Measuring all curves")
        return
    passes = measurements.passes(models)
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if st.button(
            label,
            icon=":material/refresh:",
            help="Every model on every held-out document, with every method: "
            f"{_in_all(passes)}, many minutes, in the background. It can be stopped and goes on "
            "from there later; the stored curves are replaced only when all is measured.",
        ):
            _start(models)
        how_long(models, passes)
        _stopped(job, measurements.kept_parts(models))
        progress.failure(job, "The measurement")


def _stopped(job: Job | None, kept: int) -> None:
    """What a stopped measurement has left; one of another server or of the command counts too."""
    stopped = job is not None and job.cancelled
    if stopped or kept:
        begun = "Stopped" if stopped else "Begun earlier"
        st.caption(f"{begun}; {count(kept, 'finished part')} kept to go on from.")


def _start(models: Models) -> None:
    try:
        measurements.start(models)
    except ValueError as error:
        st.error(escape_markdown(str(error)), icon=":material/error:")
    else:
        st.rerun()


def how_long(models: Models, passes: Mapping[str, int]) -> None:
    """Says once it is asked for how long so many passes of each run take: it takes one to tell."""
    asked = st.popover(
        "How long?", icon=":material/timer:", key="measuring_time", on_change="rerun"
    )
    if opened.is_open(asked):
        asked.caption(_estimate(models, passes))


def _estimate(models: Models, passes: Mapping[str, int]) -> str:
    """From how long one pass took just now."""
    asked = [one for one in models if passes.get(one.run)]
    seconds = sum(passes[one.run] * _pass_seconds(one, one.key) for one in asked)
    took = f"{max(1, round(seconds))} s" if seconds < 100 else f"{round(seconds / 60)} min"
    return f"{_in_all(passes)}: about {took} on this machine."


def _in_all(passes: Mapping[str, int]) -> str:
    return f"{sum(passes.values()):,} passes over a document"


@st.cache_resource(max_entries=16, show_spinner=False)
def _pass_seconds(_loaded: LoadedModel, key: str) -> float:
    """How long one document of the longest kind takes a model here: timed once."""
    length = _loaded.live.most_tokens(ablation.MAX_TOKENS)
    token_ids = np.full(length, _loaded.live.opening, np.int64)
    with run_exclusive(_loaded):
        started = time.perf_counter()
        _loaded.live.losses(token_ids)
    return time.perf_counter() - started
