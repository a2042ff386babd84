"""A tiny real model with its tokenizer and checkpoint, and documents to record it over."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from emo_viz.trace.schema import TracedModel
from model.data.tokenizer import train_on
from model.emo.config import EmoConfig
from model.emo.modeling import EmoForCausalLM
from model.run.inference import Recording

WORDS = {
    "garden": "soil seeds water roots leaves rain sun bed compost prune",
    "kitchen": "flour butter oven sugar bake whisk salt pan knead dough",
    "harbour": "tide rope anchor crane quay ship mast salt gull buoy",
}


def sentence(domain: str, words: int, rng: np.random.Generator) -> str:
    return " ".join(rng.choice(WORDS[domain].split(), words))


@pytest.fixture(scope="session")
def documents() -> pd.DataFrame:
    """Nine documents of three domains, of 12 to 60 words; the last has no source and no part."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "id": f"doc-{number}",
            "domain": domain,
            "source": "a source" if number < 8 else None,
            "licence": "CC0-1.0",
            "parent": f"parent-{number}",
            "part": 1.0 * number if number < 8 else None,
            "text": sentence(domain, 12 + 6 * number, rng),
        }
        for number, domain in enumerate([*WORDS, *WORDS, *WORDS])
    ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def tokenizer(documents: pd.DataFrame):
    return train_on(documents["text"], vocab_size=400)


def tiny_config(**changes: object) -> EmoConfig:
    fields = {
        "vocab_size": 400,
        "hidden_size": 16,
        "intermediate_size": 8,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": 300,
        "num_experts": 12,
        "num_experts_per_tok": 4,
        "num_shared_experts": 1,
        "initializer_range": 0.2,
        "eos_token_id": 0,
        "pad_token_id": 1,
    }
    return EmoConfig(**fields | changes)


@pytest.fixture(scope="session")
def model() -> EmoForCausalLM:
    torch.manual_seed(0)
    return EmoForCausalLM(tiny_config()).eval()


@pytest.fixture(scope="session")
def dense_model() -> EmoForCausalLM:
    torch.manual_seed(0)
    return EmoForCausalLM(tiny_config(objective="dense")).eval()


@pytest.fixture(scope="session")
def checkpoint(model, tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def documents_file(documents, tmp_path) -> Path:
    path = tmp_path / "documents.parquet"
    documents.to_parquet(path)
    return path


def traced_model(
    layers: int, experts: int, shared: int, top_k: int, per_layer: tuple[int, ...] | None = None
) -> TracedModel:
    return TracedModel(
        name="synthetic",
        objective="emo",
        num_layers=layers,
        num_experts=experts,
        num_shared_experts=shared,
        num_experts_per_tok=top_k,
        checkpoint_sha256="",
        num_experts_per_layer=per_layer,
    )


def synthetic_recording(model: TracedModel, tokens: int, rng: np.random.Generator) -> Recording:
    """A recording of random router logits: the least compressible routing there is."""
    shape = (model.num_layers, tokens, model.num_routed_experts)
    probs = np.exp(2 * rng.standard_normal(shape, dtype=np.float32))
    for layer in range(model.num_layers):
        probs[layer, :, model.routed_in_layer(layer) :] = 0
    probs /= np.maximum(probs.sum(axis=-1, keepdims=True), 1e-9)
    expert_ids = np.argsort(-probs, axis=-1)[..., : model.num_routed_per_tok].astype(np.int16)
    gate_weights = np.take_along_axis(probs, expert_ids.astype(np.int64), -1)
    expert_ids[gate_weights == 0] = -1
    loss = rng.random(tokens, dtype=np.float32)
    loss[0] = np.nan
    return Recording(
        token_ids=np.r_[0, rng.integers(2, 100_000, tokens - 1)],
        router_probs=probs,
        expert_ids=expert_ids,
        gate_weights=gate_weights,
        entropy=-(probs * np.log(np.maximum(probs, 1e-30))).sum(axis=-1),
        loss=loss,
        next_ids=np.zeros((tokens, 5), np.int64),
        next_probs=np.zeros((tokens, 5), np.float32),
    )


@pytest.fixture
def synthetic():
    """The two makers above, for tests that need no model."""
    return traced_model, synthetic_recording
