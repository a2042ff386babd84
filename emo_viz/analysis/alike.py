"""How alike a model routes two tokens, or two texts, layer by layer.

Shapes: L layers, T tokens of a text (the token that opens it left out), K expert slots a token
(-1: empty), R routed experts of the largest layer.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emo_viz.analysis.difference import agreement
from emo_viz.analysis.routed import known
from emo_viz.trace.recorded import RecordedDocument
from emo_viz.trace.schema import TracedModel

Ids = NDArray[np.integer]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RoutedText:
    """What one run did with one text.

    use [L, R]: each expert's share of the choices of its layer, rows of zeros for a layer without
    a router. expert_ids, gate_weights [L, T, K] and loss [T] (nats, NaN for none): None where they
    are not known.
    """

    use: Floats
    expert_ids: Ids | None = None
    gate_weights: NDArray[np.floating] | None = None
    loss: NDArray[np.floating] | None = None

    @property
    def mean_loss(self) -> float:
        """Nats a token; NaN where there is none."""
        known = np.array([]) if self.loss is None else self.loss[~np.isnan(self.loss)]
        return float(known.mean()) if known.size else float("nan")


@dataclass(frozen=True, eq=False)
class Alike:
    """Two tokens or two texts in one run; arrays [L], NaN for a layer without a router.

    overlap: of two tokens the experts of both over those of either (Jaccard); of two texts the
    share of the choices that falls on the same experts (the sum of the smaller shares). common:
    number of experts that both use. reference: what the overlap is worth beside it: of tokens the
    mean over all pairs of one token of either text, of texts the mean overlap of the two halves of
    each; None where that is not known. weight: the sum of the smaller gate weights of two tokens,
    each token's scaled to sum to 1; None for texts and without weights.
    """

    overlap: Floats
    common: NDArray[np.int64]
    reference: Floats | None
    weight: Floats | None


def use_of(expert_ids: Ids, routed: int) -> Floats:
    """Each expert's share of the choices [L, T, K] of its layer: [L, routed]."""
    layers = len(expert_ids)
    counts = np.zeros((layers, routed))
    for layer, ids in enumerate(expert_ids):
        counts[layer] = np.bincount(ids[ids >= 0], minlength=routed)
    shares: Floats = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return shares


def of_recorded(recorded: RecordedDocument, model: TracedModel) -> RoutedText:
    """A document of a trace with tokens; gate weights and losses are None where it has none."""
    ids = recorded.expert_ids[:, 1:]
    weights, loss = known(recorded, "gate_weights"), known(recorded, "loss")
    return RoutedText(
        use_of(ids, model.num_routed_experts),
        ids,
        None if weights is None else weights[:, 1:],
        None if loss is None else loss[1:],
    )


def texts_alike(one: RoutedText, other: RoutedText) -> Alike:
    """Two texts in one run."""
    overlap = _same_use(one.use, other.use)
    halves = [half for text in (one, other) if (half := _halves(text)) is not None]
    return Alike(
        overlap,
        ((one.use > 0) & (other.use > 0)).sum(axis=1),
        np.mean(halves, axis=0) if len(halves) == 2 else None,
        None,
    )


def tokens_alike(one: RoutedText, other: RoutedText, tokens: tuple[int, int]) -> Alike:
    """A token of either text (places from 0) in one run. Both texts have their expert ids."""
    assert one.expert_ids is not None and other.expert_ids is not None
    ids = one.expert_ids[:, tokens[0]], other.expert_ids[:, tokens[1]]
    overlap = agreement(*ids)[1].astype(np.float64)
    empty = (ids[0] < 0).all(axis=1) | (ids[1] < 0).all(axis=1)
    overlap[empty] = np.nan
    common = [len(set(a[a >= 0]) & set(b[b >= 0])) for a, b in zip(*ids, strict=True)]
    weight = None
    if one.gate_weights is not None and other.gate_weights is not None:
        weights = one.gate_weights[:, tokens[0]], other.gate_weights[:, tokens[1]]
        dense = [_dense(*each, one.use.shape[1]) for each in zip(ids, weights, strict=True)]
        weight = np.where(empty, np.nan, np.minimum(*dense).sum(axis=1))
    return Alike(overlap, np.array(common), _mean_of_pairs(one, other), weight)


def _same_use(one: Floats, other: Floats) -> Floats:
    same: Floats = np.minimum(one, other).sum(axis=1)
    return np.where((one.sum(axis=1) > 0) & (other.sum(axis=1) > 0), same, np.nan)


def _halves(text: RoutedText) -> Floats | None:
    """Overlap of the two halves of a text [L]; None without its tokens, or of a single one."""
    ids = text.expert_ids
    if ids is None or ids.shape[1] < 2:
        return None
    middle, routed = ids.shape[1] // 2, text.use.shape[1]
    return _same_use(use_of(ids[:, :middle], routed), use_of(ids[:, middle:], routed))


def _dense(ids_LK: Ids, weights_LK: NDArray[np.floating], routed: int) -> Floats:
    """Every expert's share of a token's gate weights: [L, R]."""
    dense = np.zeros((len(ids_LK), routed))
    layer, slot = np.nonzero(ids_LK >= 0)
    np.add.at(dense, (layer, ids_LK[layer, slot]), weights_LK[layer, slot])
    scaled: Floats = dense / np.maximum(dense.sum(axis=1, keepdims=True), 1e-12)
    return scaled


def _mean_of_pairs(one: RoutedText, other: RoutedText) -> Floats:
    """The mean Jaccard over all pairs of one token of either text: [L]."""
    assert one.expert_ids is not None and other.expert_ids is not None
    routed, means = one.use.shape[1], []
    for ours, theirs in zip(one.expert_ids, other.expert_ids, strict=True):
        first, second = _chosen(ours, routed), _chosen(theirs, routed)
        both = first @ second.T
        either = first.sum(axis=1)[:, None] + second.sum(axis=1)[None] - both
        known = either > 0
        means.append(float((both[known] / either[known]).mean()) if known.any() else np.nan)
    return np.array(means)


def _chosen(ids_TK: Ids, routed: int) -> NDArray[np.float32]:
    """Whether each token chose each expert: [T, R], 0 or 1."""
    chosen = np.zeros((len(ids_TK), routed), np.float32)
    token, slot = np.nonzero(ids_TK >= 0)
    chosen[token, ids_TK[token, slot]] = 1
    return chosen
