"""How often each expert was chosen: SGLang's recorder, REAP, llama.cpp's imatrix, CSV."""

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from emo_viz.trace.importers.gguf import read_tensors
from emo_viz.trace.importers.imported import Options, Source
from emo_viz.trace.importers.reading import (
    MAX_EXPERTS,
    MAX_LAYERS,
    bad,
    check_table,
    listed,
    times,
)
from emo_viz.trace.importers.recorder import read_recorder
from emo_viz.trace.importers.torch_files import loaded, tensor_array

COUNTS = re.compile(r"blk\.(\d{1,4})\.ffn_(gate|up|down|gate_up)_exps\.weight\.counts")
LAYER_NAMES = ("layer", "layer_id", "layer_idx", "moe_layer")
EXPERT_NAMES = ("expert", "expert_id", "expert_idx")
COUNT_NAMES = ("count", "counts", "hits", "tokens", "frequency")
# Above it float32 skips whole numbers.
EXACT = 1 << 24
MAX_COUNT = 1 << 53


def read_torch(path: Path, options: Options) -> Source:
    """A .pt file of SGLang's recorder (either mode) or of REAP's observer.

    Raises ValueError if it needs unpickling, or holds something else.
    """
    content = loaded(path)
    if isinstance(content, Mapping) and "logical_count" in content:
        return _sglang_counts(path, content)
    if isinstance(content, Mapping) and "records" in content:
        return read_recorder(path, content)
    layers = content if isinstance(content, Mapping) else {}
    if layers and all(isinstance(v, Mapping) and "expert_frequency" in v for v in layers.values()):
        return _reap(path, layers)
    raise bad(
        path,
        "holds no logical_count, records or expert_frequency",
        "SGLang's recorder and REAP's observer are read",
    )


def _sglang_counts(path: Path, content: Mapping[str, Any]) -> Source:
    """{rank, logical_count [steps, layers, experts] int32, ...}: the steps are summed."""
    table = tensor_array(content["logical_count"], path, "logical_count")
    if table.ndim not in (2, 3) or table.dtype.kind not in "iu":
        raise bad(
            path,
            f"holds a logical_count of {table.dtype} and shape {table.shape}",
            "[steps, layers, experts] of whole numbers is expected",
        )
    steps = table.reshape(-1, *table.shape[-2:])
    if steps.size and int(steps.min()) < 0:
        raise bad(path, "holds a negative count")
    check_table(path, steps.shape[1], steps.shape[2])
    empty = int((steps.sum(axis=(1, 2), dtype=np.int64) == 0).sum())
    notes = []
    if empty:
        notes.append(
            f"{empty} of {len(steps)} steps are empty: the recorder's buffer was not full."
        )
    elif table.ndim == 3:
        notes.append(
            f"All {len(steps)} steps are filled: the recorder keeps only the last ones when its "
            "buffer is full, so earlier steps may be missing."
        )
    return _counts("sglang-counts", steps.sum(axis=0, dtype=np.int64), notes)


def _counts(kind: str, table: np.ndarray, notes: list[str]) -> Source:
    """Counts [L, E] of layers 0 to L - 1, each with E experts."""
    layers, experts = table.shape
    return Source(
        kind=kind,
        layers=tuple(range(layers)),
        num_experts=(experts,) * layers,
        counts=table,
        notes=tuple(notes),
    )


def _reap(path: Path, content: Mapping[Any, Mapping[str, Any]]) -> Source:
    """{layer: {expert_frequency [E], total_tokens, ...}}; E may differ from layer to layer."""
    rows = {}
    for layer, saliency in content.items():
        if not isinstance(layer, int) or not 0 <= layer < MAX_LAYERS:
            raise bad(path, f"names the layer {str(layer)[:40]!r}")
        what = f"expert_frequency of layer {layer}"
        row = tensor_array(saliency["expert_frequency"], path, what)
        if row.ndim != 1:
            raise bad(path, f"holds {row.ndim} axes in {what}", "one is expected")
        rows[layer] = whole_counts(row, path, what)
    return _by_layer("reap", path, rows, [])


def whole_counts(row: np.ndarray, path: Path, what: str) -> np.ndarray:
    """Counts kept as floats, as int64; refuses fractions, negatives and what is not finite."""
    numbers = np.asarray(row, np.float64)
    if not np.isfinite(numbers).all() or (numbers < 0).any() or (numbers > MAX_COUNT).any():
        raise bad(path, f"holds numbers in {what} that are no counts")
    if (numbers != np.rint(numbers)).any():
        raise bad(path, f"holds fractions in {what}", "counts of tokens are expected, not shares")
    return numbers.astype(np.int64)


def _by_layer(kind: str, path: Path, rows: Mapping[int, np.ndarray], notes: list[str]) -> Source:
    """Counts of numbered layers, whose numbers of experts may differ."""
    layers = tuple(sorted(rows))
    experts = tuple(len(rows[layer]) for layer in layers)
    check_table(path, len(layers), max(experts))
    table = np.zeros((len(layers), max(experts)), np.int64)
    for place, layer in enumerate(layers):
        table[place, : experts[place]] = rows[layer]
    return Source(kind=kind, layers=layers, num_experts=experts, counts=table, notes=tuple(notes))


