"""First-order importance of experts against what really happens when each is removed."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from model.emo.config import EmoConfig
from model.emo.modeling import EmoForCausalLM
from model.run.importance import expert_importance
from model.run.live import LiveEmo

EXPERTS, SHARED, LAYERS = 16, 1, 2


class _Tokenizer:
    eos_token_id = 0


@pytest.fixture(scope="module")
def live() -> LiveEmo:
    """A small model trained for a moment on one cycle of tokens, so that its experts matter."""
    torch.manual_seed(0)
    config = EmoConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_experts=EXPERTS,
        num_experts_per_tok=4,
        num_shared_experts=SHARED,
        max_position_embeddings=64,
        objective="standard",
        eos_token_id=0,
        pad_token_id=1,
        initializer_range=0.1,
    )
    model = EmoForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(5):
        ids = torch.from_numpy(_documents(8, seed=step)[:, :32])
        logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
        torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten()).backward()
        optimiser.step()
        optimiser.zero_grad()
    return LiveEmo(model.eval(), _Tokenizer())


def _documents(count: int, seed: int) -> np.ndarray:
    """Rows that count up by a step of their own, after EOS."""
    rng = np.random.default_rng(seed)
    starts, steps = rng.integers(2, 32, (2, count))
    rows = 2 + (starts[:, None] + (1 + steps[:, None] % 5) * np.arange(40)) % 30
    return np.concatenate([np.zeros((count, 1), np.int64), rows], 1)


def loss(live: LiveEmo, documents: np.ndarray, experts: tuple = ()) -> float:
    return float(np.mean([np.nanmean(live.losses(each, experts)) for each in documents]))


def silenced(live: LiveEmo, documents: np.ndarray, layer: int, expert: int) -> float:
    """The loss when one expert gives nothing to the tokens that chose it."""

    def silence(_, args):
        hidden, ids, weights = args
        return hidden, ids, weights.masked_fill(ids == expert, 0)

    hook = live.model.model.layers[layer].mlp.experts.register_forward_pre_hook(silence)
    try:
        return loss(live, documents)
    finally:
        hook.remove()


def masked(live: LiveEmo, documents: np.ndarray, layer: int, expert: int) -> float:
    """The loss when its tokens choose among the other experts."""
    kept = [tuple(range(EXPERTS)) for _ in range(LAYERS)]
    kept[layer] = tuple(each for each in range(EXPERTS) if each != expert)
    return loss(live, documents, tuple(kept))


@pytest.mark.parametrize(("removed", "rank", "signs"), [(silenced, 0.85, 0.9), (masked, 0.4, 0.7)])
def test_it_ranks_experts_as_their_removal_does(live, removed, rank, signs):
    documents = _documents(12, seed=100)
    estimate = expert_importance(live, documents)
    assert estimate.shape == (LAYERS, EXPERTS - SHARED)
    full, true = loss(live, documents), np.zeros_like(estimate)
    for layer, expert in np.ndindex(true.shape):
        true[layer, expert] = removed(live, documents, layer, expert) - full
    assert spearmanr(estimate.ravel(), true.ravel())[0] > rank
    large = np.abs(true) > np.median(np.abs(true))
    assert (np.sign(estimate[large]) == np.sign(true[large])).mean() >= signs


def test_it_is_the_slope_of_the_loss_in_an_experts_gate(live):
    """A small step down in one expert's gate weights changes the loss as estimated."""
    documents = _documents(3, seed=7)
    estimate = expert_importance(live, documents)
    layer, step = 1, 1e-2
    expert = int(np.argmax(np.abs(estimate[layer])))

    def weaker(_, args):
        hidden, ids, weights = args
        return hidden, ids, torch.where(ids == expert, weights * (1 - step), weights)

    full = loss(live, documents)
    hook = live.model.model.layers[layer].mlp.experts.register_forward_pre_hook(weaker)
    try:
        slope = (loss(live, documents) - full) / step
    finally:
        hook.remove()
    assert slope == pytest.approx(estimate[layer, expert], rel=0.1)


def test_the_model_is_left_as_it_was(live):
    documents = _documents(2, seed=3)
    before = loss(live, documents)
    expert_importance(live, documents)
    assert loss(live, documents) == before
    assert all(weight.grad is None for weight in live.model.parameters())
    assert not any(block.mlp.experts._forward_pre_hooks for block in live.model.model.layers)


def test_no_token_no_importance(live):
    """An expert that no token chose has none."""
    documents = _documents(1, seed=5)[:, :3]
    ids = live.record(documents[0]).expert_ids
    estimate = expert_importance(live, documents)
    unused = [set(range(EXPERTS - SHARED)) - set(np.unique(layer).tolist()) for layer in ids]
    assert any(unused)
    assert all(estimate[layer, list(each)].sum() == 0 for layer, each in enumerate(unused))
