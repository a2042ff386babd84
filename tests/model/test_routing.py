"""Routing against an independent loop, and the acceptance list of the method (points 1 to 6, 8)."""

import math

import pytest
import torch

from model.emo.config import EmoConfig
from model.emo.routing import (
    NO_POOL,
    PoolSizes,
    document_pools,
    document_segments,
    expert_counts,
    load_balancing_loss,
    positions_in_segment,
    route,
    router_entropy,
    router_z_loss,
)

EOS = 0


def slow_routing(logits_TE, ids_T, pool_sizes, num_shared, top_k):
    """The method as the paper tells it: one document after the other, one token after the other."""
    num_tokens, num_experts = logits_TE.shape
    routed = num_experts - num_shared
    starts = [0] + [t for t in range(1, num_tokens) if ids_T[t] == EOS] + [num_tokens]
    chosen, weights = [], []
    for document, (start, end) in enumerate(zip(starts[:-1], starts[1:], strict=True)):
        mass = sum(logits_TE[t, :routed].softmax(0) for t in range(start, end))
        ranked = sorted(range(routed), key=lambda e: -float(mass[e]))
        pool = set(ranked[: int(pool_sizes[document])])
        for t in range(start, end):
            masked = torch.tensor(
                [float(logits_TE[t, e]) if e in pool else -torch.inf for e in range(routed)]
            )
            scores = masked.softmax(0)
            best = sorted(range(routed), key=lambda e: -float(scores[e]))[: top_k - num_shared]
            chosen.append(best + list(range(routed, num_experts)))
            weights.append([float(scores[e]) for e in best] + [1.0] * num_shared)
    return torch.tensor(chosen), torch.tensor(weights)


def packed_rows(rows=3, tokens=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    ids_BT = torch.randint(1, 50, (rows, tokens), generator=generator)
    ids_BT[torch.rand(rows, tokens, generator=generator) < 0.12] = EOS
    logits_BTE = torch.randn(rows, tokens, 17, generator=generator)
    segments_BT = document_segments(ids_BT, EOS)
    sizes_BD = PoolSizes(4, 18).draw((1, rows, int(segments_BT.max()) + 1), generator)[0]
    return ids_BT, logits_BTE, segments_BT, sizes_BD


def fast_routing(logits_BTE, segments_BT, sizes_BD):
    scores = logits_BTE[..., :-1].softmax(-1)
    pools = document_pools(scores, segments_BT, sizes_BD).flatten(0, 1)
    return route(logits_BTE.flatten(0, 1), 1, 4, pools), pools


@pytest.mark.parametrize("seed", range(5))
def test_routing_equals_the_document_by_document_loop(seed):
    ids_BT, logits_BTE, segments_BT, sizes_BD = packed_rows(seed=seed)
    routed, _ = fast_routing(logits_BTE, segments_BT, sizes_BD)
    for row in range(ids_BT.shape[0]):
        ids, weights = slow_routing(logits_BTE[row], ids_BT[row], sizes_BD[row], 1, 4)
        span = slice(row * ids_BT.shape[1], (row + 1) * ids_BT.shape[1])
        assert torch.equal(routed.expert_ids_NK[span], ids)
        assert torch.allclose(routed.gate_weights_NK[span], weights, atol=5e-7)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([5, 6, EOS, 7, 8], [0, 0, 1, 1, 1]),
        ([EOS, 6, 7], [0, 0, 0]),
        ([5, 6, EOS], [0, 0, 1]),
        ([5, EOS, EOS, 6], [0, 1, 2, 2]),
        ([5, 6, 7], [0, 0, 0]),
    ],
    ids=["opens-next", "at-0-ignored", "trailing", "two-in-a-row", "none"],
)
def test_an_end_of_text_token_opens_the_next_document(ids, expected):
    assert document_segments(torch.tensor([ids]), EOS).tolist() == [expected]


def test_an_end_of_text_token_can_close_its_own_document():
    ids = torch.tensor([[EOS, 5, 6, EOS, 7, EOS]])
    assert document_segments(ids, EOS, eos_side="own").tolist() == [[0, 1, 1, 1, 2, 2]]


def test_positions_restart_with_each_document():
    segments = torch.tensor([[0, 0, 1, 1, 1, 2], [0, 0, 0, 0, 0, 0]])
    assert positions_in_segment(segments).tolist() == [[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5]]


