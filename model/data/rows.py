"""Rows of the files that own data comes in, each with its place in the file: "line 3", "row 12".

Every fault of a file is a CorpusError that names it and, where it can be known, the place. A row
that is not UTF-8 is one too, unless the caller gives a function `skip`: that gets its place, and
the reading goes on.
"""

import codecs
import gzip
import importlib
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from model.data.documents import CorpusError, Unreachable
from model.files import inside, read_json

Rows = Iterator[tuple[str, Mapping[str, Any]]]
Skip = Callable[[str], None]
FIELDS = ("text", "domain", "id", "parent", "licence", "source", "rights")
ENDINGS = ".jsonl, .jsonl.gz or .parquet"
# A text is cut into documents in memory, which takes some seven times its size (docs/training.md).
MAX_BYTES = 2**26
BATCH, BATCH_BYTES = 1024, 2**26
DATASET_MARKS = ("dataset_info.json", "dataset_dict.json")


def refuse(place: str) -> None:
    """Does not skip what is not UTF-8."""
    raise CorpusError(f"{place} is not UTF-8.")


def too_long(where: str) -> CorpusError:
    """Of one text that would fill the memory."""
    return CorpusError(
        f"{where} is longer than {MAX_BYTES:,} bytes; cut the text into several, with one parent."
    )


def reader_of(path: Path) -> "Reader | None":
    """What reads a file of this ending in rows, given its path and its name for messages."""
    readers = {".jsonl": _json_rows, ".jsonl.gz": _json_rows, ".parquet": _parquet_rows}
    return next((read for end, read in readers.items() if path.name.endswith(end)), None)


class Reader(Protocol):
    """Reads the rows of a file: its path, its name for messages, and what skips bad ones."""

    def __call__(self, path: Path, name: str, skip: Skip = refuse) -> Rows: ...


def whole_file(path: Path, name: str) -> bytes:
    """What a file of one text holds, unzipped. Raises CorpusError if it is too long or damaged."""
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            data: bytes = file.read(MAX_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise _no_gzip(name) from None
    if len(data) > MAX_BYTES:
        raise too_long(name)
    return data


def _no_gzip(name: str) -> CorpusError:
    return CorpusError(f"{name} is not a complete gzip file.")


def _json_rows(path: Path, name: str, skip: Skip = refuse) -> Rows:
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(_lines(file, name), 1):
                if not line.strip():
                    continue
                where = f"{name}, line {number}"
                try:
                    text = line.decode()
                except UnicodeDecodeError:
                    skip(where)
                    continue
                yield f"line {number}", _json_row(text, where)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise _no_gzip(name) from None


def _lines(file: IO[bytes], name: str) -> Iterator[bytes]:
    """Lines without the byte order mark at the head, none of which fills the memory."""
    number = 0
    while line := file.readline(MAX_BYTES + 1):
        number += 1
        if len(line) > MAX_BYTES:
            raise too_long(f"{name}, line {number}")
        yield line.removeprefix(codecs.BOM_UTF8) if number == 1 else line


def _json_row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
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


def _parquet_rows(path: Path, name: str, skip: Skip = refuse) -> Rows:
    with path.open("rb") as raw:
        try:
            with pq.ParquetFile(raw) as file:
                columns = _columns(file.schema_arrow, name)
                batches = _batches(file, columns, name)
                yield from _numbered(batches, name, skip)
        except (pa.ArrowException, OSError):
            raise CorpusError(f"{name} is not a Parquet file that can be read.") from None


def _batches(file: pq.ParquetFile, columns: list[str], name: str) -> Iterator[pa.RecordBatch]:
    """Batches that fit in memory: fewer rows where they are long."""
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group)
        chunks = map(rows.column, range(rows.num_columns))
        total = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema in columns)
        size = max(1, total // max(1, rows.num_rows))
        if size > MAX_BYTES:
            raise too_long(f"{name}, a text of row group {group + 1},")
        most = max(1, min(BATCH, BATCH_BYTES // size))
        yield from file.iter_batches(batch_size=most, columns=columns, row_groups=[group])


def _columns(schema: pa.Schema, name: str) -> list[str]:
    if "text" not in schema.names:
        raise CorpusError(f"{name}: the column text is missing.")
    return [field for field in FIELDS if field in schema.names]


def _numbered(batches: Iterator[pa.RecordBatch], name: str, skip: Skip) -> Rows:
    done = 0
    for batch in batches:
        yield from _as_dicts(batch, done, name, skip)
        done += len(batch)


def _as_dicts(batch: pa.RecordBatch, done: int, name: str, skip: Skip) -> Rows:
    try:
        rows = batch.to_pylist()
    except (ValueError, OverflowError):
        yield from _one_by_one(batch, done, name, skip)
        return
    for number, row in enumerate(rows, done + 1):
        yield f"row {number}", row


def _one_by_one(batch: pa.RecordBatch, done: int, name: str, skip: Skip) -> Rows:
    """The rows of a batch in which something cannot be read."""
    for number in range(len(batch)):
        place = f"row {done + number + 1}"
        try:
            yield place, batch.slice(number, 1).to_pylist()[0]
        except UnicodeDecodeError:
            skip(f"{name}, {place}")
        except (ValueError, OverflowError):
            raise CorpusError(f"{name}, {place} holds a value that cannot be read.") from None


def is_dataset(folder: Path) -> bool:
    """Whether the folder is a dataset as Hugging Face's `save_to_disk` writes it."""
    return any((folder / mark).is_file() for mark in DATASET_MARKS)


def dataset_folder_rows(folder: Path, skip: Skip = refuse) -> Rows:
    """Rows of a dataset that `save_to_disk` wrote; of its split train if it has splits."""
    if (folder / "dataset_dict.json").is_file():
        folder = _train_split(folder)
    listed = _listed(folder, "state.json", "_data_files")
    files = [
        inside(folder, row.get("filename") if isinstance(row, dict) else row) for row in listed
    ]
    done = 0
    for file in files:
        for _, row in _arrow_rows(file, skip):
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


def _arrow_rows(path: Path, skip: Skip) -> Rows:
    if not path.is_file():
        raise CorpusError(f"{path} is missing; save the dataset again.")
    with path.open("rb") as raw:
        try:
            with pa.ipc.open_stream(raw) as stream:
                columns = _columns(stream.schema, path.name)
                batches = (batch.select(columns) for batch in stream)
                yield from _numbered(batches, path.name, skip)
        except (pa.ArrowException, OSError):
            raise CorpusError(f"{path} is damaged; save the dataset again.") from None


def dataset_rows(spec: str) -> Rows:
    """Rows of a dataset by name, NAME[:SPLIT], streamed.

    Raises Unreachable if it cannot be loaded or the stream breaks off.
    """
    name, _, split = spec.partition(":")
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise Unreachable(f"hf:{name} needs the package datasets: pip install datasets.") from None
    try:
        rows = iter(datasets.load_dataset(name, split=split or "train", streaming=True))
    except Exception as error:
        raise Unreachable(f"The dataset {name} cannot be loaded: {_reason(error)}") from error
    number = 0
    while True:
        number += 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:
            raise Unreachable(
                f"Row {number} of the dataset {name} cannot be read: {_reason(error)}"
            ) from error
        yield f"row {number}", row


def _reason(error: Exception) -> str:
    # Its many errors have one thing in common: the first line says what is wrong.
    return (str(error).splitlines() or [type(error).__name__])[0]
