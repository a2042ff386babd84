"""Recording every family: what a trace says equals a slow recomputation from hooks set here.

One document at a time goes through the model as transformers loads it; from what reaches each
router, plain loops (tests/families/slow_rules.py) say which experts and weights there must be.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from slow_rules import expected, nllb, softmax, switch
from tiny import CAUSAL, SEQ2SEQ, UNKNOWN, save_tiny, save_tokenizer, tiny_model
from torch import nn

from emo_viz.runs.record import Options, record
from emo_viz.trace import Trace
from model.run.opening import open_checkpoint
from model.run.recording import Recorder

FAMILIES = [*CAUSAL, *SEQ2SEQ]
LENGTHS = (7, 12, 3, 12, 30)
OPENING = {"emo": 1, "dbrx": 1, "switch_transformers": 1, "nllb-moe": 0}  # others: <s>, 2
HALF = 1e-3  # weights and entropies are kept in 16 bits


def texts() -> list[str]:
    rng = np.random.default_rng(3)
    return [" ".join(f"w{n}" for n in rng.integers(4, 96, length)) for length in LENGTHS]


@pytest.fixture
def documents() -> pd.DataFrame:
    ids = [str(number) for number in range(len(LENGTHS))]
    return pd.DataFrame({"id": ids, "domain": "words", "text": texts()})


def routers(made: nn.Module) -> list[tuple[str, nn.Module]]:
    """By what transformers calls them, in the order of the layers."""
    found = [
        (name, module)
        for name, module in made.named_modules()
        if name.rpartition(".")[2] in ("gate", "router") and "attn" not in name.lower()
    ]
    return [(name, module) for name, module in found if "attention" not in name]


def logits_of(router: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
    """A router's own linear map of what came in, whatever it is called inside."""
    inner = [m for m in router.modules() if isinstance(m, nn.Linear)]
    weight = inner[0].weight if inner else router.weight
    bias = inner[0].bias if inner else getattr(router, "bias", None)
    logits = hidden.flatten(0, -2) @ weight.T
    return logits if bias is None else logits + bias


def by_hand(family: str, made: nn.Module, ids: list[int]) -> tuple[list, list, torch.Tensor]:
    """Per router: the experts and weights of every token, its probabilities, and the logits."""
    heard: dict[str, torch.Tensor] = {}
    hooks = [
        router.register_forward_pre_hook(
            lambda _, args, name=name: heard.update({name: args[0].detach()})
        )
        for name, router in routers(made)
    ]
    ids_1T = torch.tensor([ids])
    more = {"use_cache": False}
    if family in SEQ2SEQ:
        start = made.config.decoder_start_token_id
        more = {"decoder_input_ids": torch.tensor([[start, *ids[1:]]])}
    with torch.no_grad():
        vocabulary = made(input_ids=ids_1T, **more).logits[0]
    for hook in hooks:
        hook.remove()
    chosen, probabilities = [], []
    for name, router in routers(made):
        rows = [dict(enumerate(row)) for row in logits_of(router, heard[name]).tolist()]
        chosen.append(choices(family, made, router, rows))
        probabilities.append([judged(family, row) for row in rows])
    return chosen, probabilities, vocabulary


def choices(family: str, made: nn.Module, router: nn.Module, rows: list[dict]) -> list[dict]:
    if family == "switch_transformers":
        return switch(rows, made.config.expert_capacity)
    if family == "nllb-moe":
        return nllb(rows)
    k = getattr(made.config, "num_experts_per_tok", None) or made.config.ffn_config.moe_top_k
    tokens = [expected(family, router, k, row) for row in rows]
    return [{e: w for e, w in token.items() if family != "emo" or e != 7} for token in tokens]


def judged(family: str, logits: dict[int, float]) -> dict[int, float]:
    if family in ("deepseek_v3", "glm4_moe"):
        scores = {e: 1 / (1 + np.exp(-v)) for e, v in logits.items()}
        return {e: v / sum(scores.values()) for e, v in scores.items()}
    return softmax({e: v for e, v in logits.items() if family != "emo" or e != 7})


