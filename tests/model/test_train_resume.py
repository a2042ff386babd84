"""What befalls a run: damaged checkpoints, a full disk, NaN. The last good checkpoint stays."""

import errno
import json
import resource
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from safetensors import SafetensorError

import model.files
from model.train import checkpoint, finite
from model.train.batches import PackedRows
from model.train.loop import make_optimizer, train_step
from tests.model.test_train import EOS, PRESET, final_weights, metrics_of, new_model, run, stream


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights of a run that nothing befell."""
    run(tmp_path_factory.mktemp("whole") / "run")
    return final_weights(tmp_path_factory.getbasetemp() / "whole0" / "run")


def names(folder):
    beside = ("tensorboard", "load.jsonl")
    return sorted(path.name for path in folder.iterdir() if path.name not in beside)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-40])


def other_shapes(path):
    from safetensors.torch import save_file

    save_file({"model.norm.weight/exp_avg": torch.zeros(3)}, path)


DAMAGE = {
    "weights cut short": ("model.safetensors", cut_short),
    "weights gone": ("model.safetensors", lambda path: path.unlink()),
    "moments cut short": ("optimizer.safetensors", cut_short),
    "moments of another model": ("optimizer.safetensors", other_shapes),
    "run.json broken": ("run.json", lambda path: path.write_text('{"step": 8')),
    "run.json without a preset": ("run.json", lambda path: path.write_text('{"step": 8}')),
    "run.json gone": ("run.json", lambda path: path.unlink()),
}


@pytest.mark.parametrize(("name", "damage"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_taken(
    name, damage, whole, tmp_path, capsys
):
    run(tmp_path, stop_at=8)
    damage(tmp_path / "step-8" / name)
    run(tmp_path)
    assert same(whole, final_weights(tmp_path))
    assert names(tmp_path) == ["damaged-step-8", "metrics.jsonl", "step-12", "step-8"]
    assert [line["step"] for line in metrics_of(tmp_path)] == list(range(12))
    said = capsys.readouterr().err
    assert f"step-8 is damaged: its {name}" in said
    assert f"it is damaged-step-8 now, and the run goes on from {tmp_path}/step-4." in said


def test_if_all_checkpoints_are_damaged_nothing_starts_anew(tmp_path):
    run(tmp_path, stop_at=8)
    for path in checkpoint.newest_first(tmp_path):
        cut_short(path / "model.safetensors")
    before = names(tmp_path)
    with pytest.raises(ValueError, match="step-8 is damaged: .*, and there is no other to go on"):
        run(tmp_path)
    assert names(tmp_path) == before and len(metrics_of(tmp_path)) == 8


def test_what_is_no_checkpoint_is_left_alone(tmp_path):
    foreign = [tmp_path / "step-abc", tmp_path / "step-3 copy", tmp_path / "step-"]
    for folder in foreign:
        folder.mkdir(parents=True)
    (tmp_path / "step-99").write_text("a file")
    (tmp_path / ".notes.tmp").write_text("mine")
    run(tmp_path)
    assert checkpoint.latest(tmp_path) == tmp_path / "step-12"
    assert all(folder.is_dir() for folder in foreign)
    assert (tmp_path / "step-99").read_text() == "a file"
    assert (tmp_path / ".notes.tmp").read_text() == "mine"


FULL = {
    "as safetensors says it": SafetensorError("I/O error: No space left on device (os error 28)"),
    "as the system says it": OSError(errno.ENOSPC, "No space left on device"),
}


@pytest.mark.parametrize("error", FULL.values(), ids=FULL)
@pytest.mark.parametrize("place", ["save_file", "write_json"])
def test_a_full_disk_leaves_the_last_checkpoint_and_nothing_half_written(
    place, error, whole, tmp_path, monkeypatch
):
    run(tmp_path, stop_at=4)
    real = getattr(checkpoint, place)

    def fill(*args, **options):
        real(*args, **options)
        raise error

    monkeypatch.setattr(checkpoint, place, fill)
    with pytest.raises(ValueError, match=r"step-8 cannot be written \(.*\); make room"):
        run(tmp_path)
    assert names(tmp_path) == ["metrics.jsonl", "step-4"]
    monkeypatch.undo()
    run(tmp_path)
    assert same(whole, final_weights(tmp_path))


@contextmanager
def no_file_above(size):
    """The system refuses to write more to a file, as it would on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_the_system_refuses_leaves_the_last_checkpoint(whole, tmp_path):
    run(tmp_path, stop_at=4)
    with no_file_above(100_000), pytest.raises(ValueError, match=r"step-8 cannot be written \(.*"):
        run(tmp_path)
    assert names(tmp_path) == ["metrics.jsonl", "step-4"]
    run(tmp_path)
    assert same(whole, final_weights(tmp_path))


