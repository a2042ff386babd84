"""Reading tokens and leaving out experts, on a small model, against single runs of it."""

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from emo_viz.analysis import expert_effects, expert_tokens
from emo_viz.analysis.origins import Weights
from emo_viz.runs import ablate_experts, experts
from emo_viz.trace import Trace
from model.run.live import open_live
from tests.uneven import emo_viz

ROOT = Path(__file__).parents[2]
WEIGHTS = Weights("emo-nano", "0" * 64)


@pytest.fixture(scope="module")
def live(tiny_assets):
    return open_live(tiny_assets / "checkpoints" / "emo-nano")


@pytest.fixture(scope="module")
def documents(tiny_assets) -> pd.DataFrame:
    return pd.read_parquet(tiny_assets / "documents" / "documents.parquet")


def test_the_command_writes_what_the_model_does(tiny_assets, live, documents, tmp_path):
    source = ("--documents", tiny_assets / "documents" / "documents.parquet")
    out = tmp_path / "experts.npz"
    said = emo_viz(
        "experts", "--model", tiny_assets / "checkpoints" / "emo-nano", *source, "--out", out
    )
    found = expert_tokens.load(out)
    assert "30 experts of 2 layers" in said and found.documents == len(documents)
    chosen = np.zeros((2, 15), int)
    for text in documents["text"]:
        seen = live.record(live.encode(text, 256).token_ids)
        for layer in range(2):
            chosen[layer] += np.bincount(seen.expert_ids[layer, 1:].ravel(), minlength=15)
    assert np.array_equal(found.counts, chosen)
    row, start, end = (
        int(values[0, 3, 0])
        for values in (found.context_rows, found.context_starts, found.context_ends)
    )
    text = documents["text"][row]
    encoded = live.encode(text, 256)
    assert text[start:end] == encoded.texts[int(found.context_positions[0, 3, 0])]


def test_a_trace_with_tokens_says_the_same_as_the_model(tiny_assets, live, documents, tmp_path):
    source = ("--documents", tiny_assets / "documents" / "documents.parquet")
    model = tiny_assets / "checkpoints" / "emo-nano"
    emo_viz("record", "--model", model, *source, "--out", tmp_path / "t", "--level", "tokens")
    by_trace = experts.by_trace(Trace.open(tmp_path / "t"), "emo-nano")
    by_model = experts.by_model(live, documents, "emo-nano", WEIGHTS)
    assert np.array_equal(by_trace.pairs, by_model.pairs)
    assert np.array_equal(by_trace.enriched, by_model.enriched)
    assert by_trace.flow == pytest.approx(by_model.flow, rel=1e-2, abs=1e-2)
    assert by_trace.texts == by_model.texts


def test_an_expert_left_out_costs_what_the_restricted_model_loses(live, documents, tmp_path):
    found = ablate_experts.effects(
        live, documents, "emo-nano", WEIGHTS, [(1, 4)], per_domain=2, max_tokens=64
    )
    assert found.documents == 8 and found.change(0, 4) is None
    kept = [list(range(16)), [e for e in range(16) if e != 4]]
    changes = []
    for text in documents.groupby("domain").head(2)["text"]:
        ids = live.encode(text, 64).token_ids
        changes.append(np.nanmean(live.losses(ids, kept)) - np.nanmean(live.losses(ids)))
    assert found.change(1, 4) == pytest.approx(changes, abs=1e-5)
    by_domain = found.by_domain(1, 4)
    first = [n for n, domain in enumerate(found.domains) if domain == "garden"]
    mean = np.average(np.array(changes)[first], weights=found.tokens[first])
    assert by_domain["garden"].mean == pytest.approx(mean, abs=1e-5)
    expert_effects.save(tmp_path / "effects.npz", found)
    again = expert_effects.load(tmp_path / "effects.npz")
    assert again.change(1, 4) == pytest.approx(changes, abs=1e-3)
    assert again.change(0, 4) is None and again.domains == found.domains


def test_a_stop_ends_the_measurement(live, documents):
    class Stopped(Exception):
        pass

    def report(done: int, total: int) -> None:
        if done == 2:
            raise Stopped

    with pytest.raises(Stopped):
        ablate_experts.effects(live, documents, "emo-nano", WEIGHTS, [(0, 1)], 4, 64, report)


# Killed and started again


KILLED = """
import os, signal, sys
from pathlib import Path
from emo_viz.runs import ablate_experts
ablate_experts.WINDOW = 4
means, calls = ablate_experts._means, []
def killed(losses):
    calls.append(1)
    if len(calls) == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
    return means(losses)
ablate_experts._means = killed
ablate_experts.measure_effects(*map(Path, sys.argv[1:4]), "emo-nano", 1, 32)
"""


@pytest.fixture
def measured(tiny_assets, tmp_path, monkeypatch):
    """`run` measures into tmp_path/NAME and says what was told; `steps` is what it reported."""
    monkeypatch.setattr(ablate_experts, "WINDOW", 4)

    steps: list[int] = []

    def run(name="out.npz", max_tokens=32, stop_at=0, checkpoint="emo-nano", workers=1):
        told = []
        steps.clear()

        def report(done, total):
            steps.append(done)
            if stop_at and done == stop_at:
                raise KeyboardInterrupt

        ablate_experts.measure_effects(
            tiny_assets / "checkpoints" / checkpoint,
            tiny_assets / "documents" / "documents.parquet",
            tmp_path / name,
            "emo-nano",
            1,
            max_tokens,
            report,
            told.append,
            workers,
        )
        return " ".join(told)

    return SimpleNamespace(run=run, steps=steps)


def test_killed_and_started_again_it_ends_with_the_same_bytes(measured, tiny_assets, tmp_path):
    call, finished = 13, 8  # the first call is with all experts
    source = (tiny_assets / "checkpoints" / "emo-nano", tiny_assets / "documents")
    places = (source[0], source[1] / "documents.parquet", tmp_path / "out.npz", call)
    command = [sys.executable, "-c", KILLED, *map(str, places)]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (tmp_path / "out.npz").exists()
    assert measured.run() == f"The unfinished measurement goes on after {finished} experts."
    assert measured.steps[:3] == [0, 1, 1 + finished]
    measured.run("whole.npz")
    assert (tmp_path / "out.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npz", "whole.npz"]


def test_two_workers_stop_go_on_and_end_with_the_bytes_of_one(measured, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        measured.run(stop_at=8, workers=2)
    assert measured.run(workers=2) == "The unfinished measurement goes on after 4 experts."
    assert measured.steps[:3] == [0, 1, 5] and measured.steps[-1] == 31
    measured.run("whole.npz")
    assert (tmp_path / "out.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_tokens": 31}, "another set of options"),
        ({"checkpoint": "std-nano"}, "another model and another tokenizer or config"),
    ],
)
def test_a_measurement_of_anything_else_begins_anew(change, words, measured, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        measured.run(stop_at=8)
    assert f"is of {words}; it begins anew" in measured.run(**change)
    measured.run("whole.npz", **change)
    assert (tmp_path / "out.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_two_processes_do_not_measure_to_one_place(measured, tmp_path):
    with (
        ablate_experts.Unmeasured.place(tmp_path / "out.npz", {}),
        pytest.raises(ValueError, match="Another process is measuring to the same place"),
    ):
        measured.run()
