"""The command: what it refuses, what it says, and an export that is whole or not there."""

import errno
import json
import random
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from model.data.__main__ import main as data_command
from model.data.shards import corpus_digest
from model.data.tokenizer import load_tokenizer, vocabulary_size
from model.run.loading import load_model
from model.train import checkpoint, parallel, presets
from model.train.__main__ import main as train_command
from model.train.__main__ import parts_of_a_step
from tests.model.test_train import PRESET, metrics_of

TINY = replace(PRESET, name="nano", steps=3, warmup_steps=2)
SYLLABLES = ("ka", "lo", "mi", "ne", "ru", "ta", "vo", "shi", "pe", "qua", "zen", "dor", "fim")


def build(folder, seed, vocab_size=300, words=200):
    """A corpus of texts of made-up words."""
    draw = random.Random(seed)
    known = ["".join(draw.choices(SYLLABLES, k=draw.randint(2, 5))) for _ in range(words)]
    texts = [" ".join(draw.choices(known, k=220)) for _ in range(60)]
    source = folder.with_suffix(".jsonl")
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    arguments = ["build", "--documents", source, "--out", folder, "--vocab-size", vocab_size]
    result = CliRunner().invoke(data_command, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    return SimpleNamespace(one=build(folder / "one", 1), two=build(folder / "two", 2))


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """The command's preset nano, made small."""
    monkeypatch.setitem(presets.PRESETS, "nano", TINY)


def train(corpus, out, *options):
    threads = torch.get_num_threads()
    arguments = ["--corpus", corpus, "--out", out, "--threads", 1, *options]
    try:
        return CliRunner().invoke(train_command, [str(argument) for argument in arguments])
    finally:
        torch.set_num_threads(threads)


def refused(result):
    """The one sentence of a command that refused."""
    assert result.exit_code == 2, result.output
    assert "Usage:" not in result.output and "Traceback" not in result.output
    return result.output.rpartition("Error: ")[2].strip()


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "tensorboard" not in path.parts
    }


def test_a_run_does_not_go_on_with_another_corpus(corpora, tmp_path):
    out = tmp_path / "run"
    assert train(corpora.one, out, "--stop-at", 2).exit_code == 0
    before = files_of(out)
    assert refused(train(corpora.two, out)) == (
        f"{out}/step-2 was trained on another corpus; give that one as --corpus, or choose another "
        "--out."
    )
    assert files_of(out) == before
    shutil.copytree(corpora.one, tmp_path / "moved")
    assert train(tmp_path / "moved", out).exit_code == 0, "the same corpus, elsewhere"
    assert checkpoint.latest(out).name == "step-3"


