"""Spherical k-means: planted clusters, and the same clusters whatever the order of the rows."""

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from emo_viz.analysis import clusters
from emo_viz.analysis.clusters import match_clusters, nearest, spherical_kmeans
from emo_viz.analysis.vectors import unit_rows


def planted(sizes, noise=0.05):
    """Unit rows around as many random directions, and the direction of each, shuffled."""
    rng, dimensions = np.random.default_rng(0), 12
    directions = np.linalg.qr(rng.normal(size=(dimensions, len(sizes))))[0].T
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    rows = directions[truth] + noise * rng.normal(size=(len(truth), dimensions))
    return unit_rows(rows * rng.uniform(0.5, 2.0, size=(len(truth), 1))), truth


def same_partition(a, b):
    return len(set(zip(a.tolist(), b.tolist(), strict=True))) == len(set(a.tolist())) == len(set(b))


def test_planted_clusters_are_recovered_largest_first():
    rows, truth = planted([40, 25, 15, 8])
    found = spherical_kmeans(rows, 4)
    assert same_partition(found.labels, truth)
    assert found.sizes.tolist() == [40, 25, 15, 8]


@pytest.mark.parametrize("seed", range(3))
def test_order_of_the_rows_changes_nothing(seed):
    rows = unit_rows(np.random.default_rng(seed).normal(size=(120, 6)))  # no clear clusters
    order = np.random.default_rng(seed + 10).permutation(len(rows))
    straight, shuffled = spherical_kmeans(rows, 7), spherical_kmeans(rows[order], 7)
    assert same_partition(straight.labels[order], shuffled.labels)


def test_same_seed_same_clusters():
    rows, _ = planted([30, 30, 30], noise=0.6)
    assert (spherical_kmeans(rows, 5, 3).labels == spherical_kmeans(rows, 5, 3).labels).all()


def test_every_row_lies_in_its_nearest_cluster_by_cosine():
    rows = unit_rows(np.random.default_rng(1).normal(size=(200, 5)))
    found = spherical_kmeans(rows, 6)
    assert np.linalg.norm(found.centroids, axis=1) == pytest.approx(np.ones(6), abs=1e-5)
    assert (found.labels == (rows @ found.centroids.T).argmax(axis=1)).all()
    means = unit_rows(np.stack([rows[found.labels == k].sum(axis=0) for k in range(6)]))
    assert (means * found.centroids).sum(axis=1) == pytest.approx(np.ones(6), abs=1e-2)


def test_steps_too_small_to_share_take_one_thread(monkeypatch):
    rows, _ = planted([30, 20, 10])
    threads = []

    def spied(vectors, centroids):
        threads.extend(each["num_threads"] for each in threadpool_info())
        return nearest(vectors, centroids)

    monkeypatch.setattr(clusters, "nearest", spied)
    with threadpool_limits(2):
        spherical_kmeans(rows, 3)
        assert set(threads) == {1}
        assert {each["num_threads"] for each in threadpool_info()} == {2}, "as before, after it"


def test_many_rows_start_from_mini_batches(monkeypatch):
    rows, truth = planted([60, 40, 20])
    monkeypatch.setattr(clusters, "MINIBATCH_ROWS", 50)
    assert same_partition(spherical_kmeans(rows, 3).labels, truth)


def test_clusters_that_empty_keep_their_centroid():
    rows = np.array([[1.0, 0.0], [0.8, 0.6]], np.float32)
    start = np.array([[1.0, 0.0], [0.0, -1.0]], np.float32)
    moved = clusters._refined(rows, start)
    assert moved[1].tolist() == [0.0, -1.0]
    assert moved[0] == pytest.approx(unit_rows(rows.sum(axis=0, keepdims=True))[0])


def test_more_clusters_than_different_rows_are_refused():
    rows = unit_rows(np.array([[1, 0], [0, 1], [0, 1]], np.float32))
    with pytest.raises(ValueError, match="2 different rows cannot make 3 clusters"):
        spherical_kmeans(rows, 3)
    assert spherical_kmeans(rows, 2).sizes.tolist() == [2, 1]


def test_matched_clusters_share_numbers_where_they_share_rows():
    rows, truth = planted([40, 25, 15, 8])
    reference = spherical_kmeans(rows, 4)
    moved = np.array([2, 0, 3, 1])
    other = clusters.Clustering(moved[reference.labels], np.eye(4, dtype=np.float32))
    other.labels[:3] = 0  # a few rows lie elsewhere
    matched = match_clusters(other, reference)
    assert (matched.labels[3:] == reference.labels[3:]).all()
    assert (matched.centroids.argmax(axis=1) == moved).all()
    assert sorted(matched.sizes) == sorted(other.sizes)
    with pytest.raises(ValueError, match="as many clusters"):
        match_clusters(spherical_kmeans(rows, 3), reference)


def test_nearest_is_by_direction():
    centroids = np.array([[1, 0], [0, 1]], np.float32)
    rows = np.array([[0.9, 0.1], [0.2, 0.3]], np.float32)
    assert nearest(rows, centroids).tolist() == [0, 1]
