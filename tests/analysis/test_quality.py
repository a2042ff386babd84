"""The quality of clusters, beside scikit-learn's."""

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from emo_viz.analysis.clusters import spherical_kmeans
from emo_viz.analysis.quality import quality, silhouette
from emo_viz.analysis.vectors import unit_rows


def rows(apart: float, seed: int = 0) -> np.ndarray:
    """Sixty rows around four directions."""
    rng = np.random.default_rng(seed)
    return unit_rows(np.repeat(apart * np.eye(4, 6), 15, axis=0) + rng.normal(size=(60, 6)))


@pytest.mark.parametrize("k", [2, 4, 9])
def test_silhouette_is_that_of_all_pairs(k: int):
    vectors = rows(2.0)
    labels = spherical_kmeans(vectors, k).labels
    expected = silhouette_score(vectors, labels, metric="cosine")
    assert silhouette(vectors, labels) == pytest.approx(expected, abs=1e-5)


def test_a_row_alone_counts_nothing_and_one_cluster_has_no_silhouette():
    vectors, labels = rows(2.0), np.zeros(60, np.int64)
    assert np.isnan(silhouette(vectors, labels))
    labels[0] = 1
    expected = silhouette_score(vectors, labels, metric="cosine")
    assert silhouette(vectors, labels) == pytest.approx(expected, abs=1e-5)


def test_clear_clusters_are_found_by_every_seed_and_others_are_not():
    clear, none = rows(30.0), rows(0.0)
    assert quality(clear, spherical_kmeans(clear, 4)).stability == pytest.approx(1)
    unclear = quality(none, spherical_kmeans(none, 4))
    assert unclear.stability < 0.9 and unclear.silhouette < 0.5 and unclear.seeds == 5
