"""What domains share, would keep, and how even the use is, against plain loops."""

import itertools

import numpy as np
import pytest

from emo_viz.analysis import domains
from emo_viz.analysis.experts import ExpertUse

RNG = np.random.default_rng(7)
ROUTED = (6, 4)


@pytest.fixture
def use() -> ExpertUse:
    """60 documents of 3 domains; domain 2 uses the first expert of layer 0 alone."""
    raw = RNG.random((60, 2, 6)) * (np.arange(6) < np.array(ROUTED)[:, None])
    domain_of = np.arange(60) % 3
    raw[domain_of == 2, 0, 1:] = 0
    return ExpertUse(
        numbers=(0, 1),
        routed=ROUTED,
        shares=(raw / raw.sum(axis=2, keepdims=True)).astype(np.float32),
        weights=RNG.integers(20, 90, 60).astype(float),
        of_choices=True,
        domains=("a", "b", "c"),
        domain_of=domain_of,
        ids=tuple(map(str, range(60))),
    )


def test_similarity_is_the_smaller_share_of_every_expert(use):
    found = domains.similarity(use)
    for one, two in itertools.product(range(3), repeat=2):
        layers = [
            sum(min(use.affinity[one, layer, e], use.affinity[two, layer, e]) for e in range(6))
            for layer in range(2)
        ]
        assert found.matrix[one, two] == pytest.approx(np.mean(layers), abs=1e-6)
    pairs = [found.matrix[i, j] for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found.between == pytest.approx(np.mean(pairs))
    assert found.halves > found.shuffled > found.between
    alone = domains.similarity(use, 1)
    assert alone.matrix[0, 2] > found.matrix[0, 2]


def test_one_order_puts_alike_domains_together():
    alike = np.array(
        [[1, 0.1, 0.9, 0.1], [0.1, 1, 0.1, 0.8], [0.9, 0.1, 1, 0.1], [0.1, 0.8, 0.1, 1]]
    )
    found = domains.order([alike, alike])
    assert sorted(found) == [0, 1, 2, 3]
    assert abs(found.index(0) - found.index(2)) == 1 == abs(found.index(1) - found.index(3))
    assert domains.order([np.eye(2)]) == [0, 1]


def test_coverage_of_one_expert_is_one_and_has_no_entropy(use):
    found = domains.coverage(use, 0)
    assert found.half[2] == 1 and found.entropy[2] == pytest.approx(0, abs=1e-6)
    assert found.half[0] > 1 and found.most == pytest.approx(np.log(6))
    falling = np.sort(use.load[0])[::-1]
    assert found.all_half == 1 + int((np.cumsum(falling) < 0.5).sum())


def test_kept_sets_are_those_of_largest_affinity(use):
    found = domains.kept_sets(use, 2, 1)
    best = [set(np.argsort(-use.affinity[g, 1, :4])[:2]) for g in range(3)]
    for one, two in itertools.product(range(3), repeat=2):
        jaccard = len(best[one] & best[two]) / len(best[one] | best[two])
        assert found.matrix[one, two] == pytest.approx(jaccard)
    sets = [set(each) for each in itertools.combinations(range(4), 2)]
    pairs = [len(a & b) / len(a | b) for a in sets for b in sets]
    assert found.by_chance == pytest.approx(np.mean(pairs))
    assert domains.kept_sets(use, 9).between == 1  # as many as there are: all are kept


def test_balance_of_each_layer_with_its_own_number_of_experts(use):
    table = domains.balance(use, slots=[2, 2])
    loads = use.times_even[1, :4]
    row = table.iloc[1]
    assert row["experts"] == 4 and row["cv"] == pytest.approx(loads.std() / loads.mean())
    assert row["max"] == pytest.approx(loads.max()) and row["p50"] == pytest.approx(
        np.median(loads)
    )
    assert row["by_chance"] == pytest.approx(np.sqrt(3 / (use.weights.sum() * 2)))
    assert np.isnan(domains.balance(use)["by_chance"]).all()


def test_gini_of_even_and_of_one():
    assert domains.gini(np.ones(5)) == pytest.approx(0)
    assert domains.gini(np.array([0, 0, 0, 0, 1.0])) == pytest.approx(0.8)
    assert domains.gini(np.zeros(3)) == 0
    values = RNG.random(9)
    spread = np.abs(values[:, None] - values).mean() / (2 * values.mean())
    assert domains.gini(values) == pytest.approx(spread)
