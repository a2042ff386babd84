"""New experts in a finished model: the same numbers of more experts, of which the new ones train.

A new expert begins as a copy of one that the domain prefers, its router row with it: a random one
would take tokens from experts that know something. So the model is not the parent's before it has
been trained; results say what it loses by that alone.

Shapes: L layers, R routed experts, E experts of a layer.
"""

from copy import deepcopy

import numpy as np
import torch
from torch import Tensor

from model.emo.config import EmoConfig
from model.emo.modeling import EmoForCausalLM
from model.run.subset import routed_in_layer
from model.train.checkpoint import values_of


def extended(model: EmoForCausalLM, number: int, scores_LR: np.ndarray) -> EmoForCausalLM:
    """A new model with `number` more routed experts in every layer that has any.

    scores_LR: how much the domain prefers each expert; the best are copied, in turns if there are
    fewer than `number`. New ids come after the old routed ones; shared experts stay the last. A
    bias of the choice is copied with its expert.
    """
    config = _config(model.config, number)
    larger = EmoForCausalLM(config).eval()
    theirs = model.state_dict()
    with torch.no_grad():
        for name, weight in values_of(larger).items():
            layer = int(name.split(".")[2]) if ".mlp." in name else -1
            routed = routed_in_layer(model.config, layer) if layer >= 0 else 0
            if not routed:
                weight.copy_(theirs[name])
                continue
            best = np.argsort(-scores_LR[layer][:routed], kind="stable")
            copied = torch.from_numpy(np.resize(best, number).astype(np.int64))
            weight.copy_(_with_copies(theirs[name], routed, copied))
    return larger


def _with_copies(weight_E: Tensor, routed: int, copied: Tensor) -> Tensor:
    return torch.cat([weight_E[:routed], weight_E[copied.to(weight_E.device)], weight_E[routed:]])


def _config(config: EmoConfig, number: int) -> EmoConfig:
    larger = deepcopy(config)
    larger.num_experts = config.num_experts + number
    if config.num_experts_per_layer is not None:
        larger.num_experts_per_layer = [
            n + number if n else 0 for n in config.num_experts_per_layer
        ]
    return larger
