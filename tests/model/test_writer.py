"""Checkpoints written beside the training: of the moment they were asked for, kept as told."""

import errno
import threading
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from model.train import checkpoint
from model.train.checkpoint import Kept
from model.train.loop import make_optimizer
from model.train.schedule import learning_rate
from model.train.writer import Writer
from tests.model.test_train import PRESET, new_model, run


def test_what_is_written_is_the_state_of_the_moment_it_was_asked_for(tmp_path, monkeypatch):
    model = new_model()
    optimizer = make_optimizer(model, PRESET)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    go, write = threading.Event(), checkpoint.save_file

    def late(*given):
        assert go.wait(60)
        write(*given)

    monkeypatch.setattr(checkpoint, "save_file", late)
    writer = Writer(tmp_path, Kept())
    writer.save(5, model, optimizer, {"preset": {}})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert checkpoint.latest(tmp_path) is None
    go.set()
    writer.wait()
    written = load_file(tmp_path / "step-5" / "model.safetensors")
    assert written.keys() == before.keys()
    assert all(torch.equal(written[name], before[name]) for name in before)
    writer.close()


def test_only_one_is_in_flight_and_an_error_is_raised_once_at_the_next_step(tmp_path, monkeypatch):
    model = new_model()
    optimizer = make_optimizer(model, PRESET)
    writer = Writer(tmp_path, Kept())

    def full(*_given):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        writer.save(1, model, optimizer, {})
        with pytest.raises(ValueError, match="step-1 cannot be written"):
            writer.save(2, model, optimizer, {})
        writer.save(3, model, optimizer, {})
        writer.close()
    writer = Writer(tmp_path, Kept())
    writer.check()
    writer.save(4, model, optimizer, {})
    writer.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["step-4"]


def test_the_newest_and_the_named_checkpoints_stay(tmp_path):
    run(tmp_path, every=2, kept=Kept(1, frozenset({3, 4, 7})))
    assert [p.name for p in checkpoint.newest_first(tmp_path)] == [
        "step-12",
        "step-7",
        "step-4",
        "step-3",
    ]


def test_wsd_stays_at_the_peak_and_falls_in_a_line_at_the_end():
    preset = replace(PRESET, steps=100, warmup_steps=10, schedule="wsd", decay_share=0.25)
    rates = [learning_rate(preset, step) / preset.learning_rate for step in range(101)]
    assert rates[4] == pytest.approx(0.5)
    assert rates[9:76] == [1.0] * 67
    assert rates[75:] == pytest.approx([1 - 0.9 * i / 25 for i in range(26)])
    none = replace(preset, decay_share=0.0)
    assert [learning_rate(none, step) for step in (10, 99)] == [preset.learning_rate] * 2
