"""Subset ablation page: measuring in the background on request, with progress and a stop."""

import math

import streamlit as st

from emo_viz.server import measurements
from emo_viz.server.jobs import Job
from emo_viz.server.library import Models
from emo_viz.ui.shell.words import count, escape_markdown

LONG = 100  # seconds: from here on the time left is given in minutes


def all_curves(models: Models, label: str) -> None:
    """Measure every domain with every method; the stored curves stay until the new are whole."""
    job = measurements.find(models)
    if job is not None and job.running:
        watch(job, "Measuring all curves")
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        if st.button(
            label,
            icon=":material/refresh:",
            help="Every model on every held-out document, with every method: many minutes, in "
            "the background. It can be stopped and goes on from there later; the stored curves "
            "are replaced only when all is measured.",
        ):
            _start(models)
        _stopped(job, measurements.kept_parts(models))
        failure(job)


def _stopped(job: Job | None, kept: int) -> None:
    """What a stopped measurement has left; one of another server or of the command counts too."""
    stopped = job is not None and job.cancelled
    if stopped or kept:
        begun = "Stopped" if stopped else "Begun earlier"
        st.caption(f"{begun}; {count(kept, 'finished part')} kept to go on from.")


def watch(job: Job, what: str) -> None:
    """The progress of a running job, looked at every second, and the button that stops it."""
    st.fragment(_progress, run_every=1.0)(job, what)


def failure(job: Job | None) -> None:
    """Why a job has failed, if it has."""
    if job is not None and job.error is not None:
        reason = escape_markdown(str(job.error))
        st.error(f"The measurement failed: {reason}", icon=":material/error:")


def _start(models: Models) -> None:
    try:
        measurements.start(models)
    except ValueError as error:
        st.error(escape_markdown(str(error)), icon=":material/error:")
    else:
        st.rerun()


def _progress(job: Job, what: str) -> None:
    if not job.running:
        st.rerun()
    done = f"{job.done:,} of {job.total:,} passes" if job.total else "the first pass"
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.progress(job.share, f"{what}: {done}{_time_left(job.seconds_left)}", width=420)
        if st.button("Stop", icon=":material/stop_circle:", disabled=job.cancelled):
            job.cancel()


def _time_left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < LONG:
        return f", about {math.ceil(seconds)} s left"
    return f", about {math.ceil(seconds / 60)} min left"
