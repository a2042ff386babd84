"""Gains of a fine-tuning, and shares of another's: means over documents and over domains."""

import numpy as np
import pytest

from model.finetune import gains
from model.finetune.texts import Measured


def test_shares_of_a_gain_are_ratios_of_token_weighted_means_with_an_interval_around():
    losses = {"parent": np.array([3.0, 2.0, 4.0]), "tuned": np.array([2.5, 1.9, 3.6])}
    full, tokens = np.array([2.0, 1.8, 3.4]), np.array([10.0, 20.0, 30.0])
    low, high = 0.5, 2 / 3  # of the single documents: .5, .5, .667
    one = ["a"] * 3
    mean, *ends = gains.kept_shares(losses, full, tokens, one)["tuned"]
    assert mean == pytest.approx((5 + 2 + 12) / (10 + 4 + 18), abs=1e-5)
    assert low - 1e-4 <= ends[0] <= mean <= ends[1] <= high + 1e-4
    assert gains.kept_shares(losses, losses["parent"], tokens, one) == {}  # of nothing


def test_a_full_fine_tuning_of_other_steps_is_told_with_both_numbers():
    asked = {"steps": 300, "rows": 16, "context": 256, "learning_rate": 1e-3, "seed": 0}
    own, full = {"request": asked}, {"request": asked | {"learning_rate": 1e-4}}
    assert gains.unlike(own, full) == {}
    full["request"] |= {"steps": 100, "context": 128}
    assert gains.unlike(own, full) == {"steps": [100, 300], "context": [128, 256]}


def test_a_share_of_several_domains_is_the_ratio_of_the_gains_that_are_told():
    draw = np.random.default_rng(0)
    texts = tuple(np.arange(n) for n in (11, 91, 21, 31, 12))
    measured = Measured(tuple("vwxyz"), ("b", "b", "a", "a", "a"), texts, (0.0,) * 5)
    losses = {"parent": draw.uniform(3, 4, 5), "tuned": draw.uniform(2, 3, 5)}
    full = draw.uniform(1, 2, 5)
    tuned = gains.summary(losses, measured)["all"]["gain"][0]
    whole = gains.summary(losses | {"tuned": full}, measured)["all"]["gain"][0]
    kept = gains.kept_shares(losses, full, measured.counts, measured.domains)["tuned"]
    assert kept[0] == pytest.approx(tuned / whole, abs=1e-4)


def test_documents_of_domains_with_one_each_have_an_interval_all_the_same():
    texts = tuple(np.arange(n) for n in (11, 21, 31))
    measured = Measured(("a", "b", "c"), ("x", "y", "z"), texts, (0.0, 0.0, 0.5))
    losses = {"parent": np.array([3.0, 2.0, 4.0]), "tuned": np.array([2.5, 1.9, 3.6])}
    pooled = gains.summary(losses, measured, apart=False)
    gain = pooled["all"]["gain"]
    assert gain[0] == pytest.approx((5 + 2 + 12) / 60, abs=1e-5) and gain[1] < gain[0] < gain[2]
    assert pooled["unseen"]["documents"] == 2
    assert gains.summary(losses, measured)["all"]["gain"][0] == pytest.approx(1 / 3, abs=1e-5)
