"""Training forwards look at masks, positions and caches as every other forward does."""

import shutil

import pytest
import torch

from model.emo.modeling import EmoHead
from tests.model.helpers import EOS, tiny_ids, tiny_model

PAD = 1
# Pools of all experts: what a token gets then depends on its own text alone.
FREE = {"pool_size_min": 15, "pool_size_max": 16}


def training(attention="sdpa", **changes):
    """Heads wide enough for compiled attention."""
    model = tiny_model(head_dim=32, **({"objective": "standard"} | changes)).train()
    model.set_attn_implementation(attention)
    return model


def logits(model, ids, **inputs):
    with torch.no_grad():
        return model(ids, **inputs).logits


def near(left, right):
    torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"objective": "emo", **FREE}], ids=["standard", "emo"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_on_either_side_changes_no_row(attention, changes):
    model, ids = training(attention, **changes), tiny_ids(rows=2, tokens=9)
    ids[0, 4] = EOS
    alone, pads = logits(model, ids), torch.full((2, 5), PAD)
    pads[1, 4] = EOS  # of no document either
    ones, zeros = torch.ones_like(ids), torch.zeros_like(pads)
    left = {"attention_mask": torch.cat([zeros, ones], 1)}
    near(logits(model, torch.cat([pads, ids], 1), **left)[:, 5:], alone)
    right = {"attention_mask": torch.cat([ones, zeros], 1)}
    near(logits(model, torch.cat([ids, pads], 1), **right)[:, :9], alone)
    positions = (left["attention_mask"].cumsum(1) - 1).clamp(min=0)
    by_position = logits(model, torch.cat([pads, ids], 1), **left, position_ids=positions)
    near(by_position[1:, 5:], alone[1:])
    near(logits(model, ids, attention_mask=ones), alone)


@pytest.mark.parametrize("masked", [False, True], ids=["without a mask", "with a mask of ones"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_positions_that_restart_are_documents(attention, masked):
    model, first, second = training(attention), tiny_ids(1, 7), tiny_ids(1, 6, seed=1)
    ids = torch.cat([first, second], 1)
    inputs = {"position_ids": torch.cat([torch.arange(7), torch.arange(6)])[None]}
    if masked:
        inputs["attention_mask"] = torch.ones_like(ids)
    packed = logits(model, ids, **inputs)
    near(packed[:, :7], logits(model, first))
    near(packed[:, 7:], logits(model, second))
    assert model.document_routing(ids, None, None, inputs["position_ids"]).segments_BT.sum() == 6


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_mask_with_holes_and_a_mask_of_who_sees_whom_are_kept(attention):
    model, ids = training(attention), tiny_ids(rows=1, tokens=8)
    holes = torch.tensor([[1, 1, 0, 1, 1, 0, 1, 1]])
    positions = (holes.cumsum(1) - 1).clamp(min=0)
    real = holes[0].bool()
    near(logits(model, ids, attention_mask=holes)[:, real], logits(model, ids[:, real]))
    near(
        logits(model, ids, attention_mask=holes, position_ids=positions)[:, real],
        logits(model, ids[:, real]),
    )
    apart = torch.ones(1, 1, 8, 8, dtype=torch.bool).tril()
    apart[..., 4:, :4] = False
    if attention == "eager":
        apart = torch.where(apart, 0.0, torch.finfo(torch.float32).min)
    near(logits(model, ids, attention_mask=apart)[:, 4:], logits(model, ids[:, 4:]))


@pytest.mark.parametrize("cache", [True, False], ids=["cache", "no cache"])
def test_a_model_in_training_writes_what_it_writes_outside(cache):
    model, ids = training(objective="emo", pool_size_max=4), tiny_ids(rows=2, tokens=8)
    ids[0, :3], ids[1, 3] = PAD, EOS
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    options = {"max_new_tokens": 6, "do_sample": False, "use_cache": cache, "eos_token_id": -1}
    options |= {"pad_token_id": PAD}
    wrote = model.generate(ids, attention_mask=mask, **options)
    assert torch.equal(wrote, model.eval().generate(ids, attention_mask=mask, **options))


def test_a_step_with_a_cache_is_no_training_step():
    model, ids = training(objective="emo", pool_size_max=4), tiny_ids(rows=1, tokens=8)
    cache = model.eval()(ids[:, :6]).past_key_values
    out = model.train()(ids[:, 6:], past_key_values=cache)
    near(out.logits.detach(), logits(model.eval(), ids)[:, 6:])
    assert out.aux_loss is None
    with pytest.raises(ValueError, match="give no past_key_values"):
        model(ids, past_key_values=cache, documents=model.document_routing(ids))


def test_embeddings_in_place_of_ids_are_one_document_with_router_losses():
    model, ids = training(objective="emo", **FREE), tiny_ids(rows=2, tokens=8)
    by_ids = model(ids, labels=ids)
    out = model(inputs_embeds=model.get_input_embeddings()(ids), labels=ids)
    near(out.logits, by_ids.logits)
    near(out.loss, by_ids.loss)


def test_masked_padding_leaves_the_loss_and_every_gradient_as_they_are():
    model, ids = training(objective="emo", **FREE), tiny_ids(rows=2, tokens=8)
    pads = torch.full((2, 30), PAD)
    model(ids, labels=ids).loss.backward()
    expected = [weight.grad.clone() for weight in model.parameters()]
    model.zero_grad()
    labels = torch.cat([ids, torch.full_like(pads, -100)], 1)
    mask = torch.cat([torch.ones_like(ids), torch.zeros_like(pads)], 1)
    model(torch.cat([ids, pads], 1), attention_mask=mask, labels=labels).loss.backward()
    for weight, grad in zip(model.parameters(), expected, strict=True):
        near(weight.grad, grad)


def test_the_chunked_loss_leaves_out_padding_and_labels_of_minus_100():
    model, ids = training(), tiny_ids(rows=2, tokens=8)
    ids[:, 5:] = PAD
    labels = ids.roll(-1, 1).masked_fill(torch.arange(8) >= 4, -100)
    mask = (torch.arange(8) < 5).long().expand(2, 8)
    loss = model.next_token_loss(ids, labels, model.document_routing(ids, None, mask), 0.0)
    expected = torch.nn.functional.cross_entropy(
        logits(model, ids[:, :5])[:, :4].flatten(0, 1), ids[:, 1:5].flatten()
    )
    near(loss.detach(), expected)


def test_flash_attention_is_refused_where_it_would_mix_documents():
    model, ids = training(), tiny_ids(rows=1, tokens=8)
    model.config._attn_implementation = "flash_attention_2"
    mask = (torch.arange(8) > 2).long()[None]
    with pytest.raises(ValueError, match="attn_implementation='sdpa'"):
        model(ids, attention_mask=mask)


def test_checkpointing_keeps_the_gradient_of_the_router_losses_or_says_so():
    model, ids = training(objective="emo", **FREE), tiny_ids(rows=2, tokens=8)
    model(ids).aux_loss.backward()
    expected = model.routers()[0].weight.grad.clone()
    model.zero_grad()
    model.gradient_checkpointing = True
    model._set_gradient_checkpointing(True, _checkpoint(use_reentrant=False))
    model(ids).aux_loss.backward()
    near(model.routers()[0].weight.grad, expected)
    model._set_gradient_checkpointing(True, _checkpoint(use_reentrant=True))
    with pytest.raises(ValueError, match="use_reentrant=False"):
        model(ids)


def _checkpoint(**options):
    from functools import partial

    from torch.utils.checkpoint import checkpoint

    return partial(checkpoint, **options)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_compiled_model_gives_the_same_numbers_in_training_and_outside():
    model, ids = training(objective="emo", num_hidden_layers=1, **FREE), tiny_ids(1, 8)
    ids[0, 4] = EOS
    compiled = torch.compile(model, backend="aot_eager")
    for texts in (ids, tiny_ids(1, 9), tiny_ids(1, 11)):  # the third length is traced as any length
        near(compiled(texts, labels=texts).loss, model(texts, labels=texts).loss)
    model.eval()
    near(logits(compiled, ids, use_cache=False), logits(model, ids, use_cache=False))


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compiled_head_gives_the_same_logits():
    head, hidden = EmoHead(8, 16, bias=False), torch.ones(3, 8)
    with torch.no_grad():  # inductor, which alone does not know oneDNN's operation
        near(torch.compile(head)(hidden), head(hidden))
