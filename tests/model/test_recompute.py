"""What is recomputed for the backward pass changes no number, and less is kept for it."""

from dataclasses import replace

import pytest
import torch

from model.train.batches import PackedRows
from model.train.loop import make_optimizer
from model.train.recompute import recomputed
from model.train.step import backward, training_loss
from tests.model.test_objectives import tiny
from tests.model.test_train import EOS, PRESET, metrics_of, new_model, run, stream


def gradients(what, preset):
    """The step's figures and gradients."""
    model = new_model(preset)
    batch = PackedRows(stream(), preset, EOS).batch(3)
    with recomputed(model, what):
        reported = backward(model, make_optimizer(model, preset), batch, preset)
    return reported, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("what", ["experts", "layers"])
@pytest.mark.parametrize("objective", ["emo", "dense", "switch", "overlap", "emo-loss-free"])
def test_the_numbers_are_those_of_keeping_everything(objective, what):
    preset = tiny(objective)
    plain, of_plain = gradients("none", preset)
    other, of_other = gradients(what, preset)
    assert torch.equal(plain.total, other.total) and torch.equal(plain.grad_norm, other.grad_norm)
    assert of_plain.keys() == of_other.keys()
    assert all(torch.equal(of_plain[name], of_other[name]) for name in of_plain)
    for name, figure in plain.routers.items():
        assert torch.equal(figure, other.routers[name]), name
    if plain.counts_LR is not None:
        assert torch.equal(plain.counts_LR, other.counts_LR), "counted once"


def kept_bytes(what):
    """Of the tensors that a forward pass keeps outside of what it will redo."""
    seen: dict[int, int] = {}

    def keep(tensor):
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model = new_model(PRESET).train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    batch = PackedRows(stream(), PRESET, EOS).batch(0)
    with (
        recomputed(model, what),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        total, *_ = training_loss(model, batch, PRESET)
    assert total.requires_grad
    return sum(size for place, size in seen.items() if place not in weights)


def test_less_is_kept():
    everything, without_experts, without_layers = map(kept_bytes, ("none", "experts", "layers"))
    assert without_layers < without_experts < everything


def test_a_run_may_recompute_more_or_less_as_it_goes_on(tmp_path):
    run(tmp_path / "whole")
    run(tmp_path / "parts", 5, recompute="layers")
    run(tmp_path / "parts", recompute="experts", accumulation=1)
    losses = [[m["loss"] for m in metrics_of(tmp_path / name)] for name in ("whole", "parts")]
    assert losses[0] == losses[1]


def test_the_model_is_as_before_afterwards_and_another_word_is_refused():
    model = new_model(replace(PRESET, steps=1))
    with recomputed(model, "layers"):
        assert "forward" in vars(model.model.layers[0])
    assert not any("forward" in vars(module) for module in model.modules())
    with (
        pytest.raises(ValueError, match="'all' cannot be recomputed; choose none, experts, layers"),
        recomputed(model, "all"),
    ):
        pass
