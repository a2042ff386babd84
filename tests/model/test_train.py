"""Training: exact resume after a kill, seeded batches, and a loss that falls."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.runs import EOS, SMALL, small_stream
from model.emo.modeling import EmoForCausalLM
from model.emo.routing import PoolSizes
from model.train import checkpoint
from model.train.batches import PackedRows, RowTable
from model.train.loop import Silent, learning_rate, make_optimizer, train, train_step
from model.train.presets import Preset, find_preset

PRESET = replace(SMALL, steps=12, warmup_steps=3, own_rows=True)


def stream(length=3000, seed=0):
    return small_stream(length, seed)


def new_model(preset: Preset = PRESET) -> EmoForCausalLM:
    torch.manual_seed(preset.seed)
    return EmoForCausalLM(preset.model_config(EOS, 1))


def run(
    out: Path,
    stop_at: int | None = None,
    preset: Preset = PRESET,
    every: int = 4,
    heldout: Sequence[np.ndarray] = (),
    **more: Any,
) -> EmoForCausalLM:
    torch.set_num_threads(1)
    model = new_model(preset)
    train(
        model,
        PackedRows(stream(), preset, EOS),
        preset,
        out,
        list(heldout),
        checkpoint_every=every,
        evaluate_every=2,
        stop_at=stop_at,
        progress=Silent,
        **more,
    )
    return model


def final_weights(out: Path) -> dict[str, torch.Tensor]:
    newest = checkpoint.latest(out)
    assert newest is not None and newest.name == f"step-{PRESET.steps}"
    return load_file(newest / "model.safetensors")


def metrics_of(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_a_stopped_run_continues_to_bit_identical_weights_and_metrics(tmp_path):
    run(tmp_path / "whole")
    run(tmp_path / "parts", stop_at=5)
    run(tmp_path / "parts")
    whole, parts = final_weights(tmp_path / "whole"), final_weights(tmp_path / "parts")
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    metrics = [metrics_of(tmp_path / name) for name in ("whole", "parts")]
    assert [m["step"] for m in metrics[1]] == list(range(12))
    assert [m["loss"] for m in metrics[0]] == [m["loss"] for m in metrics[1]]


KILLED = """
import sys
from pathlib import Path
from tests.model.test_train import run
import model.train.loop as loop
step = loop.train_step
def noisy(*args, **more):
    print("step", args[4], flush=True)
    return step(*args, **more)
loop.train_step = noisy
run(Path(sys.argv[1]), every=2)
"""


@pytest.mark.timeout(1200)  # a guard against a hang: a process starts slowly on a busy machine
def test_a_run_killed_by_sigkill_continues_to_bit_identical_weights(tmp_path):
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed")],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "step 7":
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    newest = checkpoint.latest(tmp_path / "killed")
    assert newest is not None and newest.name in ("step-4", "step-6"), "killed before the end"
    run(tmp_path / "killed")
    run(tmp_path / "whole")
    whole, killed = final_weights(tmp_path / "whole"), final_weights(tmp_path / "killed")
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_a_half_written_checkpoint_is_never_taken(tmp_path):
    run(tmp_path, stop_at=4)
    (tmp_path / ".step-8.abc.tmp").mkdir()
    (tmp_path / ".step-8.abc.tmp" / "model.safetensors").write_bytes(b"half")
    run(tmp_path, stop_at=8)
    assert checkpoint.latest(tmp_path) == tmp_path / "step-8"
    assert not list(tmp_path.glob(".*"))


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    run(tmp_path, stop_at=4)
    with pytest.raises(ValueError, match="trained with other settings"):
        run(tmp_path, preset=replace(PRESET, learning_rate=1e-3))


def test_batches_depend_on_the_step_alone_and_every_epoch_sees_each_row_once():
    tokens = stream()
    first, second = PackedRows(tokens, PRESET, EOS), PackedRows(tokens, PRESET, EOS)
    second.batch(30)
    a, b = first.batch(7), second.batch(7)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert torch.equal(a.input_ids_BT[:, 1:], a.labels_BT[:, :-1])
    rows = first.num_rows
    starts = [first._place(i) for i in range(2 * rows)]
    assert sorted(starts[:rows]) == sorted(starts[rows:]) == list(range(rows))
    assert starts[:rows] != starts[rows:]


def test_long_documents_have_rows_of_their_own_and_the_rest_is_packed():
    documents = [[EOS, *range(100 * i + 1, 100 * i + n)] for i, n in enumerate([3, 8, 9, 20], 1)]
    table = RowTable(np.concatenate(documents), 8, EOS, own_rows=True)
    assert [table.row(i).tolist() for i in range(len(table))] == [
        [EOS, *range(201, 208), EOS],
        [EOS, *range(301, 309)],
        [EOS, *range(401, 409)],
        [*range(408, 417)],
        [EOS, 101, 102, EOS, 308, EOS, 416, 417, 418],
    ]


def test_without_own_rows_the_stream_is_cut_as_it_comes():
    table = RowTable(np.arange(20), 8, EOS, own_rows=False)
    assert [table.row(i).tolist() for i in range(len(table))] == [
        [*range(9)],
        [*range(8, 17)],
    ]


def test_pool_sizes_of_a_batch_are_drawn_as_the_preset_says():
    pools = PoolSizes(5, 9, per_layer=False)
    batches = PackedRows(stream(), replace(PRESET, pools=pools), EOS)
    sizes_LBD = torch.cat([batches.batch(step).pool_sizes_LBD.flatten(1) for step in range(20)], 1)
    assert (sizes_LBD == sizes_LBD[0]).all()
    assert sizes_LBD.min() == 5 and sizes_LBD.max() == 9


def test_both_objectives_see_the_same_data():
    standard = replace(PRESET, objective="standard")
    tokens = stream()
    batches = [PackedRows(tokens, preset, EOS).batch(3) for preset in (PRESET, standard)]
    assert torch.equal(batches[0].input_ids_BT, batches[1].input_ids_BT)
    emo, std = new_model(), new_model(standard)
    assert all(torch.equal(a, b) for a, b in zip(emo.parameters(), std.parameters(), strict=True))


@pytest.mark.parametrize("objective", ["emo", "standard", "dense"])
def test_the_loss_falls(objective):
    preset = replace(PRESET, objective=objective, steps=60)
    model = new_model(preset)
    optimizer, rows = make_optimizer(model, preset), PackedRows(stream(), preset, EOS)
    losses = [train_step(model, optimizer, rows.batch(s), preset, s)["loss"] for s in range(60)]
    assert np.mean(losses[-5:]) < losses[0] - 1.0


def test_the_learning_rate_warms_up_and_decays_to_a_tenth():
    rates = [learning_rate(PRESET, step) for step in range(PRESET.steps + 1)]
    assert rates[0] == pytest.approx(PRESET.learning_rate / 3)
    assert max(rates) == rates[2] == PRESET.learning_rate
    assert rates[-1] == pytest.approx(PRESET.learning_rate / 10)


def test_a_corpus_shorter_than_one_step_and_an_unknown_preset_are_refused():
    with pytest.raises(ValueError, match="less than one step"):
        PackedRows(stream(100), PRESET, EOS)
    with pytest.raises(ValueError, match="no preset 'giga'"):
        find_preset("giga", "emo")


def test_the_experts_keep_what_the_preset_says(tmp_path):
    model = new_model()
    preset = replace(PRESET, save="x", steps=1)
    train(model, PackedRows(stream(), preset, EOS), preset, tmp_path, [])
    assert {layer.mlp.experts.save for layer in model.model.layers} == {"x"}
