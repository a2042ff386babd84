"""Experts of two runs matched one to one by their use, for runs whose ids mean different things.

Two models that were trained apart, or an engine that writes physical instead of logical ids: the
same expert may stand under another id. Of each layer, the matching with the most common choices is
taken. It is fitted on one half of the documents and used on the other, and the other way round, so
that it cannot learn the choices that it is measured on.

Shapes: T tokens, L layers, K experts a token, E experts.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from emo_viz.analysis.difference import EMPTY, Ids, Pair


def matched_by_use(pairs: Sequence[Pair]) -> list[Pair]:
    """The same pairs, the second run's experts under the ids of those of the first that they match.

    An expert without a match has an id that the first run does not have.
    """
    experts = (
        1 + max(int(pair.first.expert_ids.max()) for pair in pairs),
        1 + max(int(pair.second.expert_ids.max()) for pair in pairs),
    )
    halves = _halves(pairs)
    layers = pairs[0].first.expert_ids.shape[1]
    counts = np.zeros((2, layers, *experts), dtype=np.int64)
    for pair, half_T in zip(pairs, halves, strict=True):
        for half in (0, 1):
            inside = half_T == half
            ours, theirs = pair.first.expert_ids[inside], pair.second.expert_ids[inside]
            for layer in range(layers):
                counts[half, layer] += _together(ours[:, layer], theirs[:, layer], experts)
    # Of each half, the names that the other half gives.
    names = [np.stack([_names(each) for each in counts[1 - half]]) for half in (0, 1)]
    return [
        replace(pair, second=replace(pair.second, expert_ids=_renamed(pair, half_T, names)))
        for pair, half_T in zip(pairs, halves, strict=True)
    ]


def _halves(pairs: Sequence[Pair]) -> list[Ids]:
    """0 or 1 for each token: documents by turns, or the tokens of a single document."""
    if len(pairs) == 1:
        return [np.arange(len(pairs[0].places)) % 2]
    return [np.full(len(pair.places), number % 2) for number, pair in enumerate(pairs)]


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


def _renamed(pair: Pair, half_T: Ids, names: Sequence[Ids]) -> Ids:
    ids = pair.second.expert_ids
    layers = np.arange(ids.shape[1])[:, None]
    both = [np.where(ids == EMPTY, EMPTY, each[layers, ids]) for each in names]
    renamed: Ids = np.where(half_T[:, None, None] == 0, both[0], both[1])
    return renamed
