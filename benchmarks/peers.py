"""What the benchmarks compare with: a plain loop over experts, and transformers' OLMoE."""

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import OlmoeConfig, OlmoeForCausalLM
from transformers.integrations.moe import ExpertsInterface

from model.emo.config import EmoConfig

SAME = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_experts",
    "num_experts_per_tok",
    "max_position_embeddings",
)


def expert_loop(
    self: torch.nn.Module, hidden_NH: Tensor, ids_NK: Tensor, weights_NK: Tensor
) -> Tensor:
    """Every expert in turn: one-hot mask, where, two products, index_add."""
    mask_EKN = F.one_hot(ids_NK, self.num_experts).permute(2, 1, 0)
    out_NH = torch.zeros_like(hidden_NH)
    for e in range(self.num_experts):
        slot, token = torch.where(mask_EKN[e])
        gate, up = F.linear(hidden_NH[token], self.gate_up_proj[e]).chunk(2, -1)
        y = F.linear(F.silu(gate) * up, self.down_proj[e]) * weights_NK[token, slot, None]
        out_NH.index_add_(0, token, y)
    return out_NH


ExpertsInterface.register("expert_loop", expert_loop)


def olmoe_of_the_same_sizes(config: EmoConfig, implementation: str) -> OlmoeForCausalLM:
    """transformers' OLMoE with our geometry (it has QK-norm and no shared expert)."""
    same = {name: getattr(config, name) for name in SAME}
    olmoe = OlmoeConfig(
        **same,
        pad_token_id=config.pad_token_id,
        eos_token_id=config.eos_token_id,
        experts_implementation=implementation,
    )
    model = OlmoeForCausalLM(olmoe)
    model.set_experts_implementation(implementation)
    return model
