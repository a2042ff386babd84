"""State in the address: whatever a visitor has chosen, so that a link shows the same.

Every parameter goes through here, and its text through `address`. A page opened by a link takes
all its choices from the link; opened from the sidebar, it has those of the visitor's last visit.
Afterwards the visitor's choices count, and what they are is written into the address at the end of
the run, all at once: the browser keeps every change as a step of its history.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import streamlit as st
from streamlit.runtime.scriptrunner import StopException, get_script_run_ctx

from emo_viz.server import looks, warm
from emo_viz.ui.shell import missing, routes
from emo_viz.ui.shell.address import Kind, one_of, quoted, several_of, whole_number

Value = TypeVar("Value")
Option = TypeVar("Option", bound=Hashable)

_PAGE, _VISIT, _LINKED = "address_page", "address_visit", "address_linked"
_OPEN, _PENDING, _WRITTEN = "address_open", "address_pending", "address_written"
_DRAWN, _BEFORE = "address_drawn", "address_drawn_before"
_VISITED, _AWAITED = "address_visited", "address_awaited"  # by page: an address
_TOLD = "address_told"  # what the browser was told last in this visit; it may not know it yet
_HELD = "address_held"  # by name: the control's key, what may be chosen, what is, and the default
NONE_CHOSEN = "none is chosen"
MOST_UNREAD = 20  # parameters that one sentence names
# Where this run says what a link asks for in vain: above the page's rows of controls, not in them.
_problems: ContextVar[Any] = ContextVar("address_problems", default=st)


@contextmanager
def page(name: str) -> Iterator[None]:
    """Around all of a page: reads the address at its beginning, writes it at its end."""
    state = st.session_state
    if state.get(_PAGE) != name or went_back():
        _arrive(name)
    state[_OPEN], state[_PENDING] = True, {}
    arriving = not state[_WRITTEN]
    _problems.set(st.container())
    state[_BEFORE], state[_DRAWN] = state.get(_DRAWN, set()), set()
    try:
        yield
    except StopException:  # a page that has no more to show (`missing.end`)
        _finish(arriving)
        raise
    else:
        _finish(arriving)
    finally:
        state[_OPEN] = False


def _arrive(name: str) -> None:
    """The beginning of a visit."""
    state = st.session_state
    _open_awaited(name)
    linked = any(map(_is_of_page, st.query_params)) or state.get(_PAGE) == name
    state[_VISIT] = state.get(_VISIT, 0) + 1
    state[_PAGE], state[_LINKED], state[_WRITTEN] = name, linked, set()
    state[_HELD], state[_TOLD] = {}, None


def _finish(arriving: bool) -> None:
    """The end of a run of the whole page."""
    if arriving:
        _say_unread()
    _write(whole=True)


def visited() -> dict[str, dict[str, list[str]]]:
    """The last address of every page of this visit; goes on changing with it."""
    found: dict[str, dict[str, list[str]]] = st.session_state.setdefault(_VISITED, {})
    return found


def await_visits(addresses: dict[str, dict[str, list[str]]]) -> None:
    """Have pages open as by these links, whenever they are next opened without one; the next run
    of the script is a visit of its own, wherever it leads."""
    st.session_state[_AWAITED] = addresses
    st.session_state.pop(_PAGE, None)


def _open_awaited(name: str) -> None:
    awaited = st.session_state.get(_AWAITED, {}).pop(name, None)
    if awaited and not any(map(_is_of_page, st.query_params)):
        st.query_params.from_dict(awaited)


@contextmanager
def fragment() -> Iterator[None]:
    """Around the body of a fragment: writes the address when it reruns by itself, and says what
    is missing in the fragment's own place."""
    if st.session_state.get(_OPEN):
        with missing.said():
            yield
        return
    st.session_state[_PENDING] = {}
    with looks.one(), warm.drawing(), missing.said():
        yield
    _write(whole=False)


