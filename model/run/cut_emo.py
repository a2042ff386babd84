"""Cutting EMO's own format: as the public code does (`prune_hf_model.py`).

Kept experts are renumbered from 0 in their old order, the router's rows likewise. The config has a
number of experts for each layer, so layers may keep different numbers.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from model.emo.config import EmoConfig
from model.files import inside, read_json
from model.run.checkpoint import CONFIG, EXPERT, Stored, check_checkpoint, read_config
from model.run.cut_plan import Kept, Plan, metadata
from model.run.subset import ExpertSubset, check_subset

ROUTER = re.compile(r"model\.layers\.(\d+)\.mlp\.gate\.(weight|correction_bias)")


def plan_emo(parent: Path, subset: ExpertSubset) -> Plan:
    """Raises ValueError if the subset was made for another geometry, or the parent is missing,
    damaged, or stores its experts under other names than the released checkpoints.
    """
    stored = check_checkpoint(parent)
    config = read_config(parent)
    try:
        check_subset(config, subset)
    except ValueError as error:
        raise ValueError(f"{parent}: {error}") from error
    kept = _with_shared(config, subset)
    _check_names(parent, kept, stored)
    counts = [config.experts_in_layer(layer) for layer in range(config.num_hidden_layers)]
    return Plan(
        parent,
        stored,
        _cut_config(parent, kept),
        metadata(parent, counts, subset, kept),
        rename=lambda name: _renamed(name, kept),
        part=lambda name, weight: _cut_tensor(name, weight, kept),
    )


def _with_shared(config: EmoConfig, subset: ExpertSubset) -> list[list[int]]:
    """Ascending ids of every layer; the shared experts, its last ids, always stay."""
    layers = []
    for layer, experts in enumerate(subset.experts):
        count = config.experts_in_layer(layer)
        shared = range(max(0, count - config.num_shared_experts), count)
        layers.append(sorted({*experts, *shared}))
    return layers


def _check_names(parent: Path, kept: Kept, stored: Mapping[str, Stored]) -> None:
    """Raises ValueError unless every layer with experts has its router and each of them apart."""
    layers = {int(match[2]) for name in stored if (match := EXPERT.fullmatch(name))}
    routers = {int(match[1]) for name in stored if (match := ROUTER.fullmatch(name))}
    for layer, experts in enumerate(kept):
        if experts and layer not in layers & routers:
            raise ValueError(
                f"{parent} does not hold the router and the experts of layer {layer} under the "
                "released names; export the checkpoint again."
            )


def _renamed(name: str, kept: Kept) -> str | None:
    """Where a tensor of the parent goes; None for those of experts that are cut."""
    match = EXPERT.fullmatch(name)
    if match is None:
        return name
    before, layer, expert, after = match.groups()
    experts = kept[int(layer)]
    if int(expert) not in experts:
        return None
    return f"{before}{experts.index(int(expert))}{after}"


def _cut_tensor(name: str, weight: Tensor, kept: Kept) -> Tensor:
    match = ROUTER.fullmatch(name)
    if match is None:
        return weight
    # The shared experts, the last, have no place in a bias.
    return weight[[expert for expert in kept[int(match[1])] if expert < len(weight)]]


def _cut_config(parent: Path, kept: Kept) -> dict[str, Any]:
    fields = read_json(inside(parent, CONFIG))
    counts = [len(experts) for experts in kept]
    alike = len(set(counts)) == 1
    return fields | {
        "num_experts": max(counts),
        "num_experts_per_layer": None if alike else counts,
    }
