"""How two runs route the same tokens, as a table: of traces, or of checkpoints recorded for it.

A checkpoint is recorded token by token into a temporary folder, so that a difference of any two
sources is one of two traces, read a document at a time.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd

from emo_viz.analysis.difference import Difference, Documents, Pair, compare_pairs
from emo_viz.analysis.difference_stream import paired
from emo_viz.analysis.difference_table import all_tokens, by_layer
from emo_viz.analysis.matching import Weights, matched_by_use, trained_apart
from emo_viz.analysis.routed import Layers, Numbered, common_layers, known, of_trace
from emo_viz.analysis.runs import run_ids
from emo_viz.runs.record import Options, record
from emo_viz.trace.reader import Trace
from emo_viz.trace.schema import MANIFEST
from model.files import new_file

Experts = Literal["auto", "id", "use"]
Report = Callable[[str, int, int], None]
FORMATS = (".csv", ".parquet", ".json")


@dataclass(frozen=True)
class Source:
    """A trace folder, or a checkpoint folder or name and the dtype to run it in."""

    path: str
    dtype: str = "float32"

    @property
    def is_trace(self) -> bool:
        return (Path(self.path) / MANIFEST).is_file()


@dataclass(frozen=True, eq=False)
class Found:
    """Two runs over the same tokens. names: what they are called. by_use: whether experts were
    matched by use. first: the trace whose texts name the tokens."""

    names: tuple[str, str]
    layers: Layers
    pairs: Sequence[Pair]
    difference: Difference
    by_use: bool
    first: Trace

    def by_layer(self) -> pd.DataFrame:
        """`difference_table.by_layer` by the model's own numbers."""
        return by_layer(self.difference, self.layers.names)

    def by_token(self) -> Iterator[pd.DataFrame]:
        """`difference_table.all_tokens`, a table for each document."""
        rows = {str(name): row for row, name in enumerate(self.first.facts["id"])}
        return all_tokens(self.pairs, self.layers.names, self.names, lambda d: self._texts(rows[d]))

    def _texts(self, row: int) -> list[str]:
        recorded = self.first.recorded(row)
        for part in ("token_texts", "token_ids"):
            found = known(recorded, part)
            if found is not None:
                return [str(each) for each in found[1:]]
        return [str(place) for place in range(1, recorded.expert_ids.shape[1])]


@contextmanager
def difference(
    first: Source,
    second: Source,
    documents: pd.DataFrame | None,
    options: Options,
    experts: Experts = "auto",
    report: Report = lambda label, done, total: None,
) -> Iterator[Found]:
    """Compare two runs over the same documents, with memory that does not grow with their routing;
    what was recorded for it is there for the length of a `with` block.

    documents: what a checkpoint is recorded over; where the other side is a trace with texts, its
    own if None. experts: how those of the second run are told: by id, by use, or by use for two
    models of known and different weights. Raises ValueError for what cannot be compared.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sides = (first, second)
        traces = {at: _opened(side) for at, side in enumerate(sides) if side.is_trace}
        if len(traces) < 2 and documents is None:
            documents = _documents_of(traces)
        for at, side in enumerate(sides):
            if not side.is_trace:
                assert documents is not None
                own = replace(options, dtype=side.dtype, level="tokens")
                traces[at] = record(
                    side.path,
                    documents,
                    folder / f"{at}",
                    own,
                    report=lambda done, total, name=side.path: report(name, done, total),  # type: ignore[misc]
                )
        yield _compared(sides, (traces[0], traces[1]), experts)


def _opened(source: Source) -> Trace:
    trace = Trace.open(source.path)
    trace.need("tokens")
    return trace


def _documents_of(traces: dict[int, Trace]) -> pd.DataFrame:
    """The documents of the one trace there is."""
    trace = next(iter(traces.values()), None)
    if trace is None or not trace.has("text"):
        raise ValueError(
            "A checkpoint is compared over documents, and none are named; name a file of them with "
            "--documents."
        )
    found = trace.documents
    return found.assign(domain=found["domain"].fillna("unknown"))


def _compared(sides: tuple[Source, Source], traces: tuple[Trace, Trace], experts: Experts) -> Found:
    names = _names(sides)
    numbered = [Numbered.of_trace(trace) for trace in traces]
    layers = common_layers(numbered[0], numbered[1], names)
    pairs, notes = paired(_both(traces, layers))
    by_use = experts == "use" or experts == "auto" and trained_apart(*map(Weights.of_trace, traces))
    named = matched_by_use(pairs) if by_use and len(pairs) else pairs
    found = compare_pairs(named, [note for note in (layers.note, *notes) if note])
    return Found(names, layers, named, found, by_use, traces[0])


def _names(sides: tuple[Source, Source]) -> tuple[str, str]:
    paths = [Path(side.path) for side in sides]
    if paths[0].resolve() == paths[1].resolve():
        name = run_ids(paths[:1])[0]
        kinds = [side.dtype for side in sides]
        kinds = kinds if kinds[0] != kinds[1] else ["1", "2"]
        return f"{name}-{kinds[0]}", f"{name}-{kinds[1]}"
    one, other = run_ids(paths)
    return one, other


def _both(traces: tuple[Trace, Trace], layers: Layers) -> Iterator[Documents]:
    """Documents that both traces have, by their ids, else in their order."""
    ids = [trace.facts["id"].astype(str).tolist() for trace in traces]
    places = {name: row for row, name in enumerate(ids[1])}
    rows = [(row, places[name]) for row, name in enumerate(ids[0]) if name in places]
    if not rows and len(ids[0]) == len(ids[1]):
        rows = [(row, row) for row in range(len(ids[0]))]
    for one, other in rows:
        yield of_trace(traces[0], one, layers.first), of_trace(traces[1], other, layers.second)


def write_table(tables: Iterator[pd.DataFrame], out: Path) -> int:
    """Write tables one after the other as one CSV, Parquet or JSON file (by its ending: JSON is a
    list of objects), all or nothing; returns its rows. Raises ValueError for another ending."""
    check_ending(out)
    with new_file(out) as temporary:
        if out.suffix.lower() == ".parquet":
            return _write_parquet(tables, temporary)
        rows = 0
        with temporary.open("w", encoding="utf-8", newline="") as file:
            json = out.suffix.lower() == ".json"
            for number, table in enumerate(tables):
                rows += len(table)
                if json:
                    lines = table.to_json(orient="records", lines=True).splitlines()
                    file.write(("[\n" if number == 0 else ",\n") + ",\n".join(lines))
                else:
                    table.to_csv(file, index=False, header=number == 0)
            file.write("\n]\n" if json else "")
        return rows


def check_ending(out: Path) -> None:
    """Raises ValueError unless a table can be written as a file of this name."""
    if out.suffix.lower() not in FORMATS:
        raise ValueError(f"{out} is no table: name a file that ends in {', '.join(FORMATS)}.")


def _write_parquet(tables: Iterator[pd.DataFrame], path: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, writer = 0, None
    for table in tables:
        found = pa.Table.from_pandas(table, preserve_index=False)
        if writer is None:
            writer = pq.ParquetWriter(path, found.schema, compression="zstd")
        writer.write_table(found.cast(writer.schema))
        rows += len(table)
    if writer is not None:
        writer.close()
    return rows
