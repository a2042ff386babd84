"""Small random models for the tests of this folder."""

import shutil

import pytest
import torch

from model.emo.config import EmoConfig
from model.emo.modeling import EmoForCausalLM

EOS = 0
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


def tiny_config(**changes):
    fields = {
        "vocab_size": 60,
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "max_position_embeddings": 64,
        "pool_size_min": 4,
        "pool_size_max": 16,
        "eos_token_id": EOS,
        "pad_token_id": 1,
        # Wide enough that routing differs from token to token in an untrained model.
        "initializer_range": 0.3,
    }
    return EmoConfig(**(fields | changes))


def tiny_model(seed=0, **changes):
    torch.manual_seed(seed)
    return EmoForCausalLM(tiny_config(**changes)).eval()


def tiny_ids(rows=2, tokens=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, 60, (rows, tokens), generator=generator)
