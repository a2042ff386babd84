"""Which choice of the browser the server has heard of.

The browser counts what a visitor chooses in a part that it draws, and sends the number along. An
answer that has heard of less is to an earlier choice, and does not undo the later one.
"""

from typing import Any

import streamlit as st


def hear(key: str, event: Any) -> None:
    """Keep the number of a choice, as its event says; key: of the part, or its group."""
    n = event.get("n") if isinstance(event, dict) else None
    if isinstance(n, int):
        st.session_state[_name(key)] = n


def heard(key: str) -> int:
    """The number of the last choice that was heard of, to be told with every answer; 0: none."""
    return int(st.session_state.get(_name(key), 0))


def _name(key: str) -> str:
    return f"{key}_heard"
