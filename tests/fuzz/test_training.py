"""Damaged corpora and training checkpoints: a run goes on, or says in one sentence why not."""

import shutil
from pathlib import Path

import hypothesis.strategies as st
import pytest
from click.testing import CliRunner
from hypothesis import given

from model.train import __main__ as training
from model.train.presets import NANO, PRESETS
from tests.fuzz.playground import Playground, fuzz, playground

TINY = {
    "vocab_size": 300,
    "hidden_size": 32,
    "expert_width": 16,
    "num_layers": 1,
    "num_heads": 1,
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "max_position_embeddings": 32,
    "context": 32,
    "rows": 2,
    "warmup_steps": 1,
}


@pytest.fixture(scope="session")
def run_folder(corpus: Path, tmp_path_factory) -> Path:
    """A run that was stopped after one step of two."""
    folder = tmp_path_factory.mktemp("fuzz-run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        _make_tiny(patch)
        options = ["--corpus", corpus, "--out", folder, *OPTIONS, "--stop-at", 1]
        result = CliRunner().invoke(training.main, [str(option) for option in options])
    assert result.exit_code == 0, result.output
    return folder


OPTIONS = ("--steps", 2, "--threads", 1, "--fp32")


def _make_tiny(patch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from model.emo.routing import PoolSizes

    patch.setitem(PRESETS, "nano", replace(NANO, **TINY, pools=PoolSizes(3, 8)))


def go_on(place: Playground, corpus: Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        _make_tiny(patch)
        options = ("--corpus", corpus, "--out", place.out / "run", *OPTIONS)
        return place.run(training.main, *options, leaves=True)


@fuzz(20)
@given(data=st.data())
def test_a_damaged_training_checkpoint_goes_on_or_says_why(
    corpus: Path, run_folder: Path, data: st.DataObject
):
    with playground() as place:
        shutil.copytree(run_folder, place.out / "run")
        step = place.out / "run" / "step-1"
        names = ["run.json"] * 3 + sorted(path.name for path in step.iterdir())
        place.damage(data, step / data.draw(st.sampled_from(names)))
        go_on(place, corpus)


@fuzz(20)
@given(data=st.data())
def test_a_damaged_corpus_is_trained_on_or_says_why(corpus: Path, data: st.DataObject):
    with playground() as place:
        folder = place.copy(corpus)
        files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
        names = ["manifest.json"] * 5 + [str(name) for name in files]
        place.damage(data, folder / data.draw(st.sampled_from(names)))
        go_on(place, folder)


def test_a_whole_run_goes_on(corpus: Path, run_folder: Path):
    """Or all of the above would say nothing."""
    with playground() as place:
        shutil.copytree(run_folder, place.out / "run")
        assert go_on(place, corpus) == 0
        assert (place.out / "run" / "export").is_dir()
