"""EMO and the standard MoE by one command, in as many steps as a corpus is good for."""

from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from model.files import read_json
from model.train import presets
from model.train.pair import EPOCHS, FEWEST_STEPS, fitted, main, moments
from model.train.presets import NANO
from tests.model.test_train import PRESET
from tests.model.test_train_command import build


@pytest.mark.parametrize("tokens", [1, 5_000, 170_000, 1_000_000, 4_000_000, 40_000_000])
def test_a_corpus_is_read_no_more_often_than_is_good_for_it(tokens):
    fit = fitted(NANO, tokens, {})
    assert fit.preset.steps <= NANO.steps and fit.preset.rows <= NANO.rows
    assert fit.epochs <= EPOCHS or fit.preset.steps == FEWEST_STEPS
    assert fit.preset.warmup_steps <= max(1, fit.preset.steps // 10)
    assert fit.epochs <= 16 or any("by heart" in said for said in fit.sentences())


def test_a_large_corpus_gets_the_preset_as_it_is():
    assert fitted(NANO, 31_000_000, {}).preset == NANO


def test_what_is_given_is_not_chosen():
    fit = fitted(NANO, 170_000, {"rows": 2, "steps": 7_000, "warmup_steps": 3})
    assert (fit.preset.rows, fit.preset.steps, fit.preset.warmup_steps) == (2, 7_000, 3)
    assert len(fit.sentences()) == 2, "7,000 steps are 21 times through: it says so"
    with pytest.raises(ValueError, match="no tokens"):
        fitted(NANO, 0, {})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return build(tmp_path_factory.mktemp("own") / "corpus", 1)


def pair(corpus, out, *options):
    threads = torch.get_num_threads()
    arguments = ["--corpus", corpus, "--out", out, "--threads", 1, *options]
    try:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "nano", replace(PRESET, name="nano", steps=3))


def test_both_are_trained_alike_and_a_stopped_pair_goes_on(corpus, tmp_path):
    out = tmp_path / "runs"
    stopped = pair(corpus, out, "--stop-at", 2)
    assert stopped.exit_code == 0 and "Next:" not in stopped.output
    assert not (out / "emo" / "export").exists()
    done = pair(corpus, out)
    assert done.exit_code == 0, done.output
    assert f"analyse --runs {out} --corpus {corpus}\n" in done.output
    emo, standard = (read_json(out / r / "export" / "training.json") for r in ("emo", "standard"))
    assert {name for name in emo if emo[name] != standard[name]} == {"objective"}
    assert (emo["objective"], standard["objective"]) == ("emo", "standard")


def test_checkpoints_on_the_way_stay_where_a_model_is_small(corpus, tmp_path):
    assert moments(NANO) == {59, 190, 570, 1140}
    assert moments(presets.PRESETS["1b14b"]) == set()
    done = pair(corpus, tmp_path / "usual", "--keep", 1)
    assert "stay, for the models' history: 1, 2." in done.output
    bare = pair(corpus, tmp_path / "bare", "--keep", 1, "--keep-at", "")
    assert "stay" not in bare.output
    for folder, steps in (("usual", {"step-1", "step-2", "step-3"}), ("bare", {"step-3"})):
        for role in ("emo", "standard"):
            assert {path.name for path in (tmp_path / folder / role).glob("step-*")} == steps


def test_what_stands_in_the_way_of_the_second_is_said_before_the_first(corpus, tmp_path):
    (tmp_path / "standard").write_text("mine")
    refused = pair(corpus, tmp_path)
    assert refused.exit_code == 2 and "standard is a file" in refused.output
    assert not (tmp_path / "emo").exists()
    missing = pair(tmp_path / "nowhere", tmp_path / "runs")
    assert missing.exit_code == 2 and "model.data build" in missing.output
