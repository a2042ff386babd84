"""Experts page: what breaks without an expert, as far as it was measured, and measuring it."""

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.expert_effects import Effects
from emo_viz.server import expert_facts, library
from emo_viz.server.library import Missing
from emo_viz.ui.parts import freshness, progress
from emo_viz.ui.parts.known import Known, Place
from emo_viz.ui.parts.together import name
from emo_viz.ui.shell.words import count, escape_markdown


def of_all(known: Known) -> NDArray[np.float64]:
    """Loss without each expert less that with all, nats a token; NaN where it is not measured."""
    found = _of_file(known)
    if found is None:
        return np.full(len(known.places), np.nan)
    return np.array([found.mean(number, expert) for number, expert in known.places])


def of_one(known: Known, place: Place) -> Effects | None:
    """What was measured of one expert: on request, else what lies beside the run."""
    job = expert_facts.find_effect(known.run, *place)
    if job is not None and job.result is not None:
        measured: Effects = job.result
        return measured
    found = _of_file(known)
    return None if found is None or found.change(*place) is None else found


def say_how(known: Known) -> None:
    """From how much the column of all experts is."""
    found = _of_file(known)
    if found is not None:
        st.caption(
            f"Without it, {name(known.run)}: each expert left out alone, as if it were "
            f"deleted, {count(found.documents, 'document')}, "
            f"{count(int(found.tokens.sum()), 'token')}."
        )


def measure(known: Known, place: Place, found: Effects | None) -> None:
    """The button that measures one expert on more documents, its progress, or why it cannot."""
    if not library.can_run(known.run.id):
        st.caption(
            f"What breaks without it cannot be measured: {name(known.run)} is a recording alone; "
            "add its checkpoint on the page Library."
        )
        return
    job = expert_facts.find_effect(known.run, *place)
    if job is not None and job.running:
        progress.watch(job, "Reading with and without it", "steps")
        return
    progress.failure(job, "The measurement")
    if job is not None and job.result is not None:
        return
    label = "Measure on more documents" if found else "Measure what breaks without it"
    if st.button(
        label,
        icon=":material/science:",
        key="measure_effect",
        help=f"Reads {expert_facts.PER_DOMAIN} documents of every domain twice, with and without "
        "this expert alone; about half a minute for a small model. It can be stopped.",
    ):
        _start(known, place)


def _start(known: Known, place: Place) -> None:
    try:
        expert_facts.measure_effect(known.run, *place)
    except Missing as error:
        st.error(escape_markdown(error.sentence), icon=":material/error:")
    except ValueError:
        st.error(
            f"Layer {place[0]} is not one of those that the checkpoint has; record it again.",
            icon=":material/error:",
        )
    else:
        st.rerun()


def why_not(known: Known) -> str:
    """Why what lies beside the run is not shown, as Markdown; "" if nothing is left out."""
    try:
        found = expert_facts.all_effects(known.run)
        if found is not None:
            freshness.check("What was measured without experts", found.origins)
    except freshness.Stale as error:
        return str(error)
    except ValueError as error:
        return escape_markdown(str(error))
    return ""


def _of_file(known: Known) -> Effects | None:
    return None if why_not(known) else expert_facts.all_effects(known.run)
