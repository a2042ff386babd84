"""Domains page: six questions about domains and experts, one at a time, for both runs."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import streamlit as st

from emo_viz.server import library
from emo_viz.ui.domains import balance, shared, work
from emo_viz.ui.domains.view import View
from emo_viz.ui.parts import together
from emo_viz.ui.parts.known import load
from emo_viz.ui.parts.together import name
from emo_viz.ui.shell import links, routes


class Question(NamedTuple):
    """A view of the page, and how many domains it needs."""

    draw: Callable[[View], None]
    domains: int = 0


QUESTIONS: Mapping[str, Question] = {
    "Similarity": Question(shared.similarity, domains=2),
    "Coverage": Question(shared.coverage, domains=1),
    "Kept": Question(shared.kept, domains=2),
    "Co-activation": Question(work.together),
    "Flow": Question(work.flow),
    "Balance": Question(balance.show),
}


def show() -> None:
    """The page."""
    data = load()
    headline = st.container()
    row = st.container(horizontal=True, vertical_alignment="bottom", gap="medium")
    asked = links.choice(row, "Show", list(QUESTIONS), routes.DOMAINS_VIEW, what="view")
    question = QUESTIONS[asked]
    data.say_left_out()
    runs = data.runs
    if len(data.known) < len(runs):
        runs = runs.only(next(iter(data.known)))
    if question.domains:
        runs = together.shown(runs, "documents")
        lacking = [run for run in runs if not data.known[run.id].use.domains]
        for each in lacking:
            st.info(
                f"The recording of {name(each)} has no domains; record it on documents with a "
                "domain each.",
                icon=":material/visibility_off:",
            )
        rest = [run.id for run in runs if run not in lacking]
        if not rest:
            return
        runs = runs if not lacking else runs.only(rest[0])
        if min(len(data.known[run.id].use.domains) for run in runs) < question.domains:
            headline.markdown("## All documents are of one domain, so there are no two to compare.")
            return
    known = {run.id: data.known[run.id] for run in runs}
    keys = {run: library.trace_key(run) for run in known}
    question.draw(View(runs, known, keys, headline, row))
