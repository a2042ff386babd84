"""Finds where a training step stops being finite: the first part of the model that gives NaN."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from model.emo.attention import EmoAttention
from model.emo.modeling import EmoDenseMlp, EmoExperts, EmoForCausalLM, EmoRouter
from model.emo.norm import EmoRMSNorm
from model.train import parallel

PARTS = (nn.Embedding, EmoAttention, EmoRMSNorm, EmoRouter, EmoExperts, EmoDenseMlp)
WORDS = {
    "pre_attention_layernorm": "norm before attention",
    "self_attn": "attention",
    "pre_feedforward_layernorm": "norm after attention",
    "mlp.gate": "router",
    "mlp.experts": "experts",
    "mlp": "MLP",
}
HEAD = "lm_head"
NOWHERE = "the norm of the gradient"
"""What `find` says when every part by itself is finite."""


class NotFinite(ValueError):
    """A step whose loss or gradient is NaN or infinite."""


def find(model: EmoForCausalLM, losses: Callable[[], tuple[Tensor, Tensor, Any]]) -> str:
    """Repeat a step that failed and say where: "the output of layer 2, experts", for example.

    losses: gives (objective, its next-token part, ..) of the step's batch. All processes call this
    together, and all get the same answer.
    """
    model.zero_grad(set_to_none=True)
    bad: list[str] = []
    with _watched(model, bad):
        total, loss, *_ = losses()
    order = _parts_in_order(model)
    total.backward()
    first = parallel.smallest(min((order.index(name) for name in bad), default=len(order)))
    if first < len(order):
        return f"the output of {_words(order[first])}"
    if parallel.smallest(int(torch.isfinite(loss))) == 0:
        return "the next-token loss"
    if parallel.smallest(int(torch.isfinite(total))) == 0:
        return "the router losses"
    return _gradient(model, [*order, HEAD])


def _gradient(model: EmoForCausalLM, order: list[str]) -> str:
    """Gradients flow from the last part to the first: the last bad one is where it began."""
    last = max(
        (i for i, name in enumerate(order) if _is_bad(model.get_submodule(name))), default=-1
    )
    last = -parallel.smallest(-last)
    return f"the gradient of {_words(order[last])}" if last >= 0 else NOWHERE


def _is_bad(module: nn.Module) -> bool:
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    local = [grad.to_local() if isinstance(grad, DTensor) else grad for grad in gradients]
    return not all(torch.isfinite(grad).all() for grad in local)


def _parts_in_order(model: EmoForCausalLM) -> list[str]:
    """Names of the parts in the order in which a forward calls them."""
    names = [name for name, module in model.named_modules() if isinstance(module, PARTS)]
    inside = list(WORDS)
    return sorted(names, key=lambda name: _place(name, inside))


def _place(name: str, inside: list[str]) -> tuple[int, int]:
    """Embedding, layers, then the final norm; within a layer the order of WORDS."""
    if not name.startswith("model.layers."):
        return (-1, 0) if "embed" in name else (10**9, 0)
    _, _, layer, part = name.split(".", 3)
    return int(layer), inside.index(part) if part in inside else len(inside)


@contextmanager
def _watched(model: EmoForCausalLM, bad: list[str]) -> Iterator[None]:
    """For the length of a `with` block, parts whose output is not finite are noted in `bad`."""

    def note(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            tensors = output if isinstance(output, tuple) else (output,)
            given = [t for t in tensors if isinstance(t, Tensor) and t.is_floating_point()]
            if not all(torch.isfinite(tensor).all() for tensor in given):
                bad.append(name)

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if isinstance(module, PARTS)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _words(name: str) -> str:
    if name.startswith("model.layers."):
        _, _, layer, part = name.split(".", 3)
        return f"layer {layer}, {WORDS.get(part, part)}"
    return {"model.embed_tokens": "the embedding", HEAD: "the head"}.get(name, "the final norm")
