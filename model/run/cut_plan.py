"""What a cut does with a checkpoint, decided before anything is written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from model.files import inside, read_json
from model.run.checkpoint import Stored
from model.run.subset import ExpertSubset

METADATA = "pruning_metadata.json"

Kept = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Plan:
    """stored: the parent's tensors. config, metadata: of the smaller checkpoint, as their files.
    rename: where a tensor goes, None for one that is cut. part: what stays of a tensor that was
    called so. left_out: tensors that the parent's own config has no place for, and that no model
    would load.
    """

    parent: Path
    stored: Mapping[str, Stored]
    config: dict[str, Any]
    metadata: dict[str, Any]
    rename: Callable[[str], str | None]
    part: Callable[[str, Tensor], Tensor]
    left_out: Sequence[str] = ()


def metadata(
    parent: Path, counts: Sequence[int], subset: ExpertSubset, kept: Kept
) -> dict[str, Any]:
    """Where the experts come from: ids of the model that was first cut, and of the parent.

    counts: the parent's experts in each layer that the subset lists. Raises ValueError if the
    parent's own metadata are not of so many.
    """
    name = parent.resolve().name
    known = read_json(inside(parent, METADATA)) if (parent / METADATA).exists() else {}
    first = known.get("experts_kept_per_layer")
    if first is not None:
        _check_first_ids(parent, counts, first)
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


def _check_first_ids(parent: Path, counts: Sequence[int], first: Any) -> None:
    """Raises ValueError unless the parent's own metadata list an id for each of its experts."""
    if not isinstance(first, list) or [len(i) if isinstance(i, list) else -1 for i in first] != (
        list(counts)
    ):
        raise ValueError(
            f"{parent / METADATA} does not list the experts of {parent}; get the file that belongs "
            "to it, or remove it."
        )
