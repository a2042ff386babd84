"""Every setting of the released format: our logits are those of the plain loops, or a sentence."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from model.emo import router
from model.emo.config import EmoConfig
from model.emo.routing import document_segments
from model.run.subset import ExpertSubset, apply_subset
from tests.model import slow_model
from tests.model.helpers import EOS, tiny_model

RELEASED = {
    "architectures": ["EmoForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_emo.EmoForCausalLM"},
    "model_type": "emo",
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "num_experts": 9,
    "num_experts_per_tok": 4,
    "num_shared_experts": 1,
    "rms_norm_eps": 1e-6,
    "rope_theta": 500000.0,
    "rope_scaling": None,
    "torch_dtype": "float32",
    "eos_token_id": EOS,
    "pad_token_id": 1,
}
HONOURED = {
    "as released": {},
    "no shared expert": {"num_shared_experts": 0},
    "two shared experts": {"num_shared_experts": 2},
    "renormalised": {"num_shared_experts": 0, "norm_topk_prob": True},
    "no experts always active": {
        "always_active_experts": None,
        "num_shared_experts_per_layer": [1, 1],
    },
    "layers of their own size": {"num_experts_per_layer": [9, 6]},
    "a layer with fewer experts than a token uses": {"num_experts_per_layer": [3, 9]},
    "a dense layer": {"num_experts_per_layer": [0, 9], "dense_intermediate_size": 24},
    "a dense layer with biases": {
        **{"num_experts_per_layer": [0, 9], "dense_intermediate_size": 24, "dense_mlp_bias": True}
    },
    "rope_theta at the top": {"rope_theta": 100.0},
    "rope_scaling at the top": {
        "rope_theta": 100.0,
        "rope_scaling": {"type": "linear", "factor": 2},
    },
    "rope_parameters": {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
    "grouped queries": {"num_key_value_heads": 2},
    "heads of their own width": {"head_dim": 32},
    "gelu": {"hidden_act": "gelu"},
    "relu in a dense layer too": {
        **{"hidden_act": "relu", "num_experts_per_layer": [0, 9], "dense_intermediate_size": 24}
    },
    "attention biases": {"attention_bias": True},
    "dropout does nothing here": {"attention_dropout": 0.5},
    "tied embeddings": {"tie_word_embeddings": True},
    "router logits asked for": {"output_router_logits": True},
}
IDS = [5, 17, EOS, 33, 33, 8, 59, 2, 41]


def checkpoint(folder, changes):
    """A released checkpoint of random weights, wide enough that routing differs; its weights."""
    settings = RELEASED | changes
    torch.manual_seed(0)
    model = tiny_model(**{k: v for k, v in settings.items() if k != "model_type"})
    for weight in model.parameters():
        weight.data.normal_(0, 0.3)
    model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(settings))
    return settings, load_file(folder / "model.safetensors")


@pytest.mark.parametrize("changes", HONOURED.values(), ids=HONOURED)
def test_logits_are_those_of_the_plain_loops(tmp_path, changes):
    settings, weights = checkpoint(tmp_path, changes)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    exact = {name: weight.double() for name, weight in weights.items()}
    expected = slow_model.logits(exact, settings, IDS)
    with torch.no_grad():
        out = model(torch.tensor([IDS]))
        assert torch.allclose(out.logits[0].double(), expected, atol=1e-5, rtol=1e-5)
        model.set_experts_implementation("eager")
        eager = model(torch.tensor([IDS])).logits[0].double()
    assert torch.allclose(eager, expected, atol=1e-5, rtol=1e-5)
    assert (out.router_logits is not None) == ("output_router_logits" in changes)
    assert model.config.objective == "unknown"


REFUSED = {
    "norm_topk_prob": {"norm_topk_prob": True},
    "always_active_experts=": {"always_active_experts": [0]},
    "always_active_experts_per_layer": {"always_active_experts_per_layer": [[0], []]},
    "num_shared_experts_per_layer": {"num_shared_experts_per_layer": [1, 2]},
    "ghost_extend_eval": {"ghost_extend_eval": "true"},
    "partial_rotary_factor": {
        "rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}
    },
    "sliding_window": {"sliding_window": 8},
    "Olmo2NoQKNormPrenormForCausalLM": {"architectures": ["Olmo2NoQKNormPrenormForCausalLM"]},
    "hidden_act='swoosh'": {"hidden_act": "swoosh"},
    "num_key_value_heads=3": {"num_key_value_heads": 3},
    "has 1 entries": {"num_experts_per_layer": [9]},
    "gives layer 1 1 experts": {"num_experts_per_layer": [9, 1]},
    "gives layer 0 12 experts": {"num_experts_per_layer": [12, 9]},
    "set dense_intermediate_size": {"num_experts_per_layer": [0, 9]},
}


@pytest.mark.parametrize(("sentence", "changes"), REFUSED.items(), ids=REFUSED)
def test_what_the_model_does_not_compute_is_refused(sentence, changes):
    with pytest.raises(ValueError, match=sentence) as refused:
        EmoConfig.from_dict(RELEASED | changes)
    assert str(refused.value).count(".") <= 2 and "\n" not in str(refused.value)


def test_a_file_that_does_not_say_its_routing_is_refused():
    for name in ("num_experts_per_tok", "num_shared_experts"):
        fields = {key: value for key, value in RELEASED.items() if key != name}
        with pytest.raises(ValueError, match=f"does not say {name}"):
            EmoConfig.from_dict(fields)


def test_code_that_a_checkpoint_names_is_neither_run_nor_kept(tmp_path):
    checkpoint(tmp_path, {})
    (tmp_path / "modeling_emo.py").write_text("raise SystemExit('this ran')")
    for trust in (None, True):
        model = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=trust)
        assert type(model).__module__ == "model.emo.modeling"
    model.save_pretrained(tmp_path / "again")
    assert "auto_map" not in json.loads((tmp_path / "again/config.json").read_text())


def test_an_old_field_that_nobody_reads_is_not_kept():
    config = EmoConfig.from_dict(RELEASED | {"pool_size_eval": 32})
    assert "pool_size_eval" not in config.to_dict()


def test_a_dense_layer_is_trained():
    model = tiny_model(num_experts_per_layer=[0, 16], dense_intermediate_size=24).train()
    out = model(torch.tensor([IDS]), labels=torch.tensor([IDS]))
    assert out.aux_loss > 0 and len(model.routers()) == 1


def routed(model, ids, sizes, documents, real=None, subset=None):
    """Row 0 through both routers: what the second layer's router reported, and the plain loops."""
    model.train()
    found = model.document_routing(ids, sizes, attention_mask=real)
    out = model(ids, attention_mask=real, documents=found, output_router_logits=True)
    slow = slow_model.routing(
        out.router_logits[1][:, : model.config.num_routed_experts].detach().double(),
        documents,
        sizes[1, 0].tolist(),
        model.config.num_routed_per_tok,
        subset,
    )
    return found, slow


