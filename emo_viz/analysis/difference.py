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
CHUNK = 4_096  # choices compared at once
BINS = 8
WEIGHT_CHUNK = 256  # tokens whose weights are spread over all experts at once

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

    same: share of tokens with exactly the same experts. shared: experts that both chose, as a share
    of those that a token uses (of the larger number). overlap: experts that both chose over those
    that either chose (Jaccard). chance: what shared and overlap would be if the second run's
    choices were shuffled among the tokens. weight: half the summed difference of the gate weights,
    each token's scaled to sum to 1 (0 the same, 1 nothing in common); None without gate weights.
    """

    same: Interval
    shared: Interval
    overlap: Interval
    chance_shared: float
    chance_overlap: float
    weight: Interval | None


@dataclass(frozen=True, eq=False)
class TokenDifference:
    """One document token by token: shared, overlap [T, L] as of `LayerDifference`, weight [T, L]
    likewise or None, loss [T] (second less first, NaN where one has none) or None."""

    shared: Floats
    overlap: Floats
    weight: Floats | None
    loss: Floats | None

    @property
    def same(self) -> NDArray[np.bool_]:
        """[T, L]: whether both chose exactly the same experts."""
        alike: NDArray[np.bool_] = self.overlap == 1
        return alike

    @property
    def first(self) -> Ids:
        """[T]: the first layer in which a token parts; L where it never does."""
        same = self.same
        never = same.all(1)
        first: Ids = np.where(never, same.shape[1], (~same).argmax(1))
        return first


@dataclass(frozen=True, eq=False)
class Pair:
    """A document of both runs, cut to the tokens that both routed; places [T]: of these tokens in
    the document as it was given."""

    first: RoutedDocument
    second: RoutedDocument
    places: Ids

    @property
    def id(self) -> str:
        return self.first.id


@dataclass(frozen=True, eq=False)
class DocumentSummary:
    """One document's tokens in short: mean overlap and weight over the layers [T], the first layer
    that parts [T], the loss difference [T]. weight and loss are None where a run has none."""

    overlap: Floats
    first: Ids
    weight: Floats | None
    loss: Floats | None


@dataclass(frozen=True, eq=False)
class Difference:
    """Two runs over the documents that both have.

    first_layer [L + 1]: share of tokens that part first in each layer; the last is the share that
    never does. parts_at: for each document the first of its places that is routed otherwise
    anywhere, -1 for none. loss: second less first, nats a token; None where one has no losses.
    summaries: of each document. notes: one sentence for everything that was left out.
    """

    documents: tuple[str, ...]
    tokens: int
    layers: tuple[LayerDifference, ...]
    first_layer: Floats
    parts_at: Ids
    summaries: tuple[DocumentSummary, ...]
    loss: Interval | None
    notes: tuple[str, ...]

    @property
    def same_choices(self) -> float:
        """Share of the choices (a token in a layer) with exactly the same experts."""
        return float(np.mean([layer.same.mean for layer in self.layers]))

    @property
    def same_tokens(self) -> float:
        """Share of tokens with exactly the same experts in every layer."""
        return float(self.first_layer[-1])


def compare(first: Sequence[RoutedDocument], second: Sequence[RoutedDocument]) -> Difference:
    """Compare two runs document by document and token by token, as `matched` pairs them.

    Raises ValueError if no token is left or the runs differ in their number of layers.
    """
    return compare_pairs(*matched(first, second))


def compare_pairs(pairs: Sequence[Pair], notes: Sequence[str] = ()) -> Difference:
    """Compare documents that are paired already. Raises ValueError if there is none."""
    if not pairs:
        raise ValueError(
            "The two runs share no tokens: compare runs over the same documents, by models with "
            "the same tokenizer."
        )
    sums = [_sums(pair) for pair in pairs]
    chance = _chance(pairs, sum(each.tokens for each in sums))
    tokens_D = np.array([each.tokens for each in sums], dtype=float)
    first_layer = np.sum([each.first_layer for each in sums], axis=0) / tokens_D.sum()
    return Difference(
        documents=tuple(each.id for each in sums),
        tokens=int(tokens_D.sum()),
        layers=tuple(_layer(sums, tokens_D, at, chance[at]) for at in range(len(chance))),
        first_layer=first_layer,
        parts_at=np.array([each.parts_at for each in sums]),
        summaries=tuple(each.summary for each in sums),
        loss=_loss([each.summary for each in sums]),
        notes=tuple(notes),
    )


def matched(
    first: Sequence[RoutedDocument], second: Sequence[RoutedDocument]
) -> tuple[list[Pair], list[str]]:
    """The documents that both runs have, and a sentence for everything that was left out.

    Documents are matched by id; where none has the id of another and both runs have as many, in
    their order. Of each, the tokens that both routed; where both know the token ids, up to the
    first that differs, else by their places. Raises ValueError for runs of different layers.
    """
    found, alone, notes = same_documents(first, second)
    left = Left(documents=alone)
    pairs = [pair_of(one, other, left) for one, other in found]
    return [pair for pair in pairs if pair is not None], [*notes, *left_out(left)]


@dataclass
class Left:
    """How much is left out of a comparison, counted as pairs are made: documents of one run alone,
    tokens that differ, tokens that one run did not route, and documents whose token ids are not
    known in both."""

    documents: int = 0
    differ: int = 0
    empty: int = 0
    by_place: int = 0


def pair_of(one: RoutedDocument, other: RoutedDocument, left: Left) -> Pair | None:
    """One document of both runs cut to the tokens that both routed, None if there is none; what is
    left out is counted. Raises ValueError for runs of different layers."""
    length = _common_start(one, other)
    left.differ += max(len(one.expert_ids), len(other.expert_ids)) - length
    places = _routed_by_both(one, other, length)
    left.empty += length - len(places)
    left.by_place += one.token_ids is None or other.token_ids is None
    return Pair(_only(one, places), _only(other, places), places) if len(places) else None


def left_out(left: Left) -> list[str]:
    """A sentence for everything that was left out."""
    said = {
        f"Documents left out, as only one run has them: {left.documents:,}.": left.documents,
        f"Tokens left out, as they differ or only one run has them: {left.differ:,}.": left.differ,
        f"Tokens left out, as one run recorded no expert of them: {left.empty:,}.": left.empty,
        "Token ids are not known in both runs: tokens are compared by their places.": left.by_place,
    }
    return [sentence for sentence, number in said.items() if number]


Documents = tuple[RoutedDocument, RoutedDocument]


def same_documents(
    first: Sequence[RoutedDocument], second: Sequence[RoutedDocument]
) -> tuple[list[Documents], int, list[str]]:
    """Documents of both, how many only one has, and how they were matched if not by id."""
    others = {document.id: document for document in second}
    found = [(one, others[one.id]) for one in first if one.id in others]
    if not found and len(first) == len(second) > 0:
        said = "The documents have other ids in each run: they are compared in their order."
        return list(zip(first, second, strict=True)), 0, [said]
    return found, len(first) + len(second) - 2 * len(found), []


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


def _routed_by_both(one: RoutedDocument, other: RoutedDocument, length: int) -> Ids:
    """Places of the tokens of which both runs recorded an expert at all.

    A server that had a prefix in its cache writes none for it.
    """
    routed = [(each.expert_ids[:length] != EMPTY).any((1, 2)) for each in (one, other)]
    return np.flatnonzero(routed[0] & routed[1])


def _only(document: RoutedDocument, places: Ids) -> RoutedDocument:
    def some(values: NDArray[Number] | None) -> NDArray[Number] | None:
        return None if values is None else values[places]

    return RoutedDocument(
        document.id,
        document.expert_ids[places],
        some(document.gate_weights),
        some(document.loss),
        some(document.token_ids),
    )


def token_difference(pair: Pair) -> TokenDifference:
    """How a document differs token by token and layer by layer."""
    one, other = pair.first, pair.second
    shared, overlap = agreement(one.expert_ids, other.expert_ids)
    loss = None
    if one.loss is not None and other.loss is not None:
        loss = np.asarray(other.loss, float) - one.loss
    return TokenDifference(shared, overlap, _weight(one, other), loss)


@dataclass(frozen=True, eq=False)
class _Sums:
    """Of one document: sums over its tokens, by layer."""

    id: str
    tokens: int
    same_L: Floats
    shared_L: Floats
    overlap_L: Floats
    weight_L: Floats | None
    first_layer: Floats
    parts_at: int
    summary: DocumentSummary


def _sums(pair: Pair) -> _Sums:
    found = token_difference(pair)
    layers, first_T = found.overlap.shape[1], found.first
    parts_T = first_T < layers
    weight = found.weight
    return _Sums(
        id=pair.id,
        tokens=len(first_T),
        same_L=found.same.sum(0),
        shared_L=found.shared.sum(0),
        overlap_L=found.overlap.sum(0),
        weight_L=None if weight is None else weight.sum(0),
        first_layer=np.bincount(first_T, minlength=layers + 1).astype(float),
        parts_at=int(pair.places[parts_T.argmax()]) if parts_T.any() else -1,
        summary=DocumentSummary(
            found.overlap.mean(1), first_T, None if weight is None else weight.mean(1), found.loss
        ),
    )


def agreement(first: Ids, second: Ids) -> tuple[Floats, Floats]:
    """Shared and overlap, as of `LayerDifference`: ids [.., K] and [.., K'] to [..] each.

    Two empty choices agree wholly.
    """
    shape = first.shape[:-1]
    rows = (_once(first).reshape(-1, first.shape[-1]), _once(second).reshape(-1, second.shape[-1]))
    chunks = range(0, len(rows[0]), CHUNK)
    parts = [_agreement_rows(rows[0][at : at + CHUNK], rows[1][at : at + CHUNK]) for at in chunks]
    both = np.concatenate(parts, axis=1) if parts else np.empty((2, 0))
    return both[0].reshape(shape), both[1].reshape(shape)


def _once(ids: Ids) -> Ids:
    """Sorted, an expert that stands twice in a token's choice kept once."""
    ordered = np.sort(ids, axis=-1)
    again = np.zeros(ordered.shape, dtype=bool)
    again[..., 1:] = ordered[..., 1:] == ordered[..., :-1]
    return np.where(again, EMPTY, ordered)


def _agreement_rows(first: Ids, second: Ids) -> Floats:
    equal = (first[:, :, None] == second[:, None, :]) & (first[:, :, None] != EMPTY)
    both = equal.sum((1, 2))
    ours, theirs = (first != EMPTY).sum(1), (second != EMPTY).sum(1)
    most, either = np.maximum(ours, theirs), ours + theirs - both
    none = either == 0
    shared = np.where(none, 1.0, both / np.maximum(most, 1))
    return np.stack([shared, np.where(none, 1.0, both / np.maximum(either, 1))])


def _weight(one: RoutedDocument, other: RoutedDocument) -> Floats | None:
    """How much of the gate weight moved, [T, L]."""
    if one.gate_weights is None or other.gate_weights is None:
        return None
    experts = 1 + int(max(one.expert_ids.max(), other.expert_ids.max()))
    moved = []
    for at in range(0, len(one.expert_ids), WEIGHT_CHUNK):
        part = slice(at, at + WEIGHT_CHUNK)
        first = _dense(one.expert_ids[part], one.gate_weights[part], experts)
        second = _dense(other.expert_ids[part], other.gate_weights[part], experts)
        moved.append(0.5 * np.abs(first - second).sum(2))
    return np.concatenate(moved)


def _dense(ids_TLK: Ids, weights_TLK: Floats, experts: int) -> Floats:
    """Every expert's share of a token's gate weights: [T, L, experts]."""
    weights = np.where(ids_TLK == EMPTY, 0, weights_TLK).astype(float)
    dense = np.zeros((*ids_TLK.shape[:2], experts))
    token, layer = np.ogrid[: ids_TLK.shape[0], : ids_TLK.shape[1]]
    places = (token[..., None], layer[..., None], np.maximum(ids_TLK, 0))
    np.add.at(dense, places, weights)
    scaled: Floats = dense / np.maximum(dense.sum(-1, keepdims=True), 1e-12)
    return scaled


def _chance(pairs: Sequence[Pair], tokens: int) -> Floats:
    """Mean shared and overlap of each layer [L, 2] when the second run's choices are shuffled among
    the tokens, of which there are so many in all."""
    rng = np.random.default_rng(0)
    some = np.arange(tokens)
    if tokens > CHANCE_TOKENS:
        some = np.sort(rng.choice(tokens, CHANCE_TOKENS, replace=False))
    first, second = _chosen_of(pairs, some)
    shuffled = [
        np.mean(agreement(first, rng.permutation(second)), axis=1) for _ in range(CHANCE_SHUFFLES)
    ]
    mean: Floats = np.mean(shuffled, axis=0).T
    return mean


def _chosen_of(pairs: Sequence[Pair], some: Ids) -> tuple[Ids, Ids]:
    """Both runs' experts of some of all tokens, by their ascending number: [.., L, K] each."""
    parts: list[tuple[Ids, Ids]] = []
    begin = 0
    for pair in pairs:
        end = begin + len(pair.places)
        own = some[np.searchsorted(some, begin) : np.searchsorted(some, end)] - begin
        parts.append((pair.first.expert_ids[own], pair.second.expert_ids[own]))
        begin = end
    return np.concatenate([one for one, _ in parts]), np.concatenate([two for _, two in parts])


def _layer(sums: Sequence[_Sums], tokens_D: Floats, layer: int, chance: Floats) -> LayerDifference:
    def interval(values: Sequence[float]) -> Interval:
        return bootstrap_interval(np.array(values) / tokens_D, tokens_D)

    weights = [each.weight_L[layer] for each in sums if each.weight_L is not None]
    return LayerDifference(
        same=interval([each.same_L[layer] for each in sums]),
        shared=interval([each.shared_L[layer] for each in sums]),
        overlap=interval([each.overlap_L[layer] for each in sums]),
        chance_shared=float(chance[0]),
        chance_overlap=float(chance[1]),
        weight=interval(weights) if len(weights) == len(sums) else None,
    )


def _loss(summaries: Sequence[DocumentSummary]) -> Interval | None:
    """Second less first over the tokens that have a loss in both."""
    found = [_finite(each.loss) for each in summaries if each.loss is not None]
    known = [values for values in found if len(values)]
    if not known or len(found) < len(summaries):
        return None
    return bootstrap_interval([values.mean() for values in known], [len(v) for v in known])


def _finite(values: Floats) -> Floats:
    return values[np.isfinite(values)]


@dataclass(frozen=True)
class LossBin:
    """Tokens whose mean overlap over the layers lies in low..high: how many, where their mean lies,
    and the size of their loss difference whichever way it goes, nats a token."""

    low: float
    high: float
    overlap: float
    tokens: int
    size: Interval


def loss_by_overlap(summaries: Sequence[DocumentSummary]) -> list[LossBin]:
    """The loss difference against the overlap, in BINS of about as many tokens and one of those
    that agree wholly; none without losses."""
    parts = [
        (number, each.overlap[known], np.abs(each.loss[known]))
        for number, each in enumerate(summaries)
        if each.loss is not None and (known := np.isfinite(each.loss)).any()
    ]
    if not parts:
        return []
    document = np.concatenate([np.full(len(overlap), number) for number, overlap, _ in parts])
    overlap = np.concatenate([overlap for _, overlap, _ in parts])
    size = np.concatenate([size for *_, size in parts])
    which = _bins(overlap)
    return [
        _loss_bin(document[inside], overlap[inside], size[inside])
        for inside in (which == at for at in np.unique(which))
    ]


def _bins(overlap: Floats) -> Ids:
    """A bin for each token: those that agree wholly in one of their own, others in quantiles."""
    # Rounded: means of the same numbers in another order are the same place.
    rounded = overlap.round(6)
    differ = rounded < 1
    edges = np.unique(
        np.quantile(rounded[differ], np.linspace(0, 1, BINS)[:-1]) if differ.any() else []
    )
    return np.where(differ, np.searchsorted(edges, rounded, side="right"), len(edges) + 1)


def _loss_bin(document: Ids, overlap: Floats, size: Floats) -> LossBin:
    names, where = np.unique(document, return_inverse=True)
    counts = np.bincount(where, minlength=len(names))
    means = np.bincount(where, weights=size, minlength=len(names)) / counts
    return LossBin(
        low=float(overlap.min()),
        high=float(overlap.max()),
        overlap=float(overlap.mean()),
        tokens=len(size),
        size=bootstrap_interval(means, counts),
    )
