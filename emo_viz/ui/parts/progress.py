"""Long work in the background as a page shows it: how far it is, its stop, and why it failed."""

import math

import streamlit as st

from emo_viz.server.jobs import Job
from emo_viz.ui.shell.words import escape_markdown

LONG = 100  # seconds: from here on the time left is given in minutes


def watch(job: Job, what: str, noun: str = "passes") -> None:
    """The progress of a running job, looked at every second, and the button that stops it."""
    st.fragment(_progress, run_every=1.0)(job, what, noun)


def failure(job: Job | None, what: str) -> None:
    """Why a job has failed, if it has. what: "The measurement"."""
    if job is not None and job.error is not None:
        reason = escape_markdown(str(job.error))
        st.error(f"{escape_markdown(what)} failed: {reason}", icon=":material/error:")


def _progress(job: Job, what: str, noun: str) -> None:
    if not job.running:
        st.rerun()
    done = f"{job.done:,} of {job.total:,} {noun}" if job.total else "about to begin"
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        said = f"{escape_markdown(what)}: {done}{_time_left(job.seconds_left)}"
        st.progress(job.share, said, width=420)
        key = f"stop_{id(job)}"  # several can be on a page
        if st.button("Stop", icon=":material/stop_circle:", disabled=job.cancelled, key=key):
            job.cancel()


def _time_left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < LONG:
        return f", about {math.ceil(seconds)} s left"
    return f", about {math.ceil(seconds / 60)} min left"
