"""The ablations of EMO: what each objective's pools and losses are, and that all of them learn."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.emo import objectives
from model.emo.routing import NO_POOL, PoolSizes, document_segments, load_balancing_loss
from model.train.batches import PackedRows
from model.train.graph import GraphedBackward
from model.train.loop import learning_rate, make_optimizer, train_step
from model.train.objectives import OBJECTIVES
from model.train.presets import NANO, find_preset
from model.train.step import backward, training_loss
from tests.model.helpers import EOS, tiny_ids, tiny_model
from tests.model.test_train import PRESET, new_model, stream

R = 12


def routing(rows=3):
    """Scores [B, T, R], documents [B, T] and sizes [B, D] of a few rows."""
    generator = torch.Generator().manual_seed(0)
    scores_BTR = torch.randn(rows, 20, R, generator=generator).softmax(-1)
    ids_BT = tiny_ids(rows, 20)
    ids_BT[:, [4, 5, 13]] = EOS
    sizes_BD = torch.randint(2, R, (rows, 4), generator=generator)
    return scores_BTR, document_segments(ids_BT, EOS), sizes_BD


def tiny(objective):
    """The objective on the small preset of the training tests; its widths scaled to 16 experts."""
    made = OBJECTIVES[objective] | (
        {"pools": PoolSizes(4, 16)} if OBJECTIVES[objective]["objective"] == "emo" else {}
    )
    if "num_experts" in made:
        made |= {"num_experts": 4}
    if "merged_experts" in made:
        made |= {"merged_experts": 4}
    return replace(PRESET, rows=8, **made)


def test_a_causal_pool_holds_the_experts_that_the_document_so_far_likes_most():
    scores_BTR, segments_BT, sizes_BD = routing()
    pools_BTR = objectives.causal_pools(scores_BTR, segments_BT, sizes_BD)
    for row, place in np.ndindex(segments_BT.shape):
        document = segments_BT[row, place]
        before = (segments_BT[row] == document) & (torch.arange(segments_BT.shape[1]) <= place)
        order = scores_BTR[row][before].sum(0).argsort(descending=True, stable=True)
        kept = set(order[: sizes_BD[row, document]].tolist())
        assert set(pools_BTR[row, place].nonzero().flatten().tolist()) == kept


def test_a_causal_pool_does_not_see_what_comes():
    scores_BTR, segments_BT, sizes_BD = routing()
    before = objectives.causal_pools(scores_BTR, segments_BT, sizes_BD)
    scores_BTR[:, 11:] = scores_BTR[:, 11:].flip(-1)
    after = objectives.causal_pools(scores_BTR, segments_BT, sizes_BD)
    assert torch.equal(before[:, :11], after[:, :11]) and not torch.equal(before, after)


def test_the_losses_of_a_causal_model_in_training_depend_on_no_later_token():
    def hidden(pool_choice, ids_BT):
        model = tiny_model(pool_choice=pool_choice).train()
        sizes_LBD = torch.full((2, *ids_BT.shape), 5)
        documents = model.document_routing(ids_BT, sizes_LBD)
        with torch.no_grad():
            return model.model(input_ids=ids_BT, documents=documents).last_hidden_state

    ids_BT = tiny_ids()
    other_BT = torch.cat([ids_BT[:, :16], tiny_ids(tokens=8, seed=1)], 1)
    same = [
        torch.equal(hidden(choice, ids_BT)[:, :16], hidden(choice, other_BT)[:, :16])
        for choice in ("causal", "document")
    ]
    assert same == [True, False]


def test_no_pool_is_no_pool_whatever_the_choice():
    scores_BTR, segments_BT, sizes_BD = routing()
    sizes_BD[:] = NO_POOL
    assert objectives.causal_pools(scores_BTR, segments_BT, sizes_BD).all()
    assert objectives.top_p_pools(scores_BTR, segments_BT, sizes_BD, 0.3, 2).all()


@pytest.mark.parametrize("share", [0.2, 0.6, 1.0])
def test_a_top_p_pool_is_the_smallest_that_holds_the_share(share):
    scores_BTR, segments_BT, sizes_BD = routing()
    pools_BTR = objectives.top_p_pools(scores_BTR, segments_BT, sizes_BD, share, 2)
    for row, document in [(0, 0), (1, 2), (2, 3)]:
        member = segments_BT[row] == document
        mass_R = scores_BTR[row][member].sum(0) / member.sum()
        kept_R = pools_BTR[row][member][0]
        assert (pools_BTR[row][member] == kept_R).all()
        held, least = mass_R[kept_R].sum(), mass_R[kept_R].min()
        assert held >= share - 1e-5
        assert held - least < share or kept_R.sum() == 2
        assert least >= mass_R[~kept_R].max() if not kept_R.all() else True


def test_balance_of_one_group_is_the_balancing_loss_and_of_several_it_is_demanded_of_each():
    scores_BTR, _, _ = routing(rows=2)
    scores_NR = scores_BTR.flatten(0, 1)
    ids_NS = scores_NR.topk(3).indices
    counts_R = torch.bincount(ids_NS.flatten(), minlength=R).float()
    whole = load_balancing_loss(scores_NR, counts_R, 3, len(scores_NR))
    assert objectives.grouped_balancing_loss(scores_NR, ids_NS, 1) == pytest.approx(float(whole))
    # Each half uses half of the experts: balanced as a whole, and by itself not at all.
    halves_NR = torch.zeros(8, R)
    halves_NR[:4, : R // 2] = halves_NR[4:, R // 2 :] = 2 / R
    ids_NS = torch.arange(24).view(8, 3) % 6 + torch.tensor([0] * 4 + [6] * 4)[:, None]
    assert objectives.grouped_balancing_loss(halves_NR, ids_NS, 1) == pytest.approx(1)
    assert objectives.grouped_balancing_loss(halves_NR, ids_NS, 2) == pytest.approx(2)


def test_overlap_is_the_mean_cosine_of_two_experts():
    scores_NR = torch.rand(30, R)
    cosines = torch.nn.functional.cosine_similarity(scores_NR[:, :, None], scores_NR[:, None], 0)
    expected = (cosines.sum() - R) / (R * (R - 1))
    assert float(objectives.expert_overlap(scores_NR)) == pytest.approx(float(expected), rel=1e-5)
    assert float(objectives.expert_overlap(torch.eye(R))) == pytest.approx(0, abs=1e-6)


def test_an_expert_takes_no_more_than_its_capacity_the_first_tokens_first():
    ids_NS = torch.tensor([[0], [1], [0], [0], [1], [0]])
    assert objectives.within_capacity(ids_NS, 2, 1.0).flatten().tolist() == [0, 1, 0, 0, 1, -1]
    assert torch.equal(objectives.within_capacity(ids_NS, 2, 4 / 3), ids_NS)


def test_a_token_without_room_keeps_what_it_had_and_outside_training_there_is_always_room():
    model = tiny_model(
        objective="standard", num_experts_per_tok=1, num_shared_experts=0, expert_capacity=0.01
    )
    ids_BT = tiny_ids()
    mlp, outputs = model.model.layers[0].mlp, []
    mlp.register_forward_hook(lambda _, __, output: outputs.append(output.flatten(0, 1)))
    with torch.no_grad():
        model(input_ids=ids_BT)
        model.train()(input_ids=ids_BT)
    assert (outputs[0].abs().sum(1) > 0).all()
    assert int((outputs[1].abs().sum(1) > 0).sum()) <= model.config.num_experts


def test_merged_experts_have_as_many_weights_and_dense_layers_the_width_that_a_token_uses():
    standard, switch, gshard = (
        find_preset("nano", name).model_config(EOS, 1) for name in ("standard", "switch", "gshard")
    )
    for config in (switch, gshard):
        both = (config, standard)
        weights = [c.num_experts * c.intermediate_size for c in both]
        active = [c.num_experts_per_tok * c.intermediate_size for c in both]
        assert weights[0] == weights[1] and active[0] == active[1]
    assert gshard.num_experts_per_layer == [0, 32, 0, 32]
    assert gshard.dense_intermediate_size == 256


def test_information_is_all_lost_where_experts_know_nothing_of_tokens():
    alike_NR = torch.rand(1, R).softmax(-1).expand(30, R)
    assert float(objectives.lost_information(alike_NR)) == pytest.approx(0, abs=1e-6)
    assert float(objectives.lost_information(torch.eye(R))) == pytest.approx(-np.log(R))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_learns_and_gives_all_routers_a_gradient(objective):
    preset = replace(tiny(objective), steps=40)
    model = new_model(preset)
    rows = PackedRows(stream(), preset, EOS)
    optimizer = make_optimizer(model, preset)
    losses = [train_step(model, optimizer, rows.batch(s), preset, s)["loss"] for s in range(40)]
    assert np.mean(losses[-5:]) < losses[0] - 0.5
    total, _, _ = training_loss(model, rows.batch(0), preset)
    model.zero_grad()
    total.backward()
    assert all(router.weight.grad.abs().sum() > 0 for router in model.routers())


@pytest.mark.parametrize("objective", sorted(set(OBJECTIVES) - {"emo", "standard"}))
def test_every_objective_differs_from_the_two_it_is_compared_with(objective):
    presets = [tiny(name) for name in (objective, OBJECTIVES[objective]["objective"])]
    if objective in ("fixed-pool", "per-layer"):  # what these change is the draw itself
        assert OBJECTIVES[objective]["pools"] != NANO.pools
        return
    if objective == "dense":
        assert not new_model(presets[0]).routers()
        return
    totals = []
    for preset in presets:
        batch = PackedRows(stream(), preset, EOS).batch(1)
        totals.append(float(training_loss(new_model(preset).train(), batch, preset)[0].detach()))
    assert totals[0] != totals[1]


def test_the_extra_losses_are_weighted_and_in_the_loss_that_transformers_asks_for():
    ids_BT = tiny_ids()
    plain, extra = (
        tiny_model(objective="standard", expert_overlap_coef=weight).train()
        for weight in (0.0, 0.5)
    )
    with torch.no_grad():
        losses = [float(model(input_ids=ids_BT, labels=ids_BT).loss) for model in (plain, extra)]
        documents = extra.document_routing(ids_BT)
        extra.model(input_ids=ids_BT, documents=documents)
    assert losses[1] - losses[0] == pytest.approx(float(extra.extra_loss(documents)), rel=1e-4)
    assert len(documents.extra_losses) == 2


def test_a_pool_schedule_begins_with_all_experts_and_ends_with_the_drawn_sizes():
    preset = replace(PRESET, pool_schedule=0.5)
    rows, plain = PackedRows(stream(), preset, EOS), PackedRows(stream(), PRESET, EOS)
    for step, least in enumerate([16, 13, 11, 8, 5, 3, 0, 0]):
        drawn_LBD = plain.batch(step).pool_sizes_LBD
        assert torch.equal(rows.batch(step).pool_sizes_LBD, drawn_LBD.clamp(min=least))


def test_a_linear_schedule_falls_in_a_line_to_its_end():
    preset = replace(
        PRESET, schedule="linear", warmup_steps=0, final_lr_share=0.0, learning_rate=1.0
    )
    rates = [learning_rate(preset, step) for step in range(preset.steps)]
    np.testing.assert_allclose(rates, 1 - np.arange(preset.steps) / preset.steps)


def test_what_cannot_be_is_refused_in_a_sentence():
    with pytest.raises(ValueError, match="no objective 'enlightenment'; choose one of emo"):
        find_preset("nano", "enlightenment")
    with pytest.raises(ValueError, match="pool_choice='best' is not one of"):
        tiny_model(pool_choice="best")
    with pytest.raises(ValueError, match="balancing_rows=4 needs rows without padding"):
        model = tiny_model(balancing_rows=4).train()
        model(input_ids=tiny_ids(rows=3), labels=tiny_ids(rows=3))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_recorded_step_of_every_objective_is_the_plain_one(objective):
    preset = replace(tiny(objective), bf16=False)
    rows = PackedRows(stream(), preset, EOS)
    metrics = []
    for passes in (backward, GraphedBackward()):
        model = new_model(preset).cuda()
        optimizer = make_optimizer(model, preset)
        batches = [rows.batch(step) for step in range(3)]
        if passes is backward:
            batches = [batch.to(model.device) for batch in batches]
        metrics.append(
            [train_step(model, optimizer, b, preset, s, passes) for s, b in enumerate(batches)]
        )
    for plain, recorded in zip(*metrics, strict=True):
        assert recorded == pytest.approx(plain, rel=1e-4)
