"""Experts page: all experts of the runs in one picture and one table, or one of them."""

import streamlit as st

from emo_viz.ui.experts import effects, one, state, table
from emo_viz.ui.parts.known import Data, load
from emo_viz.ui.parts.together import name


def show() -> None:
    """The page."""
    data = load()
    known, place = state.chosen(data)
    data.say_left_out()
    if place is None:
        table.show(data)
    else:
        one.show(data, known, place)
    _say_stale(data)


def _say_stale(data: Data) -> None:
    """Which files are not shown, and why."""
    for known in data.known.values():
        for sentence in filter(None, (known.said, effects.why_not(known))):
            st.warning(f"{name(known.run)}: {sentence}", icon=":material/history:")
