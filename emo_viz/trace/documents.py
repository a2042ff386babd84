"""Reading documents: the one home for what `--documents` and its kin take.

A document needs a text. A file of documents is Parquet, JSONL (.jsonl, .jsonl.gz) or CSV (.csv)
with a column `text`, one row a document, or a folder of text files. Every way in which it can be
unfit is one ValueError that names the file.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pyarrow.types as kinds

from model.data.own import read_texts
from model.data.rows import reader_of

REQUIRED_COLUMNS = ("id", "domain", "text")
OPTIONAL_COLUMNS = ("source", "licence", "parent", "part")
FORMS = "Parquet, .jsonl or .csv file with a column text{}, or a folder of text files"
TAKEN = f"a {FORMS.format('')}"
HELP = f"{FORMS.format(' (and id, domain)')}."  # of the option --documents
SMALLEST_BLOCK, LARGEST_BLOCK = 2**20, 2**31 - 1  # bytes in which Arrow reads a CSV file


def read_documents(
    path: Path, required: Sequence[str] = (), optional: Sequence[str] = OPTIONAL_COLUMNS
) -> pd.DataFrame:
    """The documents of a file or a folder, at least one, in its order (files by their names).

    Columns: id (each another), domain, text (with more than white space in it) and those of
    `required`; of `optional` those that are there. All are strings, whole numbers read as "7", with
    NaN where a value of an optional column is missing; part is a whole number or NaN. Texts are as
    they are in the file. The folders above it mean nothing (`domain=tea/` is a folder).

    Without a column id, documents are numbered from 1; without a domain, the file's name without
    its ending is theirs: unless these are among `required`. In a folder, a file's name is its id
    and its sub-folder, if it is in one, the domain.

    Raises ValueError, naming the file, if it is missing, of another kind, damaged, or lacks any of
    this.
    """
    needed = list(dict.fromkeys([*REQUIRED_COLUMNS, *required]))
    columns = _columns(path, [*needed, *(name for name in optional if name not in needed)])
    try:
        _make(columns, path, [name for name in ("id", "domain") if name not in required])
        if missing := [name for name in needed if name not in columns]:
            raise ValueError(
                f"The documents lack the column {' and the column '.join(missing)}; add it."
            )
        frame = pd.DataFrame(columns)
        check_documents(frame)
        _check_filled(frame, needed)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return frame


def _columns(path: Path, wanted: Sequence[str]) -> dict[str, pd.Series]:
    """Of the columns that are wanted, those that are there, in that order."""
    if path.is_dir():
        return _from_rows(path, _folder_rows(path), wanted)
    if not path.is_file():
        raise ValueError(f"There is no file {path}; name {TAKEN}.")
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        reader = reader_of(path)
        assert reader is not None, "it reads these endings"
        return _from_rows(path, reader(path, str(path)), wanted)
    table = _csv(path, wanted) if path.suffix == ".csv" else _parquet(path, wanted)
    if len(set(table.column_names)) < len(table.column_names):
        raise ValueError(f"{path} has two columns of one name; leave one of them out.")
    try:
        return {name: _column(name, table.column(name)) for name in table.column_names}
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _make(columns: dict[str, pd.Series], path: Path, wanted: Sequence[str]) -> None:
    """Of the columns id and domain, make those that are wanted and not there."""
    count = len(columns.get("text", ()))
    made = {"id": [str(number + 1) for number in range(count)], "domain": [_name(path)] * count}
    for name in wanted:
        if name not in columns:
            columns[name] = pd.Series(made[name], dtype="str")
    for name in dict.fromkeys([*REQUIRED_COLUMNS, *columns]):
        if name in columns:
            columns[name] = columns.pop(name)


def _name(path: Path) -> str:
    """A file's name without its ending, as it can be stored."""
    name = path.resolve().name.partition(".")[0] or "documents"
    return name.encode("utf-8", "backslashreplace").decode()


def documents_of(texts: Mapping[str, Sequence[str]] | Sequence[str]) -> pd.DataFrame:
    """Texts at hand as documents to record: by domain, or all of the domain "own".

    Ids count from 1 in each domain: "recipes-1". Raises ValueError as `check_documents`.
    """
    by_domain = texts if isinstance(texts, Mapping) else {"own": texts}
    rows = [
        {"id": f"{domain}-{number}", "domain": domain, "text": text}
        for domain, some in by_domain.items()
        for number, text in enumerate([some] if isinstance(some, str) else some, start=1)
    ]
    documents = pd.DataFrame(rows, columns=list(REQUIRED_COLUMNS))
    check_documents(documents)
    return documents


def check_documents(documents: pd.DataFrame) -> None:
    """ValueError unless there are documents with an id of their own, a domain and a text."""
    missing = [name for name in REQUIRED_COLUMNS if name not in documents.columns]
    if missing:
        raise ValueError(f"The documents lack the column {' and the column '.join(missing)}.")
    if documents.empty:
        raise ValueError("There are no documents to record.")
    _check_characters(documents)  # first: pandas itself fails on half a character
    _check_names(documents)
    _check_texts(documents)
    _check_parts(documents)


def of_domain(documents: pd.DataFrame, domain: str | None, path: Path) -> pd.DataFrame:
    """Those of one domain, or all where none is named. Raises ValueError, with the domains of the
    file, if it has none of that one."""
    chosen = documents[documents["domain"] == domain] if domain else documents
    if chosen.empty:
        known = ", ".join(sorted(set(documents["domain"])))
        raise ValueError(f"{path} has no documents of the domain {domain!r}; it has {known}.")
    return chosen


