"""Corpora that do not fit a run: one sentence before the first step, and the run is as it was."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.data.__main__ import main as data_main
from model.emo.routing import PoolSizes
from model.train import __main__ as training
from model.train.presets import NANO, PRESETS
from tests.fuzz.playground import Playground, playground

SYLLABLES = ["ka", "lo", "mi", "ne", "ru", "ta", "vo", "shi", "pe", "qua", "zen", "dor", "fim"]
TINY = replace(
    NANO,
    vocab_size=300,
    hidden_size=32,
    expert_width=16,
    num_layers=1,
    num_heads=1,
    num_experts=8,
    num_experts_per_tok=3,
    max_position_embeddings=32,
    context=32,
    rows=2,
    warmup_steps=1,
    pools=PoolSizes(3, 8),
)


@pytest.fixture
def place(monkeypatch):
    monkeypatch.setitem(PRESETS, "nano", TINY)
    with playground() as made:
        yield made


def corpus(place: Playground, name: str, vocab_size: int) -> Path:
    """A corpus of made-up words; `name` seeds them."""
    rng = np.random.default_rng(len(name))
    words = ["".join(rng.choice(SYLLABLES, 3)) for _ in range(400)]
    rows = [
        {"text": " ".join(rng.choice(words, 80)), "domain": "ab"[i % 2], "id": f"{name}{i}"}
        for i in range(24)
    ]
    file = place.given / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--documents", file, "--out", place.out / name, "--vocab-size", vocab_size)
    assert place.run(data_main, "build", *options, "--heldout-fraction", 0.2) == 0
    return place.out / name


def train(place: Playground, corpus: Path, *more: object) -> int:
    options = ("--corpus", corpus, "--out", place.out / "run", "--steps", 4, "--threads", 1)
    return place.run(training.main, *options, "--fp32", *more, leaves=True)


def test_a_vocabulary_larger_than_the_models_is_learnt_or_named(place):
    code = train(place, corpus(place, "words", 600))
    assert code == 0 or "vocabulary" in place.said
    assert code == 0 or not list((place.out / "run").glob("step-*"))


def test_a_run_does_not_go_on_with_another_corpus(place):
    words, other = corpus(place, "words", 300), corpus(place, "other text", 300)
    assert train(place, words, "--stop-at", 2) == 0
    assert train(place, other) == 2
    assert "corpus" in place.said
    assert [path.name for path in (place.out / "run").glob("step-*")] == ["step-2"]
    assert train(place, words) == 0
