"""Gathering what tokens say of the experts, in the background on request."""

from collections.abc import Iterable
from typing import Any

import streamlit as st

from emo_viz.server import expert_facts
from emo_viz.server.library import Missing
from emo_viz.ui.parts import progress
from emo_viz.ui.parts.known import Known
from emo_viz.ui.parts.together import name
from emo_viz.ui.shell.words import escape_markdown


def offer(place: Any, runs: Iterable[Known]) -> None:
    """A button for each run whose tokens nobody has gathered, or how far it is."""
    for known in runs:
        job = expert_facts.find(known.run)
        if job is not None and job.running:
            progress.watch(job, f"Tokens of {known.run.label}", "documents")
            continue
        progress.failure(job, f"Reading the tokens of {known.run.label}")
        if known.tokens is not None:
            continue
        if not expert_facts.can_gather(known.run):
            st.caption(
                f"{name(known.run)}: enriched tokens, contexts and partners are not known, "
                "because the recording has no tokens and there is no checkpoint to read any; "
                "record it again with --level tokens."
            )
        elif place.button(
            f"Read the tokens of {escape_markdown(known.run.label)}",
            icon=":material/manage_search:",
            key=f"gather_{known.run.id}",
            help="Finds enriched tokens, contexts, partners and the flow between layers: about a "
            "minute for 1,000 documents of a small model, in the background.",
        ):
            _start(known.run)


def _start(run: Any) -> None:
    try:
        expert_facts.gather(run)
    except Missing as error:
        st.error(escape_markdown(error.sentence), icon=":material/error:")
    else:
        st.rerun()
