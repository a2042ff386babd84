"""Texts of a spool by their places; apart from it, since what tokenises them needs no tables."""

from collections.abc import Iterator, Sequence
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


def read_texts_at(folder: Path, places: Sequence[Where]) -> Iterator[str]:
    """The texts at these places, in their order."""
    files = {number: texts_file(folder, number).open("rb") for number in {at.file for at in places}}
    try:
        for place in places:
            files[place.file].seek(place.start)
            yield files[place.file].read(place.bytes).decode()
    finally:
        for file in files.values():
            file.close()