def recorded(folder: Path, documents: pd.DataFrame, **changes) -> Trace:
    options = Options(**{"level": "tokens", "max_tokens": 32} | changes)
    return record(str(folder), documents, folder.parent / "trace", options)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trace_says_what_the_routers_did(family: str, documents, tmp_path: Path) -> None:
    made = save_tiny(family, tmp_path / "checkpoint")
    trace = recorded(tmp_path / "checkpoint", documents, batch_tokens=64)
    model = trace.manifest.model
    with_routers = [layer for layer, slots in enumerate(model.slots) if slots]
    assert len(with_routers) == len(routers(made)) and model.num_layers in (3, 4)
    for number, text in enumerate(documents["text"]):
        ids = [OPENING.get(family, 2), *(int(word[1:]) for word in text.split())][:32]
        rows = trace.tokens(number)
        assert rows["token_id"].tolist() == ids
        assert "".join(rows["text"]) == text[: len("".join(rows["text"]))]
        chosen, probabilities, vocabulary = by_hand(family, made, ids)
        got = trace.recorded(number)
        for layer, tokens, judged_tokens in zip(with_routers, chosen, probabilities, strict=True):
            for t, wanted in enumerate(tokens):
                pairs = zip(got.expert_ids[layer, t], got.gate_weights[layer, t], strict=True)
                found = {int(e): float(w) for e, w in pairs if e >= 0}
                assert found == pytest.approx(wanted, abs=2 * HALF)
                weights = list(found.values())
                assert weights == sorted(weights, reverse=True)
            entropies = [-sum(p * np.log(p) for p in judged.values()) for judged in judged_tokens]
            np.testing.assert_allclose(got.entropy[layer], entropies, atol=2 * HALF)
            usage = [np.mean([j[e] for j in judged_tokens[1:]]) for e in sorted(judged_tokens[0])]
            np.testing.assert_allclose(trace.usage[number, layer], usage, atol=HALF)
        if family not in SEQ2SEQ:
            loss = nn.functional.cross_entropy(
                vocabulary[:-1], torch.tensor(ids[1:]), reduction="none"
            )
            np.testing.assert_allclose(got.loss[1:], loss, atol=1e-4)
    assert trace.has("loss") == (family not in SEQ2SEQ)
    assert model.objective == ("emo" if family == "emo" else "unknown")
    told = {"family": family, "device": "cpu", "dtype": "float32"}
    assert trace.manifest.recorded_with == told


@pytest.mark.parametrize("family", [*FAMILIES, *UNKNOWN])
def test_a_batch_equals_its_documents_one_at_a_time(family: str) -> None:
    from model.families import routed

    rng = np.random.default_rng(1)
    documents = [rng.integers(4, 96, length) for length in (5, 9, 9, 12, 3, 20)]
    recorder = Recorder(routed(tiny_model(family)))
    alone = dict(pair for batch in recorder.record(documents) for pair in batch)
    batches = list(recorder.record(documents, 64))
    together = dict(pair for batch in batches for pair in batch)
    assert len(batches) == (6 if family == "nllb-moe" else 2)
    for number, document in enumerate(documents):
        one, other = alone[number], together[number]
        assert one.expert_ids.shape[1] == len(document)
        np.testing.assert_array_equal(one.expert_ids, other.expert_ids)
        for name in ("gate_weights", "usage", "entropy", "loss"):
            if getattr(one, name) is not None:
                np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-5)


