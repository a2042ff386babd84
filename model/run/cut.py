"""Write a subset of a checkpoint's experts as a smaller checkpoint, shard by shard.

The parent is never loaded: only one of its shards is in memory at a time, so a checkpoint that does
not fit in memory can be cut. What becomes of each tensor is a plan: EMO's own format is cut in
`cut_emo`, all other families in `cut_family`. The result is a checkpoint of the same format, with
`pruning_metadata.json` that says which ids its experts had.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.files import (
    INDEX,
    SINGLE,
    check_writable,
    inside,
    new_folder,
    weights_digest,
    write_json,
)
from model.run.checkpoint import CONFIG, SMALL_FILES, is_of_other_family, reading
from model.run.cut_emo import plan_emo
from model.run.cut_family import plan_family
from model.run.cut_plan import METADATA, Plan
from model.run.subset import AGAIN, ExpertSubset

# What belongs to the parent alone, or is written anew.
LEFT_BEHIND = (CONFIG, "training.json", METADATA)

Progress = Callable[[int, int], None]


def cut_checkpoint(
    parent: Path, subset: ExpertSubset, out: Path, progress: Progress = lambda done, total: None
) -> None:
    """Write the checkpoint at `parent` with the subset's experts alone to the new folder `out`.

    Its logits are those of the parent restricted to the subset. See `plan_cut`, `write_cut`.
    """
    check_out(parent, out)
    write_cut(plan_cut(parent, subset), out, progress)


def plan_cut(parent: Path, subset: ExpertSubset, same_size: int | None = None) -> Plan:
    """What is to be written, from the parent's config and the headers of its files.

    same_size: fill every layer up to so many experts, for a family whose config has one number for
    all layers. Raises ValueError if the parent is missing, damaged or of a kind that cannot be cut,
    or the subset was made for another geometry.
    """
    if is_of_other_family(parent):
        return plan_family(parent, subset, same_size)
    if same_size is not None:
        raise ValueError(
            "EMO's format has a number of experts for each layer; leave the option same-size out."
        )
    return plan_emo(parent, subset)


def write_cut(plan: Plan, out: Path, progress: Progress = lambda done, total: None) -> None:
    """Carry a plan out; `out` appears when it is whole.

    progress(shards done, shards in all) is called after each shard. Raises ValueError if `out`
    exists, lies in the parent or cannot be written, or a weight is damaged.
    """
    check_out(plan.parent, out)
    with new_folder(out) as partial:
        _cut_weights(plan, partial, progress)
        write_json(partial / CONFIG, plan.config)
        write_json(partial / METADATA, plan.metadata)
        _copy_small_files(plan.parent, partial)
        check_out(plan.parent, out)


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


def _cut_weights(plan: Plan, out: Path, progress: Progress) -> None:
    shards = sorted({at.file for at in plan.stored.values()})
    home: dict[str, str] = {}
    size = 0
    for done, shard in enumerate(shards, start=1):
        name = SINGLE if len(shards) == 1 else f"model-{done:05}-of-{len(shards):05}.safetensors"
        weights = dict(_cut_shard(plan, shard))
        if weights:
            save_file(weights, out / name, metadata={"format": "pt"})
        home |= dict.fromkeys(weights, name)
        size += sum(weight.nbytes for weight in weights.values())
        progress(done, len(shards))
    if len(shards) > 1:
        write_json(out / INDEX, {"metadata": {"total_size": size}, "weight_map": home})


def _cut_shard(plan: Plan, shard: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one file that stay, under their new names."""
    with reading(shard), safe_open(shard, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  (not a mapping)
            if (new_name := plan.rename(name)) is None:
                continue  # and is never read
            weight = plan.part(name, file.get_tensor(name))
            if weight.is_floating_point() and weight.itemsize > 1 and not weight.isfinite().all():
                raise ValueError(f"{shard}: {name} holds NaN or infinity; train it again.")
            yield new_name, weight


def _copy_small_files(parent: Path, out: Path) -> None:
    """The tokenizer, generation settings and the like."""
    for file in sorted(parent.iterdir()):
        speaks_of_weights = file.name.endswith(".index.json") or file.name in LEFT_BEHIND
        if file.suffix in SMALL_FILES and file.is_file() and not speaks_of_weights:
            shutil.copyfile(inside(parent, file.name), out / file.name)
