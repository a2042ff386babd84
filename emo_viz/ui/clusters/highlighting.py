"""Clusters page: what is highlighted; the rest recedes, and nothing changes its colour."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from emo_viz.ui.shell import links
from emo_viz.ui.shell.address import several_of
from emo_viz.ui.shell.words import count

MOST_HIGHLIGHTED = 10


def title(usual: str, **asked: tuple[str, Sequence[str]]) -> str:
    """What opens the choice says of it: "Highlight: 2 domains, 1 token"; as usual for none.

    asked: by what is highlighted ("domain"), the key and the options of its `highlight`.
    """
    chosen = {what: _chosen(what, *each) for what, each in asked.items()}
    parts = [count(number, what) for what, number in chosen.items() if number]
    return f"Highlight: {', '.join(parts)}" if parts else usual


def _chosen(what: str, key: str, options: Sequence[str]) -> int:
    links.enter(key, several_of(what, options, MOST_HIGHLIGHTED), [])
    return len(st.session_state[key])


def highlight(
    place: Any, what: str, options: Sequence[str], all_of_them: str, key: str
) -> tuple[str, ...]:
    """Names to highlight, none for all of them; also in the address. what: "domain"."""
    return links.several(
        place,
        what,
        f"Highlight {what}s",
        options,
        MOST_HIGHLIGHTED,
        key,
        placeholder=all_of_them,
        width=320,
    )
