"""Two routings of the same tokens: worked examples, and what must hold whatever they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emo_viz.analysis.difference import (
    EMPTY,
    RoutedDocument,
    agreement,
    compare,
    loss_by_overlap,
    matched,
    token_difference,
)


def document(name: str, ids: list, **more: list) -> RoutedDocument:
    arrays = {key: np.array(value) for key, value in more.items()}
    return RoutedDocument(name, np.array(ids), **arrays)


# Two tokens, two layers, two experts a token.
ONE = [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]
OTHER = [[[1, 0], [4, 6]], [[2, 3], [6, 7]]]


def test_a_worked_example() -> None:
    found = compare([document("a", ONE)], [document("a", OTHER)])
    assert (found.tokens, found.documents) == (2, ("a",))
    assert [layer.same.mean for layer in found.layers] == [1.0, 0.5]
    assert [layer.overlap.mean for layer in found.layers] == [1.0, pytest.approx((1 / 3 + 1) / 2)]
    assert found.first_layer.tolist() == [0, 0.5, 0.5]
    assert found.parts_at.tolist() == [0]
    assert [layer.shared.mean for layer in found.layers] == [1.0, 0.75]
    assert (found.same_choices, found.same_tokens) == (0.75, 0.5)
    assert found.layers[0].weight is None and found.loss is None and len(found.notes) == 1


def test_gate_weights_are_compared_by_expert_and_scaled_to_one() -> None:
    weights = [[[0.3, 0.1], [0.2, 0.2]], [[0.5, 0.5], [0.1, 0.1]]]
    same = [[[0.1, 0.3], [0.4, 0.4]], [[0.5, 0.5], [0.1, 0.1]]]
    first = document("a", ONE, gate_weights=weights)
    found = compare([first], [document("a", OTHER, gate_weights=same)])
    # Layer 0: experts in another order, the same weights. Layer 1: half of one token moved.
    assert [layer.weight.mean for layer in found.layers] == pytest.approx([0, 0.25])


def test_losses_are_second_less_first_over_the_tokens_that_have_one() -> None:
    first = document("a", ONE, loss=[np.nan, 2.0])
    found = compare([first], [document("a", OTHER, loss=[np.nan, 2.5])])
    assert found.loss is not None and found.loss.mean == pytest.approx(0.5)


def test_a_missing_last_token_and_other_documents_are_left_out_and_said() -> None:
    first = [document("a", ONE), document("b", ONE)]
    found = compare(first, [document("a", OTHER[:1])])
    assert found.tokens == 1
    assert found.notes == (
        "Documents left out, as only one run has them: 1.",
        "Tokens left out, as they differ or only one run has them: 1.",
        "Token ids are not known in both runs: tokens are compared by their places.",
    )


def test_tokens_count_up_to_the_first_that_differs() -> None:
    first = document("a", ONE, token_ids=[5, 6])
    assert compare([first], [document("a", OTHER, token_ids=[5, 7])]).tokens == 1


def test_a_token_that_one_run_did_not_look_at_is_left_out_and_said() -> None:
    unseen = [[[EMPTY, EMPTY], [EMPTY, EMPTY]], ONE[1]]
    pairs, notes = matched([document("a", ONE)], [document("a", unseen)])
    assert [pair.places.tolist() for pair in pairs] == [[1]]
    assert "Tokens left out, as one run recorded no expert of them: 1." in notes
    found = compare([document("a", OTHER)], [document("a", unseen)])
    assert found.tokens == 1 and found.same_tokens == 1


def test_a_place_is_that_in_the_document_as_it_was_given() -> None:
    unseen = [[[EMPTY, EMPTY]] * 2, *OTHER]
    found = compare([document("a", [ONE[1], *ONE])], [document("a", unseen)])
    assert found.parts_at.tolist() == [1]


def test_documents_of_other_ids_are_taken_in_their_order_and_said() -> None:
    found = compare([document("a", ONE)], [document("b", ONE)])
    assert found.same_tokens == 1
    assert any("other ids in each run" in note for note in found.notes)
    assert any("compared by their places" in note for note in found.notes)


def test_a_document_token_by_token() -> None:
    weights = [[[0.5, 0.5], [0.2, 0.2]], [[0.5, 0.5], [0.1, 0.1]]]
    first = document("a", ONE, gate_weights=weights, loss=[np.nan, 1.0])
    second = document("a", OTHER, gate_weights=weights, loss=[np.nan, 3.0])
    (pair,), _ = matched([first], [second])
    found = token_difference(pair)
    assert found.overlap.tolist() == [[1, pytest.approx(1 / 3)], [1, 1]]
    assert found.first.tolist() == [1, 2]
    assert found.weight is not None and found.weight.tolist() == [[0, 0.5], [0, 0]]
    assert found.loss is not None and found.loss[1] == 2


def test_losses_lie_in_bins_of_overlap() -> None:
    rng = np.random.default_rng(0)
    ids = np.tile([[[0, 1]]], (400, 1, 1))
    other = ids.copy()
    other[:100] = [[2, 3]]  # nothing in common: these tokens move by 1 nat, up or down
    loss = np.where(np.arange(400) < 100, rng.choice([-1.0, 1.0], 400), 0.0)
    found = compare([document("a", ids, loss=np.zeros(400))], [document("a", other, loss=loss)])
    low, high = loss_by_overlap(found.summaries)
    assert (low.overlap, low.tokens, low.size.mean) == (0, 100, 1)
    assert (high.overlap, high.tokens, high.size.mean) == (1, 300, 0)
    assert loss_by_overlap(compare([document("a", ids)], [document("a", other)]).summaries) == []


def test_other_layers_and_nothing_in_common_are_refused() -> None:
    with pytest.raises(ValueError, match="2 and 1 layers"):
        compare([document("a", ONE)], [document("a", [[[0, 1]], [[2, 3]]])])
    with pytest.raises(ValueError, match="share no tokens"):
        compare([document("a", ONE)], [document("b", ONE), document("c", ONE)])


def test_chance_is_what_unrelated_routings_reach() -> None:
    rng = np.random.default_rng(0)

    def unrelated() -> RoutedDocument:
        ids = rng.random((4000, 1, 16)).argsort(-1)[..., :4]
        return document("a", ids)

    found = compare([unrelated()], [unrelated()])
    layer = found.layers[0]
    assert layer.overlap.mean == pytest.approx(layer.chance_overlap, abs=0.01)


def test_chance_knows_nothing_of_which_token_is_which() -> None:
    ids = np.random.default_rng(0).random((2000, 1, 16)).argsort(-1)[..., :4]
    layer = compare([document("a", ids)], [document("a", ids)]).layers[0]
    # Two draws of 4 out of 16 share one on average: about one of seven.
    assert layer.overlap.mean == 1 and 0.13 < layer.chance_overlap < 0.18


def test_chance_is_high_where_everyone_uses_the_same_experts() -> None:
    ids = np.tile([[[0, 1]]], (50, 1, 1))
    found = compare([document("a", ids)], [document("a", ids)])
    assert found.layers[0].chance_overlap == 1


choices = st.lists(st.sampled_from([EMPTY, 0, 1, 2, 3, 4]), min_size=1, max_size=5)


@given(choices, choices)
def test_jaccard_is_that_of_sets(first: list[int], second: list[int]) -> None:
    one, other = set(first) - {EMPTY}, set(second) - {EMPTY}
    wanted = len(one & other) / len(one | other) if one | other else 1.0
    most = max(len(one), len(other))
    both = len(one & other) / most if most else 1.0
    for pair in ((first, second), (second, first)):
        shared, overlap = agreement(*(np.array([each]) for each in pair))
        assert (shared[0], overlap[0]) == (pytest.approx(both), pytest.approx(wanted))


def test_a_run_agrees_with_itself() -> None:
    rng = np.random.default_rng(1)
    documents = [
        document(str(n), rng.integers(0, 8, (n + 3, 3, 2)), gate_weights=rng.random((n + 3, 3, 2)))
        for n in range(4)
    ]
    found = compare(documents, documents)
    for layer in found.layers:
        assert layer.weight is not None
        assert (layer.same.mean, layer.overlap.mean, layer.weight.mean) == (1, 1, 0)
    assert found.first_layer.tolist() == [0, 0, 0, 1] and set(found.parts_at) == {-1}
