"""The compiled router against torch: values, gradients, ties, masks and what is not a number."""

import pytest
import torch

from model.emo.routing import _choose, document_pools, pools_by_mass, route
from model.native import router
from tests.model.helpers import needs_compiler

N, E, SLOTS = 60, 41, 5


def logits(tokens=N, experts=E):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(tokens, experts + 1, generator=generator) * 3).requires_grad_()


def masks():
    generator = torch.Generator().manual_seed(1)
    of_each = torch.rand(N, E, generator=generator) < 0.4
    of_each[:, :SLOTS] = True
    return {
        "none": None,
        "a row a token": of_each,
        "one for all": of_each[3],
        "a row": of_each[3:4],
        "a column": torch.ones(N, 1, dtype=torch.bool),
    }


@needs_compiler
@pytest.mark.parametrize("tokens", [0, 1, 3])
@pytest.mark.parametrize("experts", [5, 8, 16, 32, 33])
def test_every_number_of_experts_and_tokens(tokens, experts, processor):
    assert_as_torch(tokens, experts, None)


@pytest.mark.parametrize("compiler", [True, False])
def test_no_expert_outside_the_mask_is_chosen_where_a_score_is_zero(compiler, monkeypatch):
    if not compiler:
        monkeypatch.setattr(router, "available", lambda: False)
    far = torch.tensor([[9.0, 9, 9, 9, 9, 400, 0, 0, 0]])
    allowed_R = torch.tensor([False] * 5 + [True] * 3)
    routed = route(far, 1, 4, allowed_R)
    assert routed.expert_ids_NK.tolist() == [[5, 6, 7, 8]]
    assert routed.gate_weights_NK.tolist() == [[1, 0, 0, 1]]


@pytest.mark.parametrize(
    "mask",
    [torch.ones(N, E + 1).bool(), torch.ones(N - 1, E).bool(), torch.ones(E + 1).bool()],
    ids=["experts", "tokens", "one for all"],
)
def test_a_mask_that_does_not_fit_is_refused(mask):
    with pytest.raises(RuntimeError, match="size"):
        route(logits(), 1, SLOTS + 1, mask)


def losses(chosen):
    """Numbers that depend on all that is learned from: scores, weights, log-sum-exp."""
    scores_NR, weights, _, lse_N = chosen
    share_R = torch.linspace(0, 1, scores_NR.shape[1])
    return (scores_NR @ share_R).square().sum() + weights.pow(3).sum() + lse_N.square().sum()


@needs_compiler
@pytest.mark.parametrize("mask", masks().values(), ids=masks().keys())
def test_choice_and_gradients_are_those_of_torch(mask, processor):
    assert_as_torch(N, E, mask)


def assert_as_torch(tokens, experts, mask):
    """Of random logits: the same choice, numbers and gradients, none for a shared expert."""
    fast, slow = logits(tokens, experts), logits(tokens, experts)
    got, want = router.choose(fast, experts, SLOTS, mask), _choose(slow, experts, SLOTS, mask, None)
    assert torch.equal(got[2], want[2])
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    losses(got).backward()
    losses(want).backward()
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-4, atol=1e-5)
    assert not fast.grad[:, experts:].any()


@needs_compiler
@pytest.mark.parametrize("part", [0, 1, 3], ids=["scores", "weights", "lse"])
def test_each_output_has_its_own_gradient(part):
    fast, slow = logits(), logits()
    for each, chosen in (
        (fast, router.choose(fast, E, SLOTS, None)),
        (slow, _choose(slow, E, SLOTS, None, None)),
    ):
        chosen[part].square().sum().backward()
        assert each.grad is not None
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-4, atol=1e-5)


@needs_compiler
def test_one_gradient_for_the_scores_of_all_tokens():
    """As a mean over tokens has it: a row that is never written out for each of them."""
    share_E = torch.linspace(0, 1, E)
    fast, slow = logits(), logits()
    (router.choose(fast, E, SLOTS, None)[0].sum(0) @ share_E).backward()
    (_choose(slow, E, SLOTS, None, None)[0].sum(0) @ share_E).backward()
    assert fast.grad.abs().sum() > 0.1
    torch.testing.assert_close(fast.grad, slow.grad, rtol=1e-4, atol=1e-5)


@needs_compiler
def test_a_row_that_is_not_a_number_stays_one_and_chooses_experts_that_exist(processor):
    broken = logits().detach()
    broken[3, 7] = float("nan")
    scores_NR, weights, ids, lse_N = router.choose(broken, E, SLOTS, None)
    assert scores_NR[3].isnan().all() and weights[3].isnan().all() and lse_N[3].isnan()
    assert sorted(ids[3].tolist()) == list(range(SLOTS))
    assert not scores_NR[4].isnan().any()


@needs_compiler
def test_equal_scores_go_to_the_lower_id_and_extreme_ones_to_whole_shares(processor):
    same = torch.zeros(2, E)
    same[1, [4, 30]] = 1e4
    scores_NR, _, ids, lse_N = router.choose(same, E, SLOTS, None)
    assert ids[0].tolist() == [0, 1, 2, 3, 4] and ids[1].tolist() == [4, 30, 0, 1, 2]
    assert scores_NR[1, 4] == scores_NR[1, 30] == 0.5 and scores_NR[1].sum() == 1
    assert lse_N[1].item() == pytest.approx(1e4 + 0.6931, abs=1e-2)


@needs_compiler
def test_pools_are_those_of_summed_scores(processor):
    logits_BTE = logits().detach().view(3, 20, E + 1)
    segments_BT = torch.tensor([0, 1, 1, 2]).repeat_interleave(5).expand(3, 20)
    sizes_BD = torch.tensor([[5, 9, 40], [7, 5, 41], [20, 6, 8]])
    mass_BDR = router.document_mass(logits_BTE, segments_BT, 3, E)
    scores_BTR = logits_BTE[..., :E].softmax(-1)
    for document in range(3):
        tokens_T = segments_BT[0] == document
        want = scores_BTR[:, tokens_T].sum(1)
        torch.testing.assert_close(mass_BDR[:, document], want, rtol=1e-5, atol=1e-6)
    want = document_pools(scores_BTR, segments_BT, sizes_BD)
    assert torch.equal(pools_by_mass(mass_BDR, segments_BT, sizes_BD), want)


@needs_compiler
def test_a_document_beyond_those_that_are_told_is_refused():
    with pytest.raises(IndexError, match="0 to 1"):
        router.document_mass(torch.zeros(1, 3, 5), torch.tensor([[0, 1, 2]]), 2, 4)


def test_more_slots_than_experts_are_refused():
    with pytest.raises(RuntimeError, match="range"):
        route(torch.zeros(2, 4), 1, 5)
    with pytest.raises(RuntimeError, match="range"):
        router.top_k_ids(torch.zeros(2, 4), 5)


def test_double_precision_and_life_without_a_compiler_are_torch(monkeypatch):
    fast = route(logits().detach(), 1, SLOTS + 1)
    exact = route(logits().detach().double(), 1, SLOTS + 1)
    torch.testing.assert_close(exact.scores_NR, fast.scores_NR)
    monkeypatch.setattr(router, "available", lambda: False)
    slow = route(logits().detach(), 1, SLOTS + 1)
    assert torch.equal(fast.expert_ids_NK, slow.expert_ids_NK)
    torch.testing.assert_close(fast.scores_NR, slow.scores_NR)
