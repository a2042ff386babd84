"""One model of a parent's and its clients' experts, by what each client used them for.

A client gives away its trained experts and one number for each: the router probability that its
documents gave it. Documents stay with it.

Shapes: C clients, L layers, R routed experts, E experts of a layer.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from model.emo.config import EmoConfig
from model.emo.modeling import EmoForCausalLM
from model.run.subset import ExpertSubset, check_keep_k, routed_in_layer

Overlap = Literal["average", "disjoint"]
TENSORS = ("gate_up_proj", "down_proj")


def disjoint_modules(
    config: EmoConfig, scores_CLR: NDArray[np.float64], keep_k: int
) -> list[ExpertSubset]:
    """Modules of keep_k experts of which no two share a routed one: clients choose by turns.

    In every layer each takes, in turn, the expert left that its documents prefer; the first client
    of one layer is the second of the next. Raises ValueError if there are too few experts.
    """
    check_keep_k(config, keep_k)
    clients, each = len(scores_CLR), keep_k - config.num_shared_experts
    layers: list[list[tuple[int, ...]]] = []
    for layer in range(config.num_hidden_layers):
        routed = routed_in_layer(config, layer)
        if routed and clients * each > routed:
            raise ValueError(
                f"{clients} clients cannot have {each} routed experts each of the {routed} in "
                f"layer {layer}; give a smaller K, or let them overlap."
            )
        shared = tuple(range(routed, config.experts_in_layer(layer)))
        taken = _by_turns(scores_CLR[:, layer, :routed], min(each, routed), layer % clients)
        layers.append([(*sorted(chosen), *shared) for chosen in taken])
    return [
        ExpertSubset(tuple(layer[client] for layer in layers), "by turns", (), keep_k)
        for client in range(clients)
    ]


def _by_turns(scores_CR: NDArray[np.float64], each: int, first: int) -> list[list[int]]:
    chosen: list[list[int]] = [[] for _ in scores_CR]
    left = scores_CR.copy()
    order = [(first + turn) % len(scores_CR) for turn in range(len(scores_CR))]
    for _ in range(each):
        for client in order:
            best = int(np.argmax(left[client]))
            chosen[client].append(best)
            left[:, best] = -np.inf
    return chosen


def union(config: EmoConfig, modules: Sequence[ExpertSubset]) -> ExpertSubset:
    """All experts of some modules."""
    layers = range(config.num_hidden_layers)
    experts = tuple(tuple(sorted({e for m in modules for e in m.experts[i]})) for i in layers)
    return ExpertSubset(experts, "union", (), max(map(len, experts)))


def compose(
    parent: EmoForCausalLM,
    clients: Sequence[EmoForCausalLM],
    modules: Sequence[ExpertSubset],
    usage_CLR: NDArray[np.float64],
) -> EmoForCausalLM:
    """The parent with the clients' routed experts in it; the parent itself is not changed.

    An expert of one client is that client's; one of several is their mean weighted by usage (equal
    weights where none used it). All that no module holds, shared experts included, stays the
    parent's.
    """
    made = deepcopy(parent)
    config = parent.config
    for layer in range(config.num_hidden_layers):
        for expert in range(routed_in_layer(config, layer)):
            owners = [i for i, module in enumerate(modules) if expert in module.experts[layer]]
            if owners:
                shares = _shares(usage_CLR[owners, layer, expert])
                _place(made, clients, owners, shares, layer, expert)
    return made


def _shares(usage: NDArray[np.float64]) -> list[float]:
    total = usage.sum()
    return (usage / total if total > 0 else np.full(len(usage), 1 / len(usage))).tolist()


def _place(
    made: EmoForCausalLM,
    clients: Sequence[EmoForCausalLM],
    owners: Sequence[int],
    shares: Sequence[float],
    layer: int,
    expert: int,
) -> None:
    with torch.no_grad():
        for name in TENSORS:
            tensor = f"model.layers.{layer}.mlp.experts.{name}"
            weights = [clients[owner].get_parameter(tensor)[expert] for owner in owners]
            mean = sum(share * weight for share, weight in zip(shares, weights, strict=True))
            # One owner's expert goes over bit by bit, not by way of a product.
            made.get_parameter(tensor)[expert] = weights[0] if len(owners) == 1 else mean


def overlaps(modules: Sequence[ExpertSubset], shared: int) -> dict[str, float]:
    """How many routed experts a module has in the mean, and which share of all are of several."""
    held: dict[tuple[int, int], int] = {}
    for module in modules:
        for layer, experts in enumerate(module.experts):
            for expert in experts[: len(experts) - shared]:
                held[layer, expert] = held.get((layer, expert), 0) + 1
    several = sum(number > 1 for number in held.values())
    return {"experts": len(held), "of_several": several, "share": several / max(1, len(held))}
