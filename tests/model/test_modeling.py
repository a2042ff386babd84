"""The model as a transformers model: checkpoints, generation, documents, causality."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from model.emo.modeling import EmoForCausalLM, EmoHead
from model.run.inference import document_losses, record
from tests.model.helpers import EOS, tiny_ids, tiny_model


def packed_ids():
    ids = tiny_ids(rows=1, tokens=24)
    ids[0, [0, 9, 16]] = EOS
    return ids


def test_a_checkpoint_round_trip_keeps_every_logit_and_the_released_names(tmp_path):
    model, ids = tiny_model(), tiny_ids()
    model.save_pretrained(tmp_path)
    names = set(load_file(tmp_path / "model.safetensors"))
    assert "model.layers.1.mlp.experts.15.up_proj.weight" in names
    assert "model.layers.0.mlp.gate.weight" in names
    assert "model.layers.0.pre_attention_layernorm.weight" in names
    assert not any("gate_up_proj" in name for name in names)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    assert isinstance(again, EmoForCausalLM)
    assert torch.equal(model(ids).logits, again(ids).logits)


@pytest.mark.parametrize("implementation", ["eager", "grouped_mm", "batched_mm"])
def test_expert_implementations_agree(implementation):
    model, ids = tiny_model(), tiny_ids()
    logits = model(ids).logits
    model.set_experts_implementation(implementation)
    assert torch.allclose(model(ids).logits, logits, atol=2e-5)


def test_inference_is_causal_and_training_with_pools_is_not():
    """A pool sees the whole document, so training routes early tokens by what comes later."""
    model, ids = tiny_model(), tiny_ids(rows=1)
    other = ids.clone()
    other[0, 12:] = tiny_ids(rows=1, seed=5)[0, 12:]
    assert torch.allclose(model(ids).logits[0, :12], model(other).logits[0, :12], atol=1e-5)
    model.train()
    sizes = torch.full((2, 1, 24), 4)
    in_training = [
        model(x, documents=model.document_routing(x, sizes)).logits[0, :12] for x in (ids, other)
    ]
    assert not torch.allclose(*in_training)


@pytest.mark.parametrize("objective", ["emo", "standard"])
def test_training_never_looks_into_another_document(objective):
    model = tiny_model(objective=objective).train()
    ids = packed_ids()
    sizes = torch.full((2, 1, 3), 6)
    whole = model(ids, documents=model.document_routing(ids, sizes)).logits
    for start, end in ((0, 9), (9, 16), (16, 24)):
        part = ids[:, start:end]
        alone = model(part, documents=model.document_routing(part, sizes[..., :1])).logits
        assert torch.allclose(whole[:, start:end], alone, atol=1e-4)


def test_objectives_differ_in_routing_alone():
    emo, standard = tiny_model(), tiny_model(objective="standard")
    ids = packed_ids()
    assert torch.equal(emo(ids).logits, standard(ids).logits), "no pools outside training"
    wide = emo.train().document_routing(ids, torch.full((2, 1, 3), 16))
    all_kept = emo(ids, documents=wide).logits
    assert torch.allclose(all_kept, standard.train()(ids).logits, atol=1e-5)


def test_the_shared_router_row_gets_no_gradient_and_training_reports_losses():
    model, ids = tiny_model().train(), packed_ids()
    out = model(ids, labels=ids)
    out.loss.backward()
    for layer in model.model.layers:
        assert (layer.mlp.gate.weight.grad[-1] == 0).all()
        assert (layer.mlp.gate.weight.grad[:-1] != 0).any()
    assert float(out.aux_loss.detach()) > 0


def test_a_dense_twin_trains_and_routes_nothing():
    model, ids = tiny_model(objective="dense").train(), packed_ids()
    out = model(ids, labels=ids)
    out.loss.backward()
    assert out.aux_loss is None
    assert not any("experts" in name for name, _ in model.named_parameters())


def test_greedy_generation_with_a_cache_equals_one_forward_a_token():
    model, ids = tiny_model(), tiny_ids(rows=1, tokens=6)
    out = model.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=-1, pad_token_id=1)
    slow = ids
    for _ in range(8):
        slow = torch.cat([slow, model(slow).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(out, slow)


def test_left_padding_does_not_change_a_row():
    model, ids = tiny_model(), tiny_ids(rows=1, tokens=10)
    padded = torch.cat([torch.ones(1, 4, dtype=torch.long), ids], 1)
    mask = (torch.arange(14) >= 4).long()[None]
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(padded, attention_mask=mask, position_ids=positions).logits[:, 4:]
    assert torch.allclose(logits, model(ids).logits, atol=1e-4)


def test_a_recording_agrees_with_the_models_own_outputs():
    model, ids = tiny_model(), tiny_ids(rows=1)
    seen = record(model, ids[0].numpy())
    out = model(ids, output_router_logits=True)
    probs = out.router_logits[1][:, :15].softmax(-1)
    top = probs.topk(3)
    assert torch.equal(torch.tensor(seen.expert_ids[1]).long(), top.indices)
    assert np.allclose(seen.gate_weights[1], top.values.detach(), atol=1e-6)
    log_probs = out.logits[0].log_softmax(-1)
    assert np.isnan(seen.loss[0])
    assert seen.loss[5] == pytest.approx(-float(log_probs[4, ids[0, 5]].detach()), abs=1e-5)
    assert seen.next_ids[5, 0] == int(log_probs[5].argmax())
    assert not seen.loss.flags.writeable


def test_batched_losses_equal_one_document_at_a_time():
    model = tiny_model()
    documents = [tiny_ids(1, length, seed=length)[0].numpy() for length in (7, 24, 13, 2)]
    batched = document_losses(model, documents, batch_tokens=40)
    for document, losses in zip(documents, batched, strict=True):
        assert np.allclose(losses[1:], record(model, document).loss[1:], atol=1e-4)


def test_a_document_longer_than_the_context_is_refused():
    with pytest.raises(ValueError, match="1 to 64 tokens, not 65"):
        record(tiny_model(), np.full(65, 3))


def test_the_head_gives_the_same_logits_with_and_without_gradients():
    torch.manual_seed(0)
    head = EmoHead(48, 70, bias=False)
    for shape in ((1, 48), (2, 5, 48), (0, 48)):
        hidden = torch.randn(shape)
        with torch.inference_mode():
            fast = head(hidden)
        torch.testing.assert_close(fast, head(hidden).detach())
        assert head(hidden).requires_grad


def test_what_hooks_onto_the_head_sees_its_output():
    head, seen = EmoHead(8, 16, bias=False), []
    head.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        assert torch.equal(head(torch.ones(3, 8)), seen[0])


def test_pool_sizes_that_nobody_gives_are_drawn_as_the_config_says():
    model = tiny_model(pool_size_min=5, pool_size_max=9, pool_size_per_layer=False)
    sizes_LBD = model.document_routing(tiny_ids(rows=40)).pool_sizes_LBD
    assert sizes_LBD.min() == 5 and sizes_LBD.max() == 9
    assert torch.equal(sizes_LBD[0], sizes_LBD[1])
