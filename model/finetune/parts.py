"""What of a model trains: a value that is read from the command line, and the masks it stands for.

Everything else is bitwise as it was: whole tensors get no gradient, and of stacked experts (and of
router rows) those that do not train get a gradient of zero, which AdamW without weight decay turns
into no step at all.

Shapes: E experts of a layer.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from model.emo.config import EmoConfig
from model.emo.modeling import EmoForCausalLM
from model.run.subset import ExpertSubset, check_keep_k, routed_in_layer

KINDS = ("all", "experts", "expert", "module", "subset", "router", "lora", "preferred", "new")
COUNTED = ("module", "subset", "preferred", "new")
RESTRICTED = ("module", "subset")  # only the experts of a module are routed to while they train
FORMS = "all, experts, expert L:E, module K, subset K, router, lora, preferred E or new N"

Parts = Mapping[str, Tensor | None]
"""By the name of a parameter that trains: which of its rows do, bool [E], or None for all."""


@dataclass(frozen=True)
class What:
    """What trains.

    all: every weight. experts: all routed experts. expert: the one of `layer` and `number`. module:
    the `number` experts (shared ones counted) that the domain prefers, which alone are routed to.
    subset: the same, with all weights that are no experts, as the released subsets were tuned.
    router: the routed experts' rows of every router. lora: low-rank changes of all experts.
    preferred: routed experts, of every document only by the tokens of its `number` preferred ones.
    new: `number` experts a layer that are added to the model, with their router rows.
    """

    kind: str
    number: int = 0
    layer: int = 0

    def __str__(self) -> str:
        if self.kind == "expert":
            return f"expert {self.layer}:{self.number}"
        return f"{self.kind} {self.number}" if self.kind in COUNTED else self.kind


def read_what(text: str) -> What:
    """`module 16` or `module:16`, `expert 2:17`, `all`. Raises ValueError for anything else."""
    kind, *numbers = text.replace(":", " ").split() or [""]
    wanted = 2 if kind == "expert" else int(kind in COUNTED)
    if kind not in KINDS or len(numbers) != wanted or not all(_is_count(n) for n in numbers):
        raise ValueError(f"--what is {FORMS}, not {text!r}.")
    if kind == "expert":
        return What(kind, int(numbers[1]), int(numbers[0]))
    return What(kind, *map(int, numbers))


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10


def check_what(config: EmoConfig, what: What) -> None:
    """Raises ValueError unless a model of this config has what is to be trained."""
    if what.kind != "all" and config.objective == "dense":
        raise ValueError(f"A dense model has no experts, so no {what}; train --what all.")
    if what.kind in RESTRICTED:
        check_keep_k(config, what.number)
    if what.kind == "expert":
        _check_expert(config, what)
    slots = config.num_routed_per_tok
    if what.kind == "preferred" and not slots <= what.number <= config.num_experts:
        raise ValueError(
            f"preferred takes {slots} (the routed experts of a token) to {config.num_experts} "
            f"experts, not {what.number}."
        )
    if what.kind == "new" and not 1 <= what.number <= config.num_experts:
        raise ValueError(f"new adds 1 to {config.num_experts} experts a layer, not {what.number}.")


def _check_expert(config: EmoConfig, what: What) -> None:
    layers = config.num_hidden_layers
    if what.layer >= layers:
        raise ValueError(f"There is no layer {what.layer}; the model has layers 0 to {layers - 1}.")
    routed = routed_in_layer(config, what.layer)
    if what.number >= routed:
        there = f"0 to {routed - 1}" if routed else "none"
        raise ValueError(
            f"There is no routed expert {what.number} in layer {what.layer}; its routed experts "
            f"are {there}."
        )


def parts_of(
    model: EmoForCausalLM, what: What, module: ExpertSubset | None = None, shared: bool = False
) -> Parts:
    """Which parameters, and which rows of them, `what` trains in a model.

    module: the experts of a module or subset (needed for one). shared: of a module, the shared
    experts too; a subset's always train.
    new: the model has its new experts already, before the shared ones. lora trains no parameter of
    the model itself: {}.
    """
    if what.kind == "all":
        return dict.fromkeys(name for name, _ in model.named_parameters())
    names = [name for name, _ in model.named_parameters() if what.kind == "subset"]
    parts: dict[str, Tensor | None] = dict.fromkeys(names)
    for layer in range(model.config.num_hidden_layers):
        rows_E = _rows(model.config, what, module, shared, layer)
        if rows_E is None or not rows_E.any():
            continue
        for name in _tensors(what):
            parts[f"model.layers.{layer}.mlp.{name}"] = rows_E.to(model.device)
    return parts


def _tensors(what: What) -> tuple[str, ...]:
    experts, router = ("experts.gate_up_proj", "experts.down_proj"), ("gate.weight",)
    return {
        "router": router,
        "new": (*experts, *router),
        "subset": (*experts, *router),
        "lora": (),
    }.get(what.kind, experts)


def _rows(
    config: EmoConfig, what: What, module: ExpertSubset | None, shared: bool, layer: int
) -> Tensor | None:
    """The experts of one layer that train: bool [E]; None in a layer without experts."""
    routed, num_experts = routed_in_layer(config, layer), config.experts_in_layer(layer)
    if not routed:
        return None
    rows_E = torch.arange(num_experts) < routed
    if what.kind == "expert":
        return rows_E & (torch.arange(num_experts) == what.number) & (layer == what.layer)
    if what.kind == "new":
        return rows_E & (torch.arange(num_experts) >= routed - what.number)
    if what.kind in RESTRICTED and module is not None:
        kept_E = torch.zeros(num_experts, dtype=torch.bool)
        kept_E[list(module.experts[layer])] = True
        return kept_E if shared or what.kind == "subset" else rows_E & kept_E
    return rows_E


def count(model: EmoForCausalLM, parts: Parts) -> int:
    """How many numbers train."""
    named = dict(model.named_parameters())
    return sum(
        named[name].numel() if rows_E is None else int(rows_E.sum()) * named[name][0].numel()
        for name, rows_E in parts.items()
    )


@contextmanager
def only(model: EmoForCausalLM, parts: Parts) -> Iterator[None]:
    """Inside the block gradients reach these parts of the model and nothing else."""
    named = dict(model.named_parameters())
    hooks = []
    for name, weight in named.items():
        weight.requires_grad_(name in parts)
        rows_E = parts.get(name)
        if rows_E is not None:
            hooks.append(weight.register_hook(_masked(rows_E)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for weight in named.values():
            weight.requires_grad_(True)


def _masked(rows_E: Tensor) -> Callable[[Tensor], Tensor]:
    def mask(gradient: Tensor) -> Tensor:
        # Not a product: a gradient that is not finite must not leak into what is frozen.
        return gradient.masked_fill(~rows_E.view(-1, *[1] * (gradient.dim() - 1)), 0)

    return mask