def texts_digest(texts: Iterable[str]) -> str:
    """SHA-256 of some texts in their order."""
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def _folder_rows(folder: Path) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """The texts below a folder, as `model.data build` reads them."""
    for text in read_texts(str(folder)):
        row = {"id": text.id or text.place, "domain": text.domain, "text": text.text}
        yield text.place, row | {"source": text.source, "licence": text.licence or None}


def _from_rows(
    path: Path, rows: Iterable[tuple[str, Mapping[str, Any]]], wanted: Sequence[str]
) -> dict[str, pd.Series]:
    """Columns of rows that each say where they stand; a column without any value is not there, but
    for the texts of no rows."""
    found: dict[str, list[Any]] = {name: [] for name in wanted}
    for place, row in rows:
        for name in wanted:
            found[name].append(_field(name, row.get(name), f"{path}, {place}"))
    return {
        name: pd.Series(values, dtype=object if name == "part" else "str")
        for name, values in found.items()
        if any(value is not None for value in values) or (name == "text" and not values)
    }


def _field(name: str, value: Any, where: str) -> Any:
    """A string, or None; a whole number will do where it only names something."""
    if value is None or value != value or name == "part":
        return None if value != value else value
    whole = isinstance(value, int) and not isinstance(value, bool) and name != "text"
    if not isinstance(value, str) and not whole:
        raise ValueError(f"{where}: the field {name} is {value!r:.50}, not text; write it as text.")
    return str(value)


def _csv(path: Path, wanted: Sequence[str]) -> pa.Table:
    """The wanted columns as strings; what is empty is missing, but for texts."""
    size = min(max(path.stat().st_size, SMALLEST_BLOCK), LARGEST_BLOCK)
    try:
        with path.open("rb") as handle:
            table = pc.read_csv(
                handle,
                # One block: a row of another would be cut at its end.
                pc.ReadOptions(block_size=size),
                pc.ParseOptions(newlines_in_values=True),
                pc.ConvertOptions(
                    column_types={name: pa.string() for name in wanted},
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
    except PermissionError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check its rights.") from error
    except (ValueError, OSError, pa.ArrowException) as error:
        raise ValueError(
            f"{path} is not a CSV file of documents in UTF-8 that can be read (the first line "
            "names the columns, and a text with commas or lines is in quotes); write it again."
        ) from error
    names = table.column_names
    return table.select([n for want in wanted for n, name in enumerate(names) if name == want])


def _parquet(path: Path, wanted: Sequence[str]) -> pa.Table:
    """The columns that are wanted; an error of the file's pages shows only when they are read."""
    try:
        # A file handle, because Arrow takes no name that is not UTF-8, and reads folders' names.
        with path.open("rb") as handle:
            file = pq.ParquetFile(handle)
            there = file.schema_arrow.names
            return file.read([name for name in wanted if name in there])
    except PermissionError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check its rights.") from error
    except (ValueError, OSError, pa.ArrowException) as error:
        raise ValueError(
            f"{path} is not a Parquet file of documents that can be read; copy or write it again, "
            f"or name {TAKEN}."
        ) from error


def _column(name: str, column: pa.ChunkedArray) -> pd.Series:
    """Strings, or for `part` whole numbers. Raises ValueError for values of another kind."""
    kind = column.type.value_type if kinds.is_dictionary(column.type) else column.type
    whole = kinds.is_integer(kind)
    text = kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind)
    if name != "part" and not (text or (whole and name != "text") or kinds.is_null(kind)):
        raise ValueError(f"The column {name} holds {kind}, not text; write it as text.")
    try:
        values = column.to_pylist()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"The column {name} holds bytes that are not UTF-8; write it as text."
        ) from error
    if name == "part":
        return pd.Series(list(map(_number, values)), dtype=object)
    return pd.Series([None if value is None else str(value) for value in values], dtype="str")


def _number(value: Any) -> Any:
    """A whole number that a CSV file writes as text."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _check_names(documents: pd.DataFrame) -> None:
    if documents[["id", "domain"]].isna().any(axis=None):
        raise ValueError("The documents need a domain each, and an id that no other document has.")
    ids = documents["id"].map(str)
    if (again := ids.duplicated()).any():
        raise ValueError(
            f"The id {ids[again].iloc[0]:.80} stands twice; give each document an id that no other "
            "document has."
        )


def _check_texts(documents: pd.DataFrame) -> None:
    without_text = [not isinstance(text, str) or not text.strip() for text in documents["text"]]
    if any(without_text):
        first = documents["id"].iloc[without_text.index(True)]
        raise ValueError(
            f"{sum(without_text)} of {len(documents)} documents have no text (the first is "
            f"{first}); leave them out."
        )


def _check_characters(documents: pd.DataFrame) -> None:
    for name in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS):
        for row, value in enumerate(documents.get(name, ())):
            if isinstance(value, str) and not _is_whole(value):
                raise ValueError(
                    f"The {name} of document {row} holds half a character (a lone surrogate); "
                    "remove it."
                )


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_parts(documents: pd.DataFrame) -> None:
    """`part` is kept as a whole number: of 32 bits, in the trace."""
    for row, value in enumerate(documents.get("part", ())):
        if not pd.isna(value) and not _is_part(value):
            raise ValueError(
                f"The part of document {documents['id'].iloc[row]} is {value!r}, not a whole "
                "number; leave the column out, or number the parts."
            )


def _is_part(value: object) -> bool:
    try:
        number = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        return False
    return bool(number == value) and abs(number) < 2**31


def _check_filled(documents: pd.DataFrame, needed: Sequence[str]) -> None:
    for name in needed:
        if documents[name].isna().any():
            row = documents["id"].iloc[int(documents[name].isna().argmax())]
            raise ValueError(f"The document {row} has no {name}; give it one, or leave it out.")
