"""FLAME-MoE's traces: a Parquet file for each layer, a row for each token {scores, indices}.

flame-moe-290m/actives/iter_5473/layer_02.parquet ..., with the tokens' ids apart, in
flame-moe-290m/samples/000.parquet ...; the same columns as JSON lines are read too, for one layer.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from emo_viz.trace.importers.imported import NO_EXPERT, ImportedDocument, Lazy, Options, Raw, Source
from emo_viz.trace.importers.reading import (
    MAX_LAYERS,
    Records,
    bad,
    float_array,
    int_array,
)

LAYER = re.compile(r"layer_?(\d{1,4})\.parquet")
# The rows carry no borders of texts: a document is this many tokens, what FLAME trains on at once.
WINDOW = 2048
BATCH = 1 << 16
MAX_SLOTS = 1024


def read_flame(path: Path, options: Options) -> Source:
    """One layer's Parquet file, the folder of an iteration's layers, or JSON lines of one layer.

    Raises ValueError if layers differ in rows, or a row's ids and scores in number.
    """
    if path.is_file() and path.suffix != ".parquet" and not _is_parquet(path):
        return _json_lines(path)
    files = _layer_files(path)
    tables = [_Table(file, ("indices", "scores")) for file in files.values()]
    rows = {len(table) for table in tables}
    if len(rows) > 1:
        raise bad(path, f"has layers of {min(rows)} and of {max(rows)} tokens", "copy it again")
    samples, notes = _samples(path, len(tables[0]))
    if [*files] == [0] and LAYER.fullmatch(path.name) is None:
        notes.append("The file's name tells no layer (layer_02.parquet would): it counts as 0.")

    def make(index: int) -> Raw:
        first = index * WINDOW
        return _window(tables, samples, first, min(first + WINDOW, len(tables[0])))

    count = -(-len(tables[0]) // WINDOW)
    return Source(
        kind="flame", layers=tuple(files), documents=Lazy(count, make), notes=(*_NOTES, *notes)
    )


_NOTES = (
    f"The rows carry no borders of texts: a document here is a window of {WINDOW} tokens.",
    "Scores are shares of a softmax over all routed experts, so those of a token do not sum to 1; "
    "experts that every token uses are not in the file.",
)


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _layer_files(path: Path) -> dict[int, Path]:
    """The Parquet file of each layer, by the number in its name."""
    if path.is_file():
        match = LAYER.fullmatch(path.name)
        return {int(match[1]) if match else 0: path}
    found = {}
    for file in sorted(path.glob("*.parquet")):
        match = LAYER.fullmatch(file.name)
        if match and int(match[1]) < MAX_LAYERS:
            found[int(match[1])] = file
    if not found:
        raise bad(path, "holds no layer_NN.parquet", "name the folder of one iteration")
    return dict(sorted(found.items()))


class _Table:
    """Rows of one Parquet file by number, read forward in batches; only one batch is kept."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        with _blamed(path):
            self._file = pq.ParquetFile(path)
            metadata = self._file.metadata
            groups = range(metadata.num_row_groups)
            sizes = [metadata.row_group(group).num_rows for group in groups]
            values = sum(_values(metadata.row_group(group)) for group in groups)
            self.columns = [name for name in columns if name in self._file.schema_arrow.names]
        if columns[0] not in self.columns:
            raise bad(path, f"has no column {columns[0]}")
        if values > 64 * path.stat().st_size + (1 << 20):
            raise bad(path, f"would unpack to {values} values")
        if min(sizes, default=0) < 0 or sum(sizes) != metadata.num_rows:
            raise bad(path, "is a damaged Parquet file", "copy it again")
        self._starts = np.cumsum([0, *sizes])
        self._open(0)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, start: int, stop: int) -> pa.Table:
        """Rows start to stop - 1 of the columns that are there."""
        if not self._first <= start <= self._first + 2 * BATCH:
            self._open(start)
        parts = []
        while start < stop:
            end = self._first + self._batch.num_rows
            if start < end:
                part = self._batch.slice(start - self._first, min(stop, end) - start)
                parts.append(part)
                start += part.num_rows
            else:
                self._advance()
        return pa.Table.from_batches(parts)

    def _open(self, start: int) -> None:
        """Begin to read at the row group that holds a row."""
        group = max(int(np.searchsorted(self._starts, start, side="right")) - 1, 0)
        groups = range(group, len(self._starts) - 1)
        self._first = int(self._starts[group])
        self._batch = pa.RecordBatch.from_pylist([])
        self._batches = self._file.iter_batches(BATCH, list(groups), self.columns)

    def _advance(self) -> None:
        self._first += self._batch.num_rows
        with _blamed(self.path):
            batch = next(self._batches, None)
        if batch is None or not batch.num_rows:
            raise bad(self.path, "is a damaged Parquet file", "copy it again")
        self._batch = batch


def _values(group: Any) -> int:
    """Values in all columns of a row group."""
    return sum(int(group.column(column).num_values) for column in range(group.num_columns))