def agree(found, slow):
    assert found.counts_R[1].tolist() == slow["counts"]
    assert float(found.balancing_losses[1].detach()) == pytest.approx(slow["balancing"], rel=1e-5)
    assert float(found.z_losses[1].detach()) == pytest.approx(slow["z"], rel=1e-5)


def row(*tokens):
    return torch.tensor([tokens])


@pytest.mark.parametrize("num_shared", [0, 1, 2])
def test_training_routes_and_loses_as_the_plain_loops(num_shared):
    model = tiny_model(num_shared_experts=num_shared)
    ids = row(5, 6, EOS, 8, 9, 10, EOS, 7)
    sizes = torch.tensor([[[4, 5, 16]], [[6, 4, 4]]])
    agree(*routed(model, ids, sizes, [0, 0, 1, 1, 1, 1, 2, 2]))


def test_padding_is_of_no_document_and_in_no_loss():
    model = tiny_model()
    sizes = torch.tensor([[[5, 9]], [[6, 4]]])
    plain = row(5, 6, 9, EOS, 8, 9)
    alone, slow = routed(model, plain, sizes, [0, 0, 0, 1, 1, 1])
    agree(alone, slow)
    for ids, real, documents in (
        (
            row(1, 1, 5, 6, 9, EOS, 8, 9),
            row(0, 0, 1, 1, 1, 1, 1, 1),
            [None] * 2 + [0] * 3 + [1] * 3,
        ),
        (row(5, 6, 9, EOS, 8, 9, 1), row(1, 1, 1, 1, 1, 1, 0), [0] * 3 + [1] * 3 + [None]),
        (row(EOS, 5, 6, 9, EOS, 8, 9), row(0, 1, 1, 1, 1, 1, 1), [None] + [0] * 3 + [1] * 3),
    ):
        padded, slow = routed(model, ids, sizes, documents, real)
        agree(padded, slow)
        agree(padded, routed(model, plain, sizes, [0, 0, 0, 1, 1, 1])[1])
        assert torch.allclose(
            torch.stack(padded.entropies), torch.stack(alone.entropies), atol=1e-5
        )


