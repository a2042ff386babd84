"""How much each expert is worth to the loss, to first order, from one backward pass.

Shapes: L layers with a router, R routed experts of the largest layer, N tokens, K experts a token,
V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.families.blocks import moe_blocks
from model.run.live import Live


def expert_importance(live: Live, documents: Sequence[np.ndarray]) -> np.ndarray:
    """The estimated rise of the loss in nats a token when an expert is removed: float64 [L, R].

    The Taylor expansion of the loss in the gate weights g to first order: without expert e its
    gate weights are 0, so the loss changes by -sum of g * dL/dg over the tokens that chose it.
    "Gate times gradient" is the criterion of Molchanov et al., "Pruning Convolutional Neural
    Networks for Resource Efficient Inference" (arXiv 1611.06440), with gates as Michel et al., "Are
    Sixteen Heads Really Better than One?" (arXiv 1905.10650), put them on attention heads; here the
    sign is kept, so an expert without which the loss would fall is below 0. What the tokens would
    choose instead is no part of it. 0 for an expert that no token chose, or that a layer lacks.

    documents: token ids, the opening one first. The model's weights and their gradients are left
    alone. Raises ValueError for a model whose experts are not called with ids and gate weights, or
    that has no loss.
    """
    if live.why_not_cut:
        raise ValueError(live.why_not_cut)
    blocks = [block.experts for block in moe_blocks(live.model)]
    routed = [n - live.geometry.num_shared_experts for n in _experts(live)]
    layers = [layer for layer, number in enumerate(routed) if number > 0]
    if len(blocks) != len(layers):
        raise ValueError("The experts of this model were not found in all of its layers.")
    sums_LR = np.zeros((len(routed), max(routed)))
    tokens = 0
    for document in documents:
        for layer, part_R in zip(layers, _one(live, blocks, document, max(routed)), strict=True):
            sums_LR[layer] += part_R
        tokens += len(document) - 1
    return sums_LR / max(1, tokens)


def _experts(live: Live) -> list[int]:
    layers = range(live.geometry.num_hidden_layers)
    return [live.geometry.experts_in_layer(layer) for layer in layers]


def _one(live: Live, blocks: list[Any], document: np.ndarray, num_routed: int) -> list[np.ndarray]:
    """Summed nats of one document by layer and expert."""
    heard: list[tuple[Tensor, Tensor]] = []

    def scale(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(args) != 3:
            raise ValueError("The experts of this model take no gate weights; it has no estimate.")
        hidden, ids_NK, weights_NK = args
        one_NK = torch.ones_like(weights_NK, dtype=torch.float32, requires_grad=True)
        heard.append((ids_NK, one_NK))
        return hidden, ids_NK, weights_NK * one_NK.to(weights_NK.dtype)

    hooks = [block.register_forward_pre_hook(scale) for block in blocks]
    try:
        with torch.inference_mode(False), torch.enable_grad():
            loss = _loss(live.model, document)
            gradients = torch.autograd.grad(loss, [one_NK for _, one_NK in heard])
    finally:
        for hook in hooks:
            hook.remove()
    ids = [ids_NK for ids_NK, _ in heard]
    return [_by_expert(i, g, num_routed) for i, g in zip(ids, gradients, strict=True)]


def _loss(model: Any, document: np.ndarray) -> Tensor:
    ids_1T = torch.from_numpy(np.array(document, np.int64))[None].to(model.device)
    logits_TV = model(input_ids=ids_1T, use_cache=False).logits[0, :-1].float()
    return F.cross_entropy(logits_TV, ids_1T[0, 1:], reduction="sum")


def _by_expert(ids_NK: Tensor, gradient_NK: Tensor, num_routed: int) -> np.ndarray:
    """-sum of the gradient by expert [R]: a shared expert's is not among them."""
    ids = ids_NK.reshape(-1).cpu()
    values = -gradient_NK.detach().reshape(-1).double().cpu()
    known = (ids >= 0) & (ids < num_routed)
    sums_R = torch.zeros(num_routed, dtype=torch.float64)
    sums_R.index_add_(0, ids[known].long(), values[known])
    found: np.ndarray = sums_R.numpy()
    return found