@contextmanager
def _blamed(path: Path) -> Iterator[None]:
    """What Parquet's reader says of a damaged file, as one sentence."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise bad(path, "is not a Parquet file, or damaged", "copy it again") from error


def _samples(path: Path, rows: int) -> tuple[list[_Table], list[str]]:
    """The tables of token ids beside the layers, where they are and fit."""
    folder = path if path.is_dir() else path.parent
    files = sorted((folder.resolve().parent.parent / "samples").glob("*.parquet"))
    tables = [_Table(file, ("token_id",)) for file in files]
    held = sum(len(table) for table in tables)
    if not tables:
        return [], ["Token ids (samples/*.parquet) are not beside the layers: there is no text."]
    if held != rows:
        told = f"{held} token ids stand beside {rows} rows of experts: they were left out."
        return [], [told]
    return tables, []


def _window(tables: Sequence[_Table], samples: Sequence[_Table], start: int, stop: int) -> Raw:
    """A document of the rows start to stop - 1 of each layer."""
    layers = [_slots(table, table.rows(start, stop)) for table in tables]
    width = max(ids.shape[1] for ids, _ in layers)
    ids = np.stack([_wide(ids, width, NO_EXPERT) for ids, _ in layers], axis=1)
    scores = [score for _, score in layers if score is not None]
    weights = None
    if len(scores) == len(layers):
        weights = np.stack([_wide(score, width, 0) for score in scores], axis=1)
    return Raw(
        ImportedDocument(
            id=f"tokens-{start}",
            expert_ids=ids,
            token_ids=_token_ids(samples, start, stop) if samples else None,
            gate_weights=weights,
        )
    )


def _token_ids(samples: Sequence[_Table], start: int, stop: int) -> np.ndarray:
    parts, first = [], 0
    for table in samples:
        last = first + len(table)
        if start < last and stop > first:
            rows = table.rows(max(start, first) - first, min(stop, last) - first)
            column = rows["token_id"].to_numpy()
            parts.append(int_array(column, table.path, "token_id", 1))
        first = last
    return np.concatenate(parts)


def _wide(table: np.ndarray, width: int, fill: int) -> np.ndarray:
    """[T, k] with its columns filled up to `width`."""
    return np.pad(table, ((0, 0), (0, width - table.shape[1])), constant_values=fill)


def _slots(table: _Table, rows: pa.Table) -> tuple[np.ndarray, np.ndarray | None]:
    """Ids [T, k] and scores [T, k] of one layer; rows of unequal length are filled up."""
    lengths, ids = _flat(table.path, rows["indices"], "indices")
    ids = int_array(ids, table.path, "indices", 1)
    scores = None
    if "scores" in table.columns:
        others, scores = _flat(table.path, rows["scores"], "scores")
        scores = float_array(scores, table.path, "scores", 1)
        if not np.array_equal(lengths, others):
            raise bad(table.path, "has rows with more or fewer scores than indices")
    return _padded(table.path, lengths, ids, scores)


def _flat(path: Path, column: pa.ChunkedArray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Length of each row's list, and all their values one after another."""
    kind = column.type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not (lists or pa.types.is_fixed_size_list(kind)) or column.null_count:
        raise bad(path, f"holds no list in each row of {what}", "a list of numbers is expected")
    flat = pa.chunked_array([chunk.flatten() for chunk in column.chunks], kind.value_type)
    if flat.null_count:
        raise bad(path, f"holds empty values in {what}")
    lengths = np.concatenate([_lengths(chunk) for chunk in column.chunks] or [np.zeros(0, int)])
    return lengths, flat.to_numpy()


def _lengths(chunk: Any) -> np.ndarray:
    if pa.types.is_fixed_size_list(chunk.type):
        return np.full(len(chunk), chunk.type.list_size)
    lengths: np.ndarray = np.diff(chunk.offsets.to_numpy())
    return lengths


def _padded(
    path: Path, lengths: np.ndarray, ids: np.ndarray, scores: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """One list after another as rows [T, k]: ids, and scores where there are any."""
    width = int(lengths.max(initial=0))
    if width > MAX_SLOTS:
        raise bad(path, f"has a row of {width} indices, more than any top-k")
    filled = np.arange(width) < lengths[:, None]
    table = np.full(filled.shape, NO_EXPERT, np.int32)
    table[filled] = ids
    if scores is None:
        return table, None
    shares = np.zeros(filled.shape, np.float32)
    shares[filled] = scores
    return table, shares


def _json_lines(path: Path) -> Source:
    """{indices, scores, token_id} of a token a line: one layer."""
    records = Records(path)

    def make(index: int) -> Raw:
        start = index * WINDOW
        rows = records[start : start + WINDOW]
        lists = [int_array(row.get("indices"), path, "indices", 1) for row in rows]
        shares = [float_array(row["scores"], path, "scores", 1) for row in rows if "scores" in row]
        lengths = np.array([len(row) for row in lists])
        held = shares if len(shares) == len(rows) else None
        if held is not None and [len(row) for row in held] != lengths.tolist():
            raise bad(path, "has rows with more or fewer scores than indices")
        ids, weights = _padded(
            path, lengths, np.concatenate(lists), None if held is None else np.concatenate(held)
        )
        tokens = [row["token_id"] for row in rows if "token_id" in row]
        return Raw(
            ImportedDocument(
                id=f"tokens-{start}",
                expert_ids=ids[:, None],
                token_ids=int_array(tokens, path, "token_id", 1) if tokens else None,
                gate_weights=None if weights is None else weights[:, None],
            )
        )

    count = -(-len(records) // WINDOW)
    notes = (*_NOTES, "JSON lines name no layer: it counts as layer 0.")
    return Source(kind="flame", layers=(0,), documents=Lazy(count, make), notes=notes)
