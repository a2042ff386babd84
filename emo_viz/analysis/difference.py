"""Two runs that routed the same tokens: how far their experts, gate weights and losses agree.

Two engines, two precisions, two checkpoints: what of a routing survives the change, where it first
parts, and how much agreement chance alone would give.

Shapes: D documents, T tokens of a document, N tokens in all, L layers, K experts a token; K may
differ between the runs, L may not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from emo_viz.analysis.bootstrap import Interval, bootstrap_interval

EMPTY = -1  # a slot without an expert
CHANCE_TOKENS = 20_000
CHANCE_SHUFFLES = 5
CHUNK = 4_096  # tokens compared at once

Number = TypeVar("Number", np.integer, np.floating)
Ids = NDArray[np.integer]
Floats = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class RoutedDocument:
    """What one run did with one document.

    expert_ids [T, L, K], EMPTY in a slot without an expert; gate_weights [T, L, K], loss [T] in
    nats (NaN where there is none) and token_ids [T] are None where the run's source had none.
    """

    id: str
    expert_ids: Ids
    gate_weights: Floats | None = None
    loss: Floats | None = None
    token_ids: Ids | None = None


@dataclass(frozen=True)
class LayerDifference:
    """One layer; intervals are over documents, weighted by their tokens.

    same: share of tokens with exactly the same experts. overlap: experts that both chose over those
    that either chose (Jaccard), and what it would be by chance: the second run's choices shuffled
    among the tokens. weight: half the summed difference of the gate weights, each token's scaled to
    sum to 1 (0 the same, 1 nothing in common); None without gate weights.
    """

    same: Interval
    overlap: Interval
    chance_overlap: float
    weight: Interval | None


@dataclass(frozen=True, eq=False)
class Difference:
    """Two runs over the documents that both have.

    first_layer [L + 1]: share of tokens that part first in each layer; the last is the share that
    never does. parts_at: for each document the first token that is routed otherwise anywhere, -1
    for none. loss: second less first, nats a token; None where one has no losses. notes: one
    sentence for everything that was left out.
    """

    documents: tuple[str, ...]
    tokens: int
    layers: tuple[LayerDifference, ...]
    first_layer: Floats
    parts_at: Ids
    overlap_by_document: Floats
    loss: Interval | None
    notes: tuple[str, ...]


def compare(first: Sequence[RoutedDocument], second: Sequence[RoutedDocument]) -> Difference:
    """Compare two runs document by document and token by token.

    Documents are matched by id; of each, the tokens that both have. Where both know the token ids,
    a document counts up to the first that differs. Raises ValueError if no token is left or the
    runs differ in their number of layers.
    """
    pairs, notes = _matched(first, second)
    if not pairs:
        raise ValueError(
            "The two runs share no tokens: compare runs over the same documents, by models with "
            "the same tokenizer."
        )
    sums = [_sums(one, other) for one, other in pairs]
    chance_L = _chance(pairs)
    tokens_D = np.array([each.tokens for each in sums], dtype=float)
    layers = tuple(_layer(sums, tokens_D, layer, chance_L[layer]) for layer in range(len(chance_L)))
    return Difference(
        documents=tuple(one.id for one, _ in pairs),
        tokens=int(tokens_D.sum()),
        layers=layers,
        first_layer=np.sum([each.first_layer for each in sums], axis=0) / tokens_D.sum(),
        parts_at=np.array([each.parts_at for each in sums]),
        overlap_by_document=np.array([each.overlap_L.mean() / each.tokens for each in sums]),
        loss=_loss(pairs),
        notes=tuple(notes),
    )


Pair = tuple[RoutedDocument, RoutedDocument]


def _matched(
    first: Sequence[RoutedDocument], second: Sequence[RoutedDocument]
) -> tuple[list[Pair], list[str]]:
    others = {document.id: document for document in second}
    found = [(one, others[one.id]) for one in first if one.id in others]
    cut = [_common_start(one, other) for one, other in found]
    pairs = [
        (_start(one, length), _start(other, length))
        for (one, other), length in zip(found, cut, strict=True)
        if length
    ]
    alone = len(first) + len(second) - 2 * len(found)
    left = sum(
        max(len(one.expert_ids), len(other.expert_ids)) - length
        for (one, other), length in zip(found, cut, strict=True)
    )
    notes = {
        f"Documents left out, as only one run has them: {alone:,}.": alone,
        f"Tokens left out, as they differ or only one run has them: {left:,}.": left,
    }
    return pairs, [sentence for sentence, number in notes.items() if number]


def _common_start(one: RoutedDocument, other: RoutedDocument) -> int:
    """How many tokens from the start both runs have alike."""
    if one.expert_ids.shape[1] != other.expert_ids.shape[1]:
        raise ValueError(
            f"The runs have {one.expert_ids.shape[1]} and {other.expert_ids.shape[1]} layers with "
            "experts; routing is compared layer by layer."
        )
    length = min(len(one.expert_ids), len(other.expert_ids))
    if one.token_ids is None or other.token_ids is None:
        return length
    differs = np.flatnonzero(one.token_ids[:length] != other.token_ids[:length])
    return int(differs[0]) if len(differs) else length


def _start(document: RoutedDocument, length: int) -> RoutedDocument:
    def cut(values: NDArray[Number] | None) -> NDArray[Number] | None:
        return None if values is None else values[:length]

    return RoutedDocument(
        document.id,
        document.expert_ids[:length],
        cut(document.gate_weights),
        cut(document.loss),
        cut(document.token_ids),
    )


@dataclass(frozen=True, eq=False)
class _Sums:
    """Of one document: sums over its tokens, by layer."""

    tokens: int
    same_L: Floats
    overlap_L: Floats
    weight_L: Floats | None
    first_layer: Floats
    parts_at: int


def _sums(one: RoutedDocument, other: RoutedDocument) -> _Sums:
    overlap_TL = jaccard(one.expert_ids, other.expert_ids)
    same_TL = overlap_TL == 1
    parts_T = ~same_TL.all(1)
    first_T = np.where(parts_T, (~same_TL).argmax(1), same_TL.shape[1])
    return _Sums(
        tokens=len(same_TL),
        same_L=same_TL.sum(0),
        overlap_L=overlap_TL.sum(0),
        weight_L=_weight_sums(one, other),
        first_layer=np.bincount(first_T, minlength=same_TL.shape[1] + 1).astype(float),
        parts_at=int(parts_T.argmax()) if parts_T.any() else -1,
    )


def jaccard(first: Ids, second: Ids) -> Floats:
    """Experts that both chose over those that either chose: [.., K] and [.., K'] to [..].

    Two empty choices agree wholly.
    """
    shape = first.shape[:-1]
    rows = (_once(first).reshape(-1, first.shape[-1]), _once(second).reshape(-1, second.shape[-1]))
    chunks = range(0, len(rows[0]), CHUNK)
    parts = [_jaccard_rows(rows[0][at : at + CHUNK], rows[1][at : at + CHUNK]) for at in chunks]
    return np.concatenate(parts or [np.empty(0)]).reshape(shape)


def _once(ids: Ids) -> Ids:
    """Sorted, an expert that stands twice in a token's choice kept once."""
    ordered = np.sort(ids, axis=-1)
    again = np.zeros(ordered.shape, dtype=bool)
    again[..., 1:] = ordered[..., 1:] == ordered[..., :-1]
    return np.where(again, EMPTY, ordered)


def _jaccard_rows(first: Ids, second: Ids) -> Floats:
    equal = (first[:, :, None] == second[:, None, :]) & (first[:, :, None] != EMPTY)
    both = equal.sum((1, 2))
    either = (first != EMPTY).sum(1) + (second != EMPTY).sum(1) - both
    return np.where(either == 0, 1.0, both / np.maximum(either, 1))


def _weight_sums(one: RoutedDocument, other: RoutedDocument) -> Floats | None:
    if one.gate_weights is None or other.gate_weights is None:
        return None
    experts = 1 + int(max(one.expert_ids.max(), other.expert_ids.max()))
    total_L = np.zeros(one.expert_ids.shape[1])
    for at in range(0, len(one.expert_ids), CHUNK):
        part = slice(at, at + CHUNK)
        first = _dense(one.expert_ids[part], one.gate_weights[part], experts)
        second = _dense(other.expert_ids[part], other.gate_weights[part], experts)
        total_L += 0.5 * np.abs(first - second).sum((0, 2))
    return total_L


def _dense(ids_TLK: Ids, weights_TLK: Floats, experts: int) -> Floats:
    """Every expert's share of a token's gate weights: [T, L, experts]."""
    weights = np.where(ids_TLK == EMPTY, 0, weights_TLK).astype(float)
    dense = np.zeros((*ids_TLK.shape[:2], experts))
    token, layer = np.ogrid[: ids_TLK.shape[0], : ids_TLK.shape[1]]
    places = (token[..., None], layer[..., None], np.maximum(ids_TLK, 0))
    np.add.at(dense, places, weights)
    scaled: Floats = dense / np.maximum(dense.sum(-1, keepdims=True), 1e-12)
    return scaled


def _chance(pairs: Sequence[Pair]) -> Floats:
    """Mean overlap of each layer when the second run's choices are shuffled among the tokens."""
    rng = np.random.default_rng(0)
    first = np.concatenate([one.expert_ids for one, _ in pairs])
    second = np.concatenate([other.expert_ids for _, other in pairs])
    if len(first) > CHANCE_TOKENS:
        some = np.sort(rng.choice(len(first), CHANCE_TOKENS, replace=False))
        first, second = first[some], second[some]
    shuffled = [jaccard(first, rng.permutation(second)).mean(0) for _ in range(CHANCE_SHUFFLES)]
    mean: Floats = np.mean(shuffled, axis=0)
    return mean


def _layer(
    sums: Sequence[_Sums], tokens_D: Floats, layer: int, chance_overlap: float
) -> LayerDifference:
    def interval(values: Sequence[float]) -> Interval:
        return bootstrap_interval(np.array(values) / tokens_D, tokens_D)

    weights = [each.weight_L[layer] for each in sums if each.weight_L is not None]
    return LayerDifference(
        same=interval([each.same_L[layer] for each in sums]),
        overlap=interval([each.overlap_L[layer] for each in sums]),
        chance_overlap=float(chance_overlap),
        weight=interval(weights) if len(weights) == len(sums) else None,
    )


def _loss(pairs: Sequence[Pair]) -> Interval | None:
    """Second less first over the tokens that have a loss in both."""
    means, counts = [], []
    for one, other in pairs:
        if one.loss is None or other.loss is None:
            return None
        change = other.loss - one.loss
        known = np.isfinite(change)
        if known.any():
            means.append(change[known].mean())
            counts.append(known.sum())
    return bootstrap_interval(means, counts) if means else None
