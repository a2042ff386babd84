"""Which runs a page shows: both, where they can stand side by side, else the one that is chosen."""

from collections.abc import Callable, Sequence

import streamlit as st

from emo_viz.analysis.runs import Aspect, Comparison, Run
from emo_viz.server import commands
from emo_viz.server.library import Recorded
from emo_viz.ui.shell import links, missing, routes
from emo_viz.ui.shell.words import escape_markdown


def shown(runs: Comparison, *aspects: Aspect) -> Comparison:
    """The runs as they are; or, where they do not compare in one of the aspects, one of them.

    Then a sentence says why, and the visitor chooses.
    """
    said = next((sentence for sentence in map(runs.why_not, aspects) if sentence), "")
    if not said:
        return runs
    return one_of_them(runs, said)


def one_of_them(runs: Comparison, why: str) -> Comparison:
    """The one of two runs that the visitor chooses. why: they do not stand side by side."""
    st.info(f"{escape_markdown(why)} One of them is shown.", icon=":material/compare_arrows:")
    labels = runs.labels
    return runs.only(
        links.choice(st, "Run", runs.ids, routes.RUN, said=str, format_func=labels.__getitem__)
    )


def say_left_out(sentences: Sequence[str]) -> None:
    """Why runs are not shown."""
    for sentence in sentences:
        st.info(escape_markdown(sentence), icon=":material/visibility_off:")


def say_unrecorded(recorded: Recorded) -> None:
    """Which runs have no recording and are not shown, and what makes one."""
    say_left_out(recorded.left_out)
    if recorded.unrecorded:
        missing.mend(commands.each(commands.RECORD, recorded.unrecorded))


def name(run: Run) -> str:
    """What a run is called, safe for Markdown."""
    return escape_markdown(run.label)


def in_each(runs: Comparison, value: Callable[[str], str]) -> str:
    """ "0.63 in EMO, 0.32 in Standard MoE"; value: Markdown for a run's id."""
    return ", ".join(f"{value(run.id)} in {name(run)}" for run in runs)


def less(runs: Comparison) -> str:
    """ "EMO less Standard MoE" """
    return " less ".join(map(name, runs))
