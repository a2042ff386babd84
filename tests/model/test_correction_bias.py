"""Balancing without a loss: a bias that chooses, weighs nothing, and stays with the model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.data.tokenizer import load_tokenizer
from model.emo.objectives import corrected_bias
from model.emo.routing import expert_counts, route
from model.families.emo import emo_layers
from model.run.cut import cut_checkpoint
from model.run.loading import export_model, load_model
from model.run.subset import ExpertSubset, apply_subset
from model.train.accumulation import Accumulated
from model.train.batches import PackedRows
from model.train.checkpoint import latest
from model.train.loop import make_optimizer, train_step
from model.train.start import start_from
from tests.model.helpers import tiny_ids, tiny_model
from tests.model.test_train import EOS, PRESET, metrics_of, new_model, run, stream

BIASED = replace(PRESET, balancing_coef=0.0, bias_rate=1e-2)
NAME = "model.layers.1.mlp.gate.correction_bias"
TOKENIZER = Path(__file__).parents[2] / "assets/checkpoints/emo-nano"


def slow_route(logits_R, bias_R, allowed_R, slots):
    """One token: the best of score + bias among the allowed, weighed by score alone."""
    scores = torch.where(allowed_R, logits_R, -torch.inf).softmax(0)
    places = [place for place in range(len(scores)) if allowed_R[place]]
    chosen = sorted(places, key=lambda place: -(scores[place] + bias_R[place]))[:slots]
    return {place: float(scores[place]) for place in chosen}, scores


def test_the_bias_chooses_and_weighs_nothing():
    torch.manual_seed(0)
    logits_NE, bias_R = torch.randn(40, 9), torch.randn(8) * 0.3
    allowed_NR = torch.rand(40, 8) < 0.7
    allowed_NR[:, :3] = True
    routed = route(logits_NE, 1, 4, allowed_NR, bias_R=bias_R)
    plain = route(logits_NE, 1, 4, allowed_NR)
    for token in range(40):
        wanted, scores = slow_route(logits_NE[token, :8], bias_R, allowed_NR[token], 3)
        ids, weights = routed.expert_ids_NK[token].tolist(), routed.gate_weights_NK[token]
        assert ids[3] == 8 and weights[3] == 1, "the shared expert"
        assert dict(zip(ids[:3], weights[:3].tolist(), strict=True)) == pytest.approx(wanted)
        assert weights[:3].tolist() == sorted(weights[:3].tolist(), reverse=True)
    torch.testing.assert_close(routed.lse_N, plain.lse_N)
    assert not torch.equal(routed.expert_ids_NK, plain.expert_ids_NK)
    zero = route(logits_NE, 1, 4, allowed_NR, bias_R=torch.zeros(8))
    assert torch.equal(zero.expert_ids_NK, plain.expert_ids_NK)


def test_a_bias_goes_up_for_the_idle_and_down_for_the_busy():
    bias = corrected_bias(torch.zeros(4), torch.tensor([0.0, 8, 4, 4]), 0.5)
    assert bias.tolist() == [0.5, -0.5, 0, 0]


def test_choice_and_bias_of_many_steps_are_those_of_plain_loops():
    """With a small rate the load of 16 experts gets even, though their scores are not."""
    draw, slots, rate = torch.Generator().manual_seed(0), 3, 0.003
    common_E = torch.randn(17, generator=draw)
    bias_R, plain = torch.zeros(16), [0.0] * 16
    largest = []
    for step in range(40):
        logits_NE = common_E + torch.randn(32, 17, generator=draw)
        ids_NS = route(logits_NE, 1, slots + 1, bias_R=bias_R).expert_ids_NK[:, :slots]
        counts_R = expert_counts(ids_NS, 16)
        bias_R = corrected_bias(bias_R, counts_R, rate)
        counts = [0] * 16
        for logits_E in logits_NE:
            chosen, _ = slow_route(logits_E[:16], plain, torch.ones(16, dtype=torch.bool), slots)
            for expert in chosen:
                counts[expert] += 1
        assert counts == counts_R.tolist(), step
        plain = [b + rate * ((c < 6) - (c > 6)) for b, c in zip(plain, counts, strict=True)]
        largest.append(max(counts) / 6)
    assert bias_R.tolist() == pytest.approx(plain, abs=1e-6)
    assert sum(largest[-10:]) < 0.75 * sum(largest[:10])


def test_it_evens_the_load_that_no_loss_evens():
    def last_load(rate):
        preset = replace(PRESET, objective="standard", balancing_coef=0.0, bias_rate=rate, steps=80)
        model = new_model(preset)
        optimizer, rows = make_optimizer(model, preset), PackedRows(stream(), preset, EOS)
        steps = [train_step(model, optimizer, rows.batch(s), preset, s) for s in range(80)]
        return sum(step["load_max_over_mean"] for step in steps[-10:]) / 10

    assert last_load(1e-3) < 0.75 * last_load(0.0)


def test_parts_of_a_step_move_it_as_the_whole_does():
    biases = []
    for passes in ({}, {"passes": Accumulated(2)}):
        model = new_model(replace(BIASED, bf16=False))
        optimizer, rows = make_optimizer(model, BIASED), PackedRows(stream(), BIASED, EOS)
        for step in range(3):
            train_step(
                model, optimizer, rows.batch(step), replace(BIASED, bf16=False), step, **passes
            )
        biases.append(torch.stack([router.correction_bias for router in model.routers()]))
    assert torch.equal(*biases) and biases[0].abs().max() > 0.015


def test_a_stopped_run_goes_on_with_it_bit_for_bit(tmp_path):
    run(tmp_path / "whole", preset=BIASED)
    run(tmp_path / "parts", 5, BIASED)
    run(tmp_path / "parts", preset=BIASED)
    whole, parts = (
        load_file(latest(tmp_path / name) / "model.safetensors") for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert whole[NAME].abs().max() > 0.01 and whole[NAME].dtype == torch.float32
    assert [m["loss"] for m in metrics_of(tmp_path / "whole")] == [
        m["loss"] for m in metrics_of(tmp_path / "parts")
    ]


def biased_model():
    model = tiny_model(correction_bias=True, num_experts=8, num_experts_per_tok=3)
    generator = torch.Generator().manual_seed(3)
    for router in model.routers():
        router.correction_bias += torch.randn(7, generator=generator) * 0.3 + 1e-4
    return model


@pytest.fixture
def exported(tmp_path):
    """A model with a bias, and the folder it was exported to."""
    model = biased_model()
    model.config.pad_token_id = model.config.eos_token_id
    export_model(model, load_tokenizer(TOKENIZER), tmp_path / "model")
    return model, tmp_path / "model"


def test_an_export_keeps_it_in_float32_and_chooses_by_it(exported):
    model, folder = exported
    for dtype in ("float32", "bfloat16"):
        loaded = load_model(folder, dtype)
        for ours, theirs in zip(model.routers(), loaded.routers(), strict=True):
            assert torch.equal(ours.correction_bias, theirs.correction_bias)
    loaded, ids = load_model(folder), tiny_ids()
    with torch.no_grad():
        with_bias = loaded(ids).logits
        for router in loaded.routers():
            router.correction_bias.zero_()
        assert (loaded(ids).logits - with_bias).abs().max() > 1e-3


def test_a_cut_chooses_as_the_whole_model_with_the_others_masked(exported, tmp_path):
    _, folder = exported
    loaded, ids = load_model(folder), tiny_ids()
    subset = ExpertSubset(((0, 2, 5, 7), (1, 3, 6, 7)), "by hand", (), 4)
    cut_checkpoint(folder, subset, tmp_path / "cut")
    cut = load_model(tmp_path / "cut")
    assert [router.correction_bias.shape for router in cut.routers()] == [(3,), (3,)]
    with torch.no_grad(), apply_subset(loaded, subset):
        masked = loaded(ids).logits
    with torch.no_grad():
        torch.testing.assert_close(cut(ids).logits, masked)


def test_the_family_chooses_as_the_router_does():
    model = biased_model()
    layer, router = emo_layers(model)[0], model.routers()[0]
    hidden_NH = torch.randn(20, 32)
    logits_NE, weights_NK, ids_NK = router(hidden_NH)
    chosen = layer.choose(logits_NE, None)
    assert torch.equal(chosen.expert_ids_NK, ids_NK) and torch.equal(
        chosen.gate_weights_NK, weights_NK
    )


def test_a_run_starts_from_one_with_a_bias_or_without_and_loses_none(exported, tmp_path):
    model, folder = exported
    other = tiny_model(seed=1, correction_bias=True, num_experts=8, num_experts_per_tok=3)
    start_from(folder, other, PRESET)
    assert torch.equal(other.routers()[1].correction_bias, model.routers()[1].correction_bias)
    plain = tiny_model(seed=1, num_experts=8, num_experts_per_tok=3)
    with pytest.raises(ValueError, match=r"differs in correction_bias \(True, not False\)"):
        start_from(folder, plain, PRESET)
    plain.config.pad_token_id = plain.config.eos_token_id
    export_model(plain, load_tokenizer(TOKENIZER), tmp_path / "plain")
    before = other.routers()[1].correction_bias.clone()
    start_from(tmp_path / "plain", other, PRESET)
    assert torch.equal(other.routers()[1].correction_bias, before), "what it lacks stays"