def test_a_pool_is_chosen_among_the_experts_that_a_subset_keeps():
    model = tiny_model()
    kept = (0, 3, 7, 9, 12, 15)
    subset = ExpertSubset((kept, kept), "test", (), 6)
    ids, sizes = row(5, 6, 9, EOS, 8, 9), torch.full((2, 1, 2), 4)
    with apply_subset(model, subset):
        found, slow = routed(model, ids, sizes, [0, 0, 0, 1, 1, 1], subset=kept[:-1])
        logits = model(ids, documents=model.document_routing(ids, sizes)).logits
    agree(found, slow)
    assert logits.isfinite().all()


def test_rows_of_padding_alone_lose_nothing():
    model = tiny_model().train()
    ids = torch.ones(2, 5, dtype=torch.long)
    out = model(ids, attention_mask=torch.zeros_like(ids))
    assert float(out.aux_loss.detach()) == 0


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        (torch.full((2, 1, 3), 2), "A pool of 2 experts is smaller than the 3 routed"),
        (torch.full((2, 1, 1), 8), r"\(2, 1, 1\) do not fit 2 layers, 1 rows and 2 documents"),
        (torch.full((1, 1, 2), 8), r"\(1, 1, 2\) do not fit"),
    ],
)
def test_pool_sizes_that_do_not_fit_are_refused(sizes, sentence):
    with pytest.raises(ValueError, match=sentence):
        tiny_model().document_routing(row(5, EOS, 6), sizes)


def test_the_documents_of_a_row_may_end_in_any_of_several_tokens():
    model = tiny_model(eos_token_id=[EOS, 7])
    assert model.document_routing(row(5, 7, 8, EOS, 9)).segments_BT.tolist() == [[0, 1, 1, 2, 2]]
    assert torch.equal(document_segments(row(5, 7, 8), [7]), document_segments(row(5, 7, 8), 7))


def test_what_a_checkpoint_does_not_say_is_asked_for_before_training():
    model = tiny_model(objective="unknown").train()
    with pytest.raises(ValueError, match="does not say how it was trained"):
        model(row(5, 6, 7))
    model.config.objective = "standard"
    assert model(row(5, 6, 7)).aux_loss > 0
    model.config.eos_token_id = None
    with pytest.raises(ValueError, match="end-of-text token"):
        model(row(5, 6, 7))


def test_a_number_that_is_none_reaches_the_logits():
    for value in (float("nan"), float("inf")):
        model = tiny_model()
        model.model.layers[0].mlp.gate.weight.data[3] = value
        with torch.no_grad():
            assert not model(row(5, 6, 7)).logits.isfinite().any()


def test_what_ranks_add_up_are_real_tokens_and_their_slots(monkeypatch):
    added = []
    monkeypatch.setattr(router.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(router.dist, "all_reduce", lambda totals: added.append(totals.clone()))
    model = tiny_model().train()
    model(row(5, 6, EOS, 8, 1, 1), attention_mask=row(1, 1, 1, 1, 0, 0))
    assert [(int(totals[-1]), int(totals[:-1].sum())) for totals in added] == [(4, 12)] * 2
