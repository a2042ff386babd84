"""The families whose blocks are a router and fused experts: most of transformers 5.

What tells them apart is how the chosen are scored; each line of RULES says that from a config
(transformers' modeling files of the same names; papers: OLMoE 2409.02060, Mixtral 2401.04088,
DeepSeek-V3 2412.19437, PhiMoE 2409.12136, FlexOlmo 2507.07024).
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from model.families.blocks import Block, count_experts, moe_blocks
from model.families.groups import groups_of
from model.families.routed import FusedLayer, RoutedLayer
from model.families.rules import Rule

Config = Any  # a transformers config: which fields it has depends on the family


def _softmax(config: Config) -> Rule:
    return Rule("softmax", norm=1.0 if config.norm_topk_prob else None)


def _mixtral(config: Config) -> Rule:
    return Rule("softmax", norm=1.0)


def _softmax_of_chosen(config: Config) -> Rule:
    return Rule("softmax of chosen")


def _deepseek(config: Config) -> Rule:
    groups = groups_of(config)
    return Rule(
        "sigmoid",
        norm=1.0 if config.norm_topk_prob else None,
        scale=config.routed_scaling_factor,
        groups=groups.number,
        groups_kept=groups.kept,
        epsilon=1e-20,
    )


def _dbrx(config: Config) -> Rule:
    return Rule("softmax", norm=config.ffn_config.moe_normalize_expert_weights)


def _phimoe(config: Config) -> Rule:
    return Rule("sparsemixer", jitter=config.router_jitter_noise)


RULES: dict[str, Callable[[Config], Rule]] = {
    "olmoe": _softmax,
    "flex_olmo": _softmax,
    "qwen2_moe": _softmax,
    "qwen3_moe": _softmax,
    "mixtral": _mixtral,
    "gpt_oss": _softmax_of_chosen,
    "granitemoe": _softmax_of_chosen,
    "deepseek_v3": _deepseek,
    "glm4_moe": _deepseek,
    "dbrx": _dbrx,
    "phimoe": _phimoe,
}


def fused_layers(model: nn.Module) -> list[RoutedLayer]:
    """The layers with routers of a model whose type is in RULES."""
    config: Config = model.config
    rule = RULES[config.model_type](config)
    return [
        FusedLayer(block, _num_experts(block, config), _top_k(config), _num_shared(config), rule)
        for block in moe_blocks(model)
    ]


def _num_experts(block: Block, config: Config) -> int:
    return count_experts(block.experts) or int(config.ffn_config.moe_num_experts)


def _top_k(config: Config) -> int:
    if config.model_type == "dbrx":
        return int(config.ffn_config.moe_top_k)
    return int(config.num_experts_per_tok)


def _num_shared(config: Config) -> int:
    """Shared experts: one wide one in Qwen2-MoE, n_shared_experts in the DeepSeek line."""
    if config.model_type == "qwen2_moe":
        return 1
    return int(getattr(config, "n_shared_experts", 0) or 0)