def test_a_checkpoint_that_does_not_name_its_corpus_goes_on_with_a_word(corpora, tmp_path):
    assert train(corpora.one, tmp_path, "--stop-at", 2).exit_code == 0
    path = tmp_path / "step-2" / "run.json"
    run = json.loads(path.read_text())
    del run["corpus"], run["processes"]
    path.write_text(json.dumps(run))
    result = train(corpora.one, tmp_path)
    assert result.exit_code == 0
    assert "step-2 does not say which corpus it was trained on" in result.output


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (["--objective", "standard"], "objective emo, not standard"),
        (["--seed", "1"], "seed 0, not 1"),
        (["--steps", "2"], "steps 3, not 2"),
        (["--packed"], "own_rows True, not False"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_run_does_not_go_on_with_other_settings(option, told, corpora, tmp_path):
    assert train(corpora.one, tmp_path, "--stop-at", 1).exit_code == 0
    assert f"trained with other settings ({told})" in refused(train(corpora.one, tmp_path, *option))


@pytest.mark.parametrize("objective", ["emo", "standard", "dense"])
def test_an_export_is_whole_with_its_settings_and_metrics(objective, corpora, tmp_path):
    assert train(corpora.one, tmp_path, "--objective", objective).exit_code == 0
    export = tmp_path / "export"
    training = json.loads((export / "training.json").read_text())
    assert training["objective"] == load_model(export).config.objective == objective
    assert training["corpus"] == corpus_digest(corpora.one)
    assert (export / "metrics.jsonl").read_bytes() == (tmp_path / "metrics.jsonl").read_bytes()
    assert (export / "tokenizer.json").is_file()
    assert not list(tmp_path.rglob(".*"))


def test_an_export_that_fails_leaves_the_old_one(corpora, tmp_path, monkeypatch):
    assert train(corpora.one, tmp_path).exit_code == 0
    before = files_of(tmp_path)

    def full_disk(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("model.train.__main__.write_json", full_disk)
    # With other guards, so that it is not that very model that is there.
    assert refused(train(corpora.one, tmp_path, "--no-guards")) == (
        f"{tmp_path}/export cannot be written (No space left on device); make room or name another "
        "place."
    )
    assert files_of(tmp_path) == before


def test_a_finished_model_is_not_made_again(corpora, tmp_path):
    assert train(corpora.one, tmp_path).exit_code == 0
    weights = tmp_path / "export" / "model.safetensors"
    made = weights.stat().st_ino
    again = train(corpora.one, tmp_path)
    assert again.exit_code == 0 and "is this very model, finished" in again.output
    assert weights.stat().st_ino == made
    assert "seed 0, not 1" in refused(train(corpora.one, tmp_path, "--seed", 1))
    (tmp_path / "export" / "training.json").write_text("{")
    assert train(corpora.one, tmp_path).exit_code == 0
    assert weights.stat().st_ino != made, "what does not say what it is is made anew"


def test_fewer_rows_than_processes_have_no_parts(monkeypatch):
    monkeypatch.setattr(parallel, "world_size", lambda: 8)
    with pytest.raises(ValueError, match="0 rows that a process takes of a step are no multiple"):
        parts_of_a_step(TINY, None, 2)


@pytest.mark.parametrize(("vocab_size", "rows"), [(300, 320), (4200, 4224)])
def test_the_model_has_the_vocabulary_of_the_corpus(vocab_size, rows, tmp_path):
    corpus = build(tmp_path / "corpus", 3, vocab_size, words=9000)
    tokenizer = load_tokenizer(corpus / "tokenizer")
    assert vocabulary_size(tokenizer) == vocab_size
    result = train(corpus, tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert load_model(tmp_path / "run" / "export").config.vocab_size == rows


def test_a_vocabulary_of_whole_rows_stays_as_it_is():
    assert presets.NANO.for_vocabulary(4096) == presets.NANO


def test_ctrl_c_says_where_the_run_stands(corpora, tmp_path, monkeypatch):
    from model.train import loop

    step_of = loop.train_step

    def interrupted(*args, **more):
        if args[-1] == stops.pop(0):
            raise KeyboardInterrupt
        return step_of(*args, **more)

    monkeypatch.setattr(loop, "train_step", interrupted)
    stops = [0]
    result = train(corpora.one, tmp_path)
    assert result.exit_code == 130
    assert "before the first checkpoint" in result.output
    stops = [None, None]
    assert train(corpora.one, tmp_path, "--stop-at", 2).exit_code == 0
    stops = [2]
    result = train(corpora.one, tmp_path)
    assert result.exit_code == 130
    line = f"Stopped; {tmp_path}/step-2 is whole, and the same command goes on from there."
    assert result.output.strip().endswith(line)
    monkeypatch.undo()
    monkeypatch.setitem(presets.PRESETS, "nano", TINY)
    assert train(corpora.one, tmp_path).exit_code == 0
    assert [line["step"] for line in metrics_of(tmp_path)] == [0, 1, 2]


def test_steps_that_end_in_the_warm_up_and_a_stop_that_is_past_are_said(corpora, tmp_path):
    long = ["--steps", 1]
    said = train(corpora.one, tmp_path / "a", *long).output
    assert "The warm-up takes 2 steps and the run 1: its learning rate stays below" in said
    assert train(corpora.one, tmp_path / "b", "--stop-at", 2).exit_code == 0
    again = train(corpora.one, tmp_path / "b", "--stop-at", 1)
    assert again.exit_code == 0 and "stands at step 2 already" in again.output
    beyond = train(corpora.one, tmp_path / "b", "--stop-at", 99)
    assert beyond.exit_code == 0 and (tmp_path / "b" / "export").is_dir()


def test_an_output_that_cannot_be_used_is_refused_before_any_step(corpora, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "is a file" in refused(train(corpora.one, tmp_path / "file"))
    assert "cannot be written" in refused(train(corpora.one, tmp_path / "file" / "run"))
    (tmp_path / "run" / "export").mkdir(parents=True)
    (tmp_path / "run" / "export" / "thesis.txt").write_text("mine")
    assert "holds something that is no model" in refused(train(corpora.one, tmp_path / "run"))
    assert (tmp_path / "run" / "export" / "thesis.txt").read_text() == "mine"


def test_a_finished_model_is_not_replaced_when_its_checkpoints_are_gone(corpora, tmp_path):
    assert train(corpora.one, tmp_path).exit_code == 0
    for path in checkpoint.newest_first(tmp_path):
        shutil.rmtree(path)
    before = files_of(tmp_path)
    assert "no checkpoint is left to go on from" in refused(train(corpora.one, tmp_path))
    assert files_of(tmp_path) == before


def short(path):
    path.write_bytes(path.read_bytes()[:-2])


BROKEN = {
    "no corpus": (".", shutil.rmtree, "does not exist or was not finished"),
    "fewer tokens": ("train.bin", short, "train.* are incomplete or damaged"),
    "no held-out tokens": ("heldout.bin", lambda path: path.unlink(), "heldout.* are incomplete"),
    "no tokenizer": ("tokenizer", shutil.rmtree, "holds no tokenizer.json"),
    "a broken tokenizer": (
        "tokenizer/tokenizer.json",
        lambda path: path.write_text("{"),
        "tokenizer cannot be read",
    ),
    "an id that no token has": (
        "train.bin",
        lambda path: path.write_bytes(path.read_bytes()[:-2] + b"\xff\xff"),
        "holds the token id 65,535, but the model's vocabulary has 320 tokens",
    ),
}


@pytest.mark.parametrize(("name", "damage", "words"), BROKEN.values(), ids=BROKEN)
def test_a_broken_corpus_is_one_sentence(name, damage, words, corpora, tmp_path):
    shutil.copytree(corpora.one, tmp_path / "corpus")
    damage(tmp_path / "corpus" / name)
    assert words in refused(train(tmp_path / "corpus", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_options_that_cannot_be_are_refused(corpora, tmp_path):
    for option in (["--seed", "-1"], ["--rows", "0"], ["--steps", "0"]):
        result = train(corpora.one, tmp_path / "run", *option)
        assert result.exit_code == 2 and option[0] in result.output
    assert "less than one step" in refused(train(corpora.one, tmp_path, "--rows", 10**6))


def test_a_run_in_parts_with_other_checkpoints_is_the_same_run(corpora, tmp_path):
    settings = ("--fp32", "--schedule", "wsd", "--warmup", 1, "--context", 48)
    how = ("--micro-rows", 2, "--checkpoint-every", 1, "--keep", 1, "--keep-at", "1")
    assert train(corpora.one, tmp_path / "a", *settings).exit_code == 0
    result = train(corpora.one, tmp_path / "b", *settings, *how, "--stop-at", 2)
    assert result.exit_code == 0, result.output
    result = train(corpora.one, tmp_path / "b", *settings)
    assert "by 1 process x 2 parts and goes on by 1 process x 1 part" in result.output
    ours, theirs = metrics_of(tmp_path / "b"), metrics_of(tmp_path / "a")
    assert [m["loss"] for m in ours] == pytest.approx([m["loss"] for m in theirs], abs=1e-5)
    names = [path.name for path in checkpoint.newest_first(tmp_path / "b")]
    assert names == ["step-3", "step-2", "step-1"], "the last is kept for good"
    model = load_model(tmp_path / "b" / "export")
    assert model.config.max_position_embeddings == 48


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--keep-at", "5,x"], "is not a list such as 8,16,32"),
        (["--keep-at", "0"], "a checkpoint is of step 1 or later"),
        (["--steps", 4, "--keep-at", "2,99"], "--keep-at names step 99 and the run has 4;"),
        (["--micro-rows", 2, "--accumulation", 2], "--accumulation or --micro-rows, not both"),
        (["--micro-rows", 3], "4 rows that a process takes of a step are no multiple"),
        (["--accumulation", 3], "4 rows of a step cannot be shared evenly by 3 parts"),
        (["--objective", "emoo"], "is not one of 'emo', 'standard'"),
        (["--schedule", "step"], "is not one of 'cosine', 'linear', 'wsd'"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_options_that_do_not_fit_are_one_sentence(given, words, corpora, tmp_path):
    result = train(corpora.one, tmp_path / "run", *given)
    assert result.exit_code == 2 and words in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "run").exists()