def test_every_routed_expert_is_in_its_documents_pool():
    _, logits_BTE, segments_BT, sizes_BD = packed_rows(rows=2, tokens=60)
    routed, pools = fast_routing(logits_BTE, segments_BT, sizes_BD)
    ids = routed.expert_ids_NK[:, :3]
    assert pools.gather(1, ids).all()
    for row in range(2):
        for document in range(int(segments_BT[row].max()) + 1):
            tokens = torch.where(segments_BT[row] == document)[0] + row * 60
            assert len(ids[tokens].unique()) <= int(sizes_BD[row, document])


def test_a_pool_of_all_routed_experts_masks_nothing():
    _, logits_BTE, segments_BT, sizes_BD = packed_rows()
    routed, pools = fast_routing(logits_BTE, segments_BT, torch.full_like(sizes_BD, 16))
    assert pools.all()
    free = route(logits_BTE.flatten(0, 1), 1, 4)
    assert torch.equal(routed.gate_weights_NK, free.gate_weights_NK)


def test_gate_weights_are_not_renormalised_and_the_shared_weight_is_one():
    _, logits_BTE, segments_BT, sizes_BD = packed_rows()
    routed, _ = fast_routing(logits_BTE, segments_BT, sizes_BD)
    assert (routed.gate_weights_NK[:, -1] == 1).all()
    assert (routed.gate_weights_NK[:, :-1].sum(1) < 1).any()
    assert torch.allclose(routed.scores_NR.sum(1), torch.ones(len(routed.scores_NR)))


def test_router_rows_outside_the_pool_get_no_gradient():
    torch.manual_seed(0)
    hidden_NH, weight_EH = torch.randn(12, 8), torch.randn(17, 8, requires_grad=True)
    logits_NE = hidden_NH @ weight_EH.t()
    scores = logits_NE[:, :-1].detach().softmax(-1)[None]
    pools = document_pools(scores, torch.zeros(1, 12, dtype=torch.long), torch.tensor([[5]]))[0]
    routed = route(logits_NE, 1, 4, pools)
    counts = expert_counts(routed.expert_ids_NK[:, :3], 16)
    loss = (
        routed.gate_weights_NK.square().sum()
        + load_balancing_loss(routed.scores_NR, counts, 3, 12)
        + router_z_loss(routed.lse_N)
    )
    loss.backward()
    touched = weight_EH.grad.abs().sum(1) > 0
    assert torch.equal(touched[:-1], pools[0])
    assert not touched[-1], "the shared expert's router row is never used"


def test_balancing_loss_is_one_for_a_uniform_router():
    torch.manual_seed(0)
    routed = route(torch.randn(4096, 65) * 1e-3, 1, 8)
    counts = expert_counts(routed.expert_ids_NK[:, :-1], 64)
    loss = load_balancing_loss(routed.scores_NR, counts, 7, 4096)
    assert float(loss) == pytest.approx(1.0, abs=0.02)


def test_balancing_loss_grows_when_all_tokens_take_the_same_experts():
    logits = torch.zeros(100, 65)
    logits[:, :7] = 5.0
    routed = route(logits, 1, 8)
    counts = expert_counts(routed.expert_ids_NK[:, :-1], 64)
    assert float(load_balancing_loss(routed.scores_NR, counts, 7, 100)) > 5


def test_adding_a_document_does_not_change_another_documents_routing():
    _, logits_BTE, segments_BT, sizes_BD = packed_rows(rows=3)
    alone, _ = fast_routing(logits_BTE[:1], segments_BT[:1], sizes_BD[:1])
    together, _ = fast_routing(logits_BTE, segments_BT, sizes_BD)
    assert torch.equal(alone.expert_ids_NK, together.expert_ids_NK[:40])
    order = torch.tensor([2, 0, 1])
    permuted, _ = fast_routing(logits_BTE[order], segments_BT[order], sizes_BD[order])
    assert torch.equal(
        permuted.expert_ids_NK.view(3, 40, -1), together.expert_ids_NK.view(3, 40, -1)[order]
    )


def drawn(pools, shape=(4, 64, 9), seed=7):
    return pools.draw(shape, torch.Generator().manual_seed(seed))


