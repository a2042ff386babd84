"""Spherical k-means: rows of routing that point the same way, whatever the order they come in."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from emo_viz.analysis.vectors import unit_rows

RESTARTS = 4
REFINEMENTS = 20
SMALLEST_SHIFT = 1e-6
FIRST_ROWS = 2048  # that each start draws its centroids from
MINIBATCH_ROWS = 5_000  # above this, mini-batches: of many more, all take seconds


@dataclass(frozen=True)
class Clustering:
    """Labels [N] and unit centroids [K, C]; cluster 0 is the largest unless renumbered."""

    labels: NDArray[np.int64]
    centroids: NDArray[np.float32]

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Rows per cluster [K]."""
        return np.bincount(self.labels, minlength=len(self.centroids))


def spherical_kmeans(vectors: NDArray[np.float32], k: int, seed: int = 0) -> Clustering:
    """Clusters of unit rows [N, C] by cosine: k-means, then Lloyd steps with unit centroids.

    The same seed gives the same clusters whatever the order of the rows. Raises ValueError if
    there are fewer than `k` different rows.
    """
    from threadpoolctl import threadpool_limits

    order = np.lexsort(vectors.T[::-1])  # k-means++ draws rows by position: fix the positions
    rows = vectors[order]
    different = int((rows[1:] != rows[:-1]).any(axis=1).sum()) + min(len(rows), 1)
    if not 1 <= k <= different:
        raise ValueError(f"{different} different rows cannot make {k} clusters; choose fewer.")
    # Thousands of steps too small to share: a second thread spins for what the first is at.
    with threadpool_limits(1):
        centroids = _refined(rows, _start(rows, k, seed))
        own = nearest(rows, centroids)
    labels = np.empty(len(rows), np.int64)
    labels[order] = own
    by_size = np.argsort(-np.bincount(labels, minlength=k), kind="stable")
    return Clustering(np.argsort(by_size)[labels], centroids[by_size])


def match_clusters(clustering: Clustering, reference: Clustering) -> Clustering:
    """The clusters of the same rows, renumbered so that equal numbers share the most rows.

    Raises ValueError if the two do not have the same rows and the same number of clusters.
    """
    from scipy.optimize import linear_sum_assignment

    k = len(reference.centroids)
    if len(clustering.centroids) != k or len(clustering.labels) != len(reference.labels):
        raise ValueError("Only as many clusters of the same rows can be matched.")
    shared = np.bincount(reference.labels * k + clustering.labels, minlength=k * k).reshape(k, k)
    own = linear_sum_assignment(shared, maximize=True)[1]
    return Clustering(np.argsort(own)[clustering.labels], clustering.centroids[own])


def nearest(vectors: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.int64]:
    """Index [N] of the centroid [K, C] with the largest cosine to each unit row [N, C]."""
    index: NDArray[np.int64] = (vectors @ centroids.T).argmax(axis=1)
    return index


def _start(rows: NDArray[np.float32], k: int, seed: int) -> NDArray[np.float32]:
    """Unit centroids [K, C] from Euclidean k-means on the sphere."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    if len(rows) > MINIBATCH_ROWS:
        means = MiniBatchKMeans(
            k, n_init=RESTARTS, init_size=FIRST_ROWS, batch_size=4096, random_state=seed
        )
    else:
        means = KMeans(k, n_init=RESTARTS, random_state=seed)
    return unit_rows(means.fit(rows).cluster_centers_)


def _refined(rows: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.float32]:
    """Centroids after Lloyd steps in the cosine; a cluster that empties keeps its centroid."""
    for _ in range(REFINEMENTS):
        labels = nearest(rows, centroids)
        sums = np.stack([rows[labels == each].sum(axis=0) for each in range(len(centroids))])
        empty = np.bincount(labels, minlength=len(centroids)) == 0
        moved = unit_rows(np.where(empty[:, None], centroids, sums))
        shift = np.abs(moved - centroids).max()
        centroids = moved
        if shift < SMALLEST_SHIFT:
            break
    return centroids
