"""Write a subset of a checkpoint's experts as a smaller checkpoint, shard by shard.

The parent is never loaded: only the kept tensors are read, and one shard of them is in memory at a
time, so a checkpoint that does not fit in memory can be cut. The result is the released subset
format (public code, `prune_hf_model.py`): kept experts renumbered from 0 in their old order, the
router's rows likewise, and `pruning_metadata.json` with the ids that they had.
"""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.config import EmoConfig
from model.loading import check_checkpoint
from model.subset import ExpertSubset, check_subset

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
METADATA = "pruning_metadata.json"
# What belongs to the parent alone, or is written anew.
LEFT_BEHIND = ("config.json", "training.json", INDEX, METADATA)
SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja")

ROUTER = re.compile(r"model\.layers\.(\d+)\.mlp\.gate\.weight")
EXPERT = re.compile(r"(model\.layers\.(\d+)\.mlp\.experts\.)(\d+)(\..+)")

Kept = Sequence[Sequence[int]]
Progress = Callable[[int, int], None]


def cut_checkpoint(
    parent: Path, subset: ExpertSubset, out: Path, progress: Progress = lambda done, total: None
) -> None:
    """Write the checkpoint at `parent` with the subset's experts alone to the new folder `out`.

    Its logits are those of the parent under `apply_subset`. progress(shards done, shards in all) is
    called after each shard; `out` appears when it is whole. Raises ValueError if `out` exists, the
    subset was made for another geometry, or the parent is missing, damaged or stores its experts
    under other names than the released checkpoints.
    """
    check_checkpoint(parent)
    if out.exists():
        raise ValueError(f"{out} is there already; name a folder that is not.")
    config = EmoConfig.from_pretrained(parent, local_files_only=True)
    check_subset(config, subset)
    kept = _with_shared(config, subset)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _cut_weights(parent, kept, partial, progress)
        _write_json(partial / "config.json", _cut_config(parent, kept))
        _write_json(partial / METADATA, _metadata(parent, subset, kept))
        _copy_small_files(parent, partial)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _with_shared(config: EmoConfig, subset: ExpertSubset) -> list[list[int]]:
    """Ascending ids of every layer; the shared experts, its last ids, always stay."""
    layers = []
    for layer, experts in enumerate(subset.experts):
        count = config.experts_in_layer(layer)
        layers.append(sorted({*experts, *range(count - config.num_shared_experts, count)}))
    return layers


def _cut_weights(parent: Path, kept: Kept, out: Path, progress: Progress) -> None:
    shards = _shards(parent)
    home: dict[str, str] = {}
    size = 0
    for done, shard in enumerate(shards, start=1):
        weights = _cut_shard(parent / shard, kept)
        if weights:
            save_file(weights, out / shard, metadata={"format": "pt"})
        home |= dict.fromkeys(weights, shard)
        size += sum(weight.nbytes for weight in weights.values())
        progress(done, len(shards))
    _check_complete(parent, kept, home)
    if shards != [SINGLE]:
        _write_json(out / INDEX, {"metadata": {"total_size": size}, "weight_map": home})


def _shards(parent: Path) -> list[str]:
    """The weight files that transformers would read."""
    if (parent / SINGLE).is_file():
        return [SINGLE]
    try:
        return sorted(set(json.loads((parent / INDEX).read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{parent} has neither {SINGLE} nor a readable {INDEX}; copy the checkpoint again."
        ) from error


def _cut_shard(shard: Path, kept: Kept) -> dict[str, Tensor]:
    """The tensors of one file that stay, under their new names."""
    weights = {}
    try:
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (not a mapping)
                if new_name := _renamed(name, kept):
                    weights[new_name] = _cut_tensor(name, file.get_tensor(name), kept)
    except (SafetensorError, OSError, IndexError) as error:
        raise ValueError(f"{shard} cannot be read ({error}); copy the checkpoint again.") from error
    return weights


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
    return weight[list(kept[int(match[1])])] if match else weight


def _check_complete(parent: Path, kept: Kept, names: dict[str, str]) -> None:
    matches = [EXPERT.fullmatch(name) for name in names]
    held = Counter(int(match[2]) for match in matches if match)
    routers = {int(match[1]) for name in names if (match := ROUTER.fullmatch(name))}
    for layer, experts in enumerate(kept):
        if held[layer] != 3 * len(experts) or layer not in routers:
            raise ValueError(
                f"{parent} does not hold the router and three matrices for each kept expert of "
                f"layer {layer} under the released names; copy or export the checkpoint again."
            )


def _cut_config(parent: Path, kept: Kept) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((parent / "config.json").read_text())
    counts = [len(experts) for experts in kept]
    alike = len(set(counts)) == 1
    return fields | {
        "num_experts": max(counts),
        "num_experts_per_layer": None if alike else counts,
    }


def _metadata(parent: Path, subset: ExpertSubset, kept: Kept) -> dict[str, Any]:
    return {
        "parent": parent.resolve().name,
        "experts_kept_per_layer": kept,
        "method": subset.method,
        "calibration": list(subset.calibration),
    }


def _copy_small_files(parent: Path, out: Path) -> None:
    """The tokenizer, generation settings and the like."""
    for pattern in SMALL_FILES:
        for file in parent.glob(pattern):
            if file.name not in LEFT_BEHIND:
                shutil.copy(file, out)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
