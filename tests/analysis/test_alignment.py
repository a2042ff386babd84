"""NMI and ARI against sklearn and by hand; their intervals; what chance would reach."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from emo_viz.analysis import alignment as module
from emo_viz.analysis.alignment import (
    _scores,
    _tables,
    alignment,
    contingency,
    difference_interval,
    ratio_interval,
)
from emo_viz.analysis.bootstrap import Interval


def noisy(n, groups, kept, seed):
    """Groups [n], and clusters that keep a group with probability `kept`."""
    rng = np.random.default_rng(seed)
    group = rng.integers(groups, size=n)
    cluster = np.where(rng.random(n) < kept, group, rng.integers(groups, size=n))
    return cluster, group


def test_worked_example():
    # Six documents, two clusters of three; the domains split them 3 / 2 + 1.
    clusters, domains = [0, 0, 0, 1, 1, 1], list("aaaabb")
    h_clusters = np.log(2)
    h_domains = -(4 / 6) * np.log(4 / 6) - (2 / 6) * np.log(2 / 6)
    h_both = -(3 / 6) * np.log(3 / 6) - (1 / 6) * np.log(1 / 6) - (2 / 6) * np.log(2 / 6)
    expected = 2 * (h_clusters + h_domains - h_both) / (h_clusters + h_domains)
    measured = alignment(clusters, domains)
    assert measured.nmi.mean == pytest.approx(expected)
    assert measured.nmi.mean == pytest.approx(normalized_mutual_info_score(domains, clusters))
    # Pairs: 15 in all, 6 in one cluster, 7 in one domain, 4 in both; 2.8 expected of these.
    assert measured.ari.mean == pytest.approx((4 - 2.8) / (6.5 - 2.8))
    assert measured.nmi.n == 6


@pytest.mark.parametrize("seed", range(4))
def test_same_as_sklearn(seed):
    cluster, group = noisy(150, 7, 0.4, seed)
    names = np.array(list("abcdefg"))[group]
    measured = alignment(cluster, names, n=10)
    assert measured.nmi.mean == pytest.approx(normalized_mutual_info_score(names, cluster))
    assert measured.ari.mean == pytest.approx(adjusted_rand_score(names, cluster))


def test_items_of_documents_same_as_sklearn():
    rng = np.random.default_rng(0)
    document = np.sort(rng.integers(12, size=400))
    cluster, token = rng.integers(5, size=400), rng.integers(30, size=400)
    by_token = alignment(cluster, token, document, "items", n=10)
    assert by_token.nmi.mean == pytest.approx(normalized_mutual_info_score(token, cluster))
    assert by_token.nmi.n == 12
    by_document = alignment(cluster, document, document, "items", n=10)
    assert by_document.nmi.mean == pytest.approx(normalized_mutual_info_score(document, cluster))


@pytest.mark.parametrize("score", ["nmi", "ari"])
def test_interval_covers_the_expected_value(score, monkeypatch):
    """Two documents a cell: resampling the documents themselves would cover 0.87 of the time."""
    monkeypatch.setattr(module, "SHUFFLES", 1)
    draws = [alignment(*noisy(120, 8, 0.5, seed), n=300, seed=seed) for seed in range(300)]
    intervals = [getattr(each, score) for each in draws]
    expected = np.mean([each.mean for each in intervals])
    covered = np.mean([each.low <= expected <= each.high for each in intervals])
    assert 0.90 <= covered <= 0.98


def test_interval_of_token_clusters_covers_the_expected_value(monkeypatch):
    """Tokens of a document share its cluster, so 40 documents of 30 tokens are 40 draws."""
    monkeypatch.setattr(module, "SHUFFLES", 1)

    def draw(seed):
        cluster, domain = noisy(40, 4, 0.5, seed)
        document = np.repeat(np.arange(40), 30)
        return alignment(cluster[document], domain[document], document, n=300, seed=seed).nmi

    intervals = [draw(seed) for seed in range(300)]
    expected = np.mean([each.mean for each in intervals])
    assert 0.90 <= np.mean([each.low <= expected <= each.high for each in intervals]) <= 0.98


def test_identical_and_unrelated_groupings():
    group = np.repeat(np.arange(5), 20)
    same = alignment(group[::-1] * 3, group[::-1])
    assert (same.nmi.mean, same.nmi.high, same.ari.mean) == pytest.approx((1.0, 1.0, 1.0))
    unrelated = alignment(np.random.default_rng(0).permutation(group), group)
    assert unrelated.nmi.mean == pytest.approx(unrelated.chance_nmi, abs=0.05)
    assert unrelated.ari.mean == pytest.approx(0, abs=0.05)


def test_one_cluster_tells_nothing():
    measured = alignment(np.zeros(6, int), list("aabbcc"))
    assert measured.nmi.mean == 0 and measured.ari.mean == 0


def test_chance_moves_whole_documents():
    """Tokens of a document share a cluster: shuffling documents keeps that, shuffling tokens
    does not, so chance by documents is far higher."""
    document = np.repeat(np.arange(20), 30)
    cluster, domain = document % 5, (document // 2) % 4
    by_documents = alignment(cluster, domain, document, "documents", n=5).chance_nmi
    by_items = alignment(cluster, domain, document, "items", n=5).chance_nmi
    assert by_documents > 0.1 > 0.02 > by_items


def test_leaving_a_document_out_is_measuring_the_others():
    rng = np.random.default_rng(0)
    document = np.sort(rng.integers(9, size=120))
    cluster, group = rng.integers(4, size=120), rng.integers(6, size=120)
    scores = np.stack(_scores(_tables(cluster, group, document)))
    for left_out in range(9):
        kept = document != left_out
        pair = group[kept], cluster[kept]
        expected = [normalized_mutual_info_score(*pair), adjusted_rand_score(*pair)]
        assert scores[:, 1 + left_out] == pytest.approx(expected)


def test_single_document_has_no_interval():
    measured = alignment([0, 1, 1], [5, 6, 6], [9, 9, 9], "items", n=5)
    assert measured.nmi.mean == pytest.approx(1.0)
    assert np.isnan(measured.nmi.low) and np.isnan(measured.ari.high)


def test_ratio_uses_that_both_models_read_the_same_documents():
    group = np.repeat(np.arange(6), 20)
    cluster = np.where(np.random.default_rng(0).random(120) < 0.6, group, 0)
    measured = alignment(cluster, group)
    pair = (measured.nmi, measured.influence)
    same = ratio_interval(*pair, *pair)
    assert (same.mean, same.low, same.high) == pytest.approx((1.0, 1.0, 1.0))
    better = alignment(group, group)
    ratio = ratio_interval(better.nmi, better.influence, *pair)
    assert ratio.mean == pytest.approx(1 / measured.nmi.mean)
    assert ratio.low == pytest.approx(1 / measured.nmi.high, rel=0.03)
    nothing = Interval(0.0, 0.0, 0.0, 120)
    assert np.isnan(ratio_interval(*pair, nothing, measured.influence).mean)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="same items"):
        alignment([0, 1], [0])
    with pytest.raises(ValueError, match="at least one"):
        alignment([], [])
    with pytest.raises(ValueError, match="item by item"):
        alignment([0, 1, 1], [0, 1, 1], [0, 0, 1])


def test_contingency():
    rows, columns, counts = contingency(list("babb"), [3, 1, 3, 1])
    assert rows.tolist() == ["a", "b"] and columns.tolist() == [1, 3]
    assert counts.tolist() == [[1, 0], [1, 2]]


def test_difference_uses_that_both_models_read_the_same_documents():
    group = np.repeat(np.arange(6), 20)
    noise = np.random.default_rng(0).random(120)
    one, other = (alignment(np.where(noise < kept, group, 0), group) for kept in (0.7, 0.6))
    found = difference_interval(one.nmi, one.influence, other.nmi, other.influence)
    assert found.mean == pytest.approx(one.nmi.mean - other.nmi.mean)
    assert found.low < found.mean < found.high
    # The same documents are hard for both: the difference is surer than either of the two.
    assert found.high - found.low < one.nmi.high - one.nmi.low
    same = difference_interval(one.nmi, one.influence, one.nmi, one.influence)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
