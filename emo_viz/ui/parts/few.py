"""The last few of what takes many documents to make, each made once for all visitors.

Not Streamlit's cache of functions: making shows its progress on the page, and a visitor who chooses
something else ends it.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Few(Generic[Made]):
    """What was made last, `most` of it; to be held in a resource that visitors share."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._made: dict[str, Made] = {}

    def of(self, key: str, make: Callable[[], Made]) -> Made:
        """What is kept by this key, else what `make` returns, which is kept from now on."""
        found = self._made.get(key)
        if found is None:
            found = self._made[key] = make()
            for old in list(self._made)[: -self._most]:
                self._made.pop(old, None)
        return found
