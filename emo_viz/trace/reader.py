"""Open a finished trace: tables as pandas frames, arrays as read-only memory maps, SQL by DuckDB.

trace = Trace.open("assets/traces/emo-nano")
trace.query("select domain, avg(mean_loss) as nats from documents group by domain")
trace.query("select layer, expert, count(*) as n from routing group by all order by n desc")
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
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

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, eq=False)
class Trace:
    """A finished trace.

    usage: [documents, layers, routed experts] float16, mean router probability over the document's
    tokens (sums to 1 over the experts). activation: same shape, share of the document's tokens
    whose top-k contains the expert (sums to the routed experts a token). Both leave out the EOS
    that opens a document, and both are read-only maps of the files.
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
        file is missing, cut short or of another number of rows than the manifest says.
        """
        folder = Path(path)
        manifest = _read_manifest(folder)
        for name in _expected_files(manifest):
            _check_file(folder, name, manifest)
        documents = pq.ParquetFile(folder / DOCUMENTS).read().to_pandas()
        arrays = {name: np.load(folder / name, mmap_mode="r") for name in (USAGE, ACTIVATION)}
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
        table = pq.read_table(self.path / TOKENS, filters=[("document", "=", document)])
        rows: pd.DataFrame = table.to_pandas()
        return rows

    def query(self, sql: str, parameters: Sequence[object] = ()) -> pd.DataFrame:
        """Answer one SELECT over the views `documents` and, at level "tokens", `tokens`, `routing`.

        routing: document, position, layer, rank (0 = largest gate weight), expert, gate_weight; a
        row for every routed expert of every token. Only the trace's own files can be read.

        Raises ValueError for anything but one valid SELECT.
        """
        import duckdb

        with duckdb.connect() as connection:
            self._create_views(connection)
            try:
                statements = connection.extract_statements(sql)
                if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
                    raise ValueError("A query of a trace is one SELECT statement.")
                return connection.execute(statements[0], parameters).df()
            except duckdb.Error as error:
                raise ValueError(f"The query failed: {str(error).splitlines()[0]}") from error

    def _create_views(self, connection: "duckdb.DuckDBPyConnection") -> None:
        """Define the views, then shut the connection off from every other file."""
        files = [_literal(self.path / DOCUMENTS)]
        connection.execute(_view("documents", files[0]))
        if self.has_tokens:
            files.append(_literal(self.path / TOKENS))
            connection.execute(_view("tokens", files[1]))
            model = self.manifest.model
            connection.execute(_routing_view(model.num_layers, model.num_routed_per_tok))
        connection.execute(f"set allowed_paths = [{', '.join(files)}]")
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
        return TraceManifest.from_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"The trace {folder} cannot be read: {error}") from error


def _expected_files(manifest: TraceManifest) -> list[str]:
    return [DOCUMENTS, USAGE, ACTIVATION, *([TOKENS] if manifest.has_tokens else [])]


def _check_file(folder: Path, name: str, manifest: TraceManifest) -> None:
    """ValueError unless the file is listed, there, and of the listed bytes and rows."""
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
    except (ValueError, OSError):
        return "is not readable"
    return None if rows == listed.rows else f"has {rows} rows instead of {listed.rows}"


def _rows(path: Path) -> int:
    """Rows of a file, from its header or footer alone."""
    if path.suffix == ".npy":
        return len(np.load(path, mmap_mode="r"))
    return int(pq.read_metadata(path).num_rows)


def _literal(path: Path) -> str:
    """A path as a SQL string."""
    return "'" + str(path.absolute()).replace("'", "''") + "'"


def _view(name: str, file: str) -> str:
    return f"create view {name} as select * from read_parquet({file})"


def _routing_view(layers: int, per_layer: int) -> str:
    """A row for every routed expert of every token, out of the lists of the tokens table."""
    return f"""
        create view routing as
        select document, position, slot // {per_layer} as layer, slot % {per_layer} as rank,
               expert_ids[slot + 1] as expert, gate_weights[slot + 1] as gate_weight
        from tokens, range({layers * per_layer}) as slots(slot)
    """