def test_pool_sizes_are_reproducible_and_cover_both_ends():
    one, again = (drawn(PoolSizes(8, 128)) for _ in "ab")
    assert torch.equal(one, again)
    assert one.min() == 8 and one.max() == 128
    assert not torch.equal(one[0], one[1]), "each layer draws its own sizes"


def test_one_draw_may_serve_all_layers():
    sizes = drawn(PoolSizes(8, 128, per_layer=False))
    assert (sizes == sizes[0]).all() and len(sizes[0].unique()) > 100


def test_log_uniform_sizes_fall_into_every_doubling_equally_often():
    sizes = drawn(PoolSizes(8, 127, log_uniform=True), (1, 1000, 40))
    assert sizes.min() == 8 and sizes.max() == 127
    for start in (8, 16, 32, 64):
        share = ((sizes >= start) & (sizes < 2 * start)).float().mean()
        assert float(share) == pytest.approx(1 / 4, abs=0.01)


def test_a_share_of_the_documents_has_no_pool():
    pools = PoolSizes(4, 8, per_layer=False, free_share=0.3)
    sizes_LBD = drawn(pools, (2, 1000, 10))
    free_LBD = sizes_LBD == NO_POOL
    assert float(free_LBD.float().mean()) == pytest.approx(0.3, abs=0.02)
    assert (sizes_LBD[~free_LBD] <= 8).all()
    scores_BTR = torch.rand(1000, 5, 18)
    pools_BTR = document_pools(scores_BTR, torch.zeros(1000, 5).long(), sizes_LBD[0])
    assert torch.equal(pools_BTR.all(-1).all(-1), free_LBD[0, :, 0])


def test_z_loss_and_entropy_are_those_of_the_masked_logits():
    torch.manual_seed(0)
    logits_NE = torch.randn(20, 17) * 3
    allowed_NR = torch.rand(20, 16) < 0.6
    routed = route(logits_NE, 1, 4, allowed_NR)
    masked_NR = logits_NE[:, :-1].masked_fill(~allowed_NR, float("-inf"))
    expected = masked_NR.logsumexp(1).square().mean()
    assert float(router_z_loss(routed.lse_N)) == pytest.approx(float(expected), rel=1e-6)
    expected_N = torch.distributions.Categorical(logits=masked_NR).entropy()
    torch.testing.assert_close(router_entropy(logits_NE[:, :-1], routed), expected_N)


def test_z_loss_pulls_every_allowed_logit_by_its_probability():
    logits_NE = torch.randn(5, 9, requires_grad=True)
    routed = route(logits_NE, 1, 3)
    (gradient,) = torch.autograd.grad(routed.lse_N.sum(), logits_NE)
    torch.testing.assert_close(gradient[:, :-1], logits_NE[:, :-1].softmax(1))


def test_entropy_of_a_uniform_choice_is_log_n():
    routed = route(torch.zeros(1, 9), 1, 3)
    assert float(router_entropy(torch.zeros(1, 8), routed)) == pytest.approx(math.log(8))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pool_size_min": 3}, "pool_size_min=3"),
        ({"num_experts": 4, "num_experts_per_tok": 8}, "num_experts_per_tok=8"),
        ({"objective": "best"}, "objective='best'"),
        ({"norm_topk_prob": True}, "norm_topk_prob"),
        ({"pool_free_share": 1.5}, "pool_free_share=1.5"),
        ({"pool_size_min": 30, "pool_size_max": 20}, "pool_size_max=20"),
    ],
)
def test_impossible_geometries_are_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        EmoConfig(**fields)


def test_pools_that_cannot_be_drawn_are_refused_and_only_where_there_are_pools():
    for pools in ((30, 8), (0, 8), (8, 16, False, True, -0.5)):
        with pytest.raises(ValueError, match="cannot be drawn"):
            PoolSizes(*pools)
    wide = {"num_experts_per_tok": 20, "objective": "unknown"}
    config = EmoConfig(**wide)
    config.objective = "emo"
    with pytest.raises(ValueError, match="pool_size_min=8"):
        _ = config.pool_sizes


def test_several_shared_experts_share_a_weight_of_one():
    logits_NE = torch.randn(6, 10, requires_grad=True)
    routed = route(logits_NE, 2, 5)
    assert routed.expert_ids_NK[:, -2:].tolist() == [[8, 9]] * 6
    torch.testing.assert_close(routed.gate_weights_NK[:, -2:], logits_NE[:, 8:].softmax(1))