def choice(
    place: Any,
    label: str,
    options: Sequence[Option],
    key: str,
    default: Option | None = None,
    what: str = "",
    said: Callable[[Option], str] | None = None,
    **how: Any,
) -> Option:
    """One of a few options as buttons in `place`; at first the first one.

    place: `st` or a container of it. what: an option in words, if not as the label says. said: an
    option in an address, if not as its button says. how: more arguments of `st.segmented_control`.
    """
    first = options[0] if default is None else default
    kind = one_of(what or label.lower(), options, said or how.get("format_func", str))
    enter(key, kind, first)
    chosen: Option = place.segmented_control(label, options, required=True, key=key, **how)
    return leave(key, kind, chosen, first)


def select(
    place: Any,
    label: str,
    options: Sequence[Option],
    key: str,
    what: str = "",
    default: Option | None = None,
    **how: Any,
) -> Option:
    """One of many options in a list; at first the first one. Arguments as of `choice`."""
    first = options[0] if default is None else default
    kind = one_of(what or label.lower(), options, how.get("format_func", str))
    enter(key, kind, first)
    chosen: Option = place.selectbox(label, options, key=key, **how)
    return leave(key, kind, chosen, first)


def select_or_none(
    place: Any, what: str, label: str, options: Sequence[Option], key: str, **how: Any
) -> Option | None:
    """One of many options, at first none of them. what: one of them, in words."""
    kind = one_of(what, options, how.get("format_func", str), NONE_CHOSEN)
    enter(key, kind, None)
    chosen: Option | None = place.selectbox(label, options, index=None, key=key, **how)
    return leave(key, kind, chosen, None)


def several(
    place: Any, what: str, label: str, options: Sequence[str], most: int, key: str, **how: Any
) -> tuple[str, ...]:
    """Up to `most` of some options, at first none. what: one of them, in words."""
    kind = several_of(what, options, most)
    enter(key, kind, [])
    chosen = place.multiselect(label, options, max_selections=most, key=key, **how)
    return tuple(leave(key, kind, list(chosen), []))


def slider(
    place: Any,
    label: str,
    low: int,
    high: int,
    usual: int,
    key: str,
    **how: Any,
) -> int:
    """A whole number from low to high, at first `usual`. label: a unit may follow a comma."""
    kind = whole_number(label.lower().split(",")[0], low, high)
    enter(key, kind, usual)
    if low == high:  # Streamlit has no slider with one place
        return leave(key, kind, low, usual)
    chosen: int = place.slider(label, low, high, key=key, **how)
    return leave(key, kind, chosen, usual)


def token_field(last: int, key: str, width: int) -> int | None:
    """The position of a token, 1 to `last`, at first none; of one that is typed beyond, the last
    is taken, and it is said. (A field that knows its end turns red and says nothing.)"""

    def keep_inside() -> None:
        if (st.session_state[key] or 0) > last:
            st.toast(f"There is no token {st.session_state[key]:,} here: {last:,} is the last.")
            st.session_state[key] = last

    kind = whole_number("token", 1, last, NONE_CHOSEN)
    enter(key, kind, None)
    chosen = st.number_input(
        "Token",
        1,
        value=None,
        key=key,
        on_change=keep_inside,
        placeholder="none",
        width=width,
        help="Position in the text. Or click a token; in the text, the arrow keys move it and Esc "
        "clears it.",
    )
    return leave(key, kind, chosen, None)


def token(key: str, tokens: int) -> int | None:
    """The position, 1 to `tokens`, that a click (session state) or the address has chosen."""
    chosen: int | None = value(key, whole_number("token", 1, tokens, NONE_CHOSEN), None)
    return chosen


def value(key: str, kind: Kind[Any], default: Any) -> Any:
    """A value that no widget holds but the session state."""
    enter(key, kind, default)
    return leave(key, kind, st.session_state[key], default)


def enter(key: str, kind: Kind[Any], default: Any, param: str | None = None) -> None:
    """Give the widget `key` its value before it is drawn: the link's, the last one, or `default`.

    param: its name in the address, if it is another one. What the link asks for in vain is said.
    """
    state = st.session_state
    arriving = state.get(_VISIT) != state.get(_seen(key))
    if arriving:
        state[_seen(key)] = state.get(_VISIT)
        chosen = _arriving(key, kind, default, param or key)
    else:  # Streamlit forgets a widget that was not drawn for a while
        chosen = state.get(key, state.get(_kept(key), default))
    if chosen != default and not kind.fits(chosen):
        chosen = default
    reappears = _reappears(key)  # asked of every run: it notes that this one draws the widget
    if arriving or reappears or key not in state or state[key] != chosen:
        state[key] = chosen  # and the browser is told, even if it has another choice by now


