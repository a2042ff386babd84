"""Bring your own data: a JSONL or Parquet file, a folder of text files, or a dataset by name.

A row has the field `text` and may have `domain`, `id`, `parent` (texts of one parent stay on one
side of the held-out split), `licence` and `source`. Every mistake is a CorpusError that names the
place.
"""

import gzip
import importlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.data.documents import CorpusError, Text

# A row and where it stands, for messages: "line 3".
Rows = Iterator[tuple[str, Mapping[str, Any]]]
OPTIONAL_FIELDS = ("domain", "id", "parent", "licence", "source")
ENDINGS = ".jsonl, .jsonl.gz or .parquet"


def read_texts(spec: str) -> Iterator[Text]:
    """The texts of a file, a folder (its sub-folders are the domains) or `hf:NAME[:SPLIT]`.

    Raises CorpusError, at the latest when the text in question is reached.
    """
    if spec.startswith("hf:"):
        name = spec.removeprefix("hf:")
        return _texts(_dataset_rows(name), name, name.partition(":")[0].rpartition("/")[2])
    path = Path(spec)
    if path.is_dir():
        return _folder_texts(path)
    if not path.exists():
        raise CorpusError(f"{spec} does not exist.")
    return _texts(_file_reader(path)(path), path.name, path.name.partition(".")[0])


def _file_reader(path: Path) -> Callable[[Path], Rows]:
    readers = {".jsonl": _json_rows, ".jsonl.gz": _json_rows, ".parquet": _parquet_rows}
    for ending, reader in readers.items():
        if path.name.endswith(ending):
            return reader
    raise CorpusError(f"{path.name} has an unknown extension; give {ENDINGS}, a folder or hf:NAME.")


def _texts(rows: Rows, source: str, domain: str) -> Iterator[Text]:
    for place, row in rows:
        where = f"{source}, {place}"
        given = {name: _field(row, name, where) for name in OPTIONAL_FIELDS}
        yield Text(
            domain=given["domain"] or domain,
            parent=given["parent"] or given["id"] or place,
            text=_text(row, where),
            source=given["source"] or source,
            licence=given["licence"],
            # Nothing is known about it, so nothing is passed on.
            rights="research",
            id=given["id"],
        )


def _text(row: Mapping[str, Any], where: str) -> str:
    text = row.get("text")
    if text is None:
        raise CorpusError(f"{where}: the field text is missing.")
    if not isinstance(text, str):
        raise CorpusError(f"{where}: the field text is not a string.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CorpusError(f"{where}: the field text is not valid Unicode.") from None
    return text


def _field(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str | int):
        raise CorpusError(f"{where}: the field {name} is not a string.")
    return str(value)


def _json_rows(path: Path) -> Rows:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"line {number}", _json_row(line, f"{path.name}, line {number}")
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise CorpusError(f"{path.name} is not a complete gzip file.") from None


def _json_row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError:
        raise CorpusError(f"{where} is not UTF-8.") from None
    except json.JSONDecodeError:
        raise CorpusError(f"{where} is not JSON.") from None
    if not isinstance(row, dict):
        raise CorpusError(f"{where} is not a JSON object.")
    return row


def _parquet_rows(path: Path) -> Rows:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            if "text" not in file.schema_arrow.names:
                raise CorpusError(f"{path.name}: the column text is missing.")
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (pa.ArrowInvalid, pa.ArrowException):
        raise CorpusError(f"{path.name} is not a Parquet file that can be read.") from None


def _dataset_rows(spec: str) -> Rows:
    name, _, split = spec.partition(":")
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise CorpusError(f"hf:{name} needs the package datasets: pip install datasets.") from None
    try:
        rows = datasets.load_dataset(name, split=split or "train", streaming=True)
    except Exception as error:
        # Its many errors have one thing in common: the first line says what is wrong.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CorpusError(f"The dataset {name} cannot be loaded: {reason}") from error
    for number, row in enumerate(rows, 1):
        yield f"row {number}", row


def _folder_texts(folder: Path) -> Iterator[Text]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            domain = name.parts[0] if len(name.parts) > 1 else folder.resolve().name
            yield Text(
                domain, str(name), _file_text(path, name), source=folder.name, rights="research"
            )


def _file_text(path: Path, name: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        raise CorpusError(f"{name} is not UTF-8.") from None
