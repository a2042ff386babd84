"""Open a finished trace: tables as pandas frames, arrays as read-only memory maps, SQL by DuckDB.

trace = Trace.open("assets/traces/emo-nano")
trace.query("select domain, avg(mean_loss) as nats from documents group by domain")
trace.query("select layer, expert, count(*) as n from routing group by all order by n desc")
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from emo_viz.trace.absent import Absent, Part, sentence
from emo_viz.trace.recorded import RecordedDocument
from emo_viz.trace.schema import (
    ACTIVATION,
    DOCUMENTS,
    MANIFEST,
    TOKEN_COLUMNS,
    TOKENS,
    USAGE,
    TracedModel,
    TraceFile,
    TraceManifest,
    documents_schema,
    tokens_schema,
)
from emo_viz.trace.tables import token_routing
from model.files import inside, read_text

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, eq=False)
class Trace:
    """A finished trace.

    usage: [documents, layers, routed experts] float16, mean router probability over the document's
    tokens, or each expert's share of their choices (`manifest.usage_of`); sums to 1 over the
    experts. Leaves out the EOS that opens a document, is 0 for experts that a layer lacks
    (`manifest.model.routed_in_layer`), and is a read-only map of the file.

    facts: the documents table without its texts, which are read when they are asked for. What the
    source of a trace did not have is absent: `has` tells, and asking for it raises `Absent`.
    """

    path: Path
    manifest: TraceManifest
    usage: np.ndarray
    _facts: pd.DataFrame

    @classmethod
    def open(cls, path: Path | str) -> "Trace":
        """Open a trace folder; no text and no token is read.

        Raises ValueError if there is none, if it is unfinished, of another format version, or if a
        file is missing, outside of the folder, damaged, or of another size than the manifest says.
        """
        folder = Path(path)
        manifest = _read_manifest(folder)
        for name in _expected_files(manifest):
            _check_file(folder, name, manifest)
        trace = cls(folder, manifest, _array(folder, USAGE, manifest), _read_facts(folder))
        if trace.has("activation"):
            _ = trace.activation  # its shape is checked
        return trace

    def has(self, part: Part) -> bool:
        """Whether the trace holds a part, for one document at least."""
        return part in self.manifest.has

    def need(self, part: Part) -> None:
        """Raises Absent, one sentence with the way out, if the trace lacks a part."""
        if not self.has(part):
            raise Absent(sentence(self.path.name, part))

    @cached_property
    def activation(self) -> np.ndarray:
        """Like usage, the share of the document's tokens whose top-k contains the expert.

        Sums to the routed experts a token. Raises Absent where only shares of choices are known.
        """
        self.need("activation")
        return _array(self.path, ACTIVATION, self.manifest)

    @property
    def facts(self) -> pd.DataFrame:
        """The documents table without texts (columns: `documents_schema`), safe to change."""
        return self._facts.copy(deep=False)

    @property
    def documents(self) -> pd.DataFrame:
        """The documents table with all texts (columns: `documents_schema`), safe to change."""
        table = self.facts
        table.insert(list(documents_schema().names).index("text"), "text", self._texts)
        return table

    @cached_property
    def _texts(self) -> pd.Series:
        texts: pd.Series = _table(self.path, DOCUMENTS, ["text"]).to_pandas()["text"]
        return texts

    def text(self, document: int) -> str:
        """The text of one document.

        Raises Absent if the trace has no texts or none of this document, ValueError if there is no
        such document.
        """
        self.need("text")
        self._check_document(document)
        found = _table(self.path, DOCUMENTS, ["text"], document)["text"][0].as_py()
        if found is None:
            raise Absent(sentence(self.path.name, "text"))
        return str(found)

    @property
    def has_tokens(self) -> bool:
        """Whether the trace holds a row for every token (level "tokens")."""
        return self.manifest.has_tokens

    def tokens(self, document: int) -> pd.DataFrame:
        """The rows of one document, opening EOS first (columns: those of `tokens_schema` that the
        trace has).

        Raises Absent if the trace has no tokens, ValueError if it has no such document.
        """
        frame: pd.DataFrame = self._rows(document).to_pandas()
        return frame

    def recorded(self, document: int) -> RecordedDocument:
        """One document in the shapes of `model.run.inference.Recording`.

        Raises as `tokens` does.
        """
        rows, manifest = self._rows(document), self.manifest
        texts = None
        if "text" in rows.column_names and rows["text"].null_count < len(rows):
            opening = [] if manifest.opening_eos else [""]
            texts = [*opening, *(text or "" for text in rows["text"].to_pylist())]
        routing = token_routing(rows, manifest.model, manifest.opening_eos)
        return RecordedDocument(self.path.name, routing, texts)

    def _rows(self, document: int) -> pa.Table:
        self.need("tokens")
        self._check_document(document)
        return _table(self.path, TOKENS, self._token_columns, document)

    def _check_document(self, document: int) -> None:
        if not 0 <= document < self.manifest.documents:
            raise ValueError(
                f"There is no document {document} in the trace {self.path.name}; it has documents "
                f"0 to {self.manifest.documents - 1}."
            )

    @property
    def _token_columns(self) -> list[str]:
        """The columns of the tokens table without those that are null throughout."""
        names = tokens_schema(self.manifest.model, self.manifest.clusters_of).names
        lacking = {name for name, part in TOKEN_COLUMNS.items() if not self.has(part)}
        return [name for name in names if name not in lacking]

    def query(self, sql: str, parameters: Sequence[object] = ()) -> pd.DataFrame:
        """Answer one SELECT over the views `documents`, `layers` and, at level "tokens", `tokens`
        and `routing`.

        layers: layer (a place in the arrays), number (the model's own), experts, slots. routing:
        document, position, layer, rank (0 = largest gate weight), expert, gate_weight; a row for
        every routed expert of every token. Only the trace's own files can be read.

        Raises ValueError for anything but one valid SELECT, Absent for a column that is absent.
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
                self._check_absent(str(error))
                raise ValueError(f"The query failed: {str(error).splitlines()[0]}") from error

    def _check_absent(self, error: str) -> None:
        """Raises Absent if a query failed for a column or a table that the trace lacks."""
        named = re.search(r'column "(\w+)" not found|Table with name (\w+) does not', error)
        names = {**TOKEN_COLUMNS, "gate_weight": "gate_weights", "cluster": "clusters"}
        names |= {"tokens": "tokens", "routing": "tokens"}
        part = names.get(named[1] or named[2]) if named else None
        if part is not None:
            self.need(part)

    def _create_views(self, connection: "duckdb.DuckDBPyConnection") -> None:
        """Define the views, then shut the connection off from every other file."""
        columns = {"documents": ["*"], "tokens": self._token_columns}
        files = {"documents": DOCUMENTS} | ({"tokens": TOKENS} if self.has_tokens else {})
        allowed = []
        for view, name in files.items():
            path = str((self.path / name).absolute())
            # DuckDB reads a path as a pattern of paths; this one fits no other path.
            pattern = re.sub(r"[*?\[]", r"[\g<0>]", path)
            connection.execute(_view(view, _literal(pattern), columns[view]))
            allowed += [_literal(pattern), _literal(path)]
        connection.execute(_layers_view(self.manifest.model))
        if self.has_tokens:
            connection.execute(_routing_view(self.manifest))
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
    activation = [ACTIVATION] if "activation" in manifest.has else []
    return [DOCUMENTS, USAGE, *activation, *([TOKENS] if manifest.has_tokens else [])]


def _check_file(folder: Path, name: str, manifest: TraceManifest) -> None:
    """ValueError unless the file is listed, inside, there, and of the listed bytes and rows."""
    inside(folder, name)
    fault = _fault(folder / name, next((f for f in manifest.files if f.name == name), None))
    if fault:
        raise ValueError(f"The trace {folder} is damaged: {name} {fault}; record it again.")


def _fault(path: Path, listed: TraceFile | None) -> str | None:
    if listed is None:
        return f"is not listed in {MANIFEST}"
    if fault := listed.fault(path.parent):
        return fault
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


def _read_facts(folder: Path) -> pd.DataFrame:
    facts: pd.DataFrame = _table(folder, DOCUMENTS, None).to_pandas()
    return facts


def _table(
    folder: Path, name: str, columns: list[str] | None, document: int | None = None
) -> pa.Table:
    """Columns of a table (None: all but texts), or its rows of one document.

    Its pages are read only now, and may be damaged. Read through a file handle: Arrow would take
    folders called key=value for columns.
    """
    filters = None if document is None else [("document", "=", document)]
    try:
        with (folder / name).open("rb") as file:
            if columns is None:
                columns = [c for c in pq.read_schema(file).names if c != "text"]
                file.seek(0)
            return pq.read_table(file, columns=columns, filters=filters)
    except (ValueError, OSError, pa.ArrowException) as error:
        raise ValueError(
            f"The trace {folder} is damaged: {name} is not readable; record it again."
        ) from error


def _literal(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"


def _view(name: str, file: str, columns: Sequence[str]) -> str:
    """A view of one file, without columns out of the names of its folders."""
    options = "hive_partitioning = false, filename = false"
    return f"create view {name} as select {', '.join(columns)} from read_parquet({file}, {options})"


def _layers_view(model: TracedModel) -> str:
    """A row for every layer."""
    rows = zip(range(model.num_layers), model.own_layers, model.routed, model.slots, strict=True)
    values = ", ".join(f"({', '.join(map(str, row))})" for row in rows)
    return f"create view layers as from (values {values}) as t(layer, number, experts, slots)"


def _routing_view(manifest: TraceManifest) -> str:
    """A row for every routed expert of every token, out of the lists of the tokens table."""
    slots = manifest.model.slots
    layer, rank = f"slot // {slots[0]}", f"slot % {slots[0]}"
    if len(set(slots)) > 1:
        layers = [str(number) for number, count in enumerate(slots) for _ in range(count)]
        ranks = [str(number) for count in slots for number in range(count)]
        layer, rank = (f"[{', '.join(values)}][slot + 1]" for values in (layers, ranks))
    weight = ", gate_weights[slot + 1] as gate_weight" if "gate_weights" in manifest.has else ""
    filled = " where expert_ids[slot + 1] is not null" if manifest.empty_slots else ""
    return f"""
        create view routing as
        select document, position, {layer} as layer, {rank} as rank,
               expert_ids[slot + 1] as expert{weight}
        from tokens, range({sum(slots)}) as slots(slot){filled}
    """
