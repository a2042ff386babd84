"""What is made only where a visitor has opened it: each element is a message to every visitor.

choice = st.popover("Another document", key="documents", on_change="rerun")
if opened.is_open(choice):
    with choice:
        ...

A popover has as much room as its button leaves it; a dialog has the window.
"""

from collections.abc import Callable
from typing import Any

import streamlit as st


def is_open(container: Any) -> bool:
    """Whether this visitor has opened a popover or expander that was made with `on_change`."""
    return bool(container.open)


def in_dialog(place: Any, label: str, title: str, fill: Callable[[], None], **button: Any) -> None:
    """A button that opens a dialog, which `fill` draws; `button` is what st.button takes."""
    if place.button(label, **button):
        st.dialog(title, width="medium")(fill)()
