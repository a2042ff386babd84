"""The traps of routing files, named, and mended where that is safe.

Mended: dense layers that a tool fills with zeros are dropped; rows of zeros become empty slots, and
columns that no token fills go. Told: whatever else would mislead a reader of the numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from emo_viz.trace.importers.imported import (
    NO_EXPERT,
    ImportedDocument,
    ImportedRouting,
    Lazy,
    Options,
    Source,
)
from emo_viz.trace.importers.reading import bad, check_table, listed, times
from emo_viz.trace.importers.survey import PREFIX, Survey

# Documents of a file with more than these bytes of ids and logits are made when asked for.
IN_MEMORY = 1 << 28


def checked(path: Path, source: Source, options: Options) -> ImportedRouting:
    """A source with its traps named and mended.

    Raises ValueError if its ids or shapes, or what the caller says of them, cannot be right.
    """
    if options.num_layers not in (None, len(source.layers)):
        raise bad(path, f"holds {len(source.layers)} layers", f"{options.num_layers} were expected")
    source = replace(source, num_experts=_num_experts(path, source, options))
    check_table(path, len(source.layers), max(source.num_experts or (0,)))
    if source.counts is not None:
        return _counted(path, source, source.counts)
    if not source.documents:
        raise bad(path, "holds no routing of any token")
    survey, kept = Survey(path, source), []
    for raw in source.documents:
        survey.add(raw)
        if survey.bytes <= IN_MEMORY:
            kept.append(raw)
        else:
            kept.clear()
    if survey.bytes <= IN_MEMORY:  # what was read once need not be read again
        source = replace(source, documents=tuple(kept))
    return _documented(path, source, survey, options)


def _num_experts(path: Path, source: Source, options: Options) -> tuple[int, ...] | None:
    """Experts in each layer, as the file says or else the caller."""
    said, known = source.num_experts, options.num_experts
    if known is None or not source.layers:
        return said
    if said is not None and max(said) != known:
        raise bad(path, f"is of a model with {max(said)} experts", f"{known} were expected")
    return (known,) * len(source.layers)


def _documented(path: Path, source: Source, survey: Survey, options: Options) -> ImportedRouting:
    keep = np.flatnonzero(survey.live_rows)
    if not len(keep):
        raise bad(path, "holds no expert ids: every one of its slots is empty or 0")
    slots = int(np.flatnonzero(survey.slots)[-1])
    check_table(path, len(keep), int(survey.seen.max()))
    texts = _texts(path, source, options)
    raws = source.documents

    def make(index: int) -> ImportedDocument:
        return _tidied(raws[index].document, keep, slots, texts[index] if texts else None)

    documents: Sequence[ImportedDocument] = Lazy(len(raws), make)
    if isinstance(raws, tuple):
        documents = tuple(documents)
    experts = source.num_experts
    return ImportedRouting(
        kind=source.kind,
        model=source.model,
        layers=tuple(source.layers[i] for i in keep),
        num_experts=tuple(experts[i] for i in keep) if experts else None,
        experts_seen=tuple(int(survey.seen[i]) for i in keep),
        documents=documents,
        counts=None,
        notes=(*source.notes, *_notes(source, survey)),
        clusters=source.clusters,
    )


def _tidied(
    document: ImportedDocument, keep: np.ndarray, slots: int, text: str | None
) -> ImportedDocument:
    """Without dense layers and unused columns, with -1 where a row holds only zeros."""
    ids = document.expert_ids[:, keep]
    if ids.shape[2] > 1:
        ids = np.where((ids == 0).all(axis=2, keepdims=True), NO_EXPERT, ids)
    order = np.argsort(ids == NO_EXPERT, axis=2, kind="stable")  # empty slots last
    ids = _as_wide(np.take_along_axis(ids, order, axis=2), slots, NO_EXPERT).astype(np.int32)
    weights, logits = document.gate_weights, document.router_logits
    if weights is not None:
        weights = _as_wide(np.take_along_axis(weights[:, keep], order, axis=2), slots, 0)
        weights = np.where(ids == NO_EXPERT, 0, weights).astype(np.float32)
    return replace(
        document,
        expert_ids=ids,
        gate_weights=weights,
        router_logits=None if logits is None else logits[:, keep],
        text=document.text if text is None else text,
    )


def _as_wide(table: np.ndarray, slots: int, fill: int) -> np.ndarray:
    """[T, L, K] with `slots` slots: filled up, or cut where all are empty."""
    more = max(slots - table.shape[2], 0)
    return np.pad(table, ((0, 0), (0, 0), (0, more)), constant_values=fill)[:, :, :slots]


def _texts(path: Path, source: Source, options: Options) -> list[str | None] | None:
    """The caller's texts in the order of the documents."""
    given, count = options.text, len(source.documents)
    if given is None:
        return None
    if isinstance(given, Mapping):
        ids = [raw.document.id for raw in source.documents]
        unknown = sorted(set(given) - set(ids))
        if unknown:
            raise bad(path, f"has no document {unknown[0]!r}", f"its first is {ids[0]!r}")
        return [given.get(name) for name in ids]
    texts: list[str | None] = [given] if isinstance(given, str) else list(given)
    if len(texts) != count:
        raise bad(path, f"holds {count} documents", f"{len(texts)} texts were given")
    return texts


