"""Bundling a finished run: rounded weights that load, and a card whose figures are the run's."""

import json
from dataclasses import asdict

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from model.loading import load_model
from model.routing import PoolSizes
from model.train.presets import find_preset
from model.train.release import main, rounded
from tests.model.helpers import tiny_model


@pytest.fixture
def finished_run(tmp_path):
    """A run folder as training leaves it, of an untrained model."""
    pools = PoolSizes(4, 16, per_layer=False, free_share=0.25)
    preset = find_preset("nano", "emo", pools=pools)
    folder = tmp_path / "run"
    tiny_model().save_pretrained(folder / "export")
    (folder / "export" / "training.json").write_text(json.dumps(asdict(preset) | {"tokens": 123}))
    metrics = [{"loss": 4.0}, {"loss": 3.0, "heldout_loss": 3.25}]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, metrics)))
    return folder


def release(run, out, *options):
    return CliRunner().invoke(main, ["--run", str(run), "--out", str(out), *options])


def test_a_rounded_mantissa_ends_in_zeros_and_is_the_nearest_such_number():
    weight = torch.tensor([1.0, 1.03, 1.04, -1.97, 1e-3, 0.0])
    expected = torch.tensor([1.0, 1.0, 1.0625, -2.0, 2.0**-10, 0.0])
    assert torch.equal(rounded(weight, 4), expected)
    random = torch.randn(1000).bfloat16()
    low_bits = rounded(random, 4).view(torch.int16) & 0b111
    assert not low_bits.any() and (random.view(torch.int16) & 0b111).any()
    assert ((rounded(random, 4) - random).abs() <= random.abs() / 32).all()
    assert torch.equal(rounded(random, 7), random)


def test_a_released_checkpoint_loads_and_keeps_or_rounds_its_weights(finished_run, tmp_path):
    trained = load_file(finished_run / "export" / "model.safetensors")
    for bits in (7, 3):
        assert release(finished_run, tmp_path / "out", "--mantissa-bits", str(bits)).exit_code == 0
        weights = load_file(tmp_path / "out" / "model.safetensors")
        assert weights.keys() == trained.keys()
        assert all(torch.equal(weights[name], rounded(trained[name], bits)) for name in trained)
    load_model(tmp_path / "out")


def test_the_card_states_the_runs_own_figures(finished_run, tmp_path):
    release(finished_run, tmp_path / "emo-small", "--mantissa-bits", "4")
    card = (tmp_path / "emo-small" / "README.md").read_text()
    assert "4 to 16 experts, uniform, drawn per document; 25% of the draws give no pool" in card
    assert "training 3.500, held out 3.250 nats" in card and "123 tokens" in card
    assert "--out assets/checkpoints/emo-small \\\n  --mantissa-bits 4" in card


def test_a_run_without_an_export_is_refused_and_an_older_release_stays(finished_run, tmp_path):
    release(finished_run, tmp_path / "out")
    before = (tmp_path / "out" / "README.md").read_bytes()
    (finished_run / "export" / "training.json").unlink()
    result = release(finished_run, tmp_path / "out")
    assert result.exit_code == 2 and "has no finished export" in result.output
    assert (tmp_path / "out" / "README.md").read_bytes() == before
