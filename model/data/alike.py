"""Near-duplicates across the splits: training documents that are almost a held-out one.

A document is its set of sequences of WORDS tokens; two are as alike as their sets overlap (the
Jaccard index), as MinHash estimates it (datasketch). With HASHES hashes the estimate is off by
some 0.04, and of the pairs that are just as alike as asked some one in eight is not looked at.
"""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.data.known import new_database

WORDS = 5
HASHES = 128
SEED = 1
TABLES = """
CREATE TABLE signatures (number INTEGER PRIMARY KEY, hashes BLOB);
CREATE TABLE bands (band INTEGER, key BLOB, number INTEGER, PRIMARY KEY (band, key, number)
) WITHOUT ROWID;
"""
NEAR = "SELECT number FROM bands WHERE band = ? AND key = ?"
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd: every token keeps its say in the hash


def sequence_hashes(tokens: NDArray[Any], length: int) -> NDArray[np.uint64]:
    """A hash of every sequence of `length` tokens: uint64 [len - length + 1].

    A polynomial in FACTOR, modulo 2**64; those of long sequences are made of those of short ones.
    """
    count = max(0, len(tokens) - length + 1)
    power, span = tokens.astype(np.uint64) + np.uint64(1), 1  # of sequences of `span` tokens
    total, done = np.zeros(len(tokens), np.uint64), 0  # of the first `done` tokens of each
    while done < length:
        if length & span:
            total = _joined(total, power, done, span) if done else power
            done += span
        power, span = _joined(power, power, span, span), 2 * span
    return total[:count]


def _joined(
    first: NDArray[np.uint64], second: NDArray[np.uint64], at: int, span: int
) -> NDArray[np.uint64]:
    """Hashes of sequences followed, `at` tokens on, by sequences of `span` tokens."""
    count = max(0, len(second) - at)
    return first[:count] * np.uint64(pow(int(FACTOR), span, 2**64)) + second[at:]


def signature(tokens: NDArray[Any]) -> NDArray[np.uint32]:
    """MinHash of a document's sequences of WORDS tokens: uint32 [HASHES]."""
    from datasketch import MinHash

    hashes = np.unique(sequence_hashes(tokens, min(WORDS, max(1, len(tokens)))))
    made = MinHash(HASHES, SEED, hashfunc=int, permutations=_permutations(), scheme="affine32")
    made.update_batch(hashes >> np.uint64(32))
    return np.asarray(made.hashvalues, np.uint32)


@lru_cache(maxsize=1)
def _permutations() -> Any:
    from datasketch import MinHash

    return MinHash(HASHES, SEED, scheme="affine32").permutations


class Alike:
    """The signatures of held-out documents, and whether another is as alike as `threshold`.

    They are in the file that is given ("": one without a name), cut in bands: two documents are
    compared if they share one. How many bands find enough is datasketch's reckoning.
    """

    def __init__(self, threshold: float, file: Path | str = "") -> None:
        from datasketch import MinHashLSH

        self.threshold = threshold
        # Missing a pair is worse than comparing one too many: what is found is compared anyway.
        index = MinHashLSH(threshold, HASHES, weights=(0.1, 0.9))
        self._bands = [slice(at * index.r, (at + 1) * index.r) for at in range(index.b)]
        self._base = new_database(file, TABLES)
        self._base.execute("BEGIN")
        self._size = 0

    def close(self) -> None:
        """Lets go of the file."""
        self._base.close()

    def add(self, signatures: Iterable[NDArray[np.uint32]]) -> None:
        """Remembers held-out documents."""
        for each in signatures:
            number, self._size = self._size, self._size + 1
            self._base.execute("INSERT INTO signatures VALUES (?, ?)", (number, each.tobytes()))
            bands = [(at, each[own].tobytes(), number) for at, own in enumerate(self._bands)]
            self._base.executemany("INSERT INTO bands VALUES (?, ?, ?)", bands)

    def found(self, other: NDArray[np.uint32]) -> bool:
        """Whether a held-out document is as alike to this one, or more."""
        near: set[int] = set()
        for at, own in enumerate(self._bands):
            key = (at, other[own].tobytes())
            near.update(number for (number,) in self._base.execute(NEAR, key))
        return any(np.mean(self._signature(each) == other) >= self.threshold for each in near)

    def _signature(self, number: int) -> NDArray[np.uint32]:
        query = "SELECT hashes FROM signatures WHERE number = ?"
        return np.frombuffer(self._base.execute(query, (number,)).fetchone()[0], np.uint32)
