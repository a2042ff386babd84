"""A visit as a small JSON file: the page, the slots, and what is chosen on every page, by address.

    {"emo_viz_session": 1, "page": "Token routing", "addresses": {"Token routing": {"a": ["x"]}}}

What an opened file asks for goes through the address like a link's, so that whatever is no longer
here is said in a sentence.
"""

import json
from collections.abc import Mapping
from typing import Any

import streamlit as st

from emo_viz.ui.shell import links, routes

VERSION = 1
MOST_BYTES = 1_000_000
NO_SESSION = "This is no session file of EMO Viz; nothing was changed."
TOO_LARGE = f"A session file has at most {MOST_BYTES // 1000:,} kB; nothing was changed."
_PROBLEM, _OPENED, _TRIED = "session_problem", "session_opened", "session_tried"

RENAMED = {"EMO Viz": "Overview"}  # what pages were called when older files were saved

Addresses = dict[str, dict[str, list[str]]]


def text(page: str, addresses: Addresses) -> str:
    """The file of a visit; page: the name of the page that it opens."""
    fields = {"emo_viz_session": VERSION, "page": page, "addresses": addresses}
    return json.dumps(fields, ensure_ascii=False, indent=1)


def read(data: bytes) -> tuple[str, Addresses]:
    """The page and the addresses of a file. Raises ValueError with a sentence for the visitor."""
    if len(data) > MOST_BYTES:
        raise ValueError(TOO_LARGE)
    try:
        fields = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(NO_SESSION) from error
    if not isinstance(fields, dict) or "emo_viz_session" not in fields:
        raise ValueError(NO_SESSION)
    if fields["emo_viz_session"] != VERSION:
        raise ValueError(
            "This session file is of another version of EMO Viz, which is not read; nothing was "
            "changed."
        )
    page, addresses = fields.get("page"), fields.get("addresses")
    if not isinstance(page, str):
        raise ValueError(NO_SESSION)
    return RENAMED.get(page, page), _addresses(addresses)


def controls(page: str) -> None:
    """Draw what saves this visit and opens another; page: where it is."""
    visited = links.visited()  # here: the file is made outside of any visitor's session
    st.download_button(
        "Save session",
        data=lambda: text(page, visited),
        file_name="emo-viz-session.json",
        mime="application/json",
        icon=":material/save:",
        on_click="ignore",
        help="What is chosen on every page, and the runs: open it here or on another machine.",
    )
    key = f"session_file_{st.session_state.get(_TRIED, 0)}"
    st.file_uploader("Open a session", type=["json"], key=key, on_change=_take, args=(key,))
    if problem := st.session_state.get(_PROBLEM):
        st.warning(problem)


def follow(pages: Mapping[str, str]) -> None:
    """Go where a session that was just opened leads. pages: the file of each by its name."""
    if opened := st.session_state.pop(_OPENED, None):
        page, addresses = opened
        here = addresses.pop(page, {})
        links.await_visits(addresses)
        st.switch_page(pages.get(page, routes.HOME), query_params=_pairs(here))


def _take(key: str) -> None:
    """Read the file that the visitor has chosen."""
    file = st.session_state.get(key)
    st.session_state[_PROBLEM] = ""
    if file is None:
        return
    try:
        st.session_state[_OPENED] = read(file.getvalue())
    except ValueError as error:
        st.session_state[_PROBLEM] = str(error)
    st.session_state[_TRIED] = st.session_state.get(_TRIED, 0) + 1


def _pairs(address: Mapping[str, list[str]]) -> list[tuple[str, str]]:
    return [(name, value) for name, values in address.items() for value in values]


def _addresses(found: Any) -> Addresses:
    """What a file says of pages. Raises ValueError if it is not of that form."""
    try:
        texts = {
            RENAMED.get(page, page): {name: list(values) for name, values in address.items()}
            for page, address in found.items()
        }
    except (AttributeError, TypeError) as error:
        raise ValueError(NO_SESSION) from error
    values = [value for address in texts.values() for each in address.values() for value in each]
    if not all(isinstance(value, str) for value in values):
        raise ValueError(NO_SESSION)
    return texts
