"""Experts token by token: Megatron's router trace, moe-atlas, FLAME-MoE's Parquet (`flame.py`)."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emo_viz.trace.importers.imported import NO_EXPERT, ImportedDocument, Lazy, Options, Raw, Source
from emo_viz.trace.importers.reading import (
    MAX_EXPERTS,
    MAX_LAYERS,
    Records,
    bad,
    check_cells,
    int_array,
    times,
    whole,
)

TRACES = "router_trace_rank*.jsonl"
DECODER = "decoder"


@dataclass(frozen=True)
class _Batch:
    """One pass of one rank through the layers: where each layer's record is, by file and line."""

    name: str
    places: Mapping[int, tuple[int, int]]


def read_megatron(path: Path, options: Options) -> Source:
    """Megatron's router_trace_rank{N}.jsonl, one file or their folder; a document for each batch.

    Raises ValueError if a record is damaged, or layers of a batch differ in tokens.
    """
    files = [Records(file) for file in (sorted(path.glob(TRACES)) if path.is_dir() else [path])]
    batches, skipped, logits = _batches(path, files)
    layers = tuple(sorted({layer for batch in batches for layer in batch.places}))
    if not layers:
        raise bad(path, "holds no records of decoder layers")

    def make(index: int) -> Raw:
        return _batch_document(path, files, batches[index], layers)

    notes = ["The trace holds batches, not texts: a document here is one pass of one rank."]
    if skipped:
        notes.append(f"{times(skipped, 'record')} of other blocks than the decoder (MTP) left out.")
    if logits:
        notes.append("The router logits beside the trace (logits_rank*.bin) are not read.")
    if len(files) > 1:
        notes.append(f"{len(files)} ranks: with model parallelism they may hold the same tokens.")
    return Source(
        kind="megatron", layers=layers, documents=Lazy(len(batches), make), notes=tuple(notes)
    )


def _batches(path: Path, files: Sequence[Records]) -> tuple[list[_Batch], int, bool]:
    """Batches in the files' order, records left out, and whether there are logits beside them.

    A layer that comes again within a step begins another batch (training runs several a step).
    """
    found: dict[tuple[int, int, int], dict[int, tuple[int, int]]] = defaultdict(dict)
    passes: dict[tuple[int, int, int], int] = defaultdict(int)
    skipped, logits = 0, False
    for number, records in enumerate(files):
        for line, record in enumerate(records):
            if record.get("block", DECODER) != DECODER:
                skipped += 1
                continue
            step, layer = whole(record, "step", path), whole(record, "layer", path, MAX_LAYERS)
            rank = record.get("rank")
            rank = rank if isinstance(rank, int) else number
            logits |= "logit_offset" in record
            key = (rank, step, layer)
            found[rank, step, passes[key]][layer] = (number, line)
            passes[key] += 1
    batches = [
        _Batch(f"rank-{rank}/step-{step}" + (f"/{again}" if again else ""), places)
        for (rank, step, again), places in found.items()
    ]
    return batches, skipped, logits


def _batch_document(
    path: Path, files: Sequence[Records], batch: _Batch, layers: tuple[int, ...]
) -> Raw:
    tables = {}
    for layer, (number, line) in batch.places.items():
        record = files[number][line]
        table = int_array(record.get("top_indices"), path, f"top_indices of {batch.name}", 2)
        said = record.get("num_tokens", len(table))
        if said != len(table):
            raise bad(path, f"holds {len(table)} rows of {str(said)[:40]} tokens in {batch.name}")
        tables[layer] = table
    tokens = {len(table) for table in tables.values()}
    if len(tokens) > 1:
        raise bad(path, f"has layers of {min(tokens)} and of {max(tokens)} tokens in {batch.name}")
    rows, slots = tokens.pop(), max(table.shape[1] for table in tables.values())
    check_cells(path, rows * len(layers) * slots, sum(table.size for table in tables.values()))
    ids = np.full((rows, len(layers), slots), NO_EXPERT, np.int32)
    for layer, table in tables.items():
        ids[:, layers.index(layer), : table.shape[1]] = table
    return Raw(ImportedDocument(id=batch.name, expert_ids=ids))


def read_atlas(path: Path, options: Options) -> Source:
    """moe-atlas: {model_id, num_experts, token_strs, activations: [{layer, token_idx, ...}]}.

    Raises ValueError if an activation names a token, a layer or an expert that there is not.
    """
    records = Records(path)
    layers = tuple(
        sorted(
            {_place(path, a, "layer", MAX_LAYERS) for r in records for a in _activations(path, r)}
        )
    )
    if not layers:
        raise bad(path, "holds no activations")
    first = records[0]
    for record in records:
        if record.get("num_experts") != first.get("num_experts"):
            raise bad(path, "mixes models with different numbers of experts", "split it")
        said = record.get("num_layers")
        if isinstance(said, int) and layers[-1] >= said:
            raise bad(path, f"has activations in layer {layers[-1]} of a model with {said} layers")
    experts = whole(first, "num_experts", path, MAX_EXPERTS) if "num_experts" in first else None
    model = first.get("model_id")
    return Source(
        kind="moe-atlas",
        model=model if isinstance(model, str) else None,
        layers=layers,
        num_experts=None if experts is None else (experts,) * len(layers),
        documents=Lazy(len(records), lambda i: _atlas_document(path, records[i], i, layers)),
    )


def _activations(path: Path, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = record.get("activations")
    if not isinstance(found, list) or not all(isinstance(a, dict) for a in found):
        raise bad(path, "holds no list of activations")
    return found


def _place(path: Path, activation: Mapping[str, Any], key: str, below: int) -> int:
    value = activation.get(key)
    if type(value) is int and 0 <= value < below:
        return value
    raise bad(
        path, f"has an activation with {key} = {str(value)[:40]!r}", f"0 to {below - 1} is expected"
    )


def _atlas_document(
    path: Path, record: Mapping[str, Any], number: int, layers: tuple[int, ...]
) -> Raw:
    texts = record.get("token_strs")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise bad(path, "holds no list of texts in token_strs")
    slots: dict[tuple[int, int], list[tuple[float, int]]] = defaultdict(list)
    activations = _activations(path, record)
    for activation in activations:
        place = (
            _place(path, activation, "token_idx", len(texts)),
            layers.index(_place(path, activation, "layer", MAX_LAYERS)),
        )
        weight = activation.get("gate_weight")
        weight = weight if isinstance(weight, int | float) and abs(weight) < 1e30 else math.nan
        slots[place].append((weight, _place(path, activation, "expert_idx", MAX_EXPERTS)))
    width = max((len(slot) for slot in slots.values()), default=0)
    shape = (len(texts), len(layers), width)
    check_cells(path, math.prod(shape), len(activations))
    ids, weights = np.full(shape, NO_EXPERT, np.int32), np.zeros(shape, np.float32)
    for (token, layer), slot in slots.items():
        slot.sort(key=lambda pair: (math.isnan(pair[0]), -pair[0]))
        weights[token, layer, : len(slot)], ids[token, layer, : len(slot)] = zip(*slot, strict=True)
    text, name = record.get("text"), record.get("id")
    document = ImportedDocument(
        id=name if isinstance(name, str) else f"text-{number}",
        expert_ids=ids,
        text=text if isinstance(text, str) else None,
        token_texts=texts,
        gate_weights=weights,
    )
    return Raw(document, _top_k_note(record, width))


def _top_k_note(record: Mapping[str, Any], width: int) -> tuple[str, ...]:
    said = record.get("top_k")
    if said == width or not isinstance(said, int):
        return ()
    return (f"the file says top-k {said} and a token has up to {width} experts",)
