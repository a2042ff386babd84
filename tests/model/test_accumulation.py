"""A step in parts is the step: losses, balancing value, gradients; and what is told of the load."""

import json
from dataclasses import replace

import pytest
import torch

from model.train.accumulation import Accumulated, split, whole_step_totals
from model.train.batches import PackedRows
from model.train.loop import Silent, make_optimizer, train, train_step
from model.train.step import backward, training_loss
from tests.model.test_objectives import tiny
from tests.model.test_train import EOS, PRESET, metrics_of, new_model, run, stream

EXACT = replace(PRESET, bf16=False, rows=8, grad_clip=0.5)
SAME = 1e-5


def losses(out, accumulation, preset=EXACT):
    train(
        new_model(preset),
        PackedRows(stream(), preset, EOS),
        preset,
        out,
        [],
        accumulation=accumulation,
        load_every=4,
        progress=Silent,
    )
    return [{k: v for k, v in m.items() if k != "tokens_per_second"} for m in metrics_of(out)]


def test_four_parts_have_the_losses_and_the_balancing_value_of_the_whole(tmp_path):
    whole, parts = losses(tmp_path / "whole", 1), losses(tmp_path / "parts", 4)
    for one, four in zip(whole, parts, strict=True):
        assert four == pytest.approx(one, rel=SAME, abs=SAME)
    loads = [(tmp_path / name / "load.jsonl").read_text() for name in ("whole", "parts")]
    assert loads[0] == loads[1], "the counts of the whole step, not of its last part"


def gradients(preset, passes):
    model = new_model(preset)
    reported = passes(
        model,
        make_optimizer(model, preset),
        PackedRows(stream(), preset, EOS).batch(3),
        preset,
    )
    return reported, {name: p.grad.clone() for name, p in model.named_parameters()}


def test_balance_of_every_part_is_another_loss_and_gradient():
    whole, of_whole = gradients(EXACT, backward)
    micro, of_micro = gradients(replace(EXACT, balance="micro"), Accumulated(4))
    step, of_step = gradients(EXACT, Accumulated(4))
    name = "load_balancing_loss"
    assert float(step.routers[name]) == pytest.approx(float(whole.routers[name]), rel=1e-6)
    assert float(micro.routers[name]) > float(whole.routers[name]) * 1.02
    router = "model.layers.0.mlp.gate.weight"
    torch.testing.assert_close(of_step[router], of_whole[router], rtol=1e-4, atol=1e-7)
    assert (of_micro[router] - of_whole[router]).abs().max() > 1e-5
    assert torch.equal(micro.counts_LR, whole.counts_LR), "the load is the whole step's in both"
    assert torch.equal(step.counts_LR, whole.counts_LR)


def test_parts_with_more_or_fewer_tokens_that_have_a_loss_weigh_as_their_tokens_do():
    batch = PackedRows(stream(), EXACT, EOS).batch(0)
    batch.labels_BT[:3] = -100
    model = new_model(EXACT)
    whole = backward(model, make_optimizer(model, EXACT), batch, EXACT)
    parts = Accumulated(4)(model, make_optimizer(model, EXACT), batch, EXACT)
    assert float(parts.loss) == pytest.approx(float(whole.loss), rel=1e-6)
    assert float(parts.grad_norm) == pytest.approx(float(whole.grad_norm), rel=1e-5)


@pytest.mark.parametrize("objective", ["dense", "standard", "causal", "gshard", "local-balancing"])
def test_every_objective_trains_in_parts(objective):
    preset = replace(tiny(objective), bf16=False, balancing_rows=2 * ("local" in objective))
    whole, _ = gradients(preset, backward)
    parts, _ = gradients(preset, Accumulated(2))
    assert float(parts.loss) == pytest.approx(float(whole.loss), rel=1e-5)
    assert float(parts.grad_norm) == pytest.approx(float(whole.grad_norm), rel=1e-4)


def test_counts_of_the_pieces_are_the_counts_of_the_batch():
    batch, model = PackedRows(stream(), EXACT, EOS).batch(1), new_model(EXACT)
    totals = whole_step_totals(model.train(), split(batch, 4), EXACT)
    _, _, documents = training_loss(model, batch, EXACT)
    assert totals.keys() == documents.totals.keys() == {0, 1}
    assert all(torch.equal(totals[layer], documents.totals[layer]) for layer in totals)
    assert float(totals[0][-1]) == batch.input_ids_BT.numel()


def test_rows_that_the_parts_cannot_share_are_refused(tmp_path):
    with pytest.raises(ValueError, match="8 rows of a step cannot be shared evenly by 3 parts"):
        losses(tmp_path, 3)
    local = replace(EXACT, balancing_rows=4)
    with pytest.raises(ValueError, match="balances every 4 rows alone, and 4 parts take 2 at once"):
        losses(tmp_path, 4, local)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_a_part_that_is_not_finite_is_named():
    model = new_model(EXACT)
    with torch.no_grad():
        model.model.layers[1].mlp.gate.weight[:] = float("nan")
    batch, optimizer = PackedRows(stream(), EXACT, EOS).batch(0), make_optimizer(model, EXACT)
    with pytest.raises(ValueError, match="first in the output of layer 1, router"):
        train_step(model, optimizer, batch, EXACT, 0, Accumulated(2), parts=2)


def test_the_load_of_every_expert_is_written_and_resumed(tmp_path):
    run(tmp_path / "whole", load_every=3)
    run(tmp_path / "parts", stop_at=5, load_every=3)
    run(tmp_path / "parts", load_every=3)
    whole, parts = ((tmp_path / name / "load.jsonl").read_text() for name in ("whole", "parts"))
    lines = [json.loads(line) for line in whole.splitlines()]
    assert [line["step"] for line in lines] == [0, 3, 6, 9, 11]
    assert {line for line in whole.splitlines()} <= set(parts.splitlines())
    for line in lines:
        assert [len(layer) for layer in line["load"]] == [15, 15]
        assert all(sum(layer) == pytest.approx(1, abs=1e-3) for layer in line["load"])
    metrics = metrics_of(tmp_path / "whole")
    busiest = [max(layer) * 15 for layer in lines[1]["load"]]
    assert sum(busiest) / 2 == pytest.approx(metrics[3]["load_max_over_mean"], rel=1e-3)
