"""Experts of two runs matched one to one by their use, for runs whose ids mean different things.

Two models that were trained apart, or an engine that writes physical instead of logical ids: the
same expert may stand under another id. Of each layer, the matching with the most common choices is
taken. It is fitted on one half of the documents and used on the other, and the other way round, so
that it cannot learn the choices that it is measured on.

Shapes: T tokens, L layers, K experts a token, E experts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emo_viz.analysis.difference import EMPTY, Ids, Pair
from emo_viz.analysis.pairs import PairSequence

if TYPE_CHECKING:
    from emo_viz.trace import Trace


@dataclass(frozen=True)
class Weights:
    """What is known of the model behind a run: the routed experts of its layers (None: not known),
    the SHA-256 of its weights ("": not known), and whether it is a checkpoint that lies here."""

    routed: tuple[int, ...] | None
    sha256: str
    here: bool = False

    @classmethod
    def of_trace(cls, trace: "Trace") -> "Weights":
        model = trace.manifest.model
        return cls(model.routed if trace.has("num_experts") else None, model.checkpoint_sha256)


def trained_apart(one: Weights, other: Weights) -> bool:
    """Whether two runs are known to be of two models, or of one whose experts two engines number
    otherwise: by their numbers of experts; by the digests of their weights or, where these are too
    large to be read for it, by their being two checkpoints."""
    if one.routed is not None and other.routed is not None:
        counts = [{count for count in each.routed or () if count} for each in (one, other)]
        if counts[0] != counts[1]:
            return True
    if one.sha256 and other.sha256:
        return one.sha256 != other.sha256
    return one.here and other.here


@dataclass(frozen=True, eq=False)
class CoUse:
    """How often experts of two runs were chosen for the same token: counts [L, E, E'], over how
    many documents and tokens."""

    counts: NDArray[np.int64]
    documents: int
    tokens: int

    def less(self, pair: Pair) -> "CoUse":
        """The same without one of the documents, so that no matching knows what it is used on."""
        own = co_use([pair], (self.counts.shape[1], self.counts.shape[2]))
        return CoUse(self.counts - own.counts, self.documents - 1, self.tokens - own.tokens)

    def partners(self, layer: int) -> Ids:
        """For each expert of the second run [E'] the one of the first that it stands for; EMPTY
        where none is left, or where no token chose both."""
        return _partners(self.counts[layer])


def co_use(pairs: Iterable[Pair], experts: tuple[int, int]) -> CoUse:
    """Count over some documents. experts: E and E', how many there are in the largest layer."""
    counts, documents, tokens = None, 0, 0
    for pair in pairs:
        ours, theirs = pair.first.expert_ids, pair.second.expert_ids
        layers = range(ours.shape[1])
        own = np.stack([_together(ours[:, at], theirs[:, at], experts) for at in layers])
        counts = own if counts is None else counts + own
        documents, tokens = documents + 1, tokens + len(pair.places)
    return CoUse(np.zeros((0, *experts), np.int64) if counts is None else counts, documents, tokens)


def matched_by_use(pairs: Sequence[Pair]) -> Sequence[Pair]:
    """The same pairs, the second run's experts under the ids of those of the first that they match.

    An expert without a match has an id that the first run does not have. The pairs are read once
    for the matching and then as they are asked for.
    """
    counts = np.zeros((2, pairs[0].first.expert_ids.shape[1], 0, 0), dtype=np.int64)
    for number, pair in enumerate(pairs):
        half_T = _halves(pair, number, len(pairs))
        counts = _grown(counts, pair)
        for half in (0, 1):
            inside = half_T == half
            ours, theirs = pair.first.expert_ids[inside], pair.second.expert_ids[inside]
            for layer in range(counts.shape[1]):
                experts = counts.shape[2], counts.shape[3]
                counts[half, layer] += _together(ours[:, layer], theirs[:, layer], experts)
    # Of each half, the names that the other half gives.
    names = [np.stack([_names(each) for each in counts[1 - half]]) for half in (0, 1)]
    return _Renamed(pairs, names)


class _Renamed(PairSequence):
    """Pairs whose second run goes by names [E'] of its experts in each layer, for either half."""

    def __init__(self, pairs: Sequence[Pair], names: Sequence[Ids]) -> None:
        self._pairs, self._names = pairs, names

    def __len__(self) -> int:
        return len(self._pairs)

    def at(self, place: int) -> Pair:
        pair = self._pairs[place]
        half_T = _halves(pair, place, len(self))
        renamed = _renamed(pair, half_T, self._names)
        return replace(pair, second=replace(pair.second, expert_ids=renamed))


def _grown(counts: NDArray[np.int64], pair: Pair) -> NDArray[np.int64]:
    """Counts [2, L, E, E'] with room for the experts of a pair."""
    most = [1 + int(side.expert_ids.max()) for side in (pair.first, pair.second)]
    more = [max(0, m - size) for m, size in zip(most, counts.shape[2:], strict=True)]
    return np.pad(counts, ((0, 0), (0, 0), (0, more[0]), (0, more[1]))) if any(more) else counts


def _halves(pair: Pair, number: int, of: int) -> Ids:
    """0 or 1 for each token: documents by turns, or the tokens of a single document."""
    tokens = len(pair.places)
    return np.arange(tokens) % 2 if of == 1 else np.full(tokens, number % 2)


def _together(ours: Ids, theirs: Ids, experts: tuple[int, int]) -> NDArray[np.int64]:
    """How often an expert of the first and one of the second were chosen for the same token:
    [T, K] and [T, K'] to [E, E']."""
    one, other = np.broadcast_arrays(ours[:, :, None], theirs[:, None, :])
    known = (one != EMPTY) & (other != EMPTY)
    flat = one[known].astype(np.int64) * experts[1] + other[known]
    return np.bincount(flat, minlength=experts[0] * experts[1]).reshape(experts)


def _names(counts: NDArray[np.int64]) -> Ids:
    """For each expert of the second run the one of the first that it stands for: [E']."""
    from scipy.optimize import linear_sum_assignment

    ours, theirs = linear_sum_assignment(-counts)
    names = len(counts) + np.arange(counts.shape[1])
    names[theirs] = ours
    return names


def _partners(counts: NDArray[np.int64]) -> Ids:
    names, second = _names(counts), np.arange(counts.shape[1])
    together = counts[np.minimum(names, len(counts) - 1), second]
    found: Ids = np.where((names < len(counts)) & (together > 0), names, EMPTY)
    return found


def _renamed(pair: Pair, half_T: Ids, names: Sequence[Ids]) -> Ids:
    ids = pair.second.expert_ids
    layers = np.arange(ids.shape[1])[:, None]
    both = [np.where(ids == EMPTY, EMPTY, each[layers, ids]) for each in names]
    renamed: Ids = np.where(half_T[:, None, None] == 0, both[0], both[1])
    return renamed
