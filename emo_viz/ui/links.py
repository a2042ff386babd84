"""State in the address that no single widget can hold by `bind`: long labels, long texts."""

from collections.abc import Container

import streamlit as st


def follow(param: str, key: str, known: Container[str] | None = None) -> str | None:
    """Let the address set the widget `key` before it is drawn.

    It does so on a first visit and when the visitor goes back or forward, but never against what
    the visitor has just chosen in the widget. Returns the value asked for if it is not among
    `known` (and was ignored), else None.
    """
    asked = st.query_params.get(param)
    if asked is None or (key in st.session_state and asked == st.session_state.get(_memo(param))):
        return None
    if known is not None and asked not in known:
        return asked
    st.session_state[key] = asked
    return None


def write(param: str, value: str | None) -> None:
    """Put the value into the address, or take the parameter out of it."""
    st.session_state[_memo(param)] = value
    if value is None:
        st.query_params.pop(param, None)
    elif st.query_params.get(param) != value:
        st.query_params[param] = value


def _memo(param: str) -> str:
    return f"{param}_in_address"
