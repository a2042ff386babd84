"""Load, domains and chance of experts, against sums written out by hand."""

import numpy as np
import pytest

from emo_viz.analysis.experts import ExpertUse, entropy, over_domains, profile_overlap, top, use_of
from emo_viz.trace import Trace

RNG = np.random.default_rng(3)


def made(documents: int = 40, routed: tuple[int, ...] = (6, 4)) -> ExpertUse:
    """Random use; the second layer lacks two of the six experts."""
    raw = RNG.random((documents, len(routed), max(routed)))
    raw *= np.arange(max(routed)) < np.array(routed)[:, None]
    return ExpertUse(
        numbers=(1, 3),
        routed=routed,
        shares=(raw / raw.sum(axis=2, keepdims=True)).astype(np.float32),
        weights=RNG.integers(20, 90, documents).astype(float),
        of_choices=True,
        domains=("chess", "fiction", "recipes"),
        domain_of=np.arange(documents) % 3,
        ids=tuple(f"d{n}" for n in range(documents)),
    )


def test_load_and_affinity_are_means_over_tokens():
    use = made()
    for layer, expert in ((0, 2), (1, 3)):
        own = use.shares[:, layer, expert]
        whole = sum(w * s for w, s in zip(use.weights, own, strict=True)) / use.weights.sum()
        assert use.load[layer, expert] == pytest.approx(whole, rel=1e-5)
        assert use.times_even[layer, expert] == pytest.approx(whole * use.routed[layer], rel=1e-5)
        for domain in range(3):
            mine = use.domain_of == domain
            mean = np.average(own[mine], weights=use.weights[mine])
            assert use.affinity[domain, layer, expert] == pytest.approx(mean, rel=1e-5)
    assert use.load.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert np.isnan(use.entropy[1, 4:]).all() and not use.there[1, 4:].any()


def test_an_expert_of_one_domain_has_no_entropy_and_one_of_all_the_most():
    shares = over_domains(np.array([[[0.5, 0.2, 0.0]], [[0.0, 0.2, 0.0]]]))
    assert entropy(shares)[0, :2] == pytest.approx([0, np.log(2)])
    assert np.isnan(entropy(shares)[0, 2])
    assert profile_overlap(np.array([1.0, 0.0]), shares)[0] == pytest.approx([1, 0.5, 0])


def test_shuffled_domains_leave_no_affinity():
    use = made(300)
    use.shares[use.domain_of == 1, 0, 0] = 0.9
    dealt = use.null(0, 0)
    low, high = np.quantile(dealt, [0.025, 0.975], axis=0)
    assert use.affinity[1, 0, 0] > high[1] and use.affinity[0, 0, 0] < low[0]
    assert dealt.mean() == pytest.approx(use.load[0, 0], abs=0.01)
    assert np.array_equal(dealt, use.null(0, 0))


def test_chance_is_nearly_even_where_documents_are_many():
    assert np.exp(made(300).spread_by_chance(3)) == pytest.approx(3, abs=0.05)


def test_top_leaves_out_what_is_nothing():
    assert top(np.array([0.0, 0.3, 0.1, 0.0]), 3).tolist() == [1, 2]


def test_a_trace_says_its_use(tiny_assets):
    trace = Trace.open(tiny_assets / "traces" / "emo-nano")
    use = use_of(trace)
    assert use.of_choices and use.numbers == (0, 1) and use.routed == (15, 15)
    assert use.documents == 24 and len(use.domains) == 4
    chosen = trace.activation[5, 1].astype(float)
    assert use.shares[5, 1] == pytest.approx(chosen / chosen.sum(), abs=1e-6)
