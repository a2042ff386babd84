"""Bundling a finished run: rounded weights that load, and a card whose figures are the run's."""

import json
from dataclasses import MISSING, asdict, fields
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from model.emo.routing import PoolSizes
from model.run.loading import load_model
from model.train.presets import Preset, find_preset
from model.train.release import main, rounded
from tests.model.helpers import tiny_model

BUNDLED = Path(__file__).parents[2] / "assets" / "checkpoints"


@pytest.fixture
def finished_run(tmp_path):
    """A run folder as training leaves it, of an untrained model."""
    pools = PoolSizes(4, 16, per_layer=False, free_share=0.25)
    preset = find_preset("nano", "emo", pools=pools)
    folder = tmp_path / "run"
    tiny_model().bfloat16().save_pretrained(folder / "export")
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
    assert release(finished_run, tmp_path / "whole").exit_code == 0
    assert release(finished_run, tmp_path / "out", "--mantissa-bits", "3").exit_code == 0
    whole, out = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "out"))
    assert whole.keys() == out.keys() == trained.keys()
    for name, weight in trained.items():
        assert torch.equal(whole[name], weight)
        torch.testing.assert_close(out[name], weight, rtol=1 / 16, atol=0)
        assert not (out[name].view(torch.int16) & 0b1111).any()
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


def test_a_run_that_cannot_be_released_is_one_sentence(finished_run, tmp_path):
    def written(name, text):
        return lambda: (finished_run / name).write_text(text)

    metrics = '{"loss": 1, "heldout_loss": 2}'
    for damage, sentence in (
        (written("metrics.jsonl", "{"), "metrics.jsonl is damaged"),
        (written("metrics.jsonl", "[1]"), "metrics.jsonl is damaged"),
        ((finished_run / "metrics.jsonl").unlink, "metrics.jsonl cannot be read"),
        (written("metrics.jsonl", '{"loss": "low"}'), "lacks what the card says"),
        (written("metrics.jsonl", metrics), None),
        (written("export/training.json", '{"objective": "emo"}'), "lacks what the card says"),
        (written("export/training.json", '{"objective": []}'), "lacks what the card says"),
        (written("export/training.json", "{"), "training.json is not valid JSON"),
    ):
        damage()
        if sentence is None:  # put right, for the next file to be damaged
            continue
        result = release(finished_run, tmp_path / "out")
        assert result.exit_code == 2, result.output
        assert sentence in result.stderr and result.stderr.count("\n") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_folder_that_is_no_release_is_never_replaced(finished_run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    assert release(finished_run, out).exit_code == 0
    (out / ".model.safetensors.x1.tmp").write_text("half: a kill has left it")
    assert release(finished_run, out).exit_code == 0
    assert not list(out.glob(".*"))
    (out / "notes.txt").write_text("mine")
    result = release(finished_run, out)
    assert result.exit_code == 2 and "holds 'notes.txt', which no release writes" in result.stderr
    assert (out / "notes.txt").read_text() == "mine"
    result = release(finished_run, finished_run / "export")
    assert result.exit_code == 2 and "is no release; choose another --out" in result.stderr
    result = release(finished_run, finished_run)
    assert result.exit_code == 2 and "which no release writes" in result.stderr
    result = release(finished_run, out / "notes.txt")
    assert result.exit_code == 2 and "is a file; --out needs a folder" in result.stderr
    result = release(finished_run, out / "notes.txt" / "deep")
    assert result.exit_code == 2 and "cannot be written" in result.stderr
    assert load_file(finished_run / "export" / "model.safetensors")


def test_what_was_never_measured_is_said_and_the_licence_is_the_owners(finished_run, tmp_path):
    (finished_run / "metrics.jsonl").write_text("")
    assert release(finished_run, tmp_path / "out", "--licence", "other").exit_code == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "training not measured, held out not measured" in card
    assert "license: other" in card


def test_every_shard_of_a_large_model_is_rounded_and_counted(finished_run, tmp_path):
    release(finished_run, tmp_path / "whole", "--mantissa-bits", "3")
    whole = (tmp_path / "whole" / "README.md").read_text()
    export = finished_run / "export"
    (export / "model.safetensors").unlink()
    tiny_model().bfloat16().save_pretrained(export, max_shard_size="20kB")
    out = tmp_path / "sharded"
    assert release(finished_run, out, "--mantissa-bits", "3").exit_code == 0
    shards = sorted(out.glob("*.safetensors"))
    assert len(shards) > 1
    expected = load_file(tmp_path / "whole" / "model.safetensors")
    for name, weight in (pair for file in shards for pair in load_file(file).items()):
        assert torch.equal(weight, expected.pop(name))
    assert not expected
    assert (out / "README.md").read_text() == whole.replace("whole", "sharded")
    load_model(out)


def settings_of(name, file):
    return json.loads((BUNDLED / name / file).read_text())


@pytest.mark.parametrize(("name", "objective"), [("emo-nano", "emo"), ("std-nano", "standard")])
def test_the_nano_preset_is_what_the_bundled_pair_was_trained_with(name, objective):
    preset = find_preset("nano", objective)
    tokens = {"tokens": preset.steps * preset.tokens_per_step}
    expected = json.loads(json.dumps(asdict(preset) | tokens))
    # A setting that is younger than the pair was then as its default is.
    younger = {f.name: f.default for f in fields(Preset) if f.default is not MISSING}
    assert younger | settings_of(name, "training.json") == expected
    config = load_model(BUNDLED / name).config
    assert config.pool_sizes == preset.pools
    assert preset.model_config(config.eos_token_id, config.pad_token_id).pool_sizes == preset.pools


def test_the_configs_of_the_bundled_pair_differ_in_the_objective_alone():
    emo, standard = (settings_of(name, "config.json") for name in ("emo-nano", "std-nano"))
    assert {key for key in emo if emo[key] != standard[key]} == {"objective"}
    assert emo.keys() == standard.keys()
