"""A small random model of every family, made by transformers."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedTokenizerFast,
)

EXPERTS = 8
KEPT = [0, 2, 3, 5, 7]
COMMON = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "initializer_range": 0.2,
}
MLA = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}
DEEPSEEK = {
    "n_routed_experts": EXPERTS,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}
DBRX = {
    "vocab_size": 96,
    "d_model": 32,
    "n_heads": 4,
    "n_layers": 3,
    "max_seq_len": 64,
    "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0},
    "ffn_config": {
        "ffn_hidden_size": 24,
        "moe_num_experts": EXPERTS,
        "moe_top_k": 3,
        "hidden_size": 32,
        "ffn_act_fn": {"name": "silu"},
    },
    "pad_token_id": 0,
    "eos_token_id": 1,
}
QWEN = {"num_experts": EXPERTS, "num_experts_per_tok": 3, "moe_intermediate_size": 16}
LOCAL = {"num_local_experts": EXPERTS}
CAUSAL = {
    "emo": COMMON | {"num_experts": EXPERTS, "num_experts_per_tok": 3, "pool_size_max": 8},
    "olmoe": COMMON | {"num_experts": EXPERTS, "num_experts_per_tok": 3},
    "mixtral": COMMON | LOCAL | {"num_experts_per_tok": 2},
    "qwen2_moe": COMMON | QWEN | {"shared_expert_intermediate_size": 16},
    "qwen3_moe": COMMON | QWEN | {"mlp_only_layers": [0], "head_dim": 8, "norm_topk_prob": True},
    "gpt_oss": COMMON
    | LOCAL
    | {"num_experts_per_tok": 2, "head_dim": 8, "layer_types": ["full_attention"] * 3}
    | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
    "deepseek_v3": COMMON | DEEPSEEK | MLA,
    "glm4_moe": COMMON | DEEPSEEK | {"n_group": 1, "topk_group": 1, "head_dim": 8},
    "granitemoe": COMMON | LOCAL | {"num_experts_per_tok": 3},
    "phimoe": COMMON | LOCAL | {"num_experts_per_tok": 2, "router_jitter_noise": 0.3},
    "flex_olmo": COMMON | {"num_experts": EXPERTS, "num_experts_per_tok": 3},
    "jetmoe": COMMON | LOCAL | {"num_experts_per_tok": 2, "kv_channels": 8},
    "dbrx": DBRX,
}
SEQ2SEQ = {
    "switch_transformers": {
        "vocab_size": 96,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 24,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_sparse_encoder_layers": 1,
        "num_sparse_decoder_layers": 1,
        "num_heads": 4,
        "num_experts": EXPERTS,
        "expert_capacity": 2,
        "decoder_start_token_id": 0,
    },
    "nllb-moe": {
        "vocab_size": 96,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 24,
        "decoder_ffn_dim": 24,
        "num_experts": EXPERTS,
        "expert_capacity": 8,
        "encoder_sparse_step": 2,
        "decoder_sparse_step": 2,
        "max_position_embeddings": 64,
    },
}
# In transformers, described by nobody here.
UNKNOWN = {
    "dots1": COMMON | DEEPSEEK | {"head_dim": 8, "n_shared_experts": 1},
    "minimax_m2": COMMON | LOCAL | {"num_experts_per_tok": 3, "head_dim": 8},
    "hunyuan_v1_moe": COMMON | {"num_experts": EXPERTS, "moe_topk": 2, "head_dim": 8},
    "lfm2_moe": COMMON | QWEN | {"num_dense_layers": 1, "layer_types": ["full_attention"] * 3},
    "ernie4_5_moe": COMMON
    | {"moe_num_experts": EXPERTS, "moe_k": 3, "moe_intermediate_size": 16}
    | {"moe_layer_start_index": 1},
}


def tiny_model(family: str, **changes: object) -> nn.Module:
    """In eval mode, float32, on the CPU; the same weights for the same arguments."""
    fields = ({**CAUSAL, **SEQ2SEQ, **UNKNOWN}[family]) | changes
    config = AutoConfig.for_model(family, **fields)
    loader = AutoModelForSeq2SeqLM if family in SEQ2SEQ else AutoModelForCausalLM
    torch.manual_seed(0)
    made = loader.from_config(config, dtype=torch.float32).eval()
    for name, buffer in made.named_buffers():
        if "correction_bias" in name:  # learned while training, zero at first
            buffer.copy_(torch.randn(buffer.shape) * 0.3)
    return made


def run(made: nn.Module, rows: int = 2, length: int = 11) -> torch.Tensor:
    """Logits on random tokens."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 96, (rows, length), generator=generator).to(made.device)
    more = {"decoder_input_ids": ids} if made.config.is_encoder_decoder else {"use_cache": False}
    with torch.no_grad():
        return made(input_ids=ids, **more).logits


SPECIAL = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def save_tokenizer(folder: Path, **special: str) -> None:
    """A tokenizer of 96 words: <pad>, </s>, <s>, <unk>, then w4 .. w95 with their own numbers."""
    words = ["<pad>", "</s>", "<s>", "<unk>", *(f"w{number}" for number in range(4, 96))]
    vocabulary = {word: number for number, word in enumerate(words)}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    named = special or SPECIAL
    PreTrainedTokenizerFast(tokenizer_object=plain, **named).save_pretrained(folder)


def save_tiny(family: str, folder: Path, **changes: object) -> nn.Module:
    """A checkpoint of `tiny_model` with that tokenizer; returns the model."""
    made = tiny_model(family, **changes)
    made.save_pretrained(folder)
    save_tokenizer(folder)
    return made
