"""How good clusters are by themselves: how apart they lie, and whether another seed finds them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from emo_viz.analysis.clusters import Clustering, spherical_kmeans

SEEDS = (1, 2, 3, 4)


@dataclass(frozen=True)
class Quality:
    """silhouette: mean over the rows, -1 to 1. stability: mean adjusted Rand index over all pairs
    of `seeds` clusterings that differ in their seed alone, 1 where all find the same."""

    silhouette: float
    stability: float
    seeds: int


def quality(
    vectors: NDArray[np.float32], clustering: Clustering, seeds: Sequence[int] = SEEDS
) -> Quality:
    """The quality of clusters of unit rows [N, C], found again with other seeds."""
    from sklearn.metrics import adjusted_rand_score

    k = len(clustering.centroids)
    found = [clustering.labels, *(spherical_kmeans(vectors, k, seed).labels for seed in seeds)]
    pairs = [adjusted_rand_score(one, other) for one, other in combinations(found, 2)]
    return Quality(
        silhouette(vectors, clustering.labels), float(np.mean(pairs)) if pairs else 1.0, len(found)
    )


def silhouette(vectors: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Mean silhouette of unit rows [N, C] by cosine distance; 0 for a row alone in its cluster.

    Exact without a distance of every pair: the mean distance to a cluster is 1 less the product
    with its mean row. NaN for a single cluster.
    """
    names, own, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if len(names) < 2:
        return float("nan")
    rows = vectors.astype(np.float64)
    sums = np.stack([rows[own == each].sum(axis=0) for each in range(len(names))])
    near = rows @ sums.T
    at = np.arange(len(rows))
    alone = sizes[own] == 1
    inside = (sizes[own] - near[at, own]) / np.where(alone, 1, sizes[own] - 1)
    outside = 1 - near / sizes
    outside[at, own] = np.inf
    nearest = outside.min(axis=1)
    larger = np.maximum(np.maximum(inside, nearest), 1e-12)
    return float(np.where(alone, 0, (nearest - inside) / larger).mean())
