"""The study: a queue that survives being killed, results of every run, and the table of them."""

import json
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from model.data.__main__ import main as data_command
from model.data.pack import pack
from model.run.loading import load_model
from model.study import queue as study_queue
from model.study import runs as study_runs
from model.study.__main__ import main as study_command
from model.study.queue import Queue
from model.study.run import Corpus, Place, settings, work
from model.study.runs import RUNS, SEEDS, Run, chosen
from model.study.table import table
from model.train.start import start_from
from tests.model.helpers import tiny_model
from tests.model.obedient import serve_obedience
from tests.model.test_train import PRESET
from tests.model.test_train_command import refused

ROOT = Path(__file__).parents[2]


def run_of(key):
    return next(run for run in RUNS if run.key == key)


# The list of runs


def test_every_run_is_there_once_with_seeds_fixed_and_its_settings_differ_from_all_others():
    keys = [run.key for run in RUNS]
    assert len(set(keys)) == len(keys) and {run.seed for run in RUNS} == set(SEEDS)
    assert keys[:4] == ["emo-s0", "standard-s0", "emo-s1", "standard-s1"]
    for name in ("emo", "standard"):
        assert {run.seed for run in RUNS if run.name == name} == set(SEEDS)
    place = Place(Path(), Path(), "cpu")
    presets = {}
    for run in RUNS:
        corpus = SimpleNamespace(tokenizer=SimpleNamespace(get_vocab=lambda: {"a": 0}))
        preset = settings(run, place, corpus)
        settled = repr(replace(preset, start=run.start or ""))
        assert settled not in presets, (run.key, presets[settled])
        presets[settled] = run.key


def test_a_run_that_starts_from_another_comes_after_it():
    for place, run in enumerate(RUNS):
        assert run.start_key is None or run.start_key in [each.key for each in RUNS[:place]]


def test_runs_are_chosen_by_name_key_and_seeds():
    assert [run.key for run in chosen(["emo", "standard-s1"])] == [
        *("emo-s0", "emo-s1", "standard-s1", "emo-s2")
    ]
    assert {run.seed for run in chosen(seeds=1)} == {0}
    with pytest.raises(ValueError, match=r"no run 'emu'; choose of emo, standard, fixed-pool"):
        chosen(["emu"])


# The queue, with workers that only say what they were given


