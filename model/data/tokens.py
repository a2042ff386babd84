"""Tokens of documents, in parts that any number of processes make.

A part is a function of its texts alone: which process makes it, and when, changes no byte. It is a
file `tokens-SPLIT-00003.npz`, written under a temporary name; a part that is there is not made
again.
"""

import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.data.alike import signature
from model.data.ledger import Ledger, texts_at
from model.data.places import read_texts_at
from model.data.repetition import repeats
from model.files import new_file
from model.workers import in_workers

PART_BYTES = 1 << 22  # of texts
BATCH = 64


@dataclass(frozen=True)
class Recipe:
    """How a text becomes tokens: a tokenizer as JSON, its end-of-text and unknown ids, the type of
    ids, and what else is asked of a document."""

    tokenizer: str
    eos: int
    unknown: int | None
    dtype: str
    repetition: bool
    signatures: bool


class Job(NamedTuple):
    """One part: where it goes, where its texts are, and which: positions of a ledger's file."""

    file: Path
    spool: Path
    ledger: Path
    documents: range


class Part(NamedTuple):
    """Tokens of documents end to end, each opened by the end-of-text id.

    ids [tokens], lengths [documents], unknown: how many ids say "unknown". repeats [documents]:
    whether it repeats a few tokens over and over; signatures [documents, hashes]: of its words.
    Both are empty if not asked for.
    """

    ids: NDArray[Any]
    lengths: NDArray[np.int64]
    unknown: NDArray[np.int64]
    repeats: NDArray[np.bool_]
    signatures: NDArray[np.uint32]


def jobs_of(split: str, spool: Path, ledger: Ledger) -> list[Job]:
    """The documents of a split in parts of about PART_BYTES bytes."""
    whole = ledger.span(split)
    total, starts = 0, [whole.start]
    for position, size in enumerate(ledger.sizes(whole), whole.start + 1):
        if (total + size) // PART_BYTES > total // PART_BYTES and position < whole.stop:
            starts.append(position)
        total += size
    return [
        Job(spool / f"tokens-{split}-{number:05d}.npz", spool, ledger.file, range(start, end))
        for number, (start, end) in enumerate(pairwise([*starts, whole.stop]))
    ]


def read_part(file: Path) -> Part | None:
    """A part, or None if it is not there or not whole: the disk may have lost it with the power."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return Part(*(arrays[name] for name in Part._fields))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def make_parts(
    jobs: Sequence[Job], recipe: Recipe, workers: int, done: Callable[[int], None]
) -> None:
    """Makes the parts that are not there, in so many processes (1: this one).

    done: gets the number of documents of each part. Raises ValueError if a part cannot be written
    or a process was killed.
    """
    missing = [job for job in jobs if read_part(job.file) is None]
    done(sum(len(job.documents) for job in jobs) - sum(len(job.documents) for job in missing))
    with in_workers(partial(_make, recipe), missing, workers, _take_one_core) as made:
        for documents in made:
            done(documents)


def _take_one_core() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@lru_cache(1)
def plain_tokenizer(content: str) -> Any:
    """The `tokenizers.Tokenizer` of this JSON that takes whole texts, and all in them as text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(content)
    tokenizer.encode_special_tokens = True  # written out in a text they stay plain text
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _make(recipe: Recipe, job: Job) -> int:
    """Writes a part; returns the number of its documents."""
    places = texts_at(job.ledger, job.documents)
    part = tokenised(
        list(read_texts_at(job.spool, places)), recipe, plain_tokenizer(recipe.tokenizer)
    )
    with new_file(job.file) as temporary, temporary.open("wb") as file:
        np.savez(file, **part._asdict())
    return len(job.documents)


def tokenised(texts: list[str], recipe: Recipe, tokenizer: Any) -> Part:
    """The part of these texts."""
    encoded = [np.array(each.ids, recipe.dtype) for each in _encoded(texts, tokenizer)]
    opening = np.array([recipe.eos], recipe.dtype)
    ids = np.concatenate([piece for own in encoded for piece in (opening, own)])
    unknown = (
        0 if recipe.unknown is None else sum(int((own == recipe.unknown).sum()) for own in encoded)
    )
    return Part(
        ids,
        np.array([len(own) + 1 for own in encoded]),
        np.array([unknown]),
        np.array([repeats(own) for own in encoded] if recipe.repetition else [], bool),
        np.array([signature(own) for own in encoded] if recipe.signatures else [], np.uint32),
    )


def _encoded(texts: list[str], tokenizer: Any) -> Iterator[Any]:
    """What the tokenizer makes of them, few at a time: an encoding is some fifty times its ids."""
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        yield from tokenizer.encode_batch_fast(batch, add_special_tokens=False)


def each_part(jobs: Sequence[Job]) -> Iterator[Part]:
    """All parts in their order, one in memory at a time. Raises ValueError if one is gone."""
    for job in jobs:
        part = read_part(job.file)
        if part is None:
            raise ValueError(f"{job.file} cannot be read; run the same command again.")
        yield part