def test_a_router_that_was_not_recognised_is_recorded_without_probabilities(
    documents, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("model.families.guess._candidates", lambda config: [])
    save_tiny("dots1", tmp_path / "checkpoint")
    trace = recorded(tmp_path / "checkpoint", documents)
    assert not trace.has("entropy") and trace.has("gate_weights")
    assert trace.manifest.usage_of == "choices"
    np.testing.assert_allclose(np.float32(trace.usage[:, 1:]).sum(-1), 1, rtol=1e-2)


def test_a_long_text_has_the_losses_of_a_short_one(documents, tmp_path, monkeypatch) -> None:
    save_tiny("olmoe", tmp_path / "checkpoint")
    whole = recorded(tmp_path / "checkpoint", documents).tokens(4)["loss"].tolist()
    monkeypatch.setattr("model.run.recording.LOSSES_AT_A_TIME", 7)
    pieces = recorded(tmp_path / "checkpoint", documents).tokens(4)["loss"].tolist()
    assert len(whole) == 31 and pieces[1:] == whole[1:]


def test_layers_without_a_router_keep_their_place(documents, tmp_path) -> None:
    save_tiny("qwen3_moe", tmp_path / "checkpoint")
    model = recorded(tmp_path / "checkpoint", documents, level="documents").manifest.model
    assert model.num_experts_per_layer == (0, 8, 8) and model.slots == (0, 3, 3)


def test_shared_experts_beside_the_routed_are_counted(documents, tmp_path) -> None:
    save_tiny("qwen2_moe", tmp_path / "checkpoint")
    model = recorded(tmp_path / "checkpoint", documents, level="documents").manifest.model
    assert (model.num_experts, model.num_shared_experts, model.num_experts_per_tok) == (9, 1, 4)
    assert model.num_routed_experts == 8


def test_a_model_in_bfloat16_is_recorded(documents, tmp_path) -> None:
    save_tiny("mixtral", tmp_path / "checkpoint")
    trace = recorded(tmp_path / "checkpoint", documents, dtype="bfloat16", batch_tokens=64)
    assert np.isfinite(trace.usage).all() and trace.facts["mean_loss"].notna().all()


def test_a_model_spread_over_all_devices_routes_as_on_one(documents, tmp_path) -> None:
    save_tiny("mixtral", tmp_path / "checkpoint")
    spread = recorded(tmp_path / "checkpoint", documents, device="auto")
    usage = spread.usage.copy()
    one = recorded(tmp_path / "checkpoint", documents, device="cpu")
    np.testing.assert_allclose(usage, one.usage, atol=1e-3)
    assert spread.manifest.tokens == one.manifest.tokens > 0


def opening(folder: Path, bos: int | None, eos: int | None, **special: str) -> int | None:
    save_tiny("olmoe", folder, bos_token_id=bos, eos_token_id=eos)
    save_tokenizer(folder, unk_token="<unk>", **special)
    return open_checkpoint(str(folder)).opening


@pytest.mark.parametrize(
    ("config", "special", "token"),
    [
        ((2, 1), {"bos_token": "w9", "eos_token": "</s>"}, 9),
        ((2, 1), {"eos_token": "</s>"}, 2),
        ((None, 1), {"eos_token": "w8"}, 8),
        ((None, 1), {}, 1),
        ((None, None), {}, None),
        ((96, 1), {}, 1),  # not among the model's tokens
    ],
)
def test_the_token_that_opens_a_document(config, special, token, tmp_path) -> None:
    assert opening(tmp_path, *config, **special) == token


def test_a_name_on_the_hub(documents, tmp_path, monkeypatch) -> None:
    import huggingface_hub

    folder = tmp_path / "snapshots" / "0123abc"
    save_tiny("olmoe", folder)
    asked: list[str] = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **_: asked.append(name) or str(folder)
    )
    trace = record("allenai/OLMoE-tiny", documents, tmp_path / "trace", Options(max_tokens=32))
    assert asked == ["allenai/OLMoE-tiny"]
    assert trace.manifest.model.name == "OLMoE-tiny"


def test_what_the_tokenizer_puts_first_opens_a_document(tmp_path) -> None:
    from tokenizers import processors

    save_tiny("olmoe", tmp_path)
    tokenizer = open_checkpoint(str(tmp_path)).tokenizer
    template = processors.TemplateProcessing("w7 $A </s>", special_tokens=[("w7", 7), ("</s>", 1)])
    tokenizer.backend_tokenizer.post_processor = template
    tokenizer.save_pretrained(tmp_path)
    assert open_checkpoint(str(tmp_path)).opening == 7


