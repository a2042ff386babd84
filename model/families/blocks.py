"""Finding the layers with routers inside a model, by transformers' names and shapes."""

from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

from torch import Tensor, nn

ROUTERS = ("gate", "router")


BIASES = ("correction_bias", "expert_bias")


class Block(NamedTuple):
    """A module with a router and experts as children, and its path in the model."""

    name: str
    module: nn.Module
    router: Any  # modules whose further attributes depend on the family
    experts: Any


def moe_blocks(model: nn.Module) -> Iterator[Block]:
    """Every block that has a router and experts, in the order of the layers."""
    for name, block in model.named_modules():
        children = dict(block.named_children())
        router = next((children[each] for each in ROUTERS if each in children), None)
        if router is not None and "experts" in children:
            yield Block(name, block, router, children["experts"])


def count_experts(experts: nn.Module) -> int | None:
    """How many experts a module holds: its own word, else the first dimension of its weights."""
    told = getattr(experts, "num_experts", None)
    if isinstance(told, int):
        return told
    counts = {weight.shape[0] for weight in experts.parameters() if weight.ndim == 3}
    return counts.pop() if len(counts) == 1 else None


def correction_bias(block: nn.Module, num_experts: int) -> Tensor | None:
    """What a block adds to its scores for the choice alone, if it has it (DeepSeek-V3 and kin)."""
    for name, tensor in chain(block.named_buffers(), block.named_parameters()):
        if name.endswith(BIASES) and tensor.numel() == num_experts:
            return tensor.detach().flatten()
    return None
