"""What domains share of their routing, which experts they would keep, and how even the use is.

All of it is of `ExpertUse`: shares of choices by document. Shapes: D documents, L layers, R routed
experts of the largest layer, G domains.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emo_viz.analysis.experts import SEED, ExpertUse

Floats = NDArray[np.float64]
DORMANT = 0.1  # of even use: an expert below it hardly serves
PERCENTILES = (5, 25, 50, 75, 95)


def overlap(profiles: Floats) -> Floats:
    """The share of their routing that every two rows of profiles [G, L, R] have in common [G, G]:
    the mean over layers of the sum of the smaller of both shares. 1: alike, 0: nothing."""
    rows = [np.minimum(one, profiles).sum(axis=2).mean(axis=1) for one in profiles]
    return np.stack(rows)


def profiles(use: ExpertUse, layer: int | None = None) -> Floats:
    """How each domain's choices divide over the experts [G, layers, R]: of one layer's place, or of
    all layers that have experts to choose among."""
    return use.affinity[:, _places(use, layer)]


def _places(use: ExpertUse, layer: int | None) -> list[int]:
    return [layer] if layer is not None else [n for n, routed in enumerate(use.routed) if routed]


@dataclass(frozen=True)
class Similarity:
    """matrix [G, G]: `overlap` of the domains. between: its mean over pairs. halves: mean overlap
    of two random halves of one domain's documents. shuffled: mean over pairs where whole documents
    were dealt to the domains at random."""

    matrix: Floats
    between: float
    halves: float
    shuffled: float


def similarity(use: ExpertUse, layer: int | None = None) -> Similarity:
    """How alike the domains are routed, in one layer (its place) or over all."""
    own = overlap(profiles(use, layer))
    rng = np.random.default_rng(SEED)
    dealt = _with(use, rng.permutation(use.domain_of), len(use.domains))
    halves = _halved(use, rng)
    groups = len(use.domains)
    both = overlap(profiles(halves, layer))
    same = [both[g, groups + g] for g in range(groups)]
    return Similarity(own, _off(own), float(np.mean(same)), _off(overlap(profiles(dealt, layer))))


def _halved(use: ExpertUse, rng: np.random.Generator) -> ExpertUse:
    """The same with two random halves of each domain: domain g and domain G + g."""
    groups, halves = len(use.domains), use.domain_of.copy()
    for group in range(groups):
        own = rng.permutation(np.flatnonzero(use.domain_of == group))
        halves[own[len(own) // 2 :]] += groups
    return _with(use, halves, 2 * groups)


def _with(use: ExpertUse, domain_of: NDArray[np.int64], groups: int) -> ExpertUse:
    names = tuple(str(number) for number in range(groups))
    return replace(use, domains=names, domain_of=domain_of)


def _off(matrix: Floats) -> float:
    """Mean beside the diagonal; NaN for one domain alone."""
    off = matrix[~np.eye(len(matrix), dtype=bool)]
    return float(off.mean()) if off.size else float("nan")


def order(matrices: Sequence[Floats]) -> list[int]:
    """One order of domains for all similarities [G, G], so that alike ones stand together."""
    from scipy.cluster.hierarchy import leaves_list, linkage, optimal_leaf_ordering
    from scipy.spatial.distance import squareform

    mean = np.mean(matrices, axis=0)
    if len(mean) < 3:
        return list(range(len(mean)))
    distances = 1 - (mean + mean.T) / 2
    np.fill_diagonal(distances, 0)
    flat = squareform(np.clip(distances, 0, None), checks=False)
    tree = optimal_leaf_ordering(linkage(flat, "average"), flat)
    return [int(place) for place in leaves_list(tree)]


@dataclass(frozen=True)
class Coverage:
    """Of every domain [G], means over layers: half: the fewest experts that carry half of its
    choices; entropy: of its choices over the experts, in nats. all_half, all_entropy: the same of
    all documents together. most: ln of the number of experts, mean over layers."""

    half: Floats
    entropy: Floats
    all_half: float
    all_entropy: float
    most: float


def coverage(use: ExpertUse, layer: int | None = None) -> Coverage:
    """How many experts each domain needs, in one layer (its place) or on average."""
    own = profiles(use, layer)
    places = _places(use, layer)
    together = use.load[places]
    return Coverage(
        half=_half(own).mean(axis=1),
        entropy=_entropy(own).mean(axis=1),
        all_half=float(_half(together).mean()),
        all_entropy=float(_entropy(together).mean()),
        most=float(np.mean([np.log(use.routed[place]) for place in places])),
    )


def _half(shares: Floats) -> Floats:
    """The fewest entries of the last axis that sum to half of it."""
    falling = -np.sort(-shares, axis=-1)
    reached = np.cumsum(falling, axis=-1) >= 0.5 * falling.sum(axis=-1, keepdims=True) - 1e-9
    fewest: Floats = reached.argmax(axis=-1) + 1.0
    return fewest


def _entropy(shares: Floats) -> Floats:
    logs = np.log(np.where(shares > 0, shares, 1))
    found: Floats = -(shares * logs).sum(axis=-1)
    return found


@dataclass(frozen=True)
class KeptSets:
    """matrix [G, G]: how far the experts that two domains would keep are the same (Jaccard: both
    over either), mean over layers. between: its mean over pairs. by_chance: of random sets."""

    matrix: Floats
    between: float
    by_chance: float


def kept_sets(use: ExpertUse, kept: int, layer: int | None = None) -> KeptSets:
    """Jaccard of the `kept` routed experts of largest affinity of every two domains."""
    own = profiles(use, layer)
    places = [layer] if layer is not None else [n for n, routed in enumerate(use.routed) if routed]
    found, chance = [], []
    for at, place in enumerate(places):
        most = min(kept, use.routed[place])
        ranks = np.argsort(-own[:, at, : use.routed[place]], axis=1, kind="stable")[:, :most]
        member = np.zeros((len(own), use.routed[place]))
        np.put_along_axis(member, ranks, 1, axis=1)
        both = member @ member.T
        found.append(both / np.maximum(2 * most - both, 1))
        chance.append(chance_jaccard(use.routed[place], most))
    matrix = np.mean(found, axis=0)
    return KeptSets(matrix, _off(matrix), float(np.mean(chance)))


def chance_jaccard(experts: int, kept: int) -> float:
    """Mean Jaccard of two random sets of `kept` of so many experts, exactly."""
    from scipy.stats import hypergeom

    both = np.arange(kept + 1)
    odds = hypergeom(experts, kept, kept).pmf(both)
    return float((odds * both / np.maximum(2 * kept - both, 1)).sum())


def balance(use: ExpertUse, slots: Sequence[int] | None = None) -> pd.DataFrame:
    """How evenly the experts of each layer are used; loads are over even use (1).

    slots: expert choices of a token in each layer, where they are known. Columns: layer (its own
    number), experts, cv (standard deviation of the loads), by_chance (the cv of as many choices
    dealt at random; NaN if slots are not known), gini, dormant (share of experts below DORMANT),
    max, min, and p5 to p95. Layers without experts are left out.
    """
    rows = []
    for place, (number, routed) in enumerate(zip(use.numbers, use.routed, strict=True)):
        if not routed:
            continue
        loads = use.times_even[place, :routed]
        choices = use.weights.sum() * slots[place] if slots else np.nan
        row = {
            "layer": number,
            "experts": routed,
            "cv": float(loads.std()),
            "by_chance": float(np.sqrt((routed - 1) / choices)),
            "gini": gini(loads),
            "dormant": float((loads < DORMANT).mean()),
            "max": float(loads.max()),
            "min": float(loads.min()),
        }
        found = np.percentile(loads, PERCENTILES)
        marks = zip(PERCENTILES, found, strict=True)
        rows.append(row | {f"p{percent}": float(value) for percent, value in marks})
    return pd.DataFrame(rows)


def gini(values: Floats) -> float:
    """Gini coefficient: 0 where all are the same, towards 1 where one has everything."""
    rising = np.sort(values)
    places = np.arange(1, len(rising) + 1)
    total = rising.sum()
    if total <= 0:
        return 0.0
    return float((2 * places - len(rising) - 1) @ rising / (len(rising) * total))
