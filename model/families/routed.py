"""A loaded model as its routers: what every layer used for every token, and live restriction.

Hooks are set once, on routers and experts. They ask a context variable what to do and change
nothing else, so two threads can record or restrict one model differently at the same time.

Shapes: N tokens (batch times length), E experts that a router chooses among, K experts a token.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn

from model.families.blocks import Block, correction_bias
from model.families.rules import DROPPED, Chosen, Rule


@dataclass
class Tape:
    """What the routers did in one forward pass, by layer number; tensors stay where they were made.

    expert_ids [N, K]: the experts that were really used, DROPPED (-1) in an empty slot.
    gate_weights [N, K]: what their outputs were multiplied by. router_logits [N, E]: before any
    restriction. Shared experts that no router chooses are not on the tape.
    """

    expert_ids: dict[int, Tensor] = field(default_factory=dict)
    gate_weights: dict[int, Tensor] = field(default_factory=dict)
    router_logits: dict[int, Tensor] = field(default_factory=dict)

    def write(self, layer: int, chosen: Chosen) -> None:
        """Keep what one layer used."""
        self.expert_ids[layer], self.gate_weights[layer] = chosen


@dataclass
class _Wish:
    """What the running block wants of one model: experts to leave in, a tape, or both."""

    allowed: Mapping[int, Tensor] = field(default_factory=dict)
    tape: Tape | None = None
    logits: dict[int, Tensor] = field(default_factory=dict)


_NONE: Mapping[int, _Wish] = MappingProxyType({})
_wishes: ContextVar[Mapping[int, _Wish]] = ContextVar("routing_wishes", default=_NONE)


@dataclass(eq=False)
class RoutedLayer(ABC):
    """One layer with a router.

    num_experts: that the router chooses among, top_k of them a token. num_shared: experts that
    serve every token unasked. rule: None where it was not recognised. Subclasses say where to
    listen and how to hand another choice to the experts.

    alone: whether texts of one batch change each other's routing, so that each is run by itself.
    """

    alone: ClassVar[bool] = False

    block: Block
    num_experts: int
    top_k: int
    num_shared: int
    rule: Rule | None

    @abstractmethod
    def listen(self, model: "RoutedModel", layer: int) -> None:
        """Set the hooks of this layer."""

    @property
    def num_routed(self) -> int:
        """R: experts that are chosen, ids 0 .. R - 1; shared experts are not among them."""
        return self.num_experts

    @property
    def num_chosen(self) -> int:
        """Of them, how many one token uses."""
        return self.top_k

    def probabilities(self, logits_NE: Tensor) -> Tensor | None:
        """What the router thinks of each routed expert [N, R], float32, a sum of 1 a token.

        A softmax of the logits; of a router that scores by sigmoids, these divided by their sum
        (as DeepSeek-V3 does to balance its experts). None where the rule was not recognised.
        """
        if self.rule is None:
            return None
        logits_NR = logits_NE[:, : self.num_routed].float()
        if self.rule.score != "sigmoid":
            return logits_NR.softmax(-1)
        scores_NR = logits_NR.sigmoid()
        return scores_NR / scores_NR.sum(-1, keepdim=True).clamp(min=1e-30)

    def check_restrictable(self) -> None:
        """Raises ValueError where no expert can be left out."""
        if self.rule is None:
            raise ValueError(
                f"How {self.block.name} chooses its experts was not recognised, so none can be "
                "left out; its routing can be recorded."
            )

    def bias(self) -> Tensor | None:
        """What is added to the scores for the choice alone."""
        return correction_bias(self.block.module, self.num_experts)

    def choose(self, logits_NE: Tensor, allowed_E: Tensor | None) -> Chosen:
        """The layer's rule, with experts left out."""
        assert self.rule is not None, "check_restrictable comes first"
        return self.rule.choose(logits_NE, self.top_k, allowed_E, self.bias())