def test_old_checkpoints_go_only_after_the_new_one_is_whole(tmp_path, monkeypatch):
    run(tmp_path, stop_at=8)

    def refuse(new, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(model.files, "_replace_folder", refuse)
    with pytest.raises(ValueError, match="step-12 cannot be written"):
        run(tmp_path)
    assert names(tmp_path) == ["metrics.jsonl", "step-4", "step-8"]


def test_half_a_line_of_metrics_is_dropped_with_what_follows_the_checkpoint(tmp_path):
    run(tmp_path, stop_at=4)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 4, "loss": 1.0}\n[4]\n{"step": 5, "loss": {"\xff}')
    run(tmp_path)
    assert [line["step"] for line in metrics_of(tmp_path)] == list(range(12))


POISON = {
    "layers.1.mlp.experts.down_proj": "the output of layer 1, experts",
    "layers.0.mlp.gate.weight": "the output of layer 0, router",
    "layers.1.self_attn.q_proj.weight": "the output of layer 1, attention",
    "layers.1.pre_attention_layernorm.weight": "the output of layer 1, norm before attention",
    "layers.0.pre_feedforward_layernorm.weight": "the output of layer 0, norm after attention",
    "embed_tokens.weight": "the output of the embedding",
    "norm.weight": "the output of the final norm",
}


def one_step(model, preset=PRESET):
    rows = PackedRows(stream(), preset, EOS)
    return train_step(model, make_optimizer(model, preset), rows.batch(3), preset, 3)


@pytest.mark.parametrize(("parameter", "words"), POISON.items(), ids=POISON)
def test_a_step_that_is_not_finite_names_the_first_part_and_changes_no_weight(parameter, words):
    model = new_model()
    with torch.no_grad():
        model.model.get_parameter(parameter).view(-1)[:] = float("inf")
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    with pytest.raises(finite.NotFinite, match=f"At step 3 .* first in {words};"):
        one_step(model)
    assert same(before, dict(model.named_parameters()))


def test_a_head_that_is_not_finite_is_named():
    model = new_model()
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    with pytest.raises(finite.NotFinite, match="first in the next-token loss"):
        one_step(model)


def test_a_dense_model_names_its_mlp():
    preset = replace(PRESET, objective="dense")
    model = new_model(preset)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[:] = float("nan")
    with pytest.raises(finite.NotFinite, match="the output of layer 1, MLP"):
        one_step(model, preset)


GRADIENTS = {
    "model.layers.1.mlp.experts.gate_up_proj": "layer 1, experts",
    "model.layers.0.mlp.gate.weight": "layer 0, router",
    "lm_head.weight": "the head",
}


@pytest.mark.parametrize(("parameter", "words"), GRADIENTS.items(), ids=GRADIENTS)
def test_a_gradient_that_is_not_finite_is_named(parameter, words):
    model = new_model()
    model.get_parameter(parameter).register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(finite.NotFinite, match=f"first in the gradient of {words};"):
        one_step(model)


def test_a_run_that_is_no_longer_finite_keeps_its_checkpoints(tmp_path, monkeypatch):
    def poisoned(model, optimizer, batch, preset, step, **more):
        if step == 5:
            with torch.no_grad():
                model.model.layers[0].mlp.experts.down_proj[:] = float("nan")
        return train_step(model, optimizer, batch, preset, step, **more)

    monkeypatch.setattr("model.train.loop.train_step", poisoned)
    with pytest.raises(finite.NotFinite, match="At step 5 "):
        run(tmp_path)
    assert names(tmp_path) == ["metrics.jsonl", "step-4"]
    assert len(metrics_of(tmp_path)) == 5


def test_settings_that_differ_are_named_with_both_values(tmp_path):
    run(tmp_path, stop_at=1)
    other = replace(PRESET, seed=3, objective="standard")
    with pytest.raises(ValueError, match=r"\(objective emo, not standard; seed 0, not 3\); give"):
        run(tmp_path, preset=other)
    text = json.loads((tmp_path / "step-1" / "run.json").read_text())
    assert (text["processes"], text["corpus"]) == (1, None)