def _notes(source: Source, survey: Survey) -> list[str]:
    """A sentence for each trap that the survey met."""
    total = len(source.documents)
    notes = [f"{number} of {total} documents: {what}." for what, number in survey.told.items()]
    return notes + missing_layers(source.layers) + _layer_notes(source, survey) + _rows(survey)


def missing_layers(layers: tuple[int, ...]) -> list[str]:
    """A note if the layers' numbers have gaps."""
    gaps = sorted(set(range(layers[0], layers[-1] + 1)) - set(layers)) if layers else []
    if not gaps:
        return []
    return [f"The file has nothing of {listed(gaps)}: dense, or a recording with holes."]


def _layer_notes(source: Source, survey: Survey) -> list[str]:
    layers, live = np.array(source.layers), survey.live_rows > 0
    notes = []
    if not live.all():
        notes.append(
            f"No token has routing in {listed(layers[~live])}: dropped as dense, which some tools "
            "fill with zeros."
        )
    single = layers[live & (survey.seen == 1)]
    if len(single):
        notes.append(
            f"Every token goes to expert 0 in {listed(single)}: dense and filled with zeros, or a "
            "router that has collapsed."
        )
    return notes


def _rows(survey: Survey) -> list[str]:
    """Notes on single tokens: how many, of what, and what it means."""
    zeros = int(survey.zero_rows[survey.live_rows > 0].sum())
    again = sum(seen - 1 for seen in survey.prefixes.values())
    met = [
        (zeros, "place", _ZEROS),
        (survey.padded, "last token", _LAST),
        (survey.empty_tokens, "token", _EMPTY),
        (survey.holes, "place", _HOLE),
        (survey.duplicates, "place", _TWICE),
        (survey.bad_weights, "gate weight", "that no number can be"),
        (survey.bad_logits, "place", "with router logits that are not finite: without experts"),
        (again, "document", _AGAIN),
    ]
    notes = [f"The file has {times(number, what)} {rest}." for number, what, rest in met if number]
    used = np.flatnonzero(survey.slots)
    if len(used) > 1:
        notes.append(f"Tokens have from {used[0]} to {used[-1]} experts in a layer: top-k varies.")
    if used[-1] > 1 and survey.live_rows.sum() >= PREFIX and not survey.ranked_rows:
        notes.append("Ids always ascend within a token: which expert is the strongest is lost.")
    return notes


_ZEROS = (
    "where all slots of a token in a layer are 0, which no top-k is: never recorded, so counted "
    "as empty"
)
_LAST = "without experts: an engine runs no forward pass for the last token of a response"
_EMPTY = "without experts in any layer (-1): the prefix came from a cache, or it is padding"
_HOLE = "where a token has no experts in a layer but has some in another: layers are missing there"
_TWICE = (
    "where a token names the same expert twice in a layer: ids of another kind, or cut to too few "
    "bits"
)
_AGAIN = (
    f"with the same first {PREFIX} tokens as another: a shared prompt, or turns of one talk, whose "
    "tokens count again in each sum"
)


def _counted(path: Path, source: Source, counts: np.ndarray) -> ImportedRouting:
    """Counts of whole layers; counts: [L, E]."""
    if counts.size and int(counts.min()) < 0:
        raise bad(path, "holds a negative count")
    keep = np.flatnonzero((counts > 0).any(axis=1))
    if not len(keep):
        raise bad(path, "counts no expert at all")
    kept = counts[keep].astype(np.int64)
    layers = [source.layers[i] for i in keep]
    seen = [int(np.flatnonzero(row)[-1]) + 1 for row in kept]
    experts = tuple(source.num_experts[i] for i in keep) if source.num_experts else None
    for layer, top, limit in zip(layers, seen, experts or seen, strict=True):
        if top > limit:
            raise bad(path, f"counts the expert {top - 1} in layer {layer} of {limit} experts")
    width = max(experts or seen)
    table = np.zeros((len(keep), width), np.int64)
    table[:, : kept.shape[1]] = kept[:, :width]
    notes = [*source.notes, *missing_layers(source.layers)]
    dropped = sorted(set(source.layers) - set(layers))
    if dropped:
        notes.append(f"Nothing is counted in {listed(dropped)}: dropped as dense.")
    return ImportedRouting(
        kind=source.kind,
        model=source.model,
        layers=tuple(layers),
        num_experts=experts,
        experts_seen=tuple(seen),
        documents=(),
        counts=table,
        notes=tuple(notes),
    )
