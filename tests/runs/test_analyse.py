"""From two finished runs and their corpus to a folder that the app shows, each step once."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from emo_viz.__main__ import main as emo_viz
from emo_viz.analysis import projection
from emo_viz.analysis.curves import read_curves
from emo_viz.analysis.origins import assets_origins, stale
from emo_viz.analysis.training_history import read_history
from emo_viz.runs import analyse as recipe
from emo_viz.runs.findings import read_findings
from emo_viz.runs.sources import Sources, read_sources, write_sources
from emo_viz.server import pairs
from emo_viz.trace import Trace
from model.data.__main__ import main as data
from model.emo.routing import PoolSizes
from model.train import presets
from model.train.pair import main as pair
from model.train.presets import NANO

TINY = replace(
    NANO,
    hidden_size=32,
    expert_width=16,
    num_layers=2,
    num_heads=2,
    num_experts=8,
    num_experts_per_tok=3,
    context=64,
    rows=4,
    steps=3,
    warmup_steps=1,
    pools=PoolSizes(3, 8),
)
WORDS = {"tea": "leaf pot steam cup brew pour", "sea": "wave salt tide ship sail foam"}


def flat(rows, neighbours, min_dist, seed):
    """Two directions of the rows instead of a UMAP, which takes half a minute to compile."""
    return np.asarray(rows @ np.random.default_rng(seed).normal(size=(rows.shape[1], 2)), "f4")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder of texts, a corpus and a trained pair."""
    place, rng = tmp_path_factory.mktemp("own"), np.random.default_rng(0)
    for domain, words in WORDS.items():
        (place / "texts" / domain).mkdir(parents=True)
        for number in range(12):
            text = " ".join(rng.choice(words.split(), 120))
            (place / "texts" / domain / f"{number}.txt").write_text(text)
    built = run(data, "build", "--documents", place / "texts", "--out", place / "corpus")
    assert built.exit_code == 0, built.output
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.PRESETS, "nano", TINY)
        options = (
            "--corpus",
            place / "corpus",
            "--out",
            place / "runs",
            "--steps",
            3,
            "--keep-at",
            "1,2",
        )
        trained = run(pair, *options, "--threads", 1)
    assert trained.exit_code == 0, trained.output
    return place


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setenv("EMO_VIZ_HOME", str(tmp_path / "home"))  # which lists what is made
    monkeypatch.setattr(projection, "umap_map", flat)
    monkeypatch.setattr(recipe, "CLUSTERS", 4)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(command, *arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def analyse(home, out, *more, runs=None, corpus=None):
    where = ("--runs", runs or home / "runs", "--corpus", corpus or home / "corpus")
    return run(emo_viz, "analyse", *where, "--out", out, "--name", "own", "--workers", 1, *more)


def test_a_stopped_call_goes_on_and_everything_is_made_once(home, tmp_path):
    def killed(*unused, **named):
        raise KeyboardInterrupt

    out = tmp_path / "own"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "cluster_tokens", killed)
        stopped = analyse(home, out)
    assert stopped.exit_code == 1 and "same command goes on" in stopped.output
    assert "steps, about" in stopped.output
    trace = out / "traces" / "own-emo"
    recorded = (trace / "manifest.json").stat().st_mtime_ns
    assert not (out / "analysis" / "clusters-own-emo.npz").exists()

    made = analyse(home, out)
    assert made.exit_code == 0, made.output
    assert "the Library page lists own" in made.output
    assert pairs.listed()["own"].ids == ("own-emo", "own-standard")
    history = read_history(out / "analysis" / "training-own-emo.npz")
    assert (history.steps, history.run) == ([1, 2, 3], "own-emo")
    assert not pairs.lacking(pairs.listed()["own"])
    assert (trace / "manifest.json").stat().st_mtime_ns == recorded, "it was not done again"
    number = Trace.open(trace).manifest.documents
    assert f"{number:,} documents of 2 domains" in made.output
    present = assets_origins(out)
    assert set(present.models) == {"own-emo", "own-standard"}
    curves = read_curves(out / "analysis" / "curves.parquet")
    assert list(curves.runs) == ["own-emo", "own-standard"]
    assert not stale("The curves", curves.origins, present)
    assert "own-emo" in "\n".join(read_findings(out).report())

    again = analyse(home, out)
    assert again.exit_code == 0 and "is there already" in again.output
    assert "steps, about" not in again.output


