"""Guards: what is out of line is skipped, what became usual is not; a resume decides alike."""

import json
import random
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from model.train import guard, loop
from model.train.batches import PackedRows
from model.train.checkpoint import Kept
from model.train.guard import Guard
from tests.model.test_train import EOS, PRESET, metrics_of, run, stream


def noise(count, seed=0):
    draw = random.Random(seed)
    return [(3 + draw.gauss(0, 0.05), abs(draw.gauss(1, 0.2))) for _ in range(count)]


def after(steps, preset=PRESET):
    made = Guard(preset)
    assert [made.judge(*step) for step in steps] == [None] * len(steps)
    return made


def test_a_loss_and_a_norm_far_out_of_line_are_named_and_the_next_step_is_taken():
    made = after(noise(60))
    assert "its loss of 4.000 is over 3." in made.judge(4, 1)
    assert made.judge(3.02, 1) is None
    assert "norm of 30 is over 10 times the median" in made.judge(3, 30)
    assert made.judge(3.02, 1) is None
    assert made.skipped == 2


def test_noise_alone_skips_nothing_and_neither_does_the_start():
    after(noise(2000, seed=1))
    after([(9, 50), (3, 0.1), (9, 50)] * 10)


def test_a_level_that_has_changed_is_taken_for_what_it_is():
    made = after(noise(200))
    judged = [made.judge(loss + 1, norm) for loss, norm in noise(40, seed=2)]
    assert judged[0] and not any(judged[10:])
    made = after(noise(200))
    judged = [made.judge(loss, 90 * norm) for loss, norm in noise(40, seed=2)]
    assert judged.index(None) == guard.MOST_IN_A_ROW, "never more steps in a row"


@pytest.mark.parametrize("off", ["guard_sigmas", "guard_norms"])
def test_each_guard_can_be_off(off):
    made = after(noise(60), replace(PRESET, **{off: 0.0}))
    assert (made.judge(9, 1) is None) == (off == "guard_sigmas")
    assert (made.judge(3, 90) is None) == (off == "guard_norms")


def test_a_guard_goes_on_from_its_state_as_if_never_stopped():
    one, other = after(noise(150)), Guard(PRESET)
    other.load(json.loads(json.dumps(one.state())))
    more = [(loss + random.Random(i).choice([0, 0, 2]), 1) for i, (loss, _) in enumerate(noise(80))]
    assert [one.judge(*step) for step in more] == [other.judge(*step) for step in more]
    assert one.skipped > 0
    other.load({})
    other.load({"losses": "x"})
    assert other.state() == one.state(), "what is no state changes nothing"


@pytest.fixture
def spike(monkeypatch):
    """Step 7 of every run has a gradient 1,000 times too large."""
    bad = PackedRows(stream(), PRESET, EOS).batch(7).input_ids_BT
    passes = loop.backward

    def spiked(model, optimizer, batch, preset):
        reported = passes(model, optimizer, batch, preset)
        wrong = torch.equal(batch.input_ids_BT, bad)
        return replace(reported, grad_norm=reported.grad_norm * (1000 if wrong else 1))

    monkeypatch.setattr(loop, "backward", spiked)
    monkeypatch.setattr(guard, "LEAST", 4)


def test_a_skipped_step_changes_no_weight_and_is_counted_and_said(spike, tmp_path, capsys):
    run(tmp_path, kept=Kept(2, frozenset({7, 8, 9})))
    weights = [load_file(tmp_path / f"step-{step}" / "model.safetensors") for step in (7, 8, 9)]
    name = "model.layers.0.mlp.gate.weight"
    assert all(torch.equal(weights[0][each], weights[1][each]) for each in weights[0])
    assert not torch.equal(weights[1][name], weights[2][name])
    assert [m["skipped_steps"] for m in metrics_of(tmp_path)] == [0] * 7 + [1] * 5
    assert capsys.readouterr().err.count("Step 7 changes nothing: its gradient's norm of") == 1


def test_a_resumed_run_skips_as_the_whole_one(spike, tmp_path):
    run(tmp_path / "whole")
    run(tmp_path / "parts", stop_at=6)
    run(tmp_path / "parts")
    told = [
        [(m["loss"], m["skipped_steps"]) for m in metrics_of(tmp_path / name)]
        for name in ("whole", "parts")
    ]
    assert told[0] == told[1] and told[0][-1][1] == 1


def test_guards_may_be_switched_off_as_a_run_goes_on(spike, tmp_path, capsys):
    run(tmp_path, stop_at=6)
    run(tmp_path, preset=replace(PRESET, guard_sigmas=0.0, guard_norms=0.0))
    assert metrics_of(tmp_path)[-1]["skipped_steps"] == 0
    said = capsys.readouterr().err
    assert "other guards (guard_sigmas 6.0, not 0.0; guard_norms 10.0, not 0.0); the run" in said
    with pytest.raises(ValueError, match=r"other settings \(seed 0, not 1; guard_sigmas"):
        run(tmp_path, preset=replace(PRESET, guard_norms=0.0, seed=1))
