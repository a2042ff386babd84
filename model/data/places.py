"""Texts of a spool by their places; apart from it, since what tokenises them needs no tables."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple


class Where(NamedTuple):
    """Where a text lies: the number of its part, its first byte, and how many."""

    file: int
    start: int
    bytes: int


def texts_file(folder: Path, number: int) -> Path:
    """Where the texts of a part are."""
    return folder / f"texts-{number:05d}.bin"


def read_texts_at(folder: Path, places: Iterable[Where]) -> Iterator[str]:
    """The texts at these places, in their order."""
    for place in places:  # a file each time: there may be more parts than files may be open
        with texts_file(folder, place.file).open("rb") as file:
            file.seek(place.start)
            yield file.read(place.bytes).decode()