def test_without_a_folder_it_lies_with_the_user_and_replaces_no_other_pair(home, monkeypatch):
    monkeypatch.setattr("emo_viz.commands.analyse.analyse", lambda *unused: False)
    where = ("--runs", home / "runs", "--corpus", home / "corpus")
    made = run(emo_viz, "analyse", *where)
    assert made.exit_code == 0, made.output
    (name,) = pairs.listed()
    assert name == home.name and pairs.listed()[name].folder == pairs.usual_folder(name)
    other = ("--runs", home / "runs" / "emo", "--corpus", home / "corpus", "--name", name)
    refused = run(emo_viz, "analyse", *other)
    assert refused.exit_code == 2 and "choose another --name" in refused.output
    (home.parent / "link").symlink_to(home)
    for same in (home / "runs" / ".." / "runs", home.parent / "link" / "runs"):
        corpus = ("--corpus", same.parent / "corpus", "--name", name)
        gone_on = run(emo_viz, "analyse", "--runs", same, *corpus)
        assert gone_on.exit_code == 0, "the same one is gone on with"
    hidden = run(emo_viz, "analyse", *where, "--no-install")
    assert hidden.exit_code == 2 and "--no-install needs --out" in hidden.output
    alone = run(emo_viz, "analyse", *where, "--out", home / "apart", "--no-install")
    assert f"EMO_VIZ_ASSETS={home / 'apart'} python -m streamlit" in alone.output
    assert list(pairs.listed()) == [name]


def test_the_second_run_of_a_pair_may_come_later(home, monkeypatch):
    monkeypatch.setattr("emo_viz.commands.analyse.analyse", lambda *unused: False)
    rest = ("--corpus", home / "corpus", "--name", "later")
    for runs in (home / "runs" / "emo", home / "runs"):
        assert run(emo_viz, "analyse", "--runs", runs, *rest).exit_code == 0
    assert pairs.listed()["later"].sources.ids == ("later-emo", "later-standard")


def test_a_history_that_was_stopped_is_there_to_go_on_with(home, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(recipe, "_keeps", lambda _: (4,))
    monkeypatch.setattr(
        recipe, "measure_history", lambda *given, **named: asked.append((given[3], named["anew"]))
    )
    run = recipe.find_runs([home / "runs" / "emo"], "own")
    job = recipe.Analysis(run, home / "corpus", tmp_path)
    step = recipe._history(job, "own-emo", tmp_path, recipe._moments(run[0].folder), 2)
    (out,) = step.outputs
    out.parent.mkdir()
    out.write_text("of step 1")
    step.work(lambda done, total: None)
    assert out.read_text() == "of step 1" and asked == [(out, True)]


def test_few_documents_start_no_workers(home, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(recipe, "_keeps", lambda _: (4,))
    monkeypatch.setattr(
        recipe, "measure_history", lambda *given, **named: asked.append(named["workers"])
    )
    run = recipe.find_runs([home / "runs" / "emo"], "own")
    job = recipe.Analysis(run, home / "corpus", tmp_path, workers=3)
    for domains in (1, 24):
        step = recipe._history(job, "own-emo", tmp_path, recipe._moments(run[0].folder), domains)
        step.work(lambda done, total: None)
        asked.append(step.passes)
    few, many = asked[1], asked[3]
    assert asked == [1, few, 3, many] and many == pytest.approx(8 * few)


def test_what_somebody_else_made_is_not_overwritten(home, tmp_path):
    mine = tmp_path / "documents" / "documents.parquet"
    mine.parent.mkdir()
    mine.write_text("mine")
    refused = analyse(home, tmp_path)
    assert refused.exit_code == 2 and "not by this command" in refused.output
    assert mine.read_text() == "mine" and not (tmp_path / "analysis").exists()


def test_a_folder_is_of_one_pair(home, tmp_path):
    out = tmp_path / "own"
    write_sources(out, Sources("mine", ("mine-emo",), (home / "runs" / "emo",), home / "corpus"))
    refused = analyse(home, out)
    assert refused.exit_code == 2 and "holds a pair called mine" in refused.output
    assert not pairs.listed() and read_sources(out).name == "mine"


def test_runs_that_are_not_there_or_not_finished_are_said(home, tmp_path):
    for runs, said in [
        (tmp_path / "nowhere", "no folder"),
        (home / "texts", "no training run"),
    ]:
        refused = analyse(home, tmp_path / "own", runs=runs)
        assert refused.exit_code == 2 and said in refused.output
    half = tmp_path / "runs" / "emo"
    half.mkdir(parents=True)
    (half / "metrics.jsonl").write_text(json.dumps({"step": 0}) + "\n")
    refused = analyse(home, tmp_path / "own", runs=tmp_path / "runs")
    assert refused.exit_code == 2 and "not finished" in refused.output
    refused = analyse(home, tmp_path / "own", corpus=tmp_path)
    assert refused.exit_code == 2 and "model.data build" in refused.output
    assert not (tmp_path / "own").exists()


def test_a_run_may_be_analysed_alone_and_emo_comes_first(home):
    alone = recipe.find_runs([home / "runs" / "standard"], "own")
    assert [run.id for run in alone] == ["own-standard"]
    both = recipe.find_runs([home / "runs" / "standard", home / "runs" / "emo"], "my own")
    assert [run.id for run in both] == ["my-own-emo", "my-own-standard"]
    with pytest.raises(ValueError, match="3 runs"):
        recipe.find_runs([home / "runs", home / "runs" / "emo"], "own")
