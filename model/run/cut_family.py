"""Cutting any other family than EMO: which tensors are whose is asked of transformers.

`model.families.layout` says what grows with the number of experts; this decides what stays of it.
The config gets the smaller number, at most so many experts a token, and groups that fit: the result
chooses what the parent chooses when it is restricted to the subset, and opens as the parent does.

Shapes: E experts of a layer, G groups of them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.families.groups import LEAST_OF_GROUP, UNGROUPED, Groups, groups_of
from model.families.layout import (
    Fields,
    Layout,
    Whose,
    built,
    layout_of,
    per_token,
    replaced,
    with_experts,
    with_per_token,
)
from model.families.opening import check_experts, config_of
from model.fields import LAYERS
from model.files import inside, read_json
from model.run.checkpoint import CONFIG, MOST_LAYERS, Stored, check_links, stored_tensors
from model.run.cut_plan import Kept, Plan, metadata
from model.run.subset import AGAIN, ExpertSubset

QUANTISED = "quantization_config"
EXTRA_LAYERS = "num_nextn_predict_layers"  # they predict further tokens, and lie outside the model
# Code of the checkpoint's own is not copied.
OWN_CODE = "auto_map"


def plan_family(parent: Path, subset: ExpertSubset, same_size: int | None = None) -> Plan:
    """Raises ValueError in one sentence for what cannot be cut: see `cut.plan_cut`."""
    fields = read_json(inside(parent, CONFIG))
    _check_config(parent, fields)
    check_links(parent)
    stored = stored_tensors(parent, any_kind=True)
    config = config_of(parent)
    check_experts(parent, config)
    if hasattr(config, QUANTISED):
        del config.quantization_config  # it would change what is built, and not what is stored
    plain = {name: value for name, value in fields.items() if name != QUANTISED}
    try:
        layout = layout_of(config, plain, stored)
        kept = _kept(layout, config, subset, same_size)
        new = _new_config(layout, config, plain, kept)
    except ValueError as error:
        raise ValueError(f"{parent}: {error}") from error
    left_out = sorted(n for n in stored if not layout.knows(n) and layout.whose(n) is None)
    cut = _Cut(layout, kept, frozenset(left_out))
    _check_stored(parent, layout, stored, QUANTISED in fields)
    if QUANTISED not in fields:
        _check_result(parent, built(type(config).from_dict(new)), cut, stored, layout)
    if left_out and EXTRA_LAYERS in new:
        new[EXTRA_LAYERS] = 0
    new.pop(OWN_CODE, None)
    quantised = {QUANTISED: fields[QUANTISED]} if QUANTISED in fields else {}
    counts = [layout.num_experts] * len(layout.layers)
    told = metadata(parent, counts, subset, kept)
    return Plan(parent, stored, new | quantised, told, cut.rename, cut.part, left_out)


def _check_config(parent: Path, fields: Fields) -> None:
    """What must be right before a model is built of it."""
    layers = [fields[name] for name in LAYERS if isinstance(fields.get(name), int)]
    if any(number > MOST_LAYERS for number in layers):
        raise ValueError(f"{parent / CONFIG} describes no model; copy it again.")
    told = json.dumps(fields.get(QUANTISED))
    if found := re.search(r"experts\\*\.(expert_)?\d+", told):
        raise ValueError(
            f"{parent} is quantised expert by expert ({found[0]} in its {CONFIG}), which cannot be "
            "cut; cut the checkpoint that it was made from, and quantise the result."
        )


def _kept(
    layout: Layout, config: Any, subset: ExpertSubset, same_size: int | None
) -> list[list[int]]:
    """Ascending ids of every layer with a router, equally many in each."""
    family, experts = config.model_type, layout.num_experts
    kept = [sorted(set(layer)) for layer in subset.experts]
    if len(kept) != len(layout.layers):
        raise ValueError(
            f"The subset has {len(kept)} layers, the model {len(layout.layers)} with routers; "
            f"{AGAIN} for it."
        )
    for number, layer in enumerate(kept):
        if not layer or layer[-1] >= experts:
            raise ValueError(
                f"Layer {number} of the subset does not fit: it needs at least one id, and ids are "
                f"0 to {experts - 1}; {AGAIN} for it."
            )
    groups = groups_of(config)
    if same_size is not None:
        return [fill(layer, same_size, experts, groups) for layer in kept]
    counts = set(map(len, kept))
    if len(counts) > 1:
        raise ValueError(
            f"This subset keeps {min(counts)} to {max(counts)} experts a layer, and the config of "
            f"a {family!r} model has one number for all layers; choose equally many with python -m "
            f"emo_viz subset, or fill up with other experts by --same-size {max(counts)}."
        )
    return kept


def fill(kept: Sequence[int], size: int, experts: int, groups: Groups = UNGROUPED) -> list[int]:
    """The kept experts of a layer, and the first others until there are `size`.

    Of a model with groups the same number in each. Raises ValueError if that cannot be.
    """
    number = groups.number
    each, width = size // number, experts // number
    if not 0 < size <= experts or size % number:
        raise ValueError(
            f"--same-size {size} cannot be: give 1 to {experts}"
            + (f", in multiples of {number}, the number of groups." if number > 1 else ".")
        )
    filled: list[int] = []
    for first in range(0, experts, width):
        own = [expert for expert in kept if first <= expert < first + width]
        if len(own) > each:
            raise ValueError(
                f"--same-size {size} is too few: the subset keeps {len(own)} experts of "
                + (f"a group, and with {number} groups that asks for " if number > 1 else "")
                + (f"{len(own) * number}." if number > 1 else "a layer.")
            )
        others = [expert for expert in range(first, first + width) if expert not in own]
        filled += sorted([*own, *others[: each - len(own)]])
    return filled


def _new_config(layout: Layout, config: Any, fields: Fields, kept: Kept) -> Fields:
    """The config of the smaller checkpoint. Raises ValueError if the family has none such."""
    size, family = len(kept[0]), config.model_type
    new = with_experts(config, fields, layout.num_experts, size)
    groups = groups_of(config)
    cut = groups.cut(kept, layout.num_experts)
    if cut is None:
        raise ValueError(_unfit(family, groups, layout.num_experts))
    if size // cut.number < LEAST_OF_GROUP and groups.known:
        raise ValueError(f"A {family!r} model needs at least {LEAST_OF_GROUP} experts a layer.")
    if groups.known:
        new = replaced(config, new, ("topk_group",), groups.kept, cut.kept)
        new = replaced(config, new, ("n_group",), groups.number, cut.number)
    reachable = size // cut.number * cut.kept
    used = per_token(config) or max(layer.top_k for layer in layout.layers) or None
    rule = layout.layers[0].rule
    if (used or layout.num_experts) > reachable:
        if per_token(config) is None or (rule is not None and rule.score == "sparsemixer"):
            raise ValueError(
                f"A {family!r} model uses {used or 'an unknown number of'} experts a token and its "
                "config cannot say fewer; keep at least as many."
            )
        new = with_per_token(config, new, reachable)
    return new


def _unfit(family: str, groups: Groups, experts: int) -> str:
    number, width = groups.number, experts // groups.number
    sizes = [str(number * each) for each in range(LEAST_OF_GROUP, width + 1)]
    told = ", ".join(sizes if len(sizes) < 4 else [*sizes[:2], "..", sizes[-1]])
    return (
        f"A {family!r} model chooses among {number} groups of {width} experts, so a cut keeps "
        f"equally many of each, at least {LEAST_OF_GROUP} ({told} experts a layer), or experts of "
        f"{groups.kept} groups at most in every layer; choose them by python -m emo_viz subset "
        "--per-group, or fill up with others by --same-size."
    )


@dataclass(frozen=True)
class _Cut:
    layout: Layout
    kept: Kept
    left_out: frozenset[str]

    def rename(self, name: str) -> str | None:
        whose = self.layout.whose(name)
        if whose is None:
            return None if name in self.left_out else name
        if whose.expert is None:
            return name
        kept = self.kept[whose.layer]
        if whose.expert not in kept:
            return None
        return f"{whose.head}{kept.index(whose.expert)}{whose.tail}"

    def part(self, name: str, weight: Tensor) -> Tensor:
        whose = self.layout.whose(name)
        if whose is None or whose.expert is not None or weight.numel() == 1:
            return weight
        # Types of one byte have no arithmetic, and need none.
        plain = weight.view(torch.uint8) if weight.itemsize == 1 else weight
        parts = plain.unflatten(whose.axis, (self.layout.num_experts, -1))
        chosen = parts.index_select(whose.axis, torch.tensor(self.kept[whose.layer]))
        return chosen.flatten(whose.axis, whose.axis + 1).contiguous().view(weight.dtype)

    def shape(self, name: str, shape: Sequence[int]) -> tuple[int, ...]:
        whose = self.layout.whose(name)
        if whose is None or whose.expert is not None:
            return tuple(shape)
        size = shape[whose.axis] // self.layout.num_experts * len(self.kept[whose.layer])
        return (*shape[: whose.axis], size, *shape[whose.axis + 1 :])


def _check_stored(
    parent: Path, layout: Layout, stored: Mapping[str, Stored], quantised: bool
) -> None:
    """Raises ValueError unless the files hold what the config asks for, and it can be divided."""
    for name in sorted(layout.shapes.keys() - stored.keys() - layout.may_lack):
        if not quantised or name in layout.axes and not _beside(name, stored):
            kind = "as plain numbers" if quantised else "under the names that transformers writes"
            raise ValueError(
                f"{parent} does not hold {name} {kind}, so it cannot be cut; copy it again, or "
                "load it with transformers and save it in bf16."
            )
    for name, at in stored.items():
        whose = layout.whose(name)
        wanted = layout.shapes.get(name)
        if (
            wanted is not None
            and at.shape != wanted
            and not (quantised and name not in layout.axes)
        ):
            raise ValueError(
                f"{parent} holds {name} of shape {list(at.shape)}, not {list(wanted)}; get the "
                f"{CONFIG} that belongs to these weights."
            )
        if whose is not None and not _divides(whose, at.shape, layout.num_experts):
            raise ValueError(
                f"{parent} holds {name} of shape {list(at.shape)}, which cannot be divided among "
                f"{layout.num_experts} experts; cut the checkpoint before it is quantised."
            )
    _check_experts_alike(parent, layout, stored)


def _beside(name: str, stored: Mapping[str, Stored]) -> bool:
    """Whether a quantiser stored something in place of a tensor, under its name and more."""
    return any(other.startswith(f"{name}_") for other in stored)


def _divides(whose: Whose, shape: Sequence[int], experts: int) -> bool:
    if whose.expert is not None or not shape or max(shape) == 1:
        return True
    return len(shape) > whose.axis and shape[whose.axis] % experts == 0


def _check_experts_alike(parent: Path, layout: Layout, stored: Mapping[str, Stored]) -> None:
    """Raises ValueError unless each expert of its own has the same tensors as the others."""
    parts: dict[tuple[str, int], set[str]] = {}
    for name in stored:
        whose = layout.whose(name)
        if whose is not None and whose.expert is not None:
            parts.setdefault((whose.head, whose.expert), set()).add(whose.tail)
    for head in layout.heads:
        whole = parts.get((head, 0), set())
        for expert in range(layout.num_experts):
            if not whole or parts.pop((head, expert), set()) != whole:
                raise ValueError(
                    f"{parent} does not hold all weights of {head}{expert}; copy it again."
                )
    if parts:
        head, expert = min(parts)
        raise ValueError(
            f"{parent} holds {head}{expert} and its {CONFIG} asks for {layout.num_experts} "
            "experts; get the two of one checkpoint."
        )


def _check_result(
    parent: Path, small: Any, cut: _Cut, stored: Mapping[str, Stored], layout: Layout
) -> None:
    """Raises ValueError unless the smaller config asks for exactly what will be written."""
    written = {}
    for name, at in stored.items():
        if name in layout.shapes and (new_name := cut.rename(name)) is not None:
            written[new_name] = cut.shape(name, at.shape)
    for wanted in (small.stored, small.in_memory):
        asked = {n: s for n, s in wanted.items() if n in written or n not in layout.may_lack}
        if asked == written:
            return
    raise ValueError(
        f"{parent} cannot be cut: the installed transformers would not read the result, because "
        "its config counts other weights by the number of experts."
    )
