"""Write a subset of a checkpoint's experts as a smaller checkpoint, shard by shard.

The parent is never loaded: only the kept tensors are read, and one shard of them is in memory at a
time, so a checkpoint that does not fit in memory can be cut. The result is the released subset
format (public code, `prune_hf_model.py`): kept experts renumbered from 0 in their old order, the
router's rows likewise, and `pruning_metadata.json` with the ids that they had.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.emo.config import EmoConfig
from model.files import (
    INDEX,
    SINGLE,
    check_writable,
    inside,
    new_folder,
    read_json,
    weights_digest,
    write_json,
)
from model.run.checkpoint import (
    CONFIG,
    EXPERT,
    SMALL_FILES,
    Stored,
    check_checkpoint,
    read_config,
    reading,
)
from model.run.subset import AGAIN, ExpertSubset, check_subset

METADATA = "pruning_metadata.json"
# What belongs to the parent alone, or is written anew.
LEFT_BEHIND = (CONFIG, "training.json", METADATA)

ROUTER = re.compile(r"model\.layers\.(\d+)\.mlp\.gate\.(weight|correction_bias)")

Kept = Sequence[Sequence[int]]
Progress = Callable[[int, int], None]


def cut_checkpoint(
    parent: Path, subset: ExpertSubset, out: Path, progress: Progress = lambda done, total: None
) -> None:
    """Write the checkpoint at `parent` with the subset's experts alone to the new folder `out`.

    Its logits are those of the parent under `apply_subset`. progress(shards done, shards in all) is
    called after each shard; `out` appears when it is whole. Raises ValueError if `out` exists, lies
    in the parent or cannot be written, the subset was made for another geometry, or the parent is
    missing, damaged, or stores its experts under other names than the released checkpoints.
    """
    check_out(parent, out)
    stored = check_checkpoint(parent)
    config = read_config(parent)
    check_subset(config, subset)
    kept = _with_shared(config, subset)
    _check_names(parent, kept, stored)
    metadata = _metadata(parent, config, subset, kept)
    with new_folder(out) as partial:
        _cut_weights(parent, kept, stored, partial, progress)
        write_json(partial / CONFIG, _cut_config(parent, kept))
        write_json(partial / METADATA, metadata)
        _copy_small_files(parent, partial)
        check_out(parent, out)


def check_out(parent: Path, out: Path) -> None:
    """Raises ValueError unless `out` is new, outside of `parent`, and can be written."""
    if os.path.lexists(out):
        raise ValueError(f"{out} is there already; name a folder that is not.")
    if out.resolve().is_relative_to(parent.resolve()):
        raise ValueError(f"{out} lies in {parent}, which is to be cut; name a folder outside.")
    check_writable(out)


def check_made_for(subset: ExpertSubset, checkpoint: Path) -> None:
    """Raises ValueError unless the subset's experts were chosen among those of this checkpoint."""
    if not subset.weights_sha256:
        raise ValueError(
            f"This subset does not say whose experts it lists, as files of older programs; {AGAIN}."
        )
    if subset.weights_sha256 != weights_digest(checkpoint):
        raise ValueError(
            f"This subset lists experts of {subset.model or 'another model'}, and {checkpoint} has "
            f"other weights; {AGAIN} for it."
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


def _cut_weights(
    parent: Path, kept: Kept, stored: Mapping[str, Stored], out: Path, progress: Progress
) -> None:
    shards = sorted({at.file for at in stored.values()})
    home: dict[str, str] = {}
    size = 0
    for done, shard in enumerate(shards, start=1):
        name = SINGLE if len(shards) == 1 else f"model-{done:05}-of-{len(shards):05}.safetensors"
        weights = dict(_cut_shard(shard, kept))
        if weights:
            save_file(weights, out / name, metadata={"format": "pt"})
        home |= dict.fromkeys(weights, name)
        size += sum(weight.nbytes for weight in weights.values())
        progress(done, len(shards))
    if len(shards) > 1:
        write_json(out / INDEX, {"metadata": {"total_size": size}, "weight_map": home})


def _cut_shard(shard: Path, kept: Kept) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one file that stay, under their new names."""
    with reading(shard), safe_open(shard, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  (not a mapping)
            if new_name := _renamed(name, kept):
                weight = _cut_tensor(name, file.get_tensor(name), kept)
                if not torch.isfinite(weight).all():
                    raise ValueError(f"{shard}: {name} holds NaN or infinity; train it again.")
                yield new_name, weight


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


def _metadata(parent: Path, config: EmoConfig, subset: ExpertSubset, kept: Kept) -> dict[str, Any]:
    """Where the experts come from: ids of the model that was first cut, and of the parent."""
    name = parent.resolve().name
    known = read_json(inside(parent, METADATA)) if (parent / METADATA).exists() else {}
    first = known.get("experts_kept_per_layer")
    if first is not None:
        _check_first_ids(parent, config, first)
    return {
        "original": known.get("original", known.get("parent", name)),
        "experts_kept_per_layer": kept
        if first is None
        else [[ids[e] for e in experts] for ids, experts in zip(first, kept, strict=True)],
        "parent": name,
        "experts_kept_of_parent": kept,
        "method": subset.method,
        "domain": subset.domain,
        "calibration": list(subset.calibration),
        "budget": subset.budget,
    }


def _check_first_ids(parent: Path, config: EmoConfig, first: Any) -> None:
    """Raises ValueError unless the parent's own metadata list an id for each of its experts."""
    counts = [config.experts_in_layer(layer) for layer in range(config.num_hidden_layers)]
    if not isinstance(first, list) or [len(i) if isinstance(i, list) else -1 for i in first] != (
        counts
    ):
        raise ValueError(
            f"{parent / METADATA} does not list the experts of {parent}; get the file that belongs "
            "to it, or remove it."
        )


def _copy_small_files(parent: Path, out: Path) -> None:
    """The tokenizer, generation settings and the like."""
    for file in sorted(parent.iterdir()):
        speaks_of_weights = file.name.endswith(".index.json") or file.name in LEFT_BEHIND
        if file.suffix in SMALL_FILES and file.is_file() and not speaks_of_weights:
            shutil.copyfile(inside(parent, file.name), out / file.name)
