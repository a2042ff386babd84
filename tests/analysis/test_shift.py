"""Recordings that begin a place apart are put side by side, and said to be."""

import numpy as np
import pytest

from emo_viz.analysis.difference import EMPTY, RoutedDocument, compare
from tests.recipes import realigned


def documents(seed: int = 0) -> list[RoutedDocument]:
    rng = np.random.default_rng(seed)
    ids = [rng.random((30 + n, 2, 12)).argsort(-1)[..., :3] for n in range(4)]
    return [RoutedDocument(str(n), each, gate_weights=each / 12) for n, each in enumerate(ids)]


def without_first(found: list[RoutedDocument]) -> list[RoutedDocument]:
    return [RoutedDocument(each.id, each.expert_ids[1:]) for each in found]


@pytest.mark.parametrize("shorter", ["first", "second"])
def test_a_run_without_the_opening_token_is_shifted_and_said(shorter: str):
    whole = documents()
    sides = (without_first(whole), whole) if shorter == "first" else (whole, without_first(whole))
    assert compare(*sides).same_tokens < 0.1
    moved, said = realigned(*sides)
    found = compare(sides[0], moved)
    assert found.same_tokens == 1 and "instead of" in said
    assert f"one place {'later' if shorter == 'second' else 'earlier'} than the first" in said
    assert found.tokens == sum(len(each.expert_ids) for each in whole) - len(whole)


def test_places_stay_those_of_the_first_run():
    whole = documents()
    moved, _ = realigned(whole, without_first(whole))
    assert (moved[0].expert_ids[0] == EMPTY).all()
    assert (moved[0].expert_ids[1] == whole[0].expert_ids[1]).all()


def test_runs_that_agree_or_have_nothing_in_common_stay_as_they_are():
    whole = documents()
    for other in (whole, documents(seed=1)):
        moved, said = realigned(whole, other)
        assert said == "" and all(a is b for a, b in zip(moved, other, strict=True))


def test_known_token_ids_decide_and_nothing_is_guessed():
    whole = [
        RoutedDocument(each.id, each.expert_ids, token_ids=np.arange(len(each.expert_ids)))
        for each in documents()
    ]
    shorter = [
        RoutedDocument(each.id, each.expert_ids[1:], token_ids=np.arange(1, len(each.expert_ids)))
        for each in whole
    ]
    assert realigned(whole, shorter)[1] == ""
