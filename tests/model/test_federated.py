"""Modules trained apart: what is put together is exactly the clients' experts, and is measured."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from model.federated.__main__ import main as federated_command
from model.federated.compose import compose, disjoint_modules, overlaps, union
from model.federated.run import elsewhere
from model.finetune.texts import Measured, Texts
from model.run.inference import document_losses
from model.run.loading import load_model
from model.run.subset import ExpertSubset, apply_subset
from tests.model.helpers import tiny_model
from tests.model.test_finetune import at  # noqa: F401  (a fixture)
from tests.model.test_train_command import refused

SHARED = 15
MODULES = [
    ExpertSubset(((0, 1, 2, SHARED), (3, 4, 5, SHARED)), "test", (), 4),
    ExpertSubset(((2, 6, 7, SHARED), (8, 9, 10, SHARED)), "test", (), 4),
]


def models():
    return [tiny_model(seed, num_shared_experts=1) for seed in range(3)]


def experts(model, layer):
    return model.model.layers[layer].mlp.experts


def test_an_expert_of_one_client_is_his_of_two_their_mean_by_usage_and_of_none_the_parents():
    parent, *clients = models()
    usage = np.zeros((2, 2, 15))
    usage[0, 0, 2], usage[1, 0, 2] = 0.3, 0.1
    made = compose(parent, clients, MODULES, usage)
    for name in ("gate_up_proj", "down_proj"):
        first, second, old, new = (
            getattr(experts(model, 0), name) for model in (*clients, parent, made)
        )
        assert torch.equal(new[[0, 1]], first[[0, 1]]) and torch.equal(new[[6, 7]], second[[6, 7]])
        assert torch.equal(new[8:], old[8:]) and torch.equal(new[3:6], old[3:6])
        torch.testing.assert_close(new[2], 0.75 * first[2] + 0.25 * second[2])
    moved = [n for n, w in made.named_parameters() if not torch.equal(w, parent.get_parameter(n))]
    assert all("experts" in name for name in moved) and len(moved) == 4
    again = tiny_model(0, num_shared_experts=1)
    assert torch.equal(experts(parent, 0).down_proj, experts(again, 0).down_proj)


def test_a_clients_module_in_the_composition_is_the_clients_where_nobody_else_has_an_expert():
    parent, _, client = models()
    client.load_state_dict(parent.state_dict())
    with torch.no_grad():
        experts(client, 0).down_proj[[6, 7]] *= 2
        experts(client, 1).down_proj[[8, 9]] *= 0.5
    alone = ExpertSubset(((5, 6, 7, SHARED), (8, 9, 10, SHARED)), "test", (), 4)
    made = compose(parent, [parent, client], [MODULES[0], alone], np.ones((2, 2, 15)))
    text = [np.arange(2, 30)]
    with apply_subset(made, alone):
        composed = document_losses(made, text)[0]
    with apply_subset(client, alone):
        assert np.array_equal(composed, document_losses(client, text)[0], equal_nan=True)


def test_disjoint_modules_share_no_routed_expert_and_first_choices_go_by_turns():
    scores = np.zeros((3, 2, 15))
    scores[:] = np.linspace(1, 2, 15)  # all three prefer 14, then 13, ..
    modules = disjoint_modules(tiny_model(num_shared_experts=1).config, scores, 5)
    for layer in range(2):
        routed = [set(module.experts[layer]) - {SHARED} for module in modules]
        assert all(len(each) == 4 for each in routed) and len(set.union(*routed)) == 12
        assert all(module.experts[layer][-1] == SHARED for module in modules)
    assert [14 in module.experts[0] for module in modules] == [True, False, False]
    assert [14 in module.experts[1] for module in modules] == [False, True, False]


def test_clients_that_want_more_experts_than_there_are_are_told_so():
    config = tiny_model(num_shared_experts=1).config
    with pytest.raises(ValueError, match="3 clients cannot have 7 routed experts each of the 15"):
        disjoint_modules(config, np.ones((3, 2, 15)), 8)


def test_a_union_holds_every_expert_once_and_the_overlap_is_counted():
    both = union(tiny_model(num_shared_experts=1).config, MODULES)
    assert both.experts[0] == (0, 1, 2, 6, 7, SHARED) and both.budget == 7
    assert overlaps(MODULES, 1) == {"experts": 11, "of_several": 1, "share": 1 / 11}


def command(at, out, *options):  # noqa: F811
    arguments = ["--from", at.parent, "--corpus", at.corpus, "--out", out, "--threads", 1]
    sizes = ["--steps", 2, "--rows", 2, "--measured", 4, "--others", 2, "--calibration", 2]
    return CliRunner().invoke(
        federated_command, [str(each) for each in (*arguments, *sizes, *options)]
    )


def test_the_command_leaves_a_composition_whose_losses_can_be_computed_again(at, tmp_path):  # noqa: F811
    out = tmp_path / "federation"
    options = ("--domains", "garden", "kitchen", "--module", 6, "--overlap", "disjoint")
    done = command(at, out, *options)
    assert done.exit_code == 0, done.output
    assert "2 clients, 20 routed experts between them, 0% of several" in done.output
    result = json.loads((out / "result.json").read_text())
    composed = load_model(out / "export")
    check_losses(at, result, composed)
    client = load_model(out / "clients" / "garden" / "export")
    for layer, kept in enumerate(result["modules"]["garden"]):
        mine = kept[:-1]
        assert torch.equal(
            experts(composed, layer).down_proj[mine], experts(client, layer).down_proj[mine]
        )
    assert set(result["summary"]["gain"]) >= {"client/module", "composed", "joint/module"}
    before = (out / "export" / "model.safetensors").stat()
    again = command(at, out, *options)
    assert again.exit_code == 0 and again.stdout == done.stdout
    assert (out / "export" / "model.safetensors").stat() == before, "what is done stays"
    other = command(at, out, *options, "--seed", 3)
    assert "is another federation (seed 0, not 3)" in refused(other)


def check_losses(at, result, composed):  # noqa: F811
    texts = Texts.read(at.corpus, ("kitchen",), 64, calibration=2, own=4, others=2).own.texts
    again = [loss[1:].mean() for loss in document_losses(composed, list(texts))]
    np.testing.assert_allclose(result["losses"]["kitchen"]["composed"], again, atol=2e-5)


def test_what_is_measured_of_averaged_experts_is_what_is_exported(at, tmp_path):  # noqa: F811
    out = tmp_path / "federation"
    # Modules of all experts: every one is a mean.
    done = command(at, out, "--domains", "garden", "kitchen", "--module", 16)
    assert done.exit_code == 0, done.output
    result = json.loads((out / "result.json").read_text())
    assert result["overlaps"]["share"] == 1.0
    check_losses(at, result, load_model(out / "export"))


def test_domains_that_no_client_has_are_measured_and_may_be_none():
    parent, changed, _ = models()
    texts = tuple(np.arange(2, n) for n in (20, 30))
    others = Measured(("a", "b"), ("x", "y"), texts, (0.0, 0.0))
    found = elsewhere({"parent": parent, "composed": changed}, others)
    loss = [document_losses(model, list(texts)) for model in (parent, changed)]
    means = [np.concatenate([each[1:] for each in model]).mean() for model in loss]
    gain = found["summary"]["gain"]["composed"]
    assert gain[0] == pytest.approx(means[0] - means[1], abs=1e-4)
    assert found["documents"] == 2 and found["tokens"] == 17 + 27
    assert elsewhere({"parent": parent}, Measured((), (), (), ())) is None


def test_bad_input_is_one_sentence(at, tmp_path):  # noqa: F811
    alone = command(at, tmp_path / "run", "--domains", "garden")
    assert "needs two domains or more" in refused(alone)
    unknown = command(at, tmp_path / "run", "--domains", "garden", "chess", "--module", 6)
    assert "has no domain 'chess'" in refused(unknown)
    small = command(at, tmp_path / "run", "--domains", "garden", "kitchen", "--module", 2)
    assert "keep-k must be 4" in refused(small)
    assert not list(tmp_path.iterdir())


def test_one_of_several_processes_is_refused(at, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("WORLD_SIZE", "2")
    told = refused(command(at, tmp_path / "run", "--domains", "garden", "kitchen", "--module", 6))
    assert "A federation runs in one process; start it without torchrun" in told
    assert not list(tmp_path.iterdir())
