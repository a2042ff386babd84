"""The model on a GPU gives what it gives on a CPU: logits, routing, losses, gradients, training.

float32 on both, so that what differs is the order of additions; the routers of both see the same
numbers to rounding, and a tie between experts that rounding turns is a token in some thousands.
"""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import CAUSAL, run, tiny_model

from model.emo.modeling import EmoForCausalLM
from model.families.registry import routed
from model.run import inference
from model.run.loading import load_model, load_tokenizer
from model.run.subset import ExpertSubset, apply_subset
from model.train import loop, step
from model.train.batches import PackedRows
from tests.model.test_train import EOS, PRESET, metrics_of, new_model, stream

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(300),
]
ASSETS = Path(__file__).parents[2] / "assets"
TEXT = "Beat the butter and sugar until pale, add the eggs one at a time, fold in the flour. " * 8
PAIR = ("emo-nano", "std-nano")


@pytest.fixture(scope="module", params=PAIR)
def both(request: pytest.FixtureRequest) -> tuple[EmoForCausalLM, EmoForCausalLM, np.ndarray]:
    """A bundled model on the CPU and on the GPU, and a text as its tokens."""
    folder = ASSETS / "checkpoints" / request.param
    on_cpu = load_model(folder)
    tokens = inference.encode(load_tokenizer(folder), TEXT, 250).token_ids
    return on_cpu, copy.deepcopy(on_cpu).cuda(), tokens


def assert_same_recording(got: inference.Recording, want: inference.Recording) -> None:
    same_LT = (np.sort(got.expert_ids, -1) == np.sort(want.expert_ids, -1)).all(-1)
    assert same_LT.mean() > 0.995
    np.testing.assert_allclose(got.router_probs, want.router_probs, atol=2e-3)
    np.testing.assert_allclose(got.loss, want.loss, atol=2e-2)
    assert np.nanmean(np.abs(got.loss - want.loss)) < 1e-3


def test_a_recording_is_that_of_the_cpu(both):
    on_cpu, on_gpu, tokens = both
    assert_same_recording(inference.record(on_gpu, tokens), inference.record(on_cpu, tokens))


def test_a_subset_is_that_of_the_cpu(both):
    on_cpu, on_gpu, tokens = both
    layers = on_cpu.config.num_hidden_layers
    kept = tuple((*range(layer, layer + 120, 6), 127) for layer in range(layers))
    subset = ExpertSubset(kept, "by hand", (), 21)
    recordings = []
    for model in (on_gpu, on_cpu):
        with apply_subset(model, subset):
            recordings.append(inference.record(model, tokens))
    assert_same_recording(*recordings)
    assert set(np.unique(recordings[0].expert_ids[0])) <= set(kept[0])


def test_losses_of_batches_and_bf16(both):
    on_cpu, on_gpu, tokens = both
    documents = [tokens[:50], tokens[:200], tokens[:9]]
    want = np.concatenate([x[1:] for x in inference.document_losses(on_cpu, documents)])
    got = np.concatenate([x[1:] for x in inference.document_losses(on_gpu, documents)])
    half = copy.deepcopy(on_gpu).bfloat16()
    rounded = np.concatenate([x[1:] for x in inference.document_losses(half, documents)])
    assert abs(got.mean() - want.mean()) < 1e-3
    assert abs(rounded.mean() - want.mean()) < 3e-2


def test_what_is_written_is_what_the_cpu_writes(both):
    on_cpu, on_gpu, tokens = both
    tokenizer = load_tokenizer(ASSETS / "checkpoints" / "emo-nano")
    texts = [inference.continue_text(m, tokenizer, tokens[:60], 12) for m in (on_cpu, on_gpu)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("objective", ["emo", "standard"])
def test_a_training_step_has_the_gradients_of_the_cpu(objective):
    preset = replace(PRESET, objective=objective, bf16=False)
    batch = PackedRows(stream(), preset, EOS).batch(0)
    on_cpu = new_model(preset).train()
    on_gpu = copy.deepcopy(on_cpu).cuda()
    totals = []
    for model in (on_cpu, on_gpu):
        total, _, _ = step.training_loss(model, batch, preset)
        total.backward()
        totals.append(total.item())
    assert totals[1] == pytest.approx(totals[0], rel=1e-5)
    gradients = dict(on_gpu.named_parameters())
    for name, parameter in on_cpu.named_parameters():
        off = (gradients[name].grad.cpu() - parameter.grad).norm() / parameter.grad.norm()
        assert off < 1e-3, name


def test_a_run_resumes_to_the_weights_of_one_that_never_stopped(tmp_path):
    def trained(out: Path, *stops: int | None) -> EmoForCausalLM:
        preset = replace(PRESET, bf16=True)
        for stop in stops:
            model = new_model(preset).cuda()
            rows = PackedRows(stream(), preset, EOS)
            loop.train(model, rows, preset, out, [], checkpoint_every=4, stop_at=stop)
        return model

    whole, parts = trained(tmp_path / "whole", None), trained(tmp_path / "parts", 5, None)
    for (name, one), other in zip(whole.named_parameters(), parts.parameters(), strict=True):
        assert torch.equal(one, other), name
    losses = [m["loss"] for m in metrics_of(tmp_path / "whole")]
    assert losses[-1] < losses[0]
    assert json.loads((tmp_path / "parts" / "step-12" / "run.json").read_text())["step"] == 12


@pytest.mark.parametrize("family", sorted(CAUSAL))
def test_a_family_records_and_restricts_as_on_the_cpu(family):
    made = tiny_model(family)
    tapes, logits, cut = [], [], []
    for model in (made, copy.deepcopy(made).cuda()):
        watched = routed(model)
        with watched.recorded() as tape:
            logits.append(run(model).cpu())
        tapes.append({n: ids.cpu() for n, ids in tape.expert_ids.items()})
        with watched.restricted([[0, 2, 3, 5, 7]] * len(watched.layers)):
            cut.append(run(model).cpu())
    torch.testing.assert_close(logits[1], logits[0], atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(cut[1], cut[0], atol=2e-3, rtol=2e-3)
    for layer, ids in tapes[0].items():
        assert (ids.sort(-1).values == tapes[1][layer].sort(-1).values).float().mean() > 0.97


@pytest.mark.parametrize("objective", ["emo", "standard", "dense"])
def test_a_recorded_step_is_the_plain_one_to_the_bit(tmp_path, objective):
    preset = replace(PRESET, objective=objective, bf16=True)
    runs = []
    for graph in (False, True):
        model = new_model(preset).cuda()
        out = tmp_path / str(graph)
        loop.train(model, PackedRows(stream(), preset, EOS), preset, out, [], graph=graph)
        runs.append((model, metrics_of(out)))
    for (name, one), other in zip(
        runs[0][0].named_parameters(), runs[1][0].parameters(), strict=True
    ):
        assert torch.equal(one, other), name
    plain, recorded = ([m["loss"] for m in metrics] for _, metrics in runs)
    assert recorded == plain
