"""Compiled attention inside documents against transformers' masked attention."""

import pytest
import torch

from model.emo import attention
from model.emo.config import EmoConfig
from model.emo.modeling import EmoForCausalLM
from model.emo.routing import document_segments, positions_in_segment
from tests.model.helpers import needs_compiler, tiny_model

pytestmark = needs_compiler

EOS = 0
ROWS = {
    "one document": [],
    "several": [(0, 5), (0, 6), (0, 70), (1, 33)],
    "ends everywhere": [(0, 0), (0, 1), (0, 127), (1, 127)],
}


def problem(ends=(), rows=2, length=128):
    """An attention layer of two heads, states, an upstream gradient and documents."""
    torch.manual_seed(0)
    config = EmoConfig(hidden_size=64, num_attention_heads=2, num_hidden_layers=1, vocab_size=64)
    model = EmoForCausalLM(config)
    layer = model.model.layers[0].self_attn
    for weight in layer.parameters():
        weight.data.mul_(8)
    ids_BT = torch.full((rows, length), 1)
    for row, place in ends:
        ids_BT[row, place] = EOS
    segments_BT = document_segments(ids_BT, EOS)
    positions_BT = positions_in_segment(segments_BT)
    states = torch.randn(rows, length, 64)
    angles = model.model.rotary_emb(states, positions_BT)
    return layer, states, torch.randn_like(states), segments_BT, angles


def attend(layer, states, upstream, segments_BT, angles, bf16=False):
    """Output and gradients of states and weights, all float32."""
    states = states.clone().requires_grad_()
    layer.zero_grad()
    same_BTT = segments_BT[:, :, None] == segments_BT[:, None]
    mask = (same_BTT & torch.ones_like(same_BTT).tril()).unsqueeze(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        out, _ = layer(
            states, segments_BT=segments_BT, position_embeddings=angles, attention_mask=mask
        )
    out.float().backward(upstream)
    return [out.detach().float(), states.grad, *(weight.grad for weight in layer.parameters())]


def without_compiled(monkeypatch, *problem, **options):
    with monkeypatch.context() as patch:
        patch.setattr(attention, "available", lambda: False)
        return attend(*problem, **options)


def errors(values, expected):
    pairs = zip(values, expected, strict=True)
    return [float((value - wanted).norm() / wanted.norm()) for value, wanted in pairs]


@pytest.mark.parametrize("ends", ROWS.values(), ids=ROWS)
def test_compiled_attention_equals_transformers(monkeypatch, ends):
    case = problem(ends)
    assert max(errors(attend(*case), without_compiled(monkeypatch, *case))) < 2e-6


def test_every_vector_width_gives_the_same_attention(processor, monkeypatch):
    case = problem(ROWS["several"])
    assert max(errors(attend(*case), without_compiled(monkeypatch, *case))) < 3e-6


def test_in_bf16_it_rounds_no_worse_than_transformers(monkeypatch):
    case = problem(ROWS["several"])
    exact = without_compiled(monkeypatch, *case)
    ours = errors(attend(*case, bf16=True), exact)
    theirs = errors(without_compiled(monkeypatch, *case, bf16=True), exact)
    assert all(mine < 1.2 * other for mine, other in zip(ours, theirs, strict=True))


def test_another_document_changes_no_bit():
    layer, states, upstream, segments_BT, angles = problem([(0, 70)])
    before = attend(layer, states, upstream, segments_BT, angles)[:2]
    states[0, 70:], upstream[0, 70:] = torch.randn(58, 64), 0
    after = attend(layer, states, upstream, segments_BT, angles)[:2]
    assert torch.equal(before[0][0, :70], after[0][0, :70])
    assert torch.equal(before[1][0, :70], after[1][0, :70])
    assert not torch.equal(before[0][0, 70:], after[0][0, 70:])


def test_very_large_scores_stay_finite():
    layer, states, *rest = problem(ROWS["several"])
    assert all(value.isfinite().all() for value in attend(layer, states * 1e4, *rest))


@pytest.mark.parametrize("length", [3, 7, 40, 133])
def test_any_length_gives_the_same_attention(monkeypatch, length):
    case = problem([(0, length // 2)], length=length)
    assert max(errors(attend(*case), without_compiled(monkeypatch, *case))) < 2e-6


def test_a_whole_text_without_a_mask_runs_compiled_and_a_padded_batch_does_not(monkeypatch):
    model = tiny_model(head_dim=32)
    ids = torch.randint(2, 50, (2, 9))
    padding = torch.ones_like(ids)
    padding[0, :4] = 0
    called, call = [], attention.call
    monkeypatch.setattr(attention, "call", lambda *a: [called.append(a[0]), call(*a)])
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits
        assert len(called) == model.config.num_hidden_layers
        padded = model(input_ids=ids, attention_mask=padding, use_cache=False).logits
        assert len(called) == model.config.num_hidden_layers
        monkeypatch.setattr(attention, "available", lambda: False)
        torch.testing.assert_close(logits, model(input_ids=ids, use_cache=False).logits)
    torch.testing.assert_close(padded[1], logits[1])


class _Adapted(torch.nn.Linear):
    """What an adapter library puts in a projection's place: more than its weight says."""

    def forward(self, x):
        return super().forward(x) + 1


def test_an_adapter_on_a_projection_is_not_passed_by(monkeypatch):
    layer, *case = problem()
    adapted = _Adapted(64, 64, bias=False)
    adapted.weight.data.copy_(layer.v_proj.weight)
    plain = attend(layer, *case)[0]
    layer.v_proj = adapted
    with_adapter = attend(layer, *case)[0]
    assert not torch.allclose(plain, with_adapter)
    torch.testing.assert_close(with_adapter, without_compiled(monkeypatch, layer, *case)[0])


def test_a_hook_on_a_projection_is_not_passed_by():
    layer, *case = problem()
    plain = attend(layer, *case)[0]
    hook = layer.v_proj.register_forward_hook(lambda module, inputs, output: output + 1)
    assert not torch.allclose(attend(layer, *case)[0], plain)
    hook.remove()
    layer.v_proj.forward = lambda x: torch.nn.Linear.forward(layer.v_proj, x) + 1
    assert not torch.allclose(attend(layer, *case)[0], plain)


def test_what_compiled_code_does_not_know_is_left_to_transformers(monkeypatch):
    layer, states, _, _, angles = problem()
    with torch.no_grad():
        plain = layer(states, position_embeddings=angles)[0]
        both_ways = layer(states, position_embeddings=angles, is_causal=False)[0]
        assert not torch.allclose(plain, both_ways)
        layer.scaling = 2.0
        assert not torch.allclose(plain, layer(states, position_embeddings=angles)[0])
        layer.scaling = layer.head_dim**-0.5
        with torch.autocast("cpu", torch.float16):
            half = layer(states, position_embeddings=angles)[0]
    torch.testing.assert_close(half.float(), plain, atol=1e-2, rtol=1e-2)
