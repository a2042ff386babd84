"""Reading a file of documents: the one home for what `--documents` and its kin take.

A file of documents is Parquet with the columns id, domain and text, one row a document. Every way
in which it can be unfit is one ValueError that names the file.
"""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as kinds

REQUIRED_COLUMNS = ("id", "domain", "text")
OPTIONAL_COLUMNS = ("source", "licence", "parent", "part")


def read_documents(
    path: Path, required: Sequence[str] = (), optional: Sequence[str] = OPTIONAL_COLUMNS
) -> pd.DataFrame:
    """The documents of a Parquet file, at least one, in its order.

    Columns: id (each another), domain, text (with more than white space in it) and those of
    `required`; of `optional` those that are there. All are strings, whole numbers read as "7", with
    NaN where a value of an optional column is missing; part is a whole number or NaN. Texts are as
    they are in the file. The folders above it mean nothing (`domain=tea/` is a folder).

    Raises ValueError, naming the file, if it is missing, not Parquet, damaged, or lacks any of
    this.
    """
    needed = list(dict.fromkeys([*REQUIRED_COLUMNS, *required]))
    table = _read(path, needed, [name for name in optional if name not in needed])
    try:
        columns = {name: _column(name, table.column(name)) for name in table.column_names}
        frame = pd.DataFrame(columns)
        check_documents(frame)
        _check_filled(frame, needed)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return frame


def check_documents(documents: pd.DataFrame) -> None:
    """ValueError unless there are documents with an id of their own, a domain and a text."""
    missing = [name for name in REQUIRED_COLUMNS if name not in documents.columns]
    if missing:
        raise ValueError(f"The documents lack the column {' and the column '.join(missing)}.")
    if documents.empty:
        raise ValueError("There are no documents to record.")
    _check_characters(documents)  # first: pandas itself fails on half a character
    ids = documents["id"].map(str)
    if documents[["id", "domain"]].isna().any(axis=None) or ids.duplicated().any():
        raise ValueError("The documents need a domain each, and an id that no other document has.")
    _check_texts(documents)
    _check_parts(documents)


def texts_digest(texts: Iterable[str]) -> str:
    """SHA-256 of some texts in their order."""
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.hexdigest()


def _read(path: Path, needed: list[str], optional: list[str]) -> pa.Table:
    """The columns that are wanted; an error of the file's pages shows only when they are read."""
    if not path.is_file():
        raise ValueError(
            f"There is no file {path}; a Parquet file of documents (id, domain, text) is needed."
        )
    try:
        # A file handle, because Arrow takes no name that is not UTF-8, and reads folders' names.
        with path.open("rb") as handle:
            file = pq.ParquetFile(handle)
            there = file.schema_arrow.names
            table = file.read([name for name in (*needed, *optional) if name in there])
    except PermissionError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check its rights.") from error
    except (ValueError, OSError, pa.ArrowException) as error:
        raise ValueError(
            f"{path} is not a Parquet file of documents (id, domain, text) that can be read; copy "
            "or write it again."
        ) from error
    if missing := [name for name in needed if name not in there]:
        raise ValueError(
            f"{path}: The documents lack the column {' and the column '.join(missing)}; add it."
        )
    if len(set(table.column_names)) < len(table.column_names):
        raise ValueError(f"{path} has two columns of one name; leave one of them out.")
    return table


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
        return pd.Series(values, dtype=object)
    return pd.Series([None if value is None else str(value) for value in values], dtype="str")


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
