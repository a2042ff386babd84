"""The interval over documents: its coverage, its weights, and what cannot have one."""

import numpy as np
import pytest

from emo_viz.analysis import bootstrap
from emo_viz.analysis.bootstrap import (
    bootstrap_interval,
    bootstrap_intervals,
    percentile_interval,
    resample_counts,
)


def test_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    draws = rng.exponential(2.0, size=(300, 80))
    intervals = [bootstrap_interval(row, n=400, seed=i) for i, row in enumerate(draws)]
    covered = np.mean([each.low <= 2.0 <= each.high for each in intervals])
    assert 0.90 <= covered <= 0.98
    assert np.mean([each.high - each.low for each in intervals]) == pytest.approx(
        2 * 1.96 * 2.0 / np.sqrt(80), rel=0.1
    )


def test_lower_level_gives_a_narrower_interval():
    values = np.random.default_rng(1).normal(size=50)
    wide, narrow = bootstrap_interval(values), bootstrap_interval(values, level=0.5)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_weights_make_a_mean_over_tokens():
    interval = bootstrap_interval([1.0, 4.0], weights=[30, 10])
    assert interval.mean == pytest.approx(1.75)
    # With two documents a resample is one of (1, 1), (1, 4), (4, 4).
    assert (interval.low, interval.high, interval.n) == (1.0, 4.0, 2)


def test_documents_of_weight_zero_do_not_count():
    with_empty = bootstrap_interval([1.0, 2.0, np.nan], weights=[1, 1, 0], seed=3)
    assert with_empty == bootstrap_interval([1.0, 2.0], weights=[1, 1], seed=3)


def test_equal_values_have_no_spread():
    interval = bootstrap_interval(np.full(20, 0.25))
    assert (interval.mean, interval.low, interval.high) == (0.25, 0.25, 0.25)


def test_one_document_has_a_mean_and_no_bounds():
    interval = bootstrap_interval([3.0])
    assert interval.mean == 3.0 and interval.n == 1
    assert np.isnan(interval.low) and np.isnan(interval.high)


def test_same_seed_same_documents_for_both_models():
    emo = np.random.default_rng(2).normal(size=40)
    first, second = bootstrap_interval(emo), bootstrap_interval(emo + 1.0)
    assert second.low - first.low == pytest.approx(1.0)
    assert bootstrap_interval(emo, seed=1).low != first.low


def test_every_resample_draws_as_many_documents_as_there_are(monkeypatch):
    whole = np.concatenate(list(resample_counts(10, 25, seed=0)))
    assert whole.shape == (25, 10) and (whole.sum(axis=1) == 10).all()
    monkeypatch.setattr(bootstrap, "MAX_DRAWS_AT_ONCE", 40)
    blocks = list(resample_counts(10, 25, seed=0))
    assert [len(block) for block in blocks] == [4, 4, 4, 4, 4, 4, 1]
    assert (np.concatenate(blocks).sum(axis=1) == 10).all()


@pytest.mark.parametrize(
    ("values", "weights", "words"),
    [
        ([], None, "at least one document"),
        ([1.0], [0.0], "at least one document"),
        ([1.0, np.nan], None, "finite"),
        ([1.0, 2.0], [1.0, -1.0], "not negative"),
        ([1.0, 2.0], [1.0, np.inf], "finite"),
        ([1.0, 2.0], [1.0], "one number per document"),
        ([[1.0], [2.0]], None, "one number per document"),
    ],
)
def test_what_has_no_interval_is_refused(values, weights, words):
    with pytest.raises(ValueError, match=words):
        bootstrap_interval(values, weights)


def test_percentiles_of_known_samples():
    interval = percentile_interval(7.0, np.arange(101.0), n_documents=5, level=0.9)
    assert (interval.mean, interval.n) == (7.0, 5)
    assert (interval.low, interval.high) == pytest.approx((5.0, 95.0))
    with pytest.raises(ValueError, match="between 0 and 1"):
        percentile_interval(7.0, np.arange(3.0), 5, level=95)


def test_several_values_of_the_same_documents_have_the_intervals_that_each_has_alone():
    rng = np.random.default_rng(3)
    one, other, weights = rng.normal(size=40), rng.exponential(size=40), rng.integers(0, 5, 40)
    together = bootstrap_intervals([one, other], weights, n=200, seed=2)
    for values, found in zip((one, other), together, strict=True):
        alone = bootstrap_interval(values, weights, n=200, seed=2)
        assert (found.n, found.mean) == (alone.n, alone.mean)
        np.testing.assert_allclose((found.low, found.high), (alone.low, alone.high), rtol=1e-12)
