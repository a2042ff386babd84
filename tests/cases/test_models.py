"""What a model computes in uses that public bug reports of this field describe."""

import shutil

import pandas as pd
import pytest
import torch

from emo_viz.ui.parts.token_text import vocabulary_label
from model.data.tokenizer import train_on
from model.emo.config import EmoConfig
from model.emo.modeling import EmoForCausalLM
from model.run.inference import continue_text, encode
from tests.model.helpers import tiny_ids, tiny_model

PAD = 1
CLOSE = {"atol": 1e-5, "rtol": 1e-4}
ATTENTION = pytest.mark.parametrize("attention", ["eager", "sdpa"])


def trained(attention="sdpa", **changes):
    """A standard model in train mode; wide heads, so that compiled attention would take them."""
    model = tiny_model(objective="standard", hidden_size=64, num_attention_heads=2, **changes)
    model.set_attn_implementation(attention)
    return model.train()


@torch.no_grad()
def logits(model, ids, **how):
    return model(ids, **how).logits[0]


@ATTENTION
def test_padding_on_the_left_changes_no_token_in_train_mode(attention):
    model, ids = trained(attention), tiny_ids(rows=1, tokens=9)
    padded = torch.cat([torch.full((1, 8), PAD), ids], 1)
    mask = torch.cat([torch.zeros(1, 8), torch.ones(1, 9)], 1).long()
    left = logits(model, padded, attention_mask=mask, use_cache=False)[8:]
    torch.testing.assert_close(left, logits(model, ids), **CLOSE)


@ATTENTION
def test_packed_texts_told_apart_by_positions_do_not_mix_in_train_mode(attention):
    model = trained(attention)
    one, other = tiny_ids(1, 7, seed=1), tiny_ids(1, 9, seed=2)
    positions = torch.cat([torch.arange(7), torch.arange(9)])[None]
    both = torch.cat([one, other], 1)
    packed = logits(model, both, position_ids=positions, use_cache=False)
    torch.testing.assert_close(packed[7:], logits(model, other), **CLOSE)


@ATTENTION
@pytest.mark.parametrize("objective", ["standard", "emo"])
def test_text_written_in_train_mode_is_that_of_evaluation(attention, objective):
    ids = tiny_ids(rows=1, tokens=9)
    model = tiny_model(objective=objective, hidden_size=64, num_attention_heads=2)
    model.set_attn_implementation(attention)
    wrote = []
    for mode in (model.train, model.eval):
        mode()
        how = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": PAD}
        wrote.append(model.generate(ids, attention_mask=torch.ones_like(ids), **how).tolist())
    assert wrote[0] == wrote[1]


def test_masked_padding_has_no_part_in_the_router_loss():
    model, ids = trained(), tiny_ids(rows=1, tokens=9)
    pads = torch.full((1, 64), PAD)
    mask = torch.cat([torch.ones(1, 9), torch.zeros(1, 64)], 1).long()
    with torch.no_grad():
        bare = model(ids, attention_mask=torch.ones_like(ids)).aux_loss
        padded = model(torch.cat([ids, pads], 1), attention_mask=mask).aux_loss
    torch.testing.assert_close(padded, bare, **CLOSE)


def test_embeddings_in_place_of_ids_have_a_router_loss_or_one_sentence():
    model, ids = trained(), tiny_ids(rows=1, tokens=9)
    try:
        out = model(inputs_embeds=model.get_input_embeddings()(ids), labels=ids)
    except ValueError as error:
        assert str(error) and "\n" not in str(error)
    else:
        torch.testing.assert_close(out.aux_loss, model(ids, labels=ids).aux_loss, **CLOSE)


def test_a_list_of_end_tokens_separates_documents_or_is_one_sentence():
    model, ids = trained(), tiny_ids(rows=1, tokens=9)
    ids[0, 4] = 2
    model.config.eos_token_id = [0, 2]
    try:
        both = logits(model, ids)
    except ValueError as error:
        assert str(error) and "\n" not in str(error)
    else:
        torch.testing.assert_close(both[4:], logits(model, ids[:, 4:]), **CLOSE)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_the_head_compiles():
    head = tiny_model().lm_head
    hidden = torch.randn(1, 24, head.in_features)
    torch.compiler.reset()
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(head)(hidden), head(hidden), **CLOSE)


def test_a_traced_model_has_the_same_logits():
    """The tracer of torch.compile, with a back end that leaves the operations as they are."""
    model, ids, graphs = tiny_model(), tiny_ids(rows=1, tokens=24), []
    torch.compiler.reset()
    traced = torch.compile(model, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    torch.testing.assert_close(logits(traced, ids, use_cache=False), logits(model, ids), **CLOSE)
    # Its graph may break at what is compiled already, a few times a layer, and not at every expert.
    assert len(graphs) <= 6 * model.config.num_hidden_layers


SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "num_shared_experts": 0,
    "pool_size_min": 2,
    "pool_size_max": 8,
    "eos_token_id": 0,
    "pad_token_id": 1,
    "initializer_range": 0.3,
}


@pytest.mark.parametrize("change", [{"norm_topk_prob": True}, {"hidden_act": "gelu"}], ids=str)
def test_a_config_field_has_its_effect_or_is_refused(change):
    def first_logits(**more):
        torch.manual_seed(0)
        return logits(EmoForCausalLM(EmoConfig(**SIZES, **more)).eval(), torch.arange(2, 12)[None])

    plain = first_logits()
    try:
        changed = first_logits(**change)
    except ValueError as error:
        assert next(iter(change)) in str(error)
    else:
        assert (changed - plain).abs().max() > 1e-3


@pytest.fixture
def tokenizer(tiny_assets):
    documents = pd.read_parquet(tiny_assets / "documents" / "documents.parquet")
    return train_on(documents["text"], 320)


def test_a_continuation_ends_with_a_whole_character(tokenizer, monkeypatch):
    model = tiny_model(vocab_size=len(tokenizer))
    written = tokenizer("rain ก", add_special_tokens=False).input_ids[:-1]

    def generate(ids, **_):
        return torch.cat([ids, torch.tensor([written])], 1)

    monkeypatch.setattr(model, "generate", generate)
    found = continue_text(model, tokenizer, encode(tokenizer, "sun", 16).token_ids)
    assert found.text == "rain "


def test_tokens_of_half_a_character_can_be_told_apart(tokenizer):
    ids = tokenizer("ก", add_special_tokens=False).input_ids
    labels = [vocabulary_label(tokenizer, index) for index in ids]
    assert len(ids) == len(set(labels)) == 3 and "\ufffd" not in "".join(labels)
