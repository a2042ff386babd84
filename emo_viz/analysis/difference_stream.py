"""Pairs of documents of two runs, one at a time: they wait in a temporary file, not in memory.

Whatever is compared reads them one after the other, so that memory grows with the documents only by
what is said of each of their tokens.
"""

import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from emo_viz.analysis.difference import (
    Documents,
    Ids,
    Left,
    Pair,
    RoutedDocument,
    left_out,
    pair_of,
)
from emo_viz.analysis.pairs import PairSequence
from emo_viz.analysis.shift import DOCUMENTS, shift_of, shifted

_ARRAYS = ("expert_ids", "gate_weights", "loss", "token_ids")
_OTHER_IDS = "The documents have other ids in each run: they are compared in their order."


@dataclass(frozen=True, eq=False)
class Head:
    """What is known of a pair without reading it. places: as of `Pair`. weights, losses: whether
    the first and the second run have any of it."""

    id: str
    places: Ids
    weights: tuple[bool, bool]
    losses: tuple[bool, bool]


class Pairs(PairSequence):
    """Pairs in a temporary file, which goes with them. Safe to read from several threads."""

    def __init__(self) -> None:
        self.heads: list[Head] = []
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (as long as this lives)
        self._starts: list[int] = []
        self._there: list[tuple[str, ...]] = []
        self._lock = threading.Lock()

    def append(self, pair: Pair) -> None:
        """Put a pair at the end."""
        sides = {"first": pair.first, "second": pair.second}
        parts = {
            f"{side}.{name}": values
            for side, document in sides.items()
            for name in _ARRAYS
            if (values := getattr(document, name)) is not None
        }
        with self._lock:
            self._starts.append(self._file.seek(0, 2))
            self._there.append((pair.second.id, *parts))
            for values in parts.values():
                np.lib.format.write_array(self._file, np.ascontiguousarray(values))
        weights, losses = (
            (getattr(pair.first, name) is not None, getattr(pair.second, name) is not None)
            for name in ("gate_weights", "loss")
        )
        self.heads.append(Head(pair.id, pair.places, weights, losses))

    def __len__(self) -> int:
        return len(self.heads)

    def at(self, place: int) -> Pair:
        head, (other, *names) = self.heads[place], self._there[place]
        found: dict[str, NDArray[Any]] = {}
        with self._lock:
            self._file.seek(self._starts[place])
            for name in names:
                found[name] = np.lib.format.read_array(self._file, allow_pickle=False)
        first, second = (
            RoutedDocument(name, **{part: found.get(f"{side}.{part}") for part in _ARRAYS})  # type: ignore[arg-type]
            for side, name in (("first", head.id), ("second", other))
        )
        return Pair(first, second, head.places)


def paired(documents: Iterable[Documents]) -> tuple[Pairs, list[str]]:
    """Each document of both runs cut to the tokens that both routed, and a sentence for everything
    that was left out or moved.

    documents: of the first and of the second run, one after the other; none is kept. Raises
    ValueError for runs of different layers.
    """
    coming = iter(documents)
    some = list(islice(coming, DOCUMENTS))
    by, said = shift_of(some)
    pairs, left, other_ids = Pairs(), Left(), False
    for one, other in chain(some, coming):
        other_ids |= one.id != other.id
        pair = pair_of(one, shifted(other, by), left)
        if pair is not None:
            pairs.append(pair)
    notes = [_OTHER_IDS] * other_ids + left_out(left)
    return pairs, notes + ([said] if said else [])