@pytest.fixture(autouse=True)
def workers_import_once(monkeypatch):
    """Workers of these tests are forked from one process that has imported what they need."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.model.obedient"])
    monkeypatch.setattr(study_queue, "get_context", lambda _: context)


def queue(*names, **options):
    runs = [Run(name, "emo", 0, start=start) for name, start in names]
    said, done = [], {}
    made = Queue(runs, options.pop("jobs", 1), serve_obedience, tell=said.append, **options)
    made.done = lambda run, result: done.update({run.name: result})
    made.work()
    return made, done, said


def test_a_fault_of_one_run_and_the_death_of_its_process_stop_no_other():
    made, done, said = queue(("fails", None), ("dies", None), ("a", None), ("b", None))
    assert list(done) == ["a", "b"] and made.finished == {"a-s0", "b-s0"}
    assert made.failed["fails-s0"] == "it had to" and "was killed" in made.failed["dies-s0"]
    assert said[0] == "fails-s0 failed: it had to."


def test_a_run_that_broke_is_tried_once_more_plainly_in_a_fresh_process():
    made, done, said = queue(("a", None), ("breaks", None), ("b", None))
    assert list(done) == ["a", "breaks", "b"] and made.failed == {}
    assert done["a"]["process"] != done["breaks"]["process"] == done["b"]["process"]
    assert said[1].startswith("breaks-s0 broke and is tried once more, plainly: the device")


def test_a_run_waits_for_the_one_that_it_starts_from_and_fails_with_it():
    made, done, _ = queue(("b", "a"), ("c", "fails"), ("fails", None), ("a", None), jobs=2)
    assert set(done) == {"a", "b"} and list(done).index("b") > list(done).index("a")
    assert made.failed["c-s0"] == "it starts from fails-s0, which is not there"


def test_nothing_is_started_that_would_not_be_over_in_time():
    runs = [Run("a", "emo", 0), Run("b", "emo", 0)]
    said = []
    made = Queue(runs, 1, serve_obedience, minutes=60, tell=said.append)
    made.done = lambda run, result: setattr(made, "_longest", 1e6)
    made.work()
    assert made.finished == {"a-s0"} and said[-1] == "No time for another run; not started: b-s0."


def test_what_is_finished_is_not_done_again():
    _, done, _ = queue(("a", None), ("b", "a"), finished={"a-s0"})
    assert list(done) == ["b"]


# Runs, for real and small


SYLLABLES = {"sea": ("ka", "lo", "mi", "ne"), "hill": ("ru", "ta", "vo", "shi")}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A packed corpus of two domains of made-up words."""
    folder, draw = tmp_path_factory.mktemp("corpus"), random.Random(0)
    with (folder / "texts.jsonl").open("w") as file:
        for domain, syllables in SYLLABLES.items():
            known = ["".join(draw.choices(syllables, k=draw.randint(2, 5))) for _ in range(100)]
            for _ in range(60):
                text = " ".join(draw.choices(known, k=220))
                file.write(json.dumps({"text": text, "domain": domain}) + "\n")
    source, corpus = folder / "texts.jsonl", folder / "corpus"
    arguments = ["build", "--documents", source, "--out", corpus, "--vocab-size", 300]
    result = CliRunner().invoke(data_command, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    pack(corpus, folder / "packed.tar.xz", 10**6, 3, 2)
    return folder / "packed.tar.xz"


def study(*arguments):
    return CliRunner().invoke(study_command, [str(argument) for argument in arguments])


def small(packed, out):
    options = ["--device", "cpu", "--steps", 2, "--rows", 2, "--threads", 1]
    return ["run", "--corpus", packed, "--out", out, *options]


@pytest.fixture(scope="module")
def finished(packed, tmp_path_factory):
    """A study of four runs, killed after the first and gone on with."""
    out = tmp_path_factory.mktemp("study") / "out"
    only = "emo-s0,standard-s0,dense,emo-anneal"
    arguments = [*small(packed, out), "--only", only, "--keep", "emo-s0"]
    command = [sys.executable, "-m", "model.study", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    _, first = process.stdout.readline(), process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = json.loads((out / "results.json").read_text())["runs"]
    again = study(*arguments)
    assert again.exit_code == 0, again.output
    return out, first, before, again.output


@pytest.mark.timeout(1200)
def test_a_killed_study_goes_on_with_what_was_not_done(finished):
    out, first, before, said = finished
    assert first.startswith("emo-s0: ") and list(before) == ["emo-s0"]
    content = json.loads((out / "results.json").read_text())
    assert set(content["runs"]) == {"emo-s0", "standard-s0", "dense-s0", "emo-anneal-s0"}
    assert content["failed"] == {} and content["runs"]["emo-s0"] == before["emo-s0"]
    assert "emo-s0: " not in said and "results.json: 4 of 4 runs." in said


def test_a_result_says_how_it_was_made_and_what_was_measured(finished):
    out, *_ = finished
    found = json.loads((out / "results.json").read_text())["runs"]
    emo, anneal = found["emo-s0"], found["emo-anneal-s0"]
    assert emo["preset"]["steps"] == 2 and emo["run"]["seed"] == 0 and emo["device"] == "cpu"
    assert len(emo["evaluation"]["losses"]["own/16"]) == 6
    assert emo["metrics"]["heldout_loss"] and len(emo["metrics"]["loss"]) == 1
    assert anneal["preset"]["start"] and anneal["preset"]["objective"] == "emo"
    assert found["dense-s0"]["evaluation"]["modules"] == {}
    assert not list((out / "runs" / "emo-s0").glob("step-*"))


def test_what_was_kept_becomes_a_checkpoint_again(finished, tmp_path):
    out, *_ = finished
    assert sorted(path.name for path in out.iterdir()) == [
        *("emo-s0.safetensors", "results.json", "runs")
    ]
    arguments = ["--weights", out / "emo-s0.safetensors", "--corpus", out / "runs" / "corpus"]
    assert study("restore", *arguments, "--out", tmp_path / "back").exit_code == 0
    back, export = load_model(tmp_path / "back"), load_model(out / "runs" / "emo-s0" / "export")
    for one, other in zip(back.parameters(), export.parameters(), strict=True):
        assert torch.equal(one, other)
    assert (tmp_path / "back" / "tokenizer.json").is_file()


def test_the_table_has_every_run_with_intervals(finished, tmp_path):
    out, *_ = finished
    result = study("table", "--out", out, "--to", tmp_path / "table.md")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "table.md").read_text()
    for name in ("emo", "standard", "dense", "emo-anneal"):
        assert text.count(f"\n| {name} | ") == 4
    full = json.loads((out / "results.json").read_text())["runs"]["dense-s0"]["evaluation"]
    mean, low, high = full["summary"]["all"]["full"]
    assert f"| dense | 1 | {mean:.3f} [{low:.3f}, {high:.3f}] |" in text


def made_up(name, seed, losses):
    """A result of so many documents of two domains, whose cut to 16 adds 0.5."""
    documents = {
        "id": list("abcd"), "domain": ["x", "x", "y", "y"],
        "tokens": [10] * 4, "seen": [0, 0, 0.5, 0.5],
    }  # fmt: skip
    measured = {"full": losses, "own/16": [loss + 0.5 for loss in losses]}
    summary = {"all": {"repeated": [1, 1, 1], "elsewhere": [2, 2, 2]}}
    evaluation = {"documents": documents, "losses": measured, "summary": summary, "modules": {}}
    preset = {"steps": 10, "rows": 2, "context": 8}
    return {
        "run": {"name": name, "seed": seed, "key": f"{name}-s{seed}"}, "preset": preset,
        "corpus": "c", "device": "cpu", "evaluation": evaluation,
    }  # fmt: skip


def test_the_table_averages_seeds_and_pairs_differences():
    results = [
        made_up("emo", 0, [3.0, 3, 3, 3]),
        made_up("emo", 1, [3.2, 3.2, 3.2, 3.2]),
        made_up("standard", 0, [2.9, 2.9, 2.9, 2.9]),
    ]
    content = {"format": "emo-viz-study", "format_version": 1, "failed": {"a-s0": "it had to"}}
    text = table(content | {"runs": {each["run"]["key"]: each for each in results}})
    assert "| emo | 2 | 3.100 [3.100, 3.100]; 3.000 to 3.200 |" in text
    assert "0.500 [0.500, 0.500]; 0.500 to 0.500" in text
    assert "| standard | -0.100 [-0.100, -0.100] |  |" in text
    assert "the 2 documents of which less than 1 %" in text and "Failed: a-s0: it had to." in text


def test_of_three_seeds_the_table_says_how_sure_their_mean_is():
    results = [made_up("emo", seed, [3.0 + seed / 10] * 4) for seed in range(3)]
    content = {"format": "emo-viz-study", "format_version": 1}
    text = table(content | {"runs": {each["run"]["key"]: each for each in results}})
    assert "| emo | 3 | 3.100 [3.100, 3.100]; 3.000 to 3.200, ±0.248 |" in text


def test_a_study_goes_on_only_as_it_was_begun(finished, packed):
    out, *_ = finished
    arguments = small(packed, out)
    arguments[arguments.index("--steps") + 1] = 3
    assert "holds a study with another steps" in refused(study(*arguments))


def test_what_is_no_result_is_refused_in_a_sentence(packed, tmp_path):
    (tmp_path / "results.json").write_text('{"format": "other"}')
    assert "This is no study's results.json" in refused(study("table", "--out", tmp_path))
    told = refused(study(*small(packed, tmp_path / "out"), "--only", "emu"))
    assert "no run 'emu'" in told and not (tmp_path / "out").exists()


def test_a_half_trained_run_goes_on_to_the_same_result(packed, tmp_path):
    from model.data.pack import unpack

    corpus = Corpus.open(unpack(packed, tmp_path / "corpus"))
    torch.set_num_threads(1)
    found = []
    for name in ("whole", "parts"):
        place = Place(tmp_path / "corpus", tmp_path / name, "cpu", 3, 2)
        if name == "parts":  # all but the result was there when it was killed
            shutil.copytree(tmp_path / "whole", tmp_path / "parts")
            (place.folder("dense-s0") / "result.json").unlink()
        found.append(work(run_of("dense-s0"), place, corpus))
    assert found[0]["evaluation"] == found[1]["evaluation"]


# Starting from a model


def test_a_model_to_start_from_gives_its_weights_and_its_name(tmp_path):
    source = tiny_model(seed=5)
    source.save_pretrained(tmp_path / "source")
    model = tiny_model(seed=6, objective="standard")
    preset = start_from(tmp_path / "source", model, PRESET)
    assert len(preset.start) == 64 and preset.start != PRESET.start
    for one, other in zip(source.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_model_of_other_sizes_is_no_start(tmp_path):
    tiny_model(intermediate_size=32).save_pretrained(tmp_path / "source")
    with pytest.raises(
        ValueError, match=r"differs in intermediate_size \(32, not 16\) from the model"
    ):
        start_from(tmp_path / "source", tiny_model(), PRESET)


def test_annealing_begins_with_the_rate_at_which_a_run_ends():
    assert np.isclose(
        study_runs.ANNEAL["learning_rate"], PRESET.learning_rate * PRESET.final_lr_share
    )