def read_imatrix(path: Path, options: Options) -> Source:
    """llama.cpp's importance matrix: blk.N.ffn_*_exps.weight.counts, float32 [E, 1].

    Raises ValueError if it is no GGUF, cut short, or counts no experts.
    """
    tensors = read_tensors(path, lambda name: COUNTS.fullmatch(name) is not None)
    if not tensors:
        raise bad(
            path,
            "holds no counts of experts (blk.N.ffn_*_exps.weight.counts)",
            "use the importance matrix of a mixture-of-experts model",
        )
    rows: dict[int, np.ndarray] = {}
    differing = set()
    for name in sorted(tensors, key=_preferred):
        match = COUNTS.fullmatch(name)
        assert match is not None
        layer, row = int(match[1]), whole_counts(tensors[name].reshape(-1), path, name)
        if not np.array_equal(rows.setdefault(layer, row), row):
            differing.add(layer)
    notes = []
    if differing:
        notes.append(
            f"The counts of gate, up and down differ in {listed(sorted(differing))}: those of the "
            "first of these tensors were taken."
        )
    if max(int(row.max(initial=0)) for row in rows.values()) > EXACT:
        notes.append("Counts above 16,777,216 are rounded: the file keeps them as float32.")
    return _by_layer("imatrix", path, rows, notes)


def _preferred(name: str) -> tuple[int, str]:
    """gate before up before down."""
    order = ("_gate_exps", "_gate_up_exps", "_up_exps", "_down_exps")
    return next(i for i, part in enumerate(order) if part in name), name


def read_csv(path: Path, options: Options) -> Source:
    """A CSV of counts (layer, expert, count), or of one row for each choice (layer, expert).

    Raises ValueError if a row is no layer, expert and count, with its line.
    """
    totals: dict[tuple[int, int], int] = {}
    repeated, counting = 0, False
    for cell, count in _csv_rows(path):
        counting = count is not None
        repeated += counting and cell in totals
        totals[cell] = totals.get(cell, 0) + (1 if count is None else count)
    if not totals:
        raise bad(path, "holds no rows of layer, expert and count")
    layers = tuple(sorted({layer for layer, _ in totals}))
    experts = max(expert for _, expert in totals) + 1
    check_table(path, len(layers), experts)
    places = {layer: place for place, layer in enumerate(layers)}
    table = np.zeros((len(layers), experts), np.int64)
    for (layer, expert), count in totals.items():
        table[places[layer], expert] = min(count, MAX_COUNT)
    notes = []
    if repeated:
        notes.append(f"{times(repeated, 'row')} for an expert that had one before: added up.")
    kind = "csv-counts" if counting else "csv-choices"
    return Source(kind=kind, layers=layers, counts=table, notes=tuple(notes))


def csv_columns(line: str) -> tuple[int, int, int | None] | None:
    """The places of layer, expert and count in a heading, or in a first row without one."""
    names = [name.strip().strip('"').lower() for name in line.split(",")]
    if len(names) in (2, 3) and all(name.isdecimal() for name in names):
        return 0, 1, 2 if len(names) == 3 else None
    found = [
        next((names.index(name) for name in wanted if name in names), None)
        for wanted in (LAYER_NAMES, EXPERT_NAMES, COUNT_NAMES)
    ]
    if found[0] is None or found[1] is None:
        return None
    return found[0], found[1], found[2]


def _csv_rows(path: Path) -> Iterator[tuple[tuple[int, int], int | None]]:
    """((layer, expert), count) of each row; lines that begin with # are remarks."""
    columns = None
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if not row or row[0].lstrip().startswith("#"):
                    continue
                if columns is None:
                    columns = csv_columns(",".join(row))
                    if columns is None:
                        raise bad(path, "names no columns layer and expert", "name them so")
                    if not row[0].strip().isdecimal():
                        continue
                yield _csv_row(path, number, row, columns)
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise bad(path, "is not a CSV file in UTF-8") from error


def _csv_row(
    path: Path, number: int, row: list[str], columns: tuple[int, int, int | None]
) -> tuple[tuple[int, int], int | None]:
    limits = (MAX_LAYERS, MAX_EXPERTS, MAX_COUNT)
    values = []
    for column, limit in zip(columns, limits, strict=True):
        if column is None:
            continue
        text = row[column].strip() if column < len(row) else ""
        text = text.removesuffix(".0")
        if not (text.isascii() and text.isdecimal() and len(text) < 17 and int(text) < limit):
            raise bad(
                path,
                f"has {text[:40]!r} in line {number}",
                "a layer, an expert and a count are whole numbers",
            )
        values.append(int(text))
    return (values[0], values[1]), values[2] if len(values) == 3 else None
