"""A model and a stream small enough that a benchmark or a test can train on them in seconds."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.emo.modeling import EmoForCausalLM
from model.emo.routing import PoolSizes
from model.train.batches import PackedRows
from model.train.loop import Silent, train
from model.train.presets import NANO, Preset

EOS = 0
SMALL = replace(
    NANO,
    vocab_size=64,
    hidden_size=32,
    expert_width=16,
    num_layers=2,
    num_heads=1,
    num_experts=16,
    num_experts_per_tok=4,
    max_position_embeddings=32,
    context=32,
    rows=4,
    steps=200,
    warmup_steps=10,
    pools=PoolSizes(4, 16),
)


def small_stream(length: int = 6000, seed: int = 0) -> np.ndarray:
    """Tokens in which each is mostly the one before it plus one: easy to learn."""
    rng = np.random.default_rng(seed)
    tokens = (np.arange(length) + rng.integers(0, 2, length)) % 40 + 2
    tokens[::37] = EOS
    return tokens.astype(np.uint16)


def train_small(out: Path, preset: Preset, **how: Any) -> None:
    """Train a model of `preset` on the stream, as `model.train.loop.train` does."""
    torch.manual_seed(preset.seed)
    model = EmoForCausalLM(preset.model_config(EOS, 1))
    rows = PackedRows(small_stream(), preset, EOS)
    train(model, rows, preset, out, [], progress=Silent, **how)


def metrics_of(out: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
