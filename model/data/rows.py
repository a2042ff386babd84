"""Rows of the files that own data comes in, each with its place in the file: "line 3", "row 12".

Every fault is a CorpusError that names the file and, where it can be known, the place.
"""

import codecs
import gzip
import importlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.data.documents import CorpusError
from model.files import inside, read_json

Rows = Iterator[tuple[str, Mapping[str, Any]]]
FIELDS = ("text", "domain", "id", "parent", "licence", "source", "rights")
ENDINGS = ".jsonl, .jsonl.gz or .parquet"
MAX_LINE_BYTES = 2**28
BATCH = 1024
DATASET_MARKS = ("dataset_info.json", "dataset_dict.json")


def reader_of(path: Path) -> Callable[[Path, str], Rows] | None:
    """What reads a file of this ending in rows, given its path and its name for messages."""
    readers = {".jsonl": _json_rows, ".jsonl.gz": _json_rows, ".parquet": _parquet_rows}
    return next((read for end, read in readers.items() if path.name.endswith(end)), None)


def unzipped(data: bytes, name: str) -> bytes:
    """What a gzip file holds. Raises CorpusError for one that is damaged."""
    try:
        return gzip.decompress(data)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise _no_gzip(name) from None


def _no_gzip(name: str) -> CorpusError:
    return CorpusError(f"{name} is not a complete gzip file.")


def _json_rows(path: Path, name: str) -> Rows:
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(_lines(file, name), 1):
                if line.strip():
                    yield f"line {number}", _json_row(line, f"{name}, line {number}")
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise _no_gzip(name) from None


def _lines(file: IO[bytes], name: str) -> Iterator[bytes]:
    """Lines without the byte order mark at the head, none of which fills the memory."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise CorpusError(
                f"{name}, line {number} is longer than {MAX_LINE_BYTES:,} bytes; put one text "
                "on a line."
            )
        yield line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def _json_row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError:
        raise CorpusError(f"{where} is not UTF-8.") from None
    except json.JSONDecodeError:
        raise CorpusError(f"{where} is not JSON.") from None
    except ValueError:
        # Python refuses to read integers of thousands of digits.
        raise CorpusError(f"{where} holds a number with too many digits.") from None
    except RecursionError:
        raise CorpusError(f"{where} is nested too deeply.") from None
    if not isinstance(row, dict):
        raise CorpusError(f"{where} is not a JSON object.")
    return row


def _parquet_rows(path: Path, name: str) -> Rows:
    with path.open("rb") as raw:
        try:
            with pq.ParquetFile(raw) as file:
                columns = _columns(file.schema_arrow, name)
                batches = file.iter_batches(batch_size=BATCH, columns=columns)
                yield from _numbered(batches, name)
        except (pa.ArrowException, OSError):
            raise CorpusError(f"{name} is not a Parquet file that can be read.") from None


def _columns(schema: pa.Schema, name: str) -> list[str]:
    if "text" not in schema.names:
        raise CorpusError(f"{name}: the column text is missing.")
    return [field for field in FIELDS if field in schema.names]


def _numbered(batches: Iterator[pa.RecordBatch], name: str) -> Rows:
    done = 0
    for batch in batches:
        for number, row in enumerate(_as_dicts(batch, done, name), done + 1):
            yield f"row {number}", row
        done += len(batch)


def _as_dicts(batch: pa.RecordBatch, done: int, name: str) -> list[dict[str, Any]]:
    try:
        return list(batch.to_pylist())
    except (ValueError, OverflowError):
        for number in range(len(batch)):
            _check_row(batch.slice(number, 1), f"{name}, row {done + number + 1}")
        raise


def _check_row(row: pa.RecordBatch, where: str) -> None:
    try:
        row.to_pylist()
    except UnicodeDecodeError:
        raise CorpusError(f"{where} is not UTF-8.") from None
    except (ValueError, OverflowError):
        raise CorpusError(f"{where} holds a value that cannot be read.") from None


def is_dataset(folder: Path) -> bool:
    """Whether the folder is a dataset as Hugging Face's `save_to_disk` writes it."""
    return any((folder / mark).is_file() for mark in DATASET_MARKS)


def dataset_folder_rows(folder: Path) -> Rows:
    """Rows of a dataset that `save_to_disk` wrote; of its split train if it has splits."""
    if (folder / "dataset_dict.json").is_file():
        folder = _train_split(folder)
    listed = _listed(folder, "state.json", "_data_files")
    files = [
        inside(folder, row.get("filename") if isinstance(row, dict) else row) for row in listed
    ]
    done = 0
    for file in files:
        for _, row in _arrow_rows(file):
            done += 1
            yield f"row {done}", row


def _train_split(folder: Path) -> Path:
    splits = _listed(folder, "dataset_dict.json", "splits")
    if "train" not in splits:
        raise CorpusError(
            f"{folder} has no split train; name the folder of one of its splits: "
            f"{', '.join(map(str, splits))}."
        )
    return inside(folder, "train")


def _listed(folder: Path, name: str, key: str) -> list[Any]:
    listed = read_json(folder / name).get(key)
    if not isinstance(listed, list) or not listed:
        raise CorpusError(f"{folder / name} lists no {key}; save the dataset again.")
    return listed


def _arrow_rows(path: Path) -> Rows:
    if not path.is_file():
        raise CorpusError(f"{path} is missing; save the dataset again.")
    with path.open("rb") as raw:
        try:
            with pa.ipc.open_stream(raw) as stream:
                columns = _columns(stream.schema, path.name)
                batches = (batch.select(columns) for batch in stream)
                yield from _numbered(batches, path.name)
        except (pa.ArrowException, OSError):
            raise CorpusError(f"{path} is damaged; save the dataset again.") from None


def dataset_rows(spec: str) -> Rows:
    """Rows of a dataset by name, NAME[:SPLIT], streamed."""
    name, _, split = spec.partition(":")
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise CorpusError(f"hf:{name} needs the package datasets: pip install datasets.") from None
    try:
        rows = iter(datasets.load_dataset(name, split=split or "train", streaming=True))
    except Exception as error:
        raise CorpusError(f"The dataset {name} cannot be loaded: {_reason(error)}") from error
    number = 0
    while True:
        number += 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            raise CorpusError(
                f"Row {number} of the dataset {name} cannot be read: {_reason(error)}"
            ) from error
        yield f"row {number}", row


def _reason(error: Exception) -> str:
    # Its many errors have one thing in common: the first line says what is wrong.
    return (str(error).splitlines() or [type(error).__name__])[0]
