"""Two tokens and two texts in one model: against the same numbers as plain loops."""

import numpy as np
import pytest

from emo_viz.analysis.alike import RoutedText, texts_alike, tokens_alike, use_of

LAYERS, SLOTS, ROUTED = 3, 2, 6


def routed(tokens: int, seed: int) -> RoutedText:
    rng = np.random.default_rng(seed)
    ids = np.argsort(rng.random((LAYERS, tokens, ROUTED)), axis=2)[..., :SLOTS]
    ids[2] = -1  # a layer without a router
    weights = np.where(ids < 0, 0, rng.random(ids.shape))
    loss = np.r_[np.nan, rng.random(tokens - 1)]
    return RoutedText(use_of(ids, ROUTED), ids, weights, loss)


@pytest.fixture
def both() -> tuple[RoutedText, RoutedText]:
    return routed(7, 0), routed(5, 1)


def jaccard(one, other) -> float:
    return len({*one} & {*other}) / len({*one} | {*other})


def test_tokens_share_experts_and_weights(both):
    one, other = both
    found = tokens_alike(one, other, (3, 2))
    for layer in range(2):
        mine, theirs = one.expert_ids[layer, 3], other.expert_ids[layer, 2]
        assert found.overlap[layer] == pytest.approx(jaccard(mine, theirs))
        assert found.common[layer] == len({*mine} & {*theirs})
        scaled = [
            dict(zip(ids, w / w.sum(), strict=True))
            for ids, w in (
                (mine, one.gate_weights[layer, 3]),
                (theirs, other.gate_weights[layer, 2]),
            )
        ]
        shared = sum(min(scaled[0].get(e, 0), scaled[1].get(e, 0)) for e in range(ROUTED))
        assert found.weight[layer] == pytest.approx(shared)
        pairs = [jaccard(a, b) for a in one.expert_ids[layer] for b in other.expert_ids[layer]]
        assert found.reference[layer] == pytest.approx(np.mean(pairs), rel=1e-5)
    assert np.isnan([found.overlap[2], found.weight[2], found.reference[2]]).all()


def test_a_token_is_wholly_like_itself(both):
    found = tokens_alike(both[0], both[0], (1, 1))
    np.testing.assert_allclose(found.overlap[:2], 1)
    np.testing.assert_allclose(found.weight[:2], 1)


def test_texts_share_their_routing(both):
    one, other = both
    found = texts_alike(one, other)
    for layer in range(2):
        shares = [np.bincount(t.expert_ids[layer].ravel(), minlength=ROUTED) for t in both]
        shares = [counts / counts.sum() for counts in shares]
        assert found.overlap[layer] == pytest.approx(np.minimum(*shares).sum())
        assert found.common[layer] == ((shares[0] > 0) & (shares[1] > 0)).sum()
    assert np.isnan(found.overlap[2]) and found.weight is None
    whole = texts_alike(one, one)
    np.testing.assert_allclose(whole.overlap[:2], 1)
    halves = RoutedText(one.use, np.tile(one.expert_ids[:, :1], (1, 4, 1)))
    np.testing.assert_allclose(texts_alike(halves, halves).reference[:2], 1)


def test_without_tokens_there_is_no_reference_and_no_loss(both):
    bare = RoutedText(both[0].use)
    assert texts_alike(bare, both[1]).reference is None
    assert np.isnan(bare.mean_loss) and both[0].mean_loss == np.nanmean(both[0].loss)
