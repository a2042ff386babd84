"""Experts matched by use: a renaming is undone, and chance is not taken for agreement."""

import numpy as np
import pytest

from emo_viz.analysis.difference import EMPTY, Pair, RoutedDocument, compare_pairs, matched
from emo_viz.analysis.matching import Weights, co_use, matched_by_use, trained_apart

EXPERTS, LAYERS, SLOTS = 12, 2, 3


def choices(rng: np.random.Generator, tokens: int) -> np.ndarray:
    return rng.random((tokens, LAYERS, EXPERTS)).argsort(-1)[..., :SLOTS]


def pairs_of(first: list[np.ndarray], second: list[np.ndarray]) -> list[Pair]:
    sides = [
        [RoutedDocument(str(number), ids) for number, ids in enumerate(side)]
        for side in (first, second)
    ]
    return matched(*sides)[0]


@pytest.mark.parametrize("documents", [1, 4])
def test_the_same_choices_under_other_ids_agree_wholly(documents: int):
    rng = np.random.default_rng(0)
    names = np.stack([rng.permutation(EXPERTS) for _ in range(LAYERS)])
    first = [choices(rng, 300) for _ in range(documents)]
    second = [names[np.arange(LAYERS)[:, None], ids] for ids in first]
    pairs = pairs_of(first, second)
    assert compare_pairs(pairs).same_tokens < 0.1
    found = compare_pairs(matched_by_use(pairs))
    assert found.same_tokens == 1


def test_unrelated_choices_agree_no_better_than_chance():
    rng = np.random.default_rng(1)
    sides = [[choices(rng, 500) for _ in range(4)] for _ in range(2)]
    for layer in compare_pairs(matched_by_use(pairs_of(*sides))).layers:
        assert layer.shared.mean == pytest.approx(layer.chance_shared, abs=0.02)


def test_an_expert_without_a_match_is_none_of_the_first_run_s():
    first = [np.zeros((6, 1, 1), int)] * 2
    second = [np.array([[[0]], [[1]], [[1]], [[1]], [[EMPTY]], [[1]]])] * 2
    ids = matched_by_use(pairs_of(first, second))[0].second.expert_ids
    assert ids.ravel().tolist() == [1, 0, 0, 0, 0]  # the token without an expert is left out


def test_partners_undo_a_renaming_and_leave_out_what_is_shown():
    rng = np.random.default_rng(2)
    names = np.stack([rng.permutation(EXPERTS + 3)[:EXPERTS] for _ in range(LAYERS)])
    first = [choices(rng, 300) for _ in range(3)]
    second = [names[np.arange(LAYERS)[:, None], ids] for ids in first]
    pairs = pairs_of(first, second)
    found = co_use(pairs, (EXPERTS, EXPERTS + 3))
    assert (found.documents, found.tokens) == (3, 900)
    for layer in range(LAYERS):
        partners = found.partners(layer)
        assert partners[names[layer]].tolist() == list(range(EXPERTS))
        assert (np.delete(partners, names[layer]) == EMPTY).all()  # no token chose them
    less = found.less(pairs[1])
    np.testing.assert_array_equal(
        less.counts, co_use([pairs[0], pairs[2]], (EXPERTS, EXPERTS + 3)).counts
    )
    assert (less.documents, less.tokens) == (2, 600)


@pytest.mark.parametrize(
    ("one", "other", "apart"),
    [
        (Weights((8, 8), "x"), Weights((8, 8), "y"), True),
        (Weights((8, 8), "x"), Weights((8, 8), "x", here=True), False),
        (Weights((8, 8), "x"), Weights((12, 12), "x"), True),  # physical ids of an engine
        (Weights((0, 8), ""), Weights((8,), ""), False),  # a dense layer that one of them lists
        (Weights(None, ""), Weights((12,), "x"), False),
        (Weights((8,), "", here=True), Weights((8,), "x", here=True), True),
        (Weights((8,), ""), Weights((8,), "x", here=True), False),
    ],
)
def test_ids_mean_the_same_in_one_model_alone(one: Weights, other: Weights, apart: bool):
    assert trained_apart(one, other) == trained_apart(other, one) == apart