def warn(sentence: str) -> None:
    """Say something above the page, where it says what a link asks for in vain."""
    _problems.get().warning(sentence)


def leave(
    key: str, kind: Kind[Any], chosen: Value, default: Any, param: str | None = None
) -> Value:
    """Keep what the widget `key` holds, for the address and for the next visit; returns it."""
    st.session_state[_kept(key)] = chosen
    plain = chosen is None or chosen == default and not kind.always
    texts = [] if plain else kind.write(chosen)
    st.session_state.setdefault(_PENDING, {})[param or key] = texts
    st.session_state.setdefault(_HELD, {})[param or key] = (key, kind, chosen, default)
    return chosen


def held() -> dict[str, tuple[Kind[Any], Any, Any]]:
    """Every control of the page by its name in the address: what may be chosen, what is, and the
    default; also those that this run has not come to yet."""
    found = {}
    for name, (key, kind, chosen, default) in st.session_state.get(_HELD, {}).items():
        now = st.session_state.get(key, chosen)
        found[name] = (kind, now if now is None or kind.fits(now) else chosen, default)
    return found


def _arriving(key: str, kind: Kind[Any], default: Any, param: str) -> Any:
    """The value at the beginning of a visit."""
    asked = st.query_params.get_all(param)
    if asked:
        found = kind.read(asked)
        if found.problem:
            warn(found.problem)
        return default if found.value is None else found.value
    if st.session_state.get(_LINKED) and not kind.lasting:
        return default
    return st.session_state.get(key, st.session_state.get(_kept(key), default))


def _reappears(key: str) -> bool:
    """Whether a widget was not drawn in the last run: the browser does not know its value."""
    now = st.session_state.setdefault(_DRAWN, set())
    before = key in now or key in st.session_state.get(_BEFORE, ())
    now.add(key)
    return not before


def _write(whole: bool) -> None:
    """The choices of this run into the address, in one step; a `whole` run leaves no others.

    A choice that was made before the browser heard of the one before brings an older address: what
    is on its way there counts, and is followed by this one, though the browser may have it now.
    """
    state = st.session_state
    pending: dict[str, list[str]] = state[_PENDING]
    now = {name: st.query_params.get_all(name) for name in st.query_params}
    told = now if state.get(_TOLD) is None else state[_TOLD]
    gone = state.get(_WRITTEN, set()) - pending.keys() if whole else set()
    then = {name: texts for name, texts in (told | pending).items() if texts and name not in gone}
    state[_WRITTEN] = state.get(_WRITTEN, set()) | pending.keys()
    if whole:
        state[_HELD] = {name: held for name, held in state[_HELD].items() if name in pending}
    state.setdefault(_VISITED, {})[state.get(_PAGE, "")] = then
    if not now == told == then:
        st.query_params.from_dict(then)
        state[_TOLD] = then


def _say_unread() -> None:
    """What a link asks for that nothing in the view reads: it stays in the address, for a view
    of the page that does."""
    unread = [name for name in st.query_params if name not in st.session_state[_PENDING]]
    if unread:
        asked = " and ".join(
            f"{quoted(name)} ({', '.join(map(_said, st.query_params.get_all(name)))})"
            for name in unread[:MOST_UNREAD]
        )
        more = f" and {len(unread) - MOST_UNREAD:,} more" if unread[MOST_UNREAD:] else ""
        warn(f"The link also asks for {asked}{more}, which this view does not use.")


def _said(value: str) -> str:
    return quoted(value) if value else "nothing"


def _is_of_page(name: str) -> bool:
    """Whether a parameter is a page's own: the runs and the large type are of all pages."""
    return name not in (routes.SLOT_A, routes.SLOT_B, routes.PRESENT)


def went_back() -> bool:
    """Whether this run is a step back or forward in the browser's history: the address counts."""
    context = get_script_run_ctx()
    return bool(getattr(context, "is_history_navigation", False))


def _seen(key: str) -> str:
    return f"{key}_seen"


def _kept(key: str) -> str:
    return f"{key}_kept"