def test_without_an_opening_token_the_first_word_counts(documents, tmp_path) -> None:
    folder = tmp_path / "checkpoint"
    assert opening(folder, None, None) is None
    trace = recorded(folder, documents)
    assert not trace.manifest.opening_eos
    assert trace.facts["n_tokens"].tolist() == list(LENGTHS)
    assert trace.tokens(0)["text"].tolist()[0] == documents["text"][0].split()[0]
    single = documents.head(1).assign(text="w5")
    assert recorded(folder, single).manifest.tokens == 1


@pytest.mark.parametrize(
    ("spoil", "changes", "sentence"),
    [
        (lambda f: (f / "tokenizer.json").write_text("{"), {}, "tokenizer in .* cannot be read"),
        (lambda f: (f / "tokenizer.json").unlink(), {}, "There is no tokenizer in"),
        (lambda f: None, {"device": "cuda"}, "There is no device 'cuda' here"),
        (lambda f: None, {"device": "cuda:1"}, "There is no device 'cuda:1' here"),
        (lambda f: None, {"device": "meta"}, "There is no device 'meta' here"),
        # Before anything is loaded, which can take minutes.
        (
            lambda f: (f / "model.safetensors").unlink(),
            {"max_tokens": 65},
            "65 tokens a document are not within 2 and 64",
        ),
        (lambda f: None, {"max_tokens": 1}, "1 tokens a document"),
    ],
)
def test_what_cannot_be_recorded_is_one_sentence(
    spoil, changes, sentence, documents, tmp_path
) -> None:
    if torch.cuda.is_available() and "device" in changes:
        pytest.skip("there is a CUDA device")
    save_tiny("olmoe", tmp_path / "checkpoint")
    spoil(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match=sentence):
        recorded(tmp_path / "checkpoint", documents, **changes)
    assert not (tmp_path / "trace").exists()


def test_a_tokenizer_of_another_model_is_one_sentence(documents, tmp_path) -> None:
    save_tiny("olmoe", tmp_path / "checkpoint", vocab_size=50)
    with pytest.raises(ValueError, match="There is no token .* among the model's 50"):
        recorded(tmp_path / "checkpoint", documents)


def test_too_large_a_model_is_said_before_it_is_loaded(documents, tmp_path, monkeypatch) -> None:
    save_tiny("olmoe", tmp_path / "checkpoint")
    monkeypatch.setattr("model.families.sizes.available_memory", lambda device: 1000)
    for device, place in (("cpu", "cpu has"), ("auto", "this machine has")):
        with pytest.raises(ValueError, match=f"needs about .* GB in float32 and {place}"):
            recorded(tmp_path / "checkpoint", documents, device=device)


def test_a_model_for_a_gpu_passes_through_the_memory_of_the_cpu(
    documents, tmp_path, monkeypatch
) -> None:
    save_tiny("olmoe", tmp_path / "checkpoint")
    free = {"cpu": 1000, "meta": None}
    monkeypatch.setattr("model.families.sizes.available_memory", lambda d: free[d.type])
    for place in ("model.families.opening", "model.run.opening"):
        monkeypatch.setattr(f"{place}.device_of", torch.device)
    with pytest.raises(ValueError, match="needs about .* GB in float32 and cpu has"):
        recorded(tmp_path / "checkpoint", documents, device="meta")


def test_weights_that_are_elsewhere_are_fed_where_the_rest_runs() -> None:
    from model.families import routed

    recorder = Recorder(routed(tiny_model("olmoe")))
    recorder.routed.model.to("meta")
    assert recorder.device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_memory_that_runs_out_is_one_sentence(documents, tmp_path, monkeypatch) -> None:
    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    save_tiny("olmoe", tmp_path / "checkpoint")
    monkeypatch.setattr(Recorder, "_run", full)
    with pytest.raises(ValueError, match="ran out of memory; give fewer tokens to a batch"):
        recorded(tmp_path / "checkpoint", documents)
