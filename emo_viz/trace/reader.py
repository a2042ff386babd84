"""Open a finished trace: tables as pandas frames, arrays as read-only memory maps, SQL by DuckDB.

trace = Trace.open("assets/traces/emo-nano")
trace.query("select domain, avg(mean_loss) as nats from documents group by domain")
trace.query("select layer, expert, count(*) as n from routing group by all order by n desc")
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from emo_viz.trace.schema import (
    ACTIVATION,
    DOCUMENTS,
    MANIFEST,
    TOKENS,
    USAGE,
    TraceFile,
    TraceManifest,
)
from model.files import inside, read_text

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, eq=False)
class Trace:
    """A finished trace.

    usage: [documents, layers, routed experts] float16, mean router probability over the document's
    tokens (sums to 1 over the experts). activation: same shape, share of the document's tokens
    whose top-k contains the expert (sums to the routed experts a token). Both leave out the EOS
    that opens a document, are 0 for experts that a layer lacks (`manifest.model.routed_in_layer`),
    and are read-only maps of the files.
    """

    path: Path
    manifest: TraceManifest
    usage: np.ndarray
    activation: np.ndarray
    _documents: pd.DataFrame

    @classmethod
    def open(cls, path: Path | str) -> "Trace":
        """Open a trace folder.

        Raises ValueError if there is none, if it is unfinished, of another format version, or if a
        file is missing, outside of the folder, damaged, or of another size than the manifest says.
        """
        folder = Path(path)
        manifest = _read_manifest(folder)
        for name in _expected_files(manifest):
            _check_file(folder, name, manifest)
        documents = _table(folder, DOCUMENTS)
        arrays = {name: _array(folder, name, manifest) for name in (USAGE, ACTIVATION)}
        return cls(folder, manifest, arrays[USAGE], arrays[ACTIVATION], documents)

    @property
    def documents(self) -> pd.DataFrame:
        """The documents table (columns: `documents_schema`), safe to change: a lazy copy."""
        return self._documents.copy(deep=False)

    @property
    def has_tokens(self) -> bool:
        """Whether the trace holds a row for every token (level "tokens")."""
        return self.manifest.has_tokens

    def tokens(self, document: int) -> pd.DataFrame:
        """The rows of one document, opening EOS first (columns: `tokens_schema`).

        Raises ValueError if the trace has no tokens or no such document.
        """
        if not self.has_tokens:
            raise ValueError(
                f"The trace {self.path.name} holds no tokens; record it again with --level tokens."
            )
        if not 0 <= document < self.manifest.documents:
            raise ValueError(
                f"There is no document {document} in the trace {self.path.name}; it has documents "
                f"0 to {self.manifest.documents - 1}."
            )
        return _table(self.path, TOKENS, document)

    def query(self, sql: str, parameters: Sequence[object] = ()) -> pd.DataFrame:
        """Answer one SELECT over the views `documents` and, at level "tokens", `tokens`, `routing`.

        routing: document, position, layer, rank (0 = largest gate weight), expert, gate_weight; a
        row for every routed expert of every token. Only the trace's own files can be read.

        Raises ValueError for anything but one valid SELECT.
        """
        import duckdb

        with duckdb.connect() as connection:
            try:
                self._create_views(connection)
                statements = connection.extract_statements(sql)
                if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
                    raise ValueError("A query of a trace is one SELECT statement.")
                return connection.execute(statements[0], parameters).df()
            except (duckdb.Error, UnicodeError) as error:
                raise ValueError(f"The query failed: {str(error).splitlines()[0]}") from error

    def _create_views(self, connection: "duckdb.DuckDBPyConnection") -> None:
        """Define the views, then shut the connection off from every other file."""
        files = {"documents": DOCUMENTS} | ({"tokens": TOKENS} if self.has_tokens else {})
        allowed = []
        for view, name in files.items():
            path = str((self.path / name).absolute())
            # DuckDB reads a path as a pattern of paths; this one fits no other path.
            pattern = re.sub(r"[*?\[]", r"[\g<0>]", path)
            connection.execute(_view(view, _literal(pattern)))
            allowed += [_literal(pattern), _literal(path)]
        if self.has_tokens:
            connection.execute(_routing_view(self.manifest.model.slots))
        connection.execute(f"set allowed_paths = [{', '.join(allowed)}]")
        connection.execute("set enable_external_access = false")
        connection.execute("set lock_configuration = true")


def _read_manifest(folder: Path) -> TraceManifest:
    if not folder.is_dir():
        raise ValueError(
            f"There is no trace at {folder}; record one with python -m emo_viz record."
        )
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"The trace {folder} is unfinished (no {MANIFEST}); record it again.")
    try:
        return TraceManifest.from_json(read_text(inside(folder, MANIFEST)))
    except ValueError as error:
        raise ValueError(f"The trace {folder} cannot be read: {error}") from error


def _expected_files(manifest: TraceManifest) -> list[str]:
    return [DOCUMENTS, USAGE, ACTIVATION, *([TOKENS] if manifest.has_tokens else [])]


def _check_file(folder: Path, name: str, manifest: TraceManifest) -> None:
    """ValueError unless the file is listed, inside, there, and of the listed bytes and rows."""
    inside(folder, name)
    fault = _fault(folder / name, next((f for f in manifest.files if f.name == name), None))
    if fault:
        raise ValueError(f"The trace {folder} is damaged: {name} {fault}; record it again.")


def _fault(path: Path, listed: TraceFile | None) -> str | None:
    if listed is None:
        return f"is not listed in {MANIFEST}"
    if not path.is_file():
        return "is missing"
    size = path.stat().st_size
    if size != listed.bytes:
        return f"has {size} bytes instead of {listed.bytes}"
    try:
        rows = _rows(path)
    except Exception:  # NumPy reads the header of an array as Python, which fails in many ways
        return "is not readable"
    return None if rows == listed.rows else f"has {rows} rows instead of {listed.rows}"


def _rows(path: Path) -> int:
    """Rows of a file, from its header or footer alone."""
    if path.suffix == ".npy":
        return len(np.load(path, mmap_mode="r"))
    with path.open("rb") as file:
        return int(pq.read_metadata(file).num_rows)


def _array(folder: Path, name: str, manifest: TraceManifest) -> np.ndarray:
    model = manifest.model
    array: np.ndarray = np.load(folder / name, mmap_mode="r")
    shape = (manifest.documents, model.num_layers, model.num_routed_experts)
    if array.shape != shape or array.dtype != np.float16:
        raise ValueError(
            f"The trace {folder} is damaged: {name} holds {array.dtype} {list(array.shape)}, not "
            f"float16 {list(shape)}; record it again."
        )
    return array


def _table(folder: Path, name: str, document: int | None = None) -> pd.DataFrame:
    """A table, or its rows of one document. Its pages are read only now, and may be damaged.

    Read through a file handle: Arrow would take folders called key=value for columns.
    """
    filters = None if document is None else [("document", "=", document)]
    try:
        with (folder / name).open("rb") as file:
            frame: pd.DataFrame = pq.read_table(file, filters=filters).to_pandas()
    except (ValueError, OSError, pa.ArrowException) as error:
        raise ValueError(
            f"The trace {folder} is damaged: {name} is not readable; record it again."
        ) from error
    return frame


def _literal(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"


def _view(name: str, file: str) -> str:
    """A view of one file, without columns out of the names of its folders."""
    options = "hive_partitioning = false, filename = false"
    return f"create view {name} as select * from read_parquet({file}, {options})"


def _routing_view(slots: Sequence[int]) -> str:
    """A row for every routed expert of every token, out of the lists of the tokens table.

    slots: values of a token in each layer.
    """
    layer, rank = f"slot // {slots[0]}", f"slot % {slots[0]}"
    if len(set(slots)) > 1:
        layers = [str(number) for number, count in enumerate(slots) for _ in range(count)]
        ranks = [str(number) for count in slots for number in range(count)]
        layer, rank = (f"[{', '.join(values)}][slot + 1]" for values in (layers, ranks))
    return f"""
        create view routing as
        select document, position, {layer} as layer, {rank} as rank,
               expert_ids[slot + 1] as expert, gate_weights[slot + 1] as gate_weight
        from tokens, range({sum(slots)}) as slots(slot)
    """
