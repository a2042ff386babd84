"""How much of a document the training split has too: by sequences of SEQUENCE tokens, hashed.

The hashes go through the disk, in files by their first bits, so that a file's worth is in memory at
a time however long the stream.
"""

import tempfile
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from model.data.alike import sequence_hashes
from model.data.shards import Ids

SEQUENCE = 20
BLOCK = 1 << 18  # training tokens hashed at a time: they stay in the processor's cache
AT_ONCE = 1 << 19  # hashes in memory
MOST_FILES = 1 << 12
# One byte for each first bits that a hash may have: while held-out documents have a million
# sequences, one in sixteen other hashes passes.
SIEVE_BITS = 24
HELD = np.dtype([("hash", np.uint64), ("document", np.int64)])


class Stream(Protocol):
    """Token ids that are read a slice at a time."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> NDArray[Any]: ...


class TokenFile:
    """The ids of a file. Unlike a mapped one it leaves nothing in memory."""

    def __init__(self, path: Path, kind: "np.dtype[Ids]") -> None:
        self.path, self.kind = path, kind

    def __len__(self) -> int:
        return self.path.stat().st_size // self.kind.itemsize

    def __getitem__(self, part: slice) -> NDArray[Any]:
        start, end, _ = part.indices(len(self))
        size = self.kind.itemsize
        return np.fromfile(self.path, self.kind, max(0, end - start), offset=start * size)


def seen_shares(
    train: Stream,
    documents: Iterable[NDArray[Any]],
    scratch: Path | None = None,
) -> list[float]:
    """The share of each document's sequences of SEQUENCE tokens that are in the training stream.

    The opening end-of-text token is of no sequence. 0 for a document shorter than that. scratch:
    where hashes go, at most 8 bytes for a token of the stream and 16 for one of the documents.
    """
    with tempfile.TemporaryDirectory(prefix="seen-", dir=scratch) as folder:
        bits = min(MOST_FILES, max(1, len(train) // AT_ONCE)).bit_length() - 1
        held = _Files(Path(folder), "held", HELD, bits)
        stream = _Files(Path(folder), "train", np.dtype(np.uint64), bits)
        sieve, sizes = _put_held(documents, held)
        for block in _blocks(train) if held.total else ():
            hashes = sequence_hashes(block, SEQUENCE)
            stream.add(hashes[sieve[hashes >> np.uint64(64 - SIEVE_BITS)]])
        counts = np.zeros(len(sizes), np.int64)
        for own, known in zip(held.each(), stream.each(), strict=True):
            np.add.at(counts, _found(own, known), 1)
        return (counts / np.maximum(sizes, 1)).tolist()


def _put_held(
    documents: Iterable[NDArray[Any]], held: "_Files"
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which first bits a hash of the documents has, and how many sequences each has."""
    sieve, sizes = np.zeros(1 << SIEVE_BITS, bool), array("q")
    for number, tokens in enumerate(documents):
        hashes = sequence_hashes(np.asarray(tokens[1:]), SEQUENCE)
        sieve[hashes >> np.uint64(64 - SIEVE_BITS)] = True
        rows = np.empty(len(hashes), HELD)
        rows["hash"], rows["document"] = hashes, number
        held.add(rows)
        sizes.append(len(hashes))
    return sieve, np.frombuffer(sizes, np.int64) if sizes else np.zeros(0, np.int64)


def _found(own: NDArray[Any], known: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The documents of the rows whose hash is among the known ones, a row each."""
    if not len(known):
        return np.zeros(0, np.int64)
    known = np.sort(known)
    places = np.minimum(np.searchsorted(known, own["hash"]), len(known) - 1)
    found: NDArray[np.int64] = own["document"][known[places] == own["hash"]]
    return found


def _blocks(train: Stream) -> Iterator[NDArray[Ids]]:
    for start in range(0, len(train), BLOCK):
        yield train[start : start + BLOCK + SEQUENCE - 1]


class _Files:
    """Hashes, or rows with a field of them, in 2**bits files by their first bits."""

    def __init__(self, folder: Path, name: str, kind: "np.dtype[Any]", bits: int) -> None:
        self._paths = [folder / f"{name}-{number}" for number in range(1 << bits)]
        self._kind, self._bits = kind, bits
        self._waiting: list[NDArray[Any]] = []
        self._rows = self.total = 0

    def add(self, rows: NDArray[Any]) -> None:
        """Takes rows."""
        self._waiting.append(rows)
        self._rows += len(rows)
        self.total += len(rows)
        if self._rows >= AT_ONCE:
            self._write()

    def _write(self) -> None:
        rows = np.concatenate([*self._waiting, np.empty(0, self._kind)])
        self._waiting, self._rows = [], 0
        hashes = rows["hash"] if self._kind.names else rows
        numbers = (hashes >> np.uint64(63 - self._bits)) >> np.uint64(1)  # no shift by 64
        rows = rows[np.argsort(numbers, kind="stable")]
        ends = np.cumsum(np.bincount(numbers.astype(np.int64), minlength=len(self._paths)))
        for path, start, end in zip(self._paths, [0, *ends[:-1]], ends, strict=True):
            if end > start:
                with path.open("ab") as file:
                    rows[start:end].tofile(file)

    def each(self) -> Iterator[NDArray[Any]]:
        """What each file has, in turn."""
        self._write()
        for path in self._paths:
            yield np.fromfile(path, self._kind) if path.exists() else np.empty(0, self._kind)
