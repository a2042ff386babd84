"""What the server keeps, for all visitors or for one: the one place here that knows Streamlit, but
for `lighter`, which mends it."""

from collections.abc import Callable, MutableMapping
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import streamlit as st
from streamlit import runtime

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Kept(Protocol[P, R_co]):
    """A function whose results are kept."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co: ...

    def clear(self) -> None:
        """Forget them all."""


def for_all(most: int, said: str = "") -> Callable[[Callable[P, R]], Kept[P, R]]:
    """A function whose results are kept for all visitors, by its arguments but those whose names
    begin with _, the last `most` of them. They are shared: nobody writes into them.

    said: what a visitor reads who waits for it.
    """
    keep = st.cache_resource(max_entries=most, show_spinner=said or False)
    return cast("Callable[[Callable[P, R]], Kept[P, R]]", keep)


def for_visitor() -> MutableMapping[Any, Any]:
    """What is kept for the visitor whose page is being drawn."""
    return cast("MutableMapping[Any, Any]", st.session_state)


def visitors() -> int:
    """Sessions that this server holds, some perhaps of visitors who have just left."""
    return len(runtime.get_instance()._session_mgr.list_sessions()) if runtime.exists() else 0
