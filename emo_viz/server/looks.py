"""One look at the disk for each drawing of a page.

A page asks again and again which runs are here and what stands in their files; answering takes a
visit to each file, and half of a page's time went into asking. While a page is drawn every such
question is put to the disk once. Outside of a drawing it is put each time.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")
_seen: ContextVar[dict[Hashable, Any] | None] = ContextVar("looks_seen", default=None)


@contextmanager
def one() -> Iterator[None]:
    """Around the drawing of a page: what was seen counts until it is drawn."""
    before = _seen.set({})
    try:
        yield
    finally:
        _seen.reset(before)


def again() -> None:
    """Files were changed while the page is drawn: what was seen no longer counts."""
    seen = _seen.get()
    if seen is not None:
        seen.clear()


def once(ask: Callable[Asked, Answer]) -> Callable[Asked, Answer]:
    """`ask`, put to the disk once a look for the same arguments, which can be hashed.

    What it returns is shared with whoever asks next. What it raises is not kept.
    """

    @wraps(ask)
    def asked(*arguments: Asked.args, **named: Asked.kwargs) -> Answer:
        seen = _seen.get()
        if seen is None:
            return ask(*arguments, **named)
        key = (ask, arguments, tuple(sorted(named.items())))
        if key not in seen:
            seen[key] = ask(*arguments, **named)
        answer: Answer = seen[key]
        return answer

    return asked
