"""State in the address: choices that a widget holds by `bind`, and what no single widget can."""

from collections.abc import Container, Sequence
from typing import Any, TypeVar

import streamlit as st

from emo_viz.ui.text import escape_markdown, shorten

Option = TypeVar("Option")


def choice(
    place: Any,
    label: str,
    options: Sequence[Option],
    key: str,
    default: Option | None = None,
    **how: Any,
) -> Option:
    """One of a few options as buttons in `place`, also in the address; at first the first one.

    place: `st` or a container of it. how: more arguments of `st.segmented_control`.
    """
    chosen: Option = place.segmented_control(
        label,
        options,
        default=options[0] if default is None else default,
        required=True,
        key=key,
        bind="query-params",
        **how,
    )
    return chosen


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


def unfilter(param: str, key: str, everything: str) -> None:
    """Set the widget `key` to `everything` when a link asks for something in `param` without it.

    Streamlit keeps what was chosen on an earlier visit to the page, and it could hide just that.
    """
    asked = st.query_params.get(param)
    followed = asked is not None and asked != st.session_state.get(_memo(param))
    if followed and key not in st.query_params and key in st.session_state:
        st.session_state[key] = everything


def write(param: str, value: str | None) -> None:
    """Put the value into the address, or take the parameter out of it."""
    st.session_state[_memo(param)] = value
    if value is None:
        st.query_params.pop(param, None)
    elif st.query_params.get(param) != value:
        st.query_params[param] = value


def open_document(param: str, chosen: str, token: str) -> None:
    """Put the open document into the address; a `token` chosen in another one is let go.

    The token first: the browser keeps every change as a step of its history, and one step back
    from a new document must be the old one.
    """
    if st.query_params.get(param) not in (None, chosen):
        st.session_state[token] = None
        write(token, None)
    write(param, chosen)


def open_token(param: str, document: str, token: str, position: int) -> None:
    """Open a document at one of its tokens, as one step of the browser's history."""
    values = {param: document, token: str(position)}
    for name, value in values.items():
        st.session_state[name] = st.session_state[_memo(name)] = value
    st.query_params.update(values)


def token(param: str, tokens: int) -> int | None:
    """The position, 1 to `tokens`, that a click (session state) or the address has chosen."""
    asked = st.query_params.get(param)
    if asked != st.session_state.get(_memo(param)):
        warn_of_unknown(param, positions(tokens), "token")
        st.session_state[param] = asked
    text = str(st.session_state.get(param))
    known = text in positions(tokens)
    write(param, text if known else None)
    return int(text) if known else None


def positions(tokens: int) -> set[str]:
    """The positions of a text's tokens as an address writes them."""
    return {str(position) for position in range(1, tokens + 1)}


def warn_of_unknown(param: str, known: Container[str], what: str) -> None:
    """Say that a link asks for a `what` that is not `known`; its widget shows another one."""
    for asked in st.query_params.get_all(param):
        if asked not in known:
            st.warning(
                f"The link asks for the {what} {escape_markdown(shorten(asked, 60))}, which is not "
                "here; this shows another one."
            )


def _memo(param: str) -> str:
    return f"{param}_in_address"