@dataclass(frozen=True, eq=False)
class RoutedModel:
    """A model, its family's name (`guessed` if it was not known) and its layers with routers."""

    model: nn.Module
    family: str
    layers: Sequence[RoutedLayer]
    guessed: bool = False

    def __post_init__(self) -> None:
        for number, layer in enumerate(self.layers):
            layer.listen(self, number)

    @contextmanager
    def recorded(self) -> Iterator[Tape]:
        """A tape of the last forward pass inside the block, in this thread."""
        tape = Tape()
        with self._wishing(_Wish(self._wish().allowed, tape)):
            yield tape

    @contextmanager
    def restricted(self, experts: Sequence[Sequence[int]]) -> Iterator[None]:
        """Route only to these experts of each layer inside the block, in this thread.

        Raises ValueError if the layers do not match, an id is not an expert, or a layer keeps none.
        """
        masks = {i: self._mask(i, kept) for i, kept in enumerate(self._matching(experts))}
        # A layer that keeps all its experts is left alone, to the bit.
        allowed = {i: mask_E for i, mask_E in masks.items() if not bool(mask_E.all())}
        for i in allowed:
            self.layers[i].check_restrictable()
        with self._wishing(_Wish(allowed, self._wish().tape)):
            yield

    def _matching(self, experts: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
        if len(experts) != len(self.layers):
            raise ValueError(
                f"The subset has {len(experts)} layers, the model {len(self.layers)} with routers."
            )
        return experts

    def _mask(self, layer: int, kept: Sequence[int]) -> Tensor:
        count = self.layers[layer].num_experts
        if not kept or any(not 0 <= expert < count for expert in kept):
            raise ValueError(
                f"Layer {layer} of the subset does not fit: it needs at least one id, and ids are "
                f"0 to {count - 1}."
            )
        device = next(self.layers[layer].block.router.parameters()).device
        mask_E = torch.zeros(count, dtype=torch.bool, device=device)
        mask_E[list(kept)] = True
        return mask_E

    def _wish(self) -> _Wish:
        return _wishes.get().get(id(self)) or _Wish()

    @contextmanager
    def _wishing(self, wish: _Wish) -> Iterator[None]:
        token = _wishes.set({**_wishes.get(), id(self): wish})
        try:
            yield
        finally:
            _wishes.reset(token)

    def heard_logits(self, layer: int, logits_NE: Tensor) -> None:
        """Called by a layer's hook when its router has spoken."""
        wish = _wishes.get().get(id(self))
        if wish is None:
            return
        logits_NE = logits_NE.detach()
        wish.logits[layer] = logits_NE
        if wish.tape is not None:
            wish.tape.router_logits[layer] = logits_NE.flatten(0, -2)

    def decided(self, layer: int, used: Chosen) -> Chosen | None:
        """Called by a layer's hook before the experts run, with what the router chose.

        Returns another choice where experts are left out, None where the router's own stands.
        """
        wish = _wishes.get().get(id(self))
        if wish is None:
            return None
        other = None
        if layer in wish.allowed:
            other = self.layers[layer].choose(wish.logits[layer], wish.allowed[layer])
        if wish.tape is not None:
            wish.tape.write(layer, other or used)
        return other


class FusedLayer(RoutedLayer):
    """Routers that give (logits, ..) or logits, and experts called with ids and gate weights.

    The form of nearly all models in transformers 5: experts(hidden, expert_ids, gate_weights).
    """

    def listen(self, model: RoutedModel, layer: int) -> None:
        def heard(_: nn.Module, __: tuple, output: Tensor | tuple[Tensor, ...]) -> None:
            model.heard_logits(layer, logits_among(output, self.num_experts))

        def decide(_: nn.Module, args: tuple) -> tuple | None:
            hidden, ids_NK, weights_NK = args
            other = model.decided(layer, Chosen(ids_NK, weights_NK))
            if other is None:
                return None
            return hidden, served_ids(other, ids_NK), other.gate_weights_NK.to(weights_NK.dtype)

        self.block.router.register_forward_hook(heard)
        self.block.experts.register_forward_pre_hook(decide)


def logits_among(output: Tensor | tuple[Tensor, ...], num_experts: int) -> Tensor:
    """What a router gave as its logits: the first numbers as wide as its experts.

    transformers has changed the order of what routers give between versions.
    """
    given = (output,) if isinstance(output, Tensor) else output
    wide = [t for t in given if t.is_floating_point() and t.shape[-1] == num_experts]
    return wide[0] if wide else given[0]


def served_ids(chosen: Chosen, like: Tensor) -> Tensor:
    """Ids that every implementation of experts takes: an empty slot repeats the token's first.

    Its weight is 0, and no expert that is left out is ever computed.
    """
    ids_NK = chosen.expert_ids_NK
    first_N1 = ids_NK.amax(1, keepdim=True)
    return torch.where(ids_NK == DROPPED, first_N1, ids_NK).to(like.dtype)
