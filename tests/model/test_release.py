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

BUNDLED_STEPS = 17_500  # eight times through the corpus
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


def test_the_card_repeats_what_the_run_was_told_beyond_its_preset(finished_run, tmp_path):
    release(finished_run, tmp_path / "plain")
    assert "--objective emo\n" in (tmp_path / "plain" / "README.md").read_text()
    settings = finished_run / "export" / "training.json"
    longer = {"steps": 17_500, "warmup_steps": 50, "seed": 0, "own_rows": False}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | longer))
    release(finished_run, tmp_path / "longer")
    card = (tmp_path / "longer" / "README.md").read_text()
    assert "--objective emo --steps 17500 --packed --warmup 50\n" in card


def test_thinned_lines_keep_held_out_losses_skipped_steps_and_the_end(finished_run, tmp_path):
    lines = [{"step": step, "loss": 4.0, "skipped_steps": int(step > 13)} for step in range(25)]
    lines[7]["heldout_loss"] = 3.0
    (finished_run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (finished_run / "load.jsonl").write_text("".join(f'{{"step": {20 * n}}}\n' for n in range(12)))
    release(finished_run, tmp_path / "out", "--metrics-every", "10")
    loads = (tmp_path / "out" / "load.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in loads] == [0, 200, 220]
    kept = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in kept] == [lines[at] for at in (0, 7, 10, 14, 20, 24)]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "--metrics-every 10" in card and "`metrics.jsonl` one step in 10" in card
    release(finished_run, tmp_path / "whole")
    whole = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in whole] == lines


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
    assert release(finished_run, out).stdout.endswith("a model card.\n")
    (out / ".model.safetensors.x1.tmp").write_text("half: a kill has left it")
    again = release(finished_run, out)
    assert again.exit_code == 0 and "model card, in place of an older release." in again.stdout
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
def test_the_bundled_pair_was_trained_as_the_nano_preset_says_but_for_longer(name, objective):
    preset = find_preset("nano", objective, steps=BUNDLED_STEPS)
    tokens = {"tokens": preset.steps * preset.tokens_per_step}
    expected = json.loads(json.dumps(asdict(preset) | tokens))
    # A setting that is younger than the pair was then as its default is.
    younger = {f.name: f.default for f in fields(Preset) if f.default is not MISSING}
    said = settings_of(name, "training.json")
    del said["processes"], said["corpus"]  # of the run, not the preset
    assert younger | said == expected
    config = load_model(BUNDLED / name).config
    assert config.pool_sizes == preset.pools
    assert preset.model_config(config.eos_token_id, config.pad_token_id).pool_sizes == preset.pools


def test_the_configs_of_the_bundled_pair_differ_in_the_objective_alone():
    emo, standard = (settings_of(name, "config.json") for name in ("emo-nano", "std-nano"))
    assert {key for key in emo if emo[key] != standard[key]} == {"objective"}
    assert emo.keys() == standard.keys()
