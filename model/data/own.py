"""Bring your own data: a JSONL or Parquet file, a folder of text files, or a dataset.

A row has the field `text` and may have `domain`, `id`, `parent` (texts of one parent stay on one
side of the held-out split), `licence`, `source` and `rights`. Every mistake is a CorpusError that
names the place; what is not UTF-8 is left out where the caller has a `skip` for it (rows.py).
"""

import hashlib
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from model.data.documents import CorpusError, Text, digest, printable
from model.data.rows import (
    ENDINGS,
    FIELDS,
    MAX_BYTES,
    Rows,
    Skip,
    dataset_folder_rows,
    dataset_rows,
    is_dataset,
    reader_of,
    refuse,
    too_long,
    whole_file,
)

# Nothing is known of it but whose it is: what is made of it is for its owner to pass on.
RIGHTS = "own"
OPTIONAL_FIELDS = tuple(name for name in FIELDS if name != "text")
# A domain wants this many held-out documents: some to show and measure, some to choose experts by.
HELD_OUT = 16
LEAST_HELD_OUT, MOST_HELD_OUT = 0.1, 0.3
# A token of the vocabulary wants so many bytes to be seen often enough to be learnt.
BYTES_A_TOKEN, SMALLEST_VOCABULARY, LARGEST_VOCABULARY = 200, 512, 4096


def heldout_fraction(documents: Sequence[int]) -> float:
    """The share of a collection to hold out, by the number of documents of each of its domains.

    A tenth where that is enough documents of a usual domain, else more, up to three tenths.
    """
    usual = median(documents) if documents else 0
    return min(MOST_HELD_OUT, max(LEAST_HELD_OUT, HELD_OUT / max(1, usual)))


def vocabulary_for(size: int) -> int:
    """The size of a vocabulary to learn from so many bytes of text, in whole rows of 32 tokens."""
    fitting = size // BYTES_A_TOKEN // 32 * 32
    return min(LARGEST_VOCABULARY, max(SMALLEST_VOCABULARY, fitting))


def next_command(corpus: Path) -> str:
    """The command that trains a pair on a corpus of one's own."""
    runs = shlex.quote(str(corpus.parent / "runs"))
    return f"python -m model.train.pair --corpus {shlex.quote(str(corpus))} --out {runs}"


def read_texts(spec: str, skip: Skip = refuse) -> Iterator[Text]:
    """The texts of a file, a folder (its sub-folders are the domains) or `hf:NAME[:SPLIT]`.

    skip: gets the place of what is not UTF-8 and left out; by default it is an error.

    Raises CorpusError, at the latest when the text in question is reached, and Unreachable for a
    dataset that cannot be fetched.
    """
    if not spec:
        raise CorpusError(f"--documents is empty; give {ENDINGS}, a folder or hf:NAME.")
    if spec.startswith("hf:"):
        name = spec.removeprefix("hf:")
        return _texts(dataset_rows(name), name, name.partition(":")[0].rpartition("/")[2])
    path = Path(spec)
    if not path.exists():
        raise CorpusError(f"{spec} does not exist.")
    name = printable(path.resolve().name)
    if is_dataset(path):
        return _texts(dataset_folder_rows(path, skip), name, name)
    if path.is_dir():
        return _named_in(spec, _folder_texts(path, skip))
    reader = reader_of(path)
    if reader is None:
        raise CorpusError(f"{path} has an unknown extension; give {ENDINGS}, a folder or hf:NAME.")
    name = printable(path.name)
    texts = _texts(reader(path, name, skip), name, name.partition(".")[0])
    return _named_in(os.path.dirname(spec), texts)


def _named_in(folder: str, texts: Iterator[Text]) -> Iterator[Text]:
    """The texts; an error, which begins with a file's name as a text's place does, with the folder
    before it: places are the same wherever the folder lies."""
    try:
        yield from texts
    except CorpusError as error:
        raise CorpusError(os.path.join(printable(folder), str(error))) from error


def _texts(rows: Rows, source: str, domain: str, of_many: bool = False) -> Iterator[Text]:
    """One text a row; `of_many` says that other files have rows of the same numbers."""
    for place, row in rows:
        where = f"{source}, {place}"
        given = {name: _field(row, name, where) for name in OPTIONAL_FIELDS}
        yield Text(
            domain=given["domain"] or domain,
            parent=given["parent"] or given["id"] or (where if of_many else place),
            text=_text(row, where),
            source=given["source"] or source,
            licence=given["licence"],
            rights=given["rights"] or RIGHTS,
            id=given["id"],
            place=where,
        )


def _text(row: Mapping[str, Any], where: str) -> str:
    text = row.get("text")
    if _is_missing(text):
        raise CorpusError(f"{where}: the field text is missing.")
    if not isinstance(text, str):
        raise CorpusError(f"{where}: the field text is not a string.")
    if len(text) > MAX_BYTES:
        raise too_long(where)
    return _unicode(text, "text", where)


def _field(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if _is_missing(value):
        return ""
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise CorpusError(f"{where}: the field {name} is not a string.")
    return _unicode(str(value), name, where)


def _is_missing(value: object) -> bool:
    """Tables write NaN where nothing is."""
    return value is None or (isinstance(value, float) and value != value)


def _unicode(value: str, name: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise CorpusError(f"{where}: the field {name} is not valid Unicode.") from None
    return value


def _folder_texts(folder: Path, skip: Skip) -> Iterator[Text]:
    """One text a file; a file of rows gives one a row."""
    source = printable(folder.resolve().name)
    for path in _files(folder):
        name = path.relative_to(folder)
        domain = printable(name.parts[0]) if len(name.parts) > 1 else source
        shown = printable(str(name))
        if reader := reader_of(path):
            yield from _texts(reader(path, shown, skip), shown, domain, of_many=True)
            continue
        try:
            text = whole_file(path, shown).decode()
        except UnicodeDecodeError:
            skip(shown)
            continue
        yield Text(domain, shown, text, source=source, rights=RIGHTS, place=shown)


def _files(folder: Path) -> Iterator[Path]:
    """All plain files below the folder in order, hidden ones left out; of one folder at a time the
    names are in memory.

    Raises OSError for a folder that cannot be read: its texts would be missing without a word.
    """
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    for path in (folder / name for name in names):
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        elif path.is_file():
            yield path


def inputs_state(spec: str) -> str:
    """A digest of names, sizes and times of the files that `read_texts` would read; the same for
    every dataset by name.

    Raises OSError for a folder that cannot be read.
    """
    path, told = Path(spec), hashlib.sha1()
    for file in _files(path) if path.is_dir() else [path] if path.is_file() else []:
        state = file.stat()
        told.update(digest(printable(str(file)), state.st_size, state.st_mtime_ns).encode())
    return told.hexdigest()
