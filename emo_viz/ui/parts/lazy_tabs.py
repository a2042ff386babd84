"""Tabs of which only the one that is looked at is made, and which stands in the address."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import streamlit as st

from emo_viz.ui.shell import links
from emo_viz.ui.shell.address import one_of


@dataclass(frozen=True)
class Tab:
    """A tab: its label, what draws it, and its name in the address (as the label, unless given)."""

    label: str
    show: Callable[[], None]
    name: str = ""


def lazy_tabs(key: str, tabs: Sequence[Tab], what: str) -> None:
    """Draw the tabs and what the open one holds. key: of the address; what: a tab in words."""
    names = {tab.label: tab.name or tab.label for tab in tabs}
    kind = one_of(what, list(names), names.__getitem__)
    first = tabs[0].label
    links.enter(key, kind, first)
    places = st.tabs(list(names), key=key, on_change="rerun", default=st.session_state[key])
    open_label = links.leave(key, kind, st.session_state[key], first)
    for tab, place in zip(tabs, places, strict=True):
        if tab.label == open_label:
            with place:
                tab.show()
