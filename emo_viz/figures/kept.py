"""Figures that were drawn before, for whoever asks for the same: by the content of what they show.

Plotly takes longer to check a figure than most pages take for all the rest. A figure is a pure
function of its arguments, so what has been made for one visitor serves all others. It is shared:
nobody may change a figure that a `kept` function returned.
"""

import hashlib
import pickle
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Made = TypeVar("Made")
MOST_BYTES = 48 << 20  # of the arguments of all that is kept; a figure is about as large as they
MOST_OF_ONE = 8 << 20


class Shelf:
    """What was made last, up to so many bytes."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most, self._held = most, 0
        self._made: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: Hashable) -> Any:
        """What is kept by this key, or None."""
        with self._lock:
            if key not in self._made:
                return None
            self._made.move_to_end(key)
            return self._made[key][0]

    def keep(self, key: Hashable, made: Any, size: int) -> None:
        """Keep something of so many bytes, and let go of what has not been asked for longest."""
        with self._lock:
            self._held += size - self._made.pop(key, (None, 0))[1]
            self._made[key] = made, size
            while self._held > self._most:
                self._held -= self._made.popitem(last=False)[1][1]

    def __len__(self) -> int:
        return len(self._made)


_SHELF = Shelf()


def kept(make: Callable[Arguments, Made], shelf: Shelf = _SHELF) -> Callable[Arguments, Made]:
    """`make`, called once for the same arguments; what it returns must not be changed.

    Arguments are the same if they hold the same: arrays, tables, texts, data classes. What cannot
    be told by its content (a function made on the spot) is made anew each time.
    """

    @wraps(make)
    def asked(*arguments: Arguments.args, **named: Arguments.kwargs) -> Made:
        try:
            content = pickle.dumps((arguments, sorted(named.items())), protocol=5)
        except Exception:  # pickle raises whatever the object in hand does
            return make(*arguments, **named)
        if len(content) > MOST_OF_ONE:
            return make(*arguments, **named)
        name = f"{make.__module__}.{make.__qualname__}\n".encode()
        key = hashlib.blake2b(name + content, digest_size=16).digest()
        found: Made | None = shelf.find(key)
        if found is None:
            found = make(*arguments, **named)
            shelf.keep(key, found, len(content))
        return found

    return asked


class _Beside:
    """What was made of objects that are shared and only read, for as long as each lives."""

    def __init__(self) -> None:
        self._made: dict[int, dict[Hashable, Any]] = {}

    def of(self, owner: object) -> dict[Hashable, Any]:
        if id(owner) not in self._made:
            weakref.finalize(owner, self._made.pop, id(owner), None).atexit = False
        return self._made.setdefault(id(owner), {})


_BESIDE = _Beside()


def beside(owner: object, key: Hashable, make: Callable[[], Made]) -> Made:
    """What `make` returns of a shared, read-only `owner`: made once for each key, kept with it.

    For what takes longer to tell by its content than to make. The key says which of its views it
    is, and there are few of them: nothing is let go of before the owner is. Not to be changed.
    """
    made = _BESIDE.of(owner)
    if key not in made:
        made[key] = make()
    found: Made = made[key]
    return found
