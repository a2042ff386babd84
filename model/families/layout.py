"""Which stored tensors belong to which expert of which layer, of any family, without its weights.

transformers builds the model of a config on the meta device, where nothing is allocated, and says
under what names it would store it. Built once more with one expert more, whatever has grown is the
experts': their weights, the router's rows, correction biases. So no family is described by the
names of its tensors, and what grows outside of the routed layers shows.

Shapes: E experts of a layer that its router chooses among.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.core_model_loading import revert_weight_conversion

from model.families.guess import guessed_layers
from model.families.opening import transformers_alone
from model.families.registry import KNOWN
from model.families.routed import RoutedLayer
from model.fields import EXPERTS, PER_TOKEN

Shape = tuple[int, ...]
Fields = dict[str, Any]

_EXPERT = re.compile(r"(.*\bexperts\.(?:expert_)?)(\d+)(\..+)")
_LAYER = re.compile(r".*\.\d+\.")


class Whose(NamedTuple):
    """Experts' share of a tensor: of one of them, or its part of an axis of all E.

    layer: counted among those with a router. expert: None where the tensor is of all of them, whose
    equal parts lie along `axis`. head, tail: the name around the expert's number.
    """

    layer: int
    expert: int | None = None
    axis: int = 0
    head: str = ""
    tail: str = ""


class Built(NamedTuple):
    """A config's model on the meta device, and the shapes that it has in memory and stored."""

    model: nn.Module
    in_memory: Mapping[str, Shape]
    stored: Mapping[str, Shape]


@dataclass(frozen=True)
class Layout:
    """What a checkpoint of a config consists of.

    shapes: of the tensors by their stored names. axes: of those that hold all experts of a layer,
    the axis. layers: those with a router, on the meta device; prefixes: what the names of each
    begin with. may_lack: names that need not be stored, because they are tied to others.
    """

    shapes: Mapping[str, Shape]
    axes: Mapping[str, int]
    layers: list[RoutedLayer]
    prefixes: tuple[str, ...]
    may_lack: frozenset[str]

    @property
    def num_experts(self) -> int:
        """E, the same in all layers."""
        return self.layers[0].num_experts

    @cached_property
    def heads(self) -> frozenset[str]:
        """What the names of single experts' tensors begin with, up to their number."""
        found = (self._numbered(name) for name in self.shapes)
        return frozenset(match[1] for match in found if match)

    @cached_property
    def modules(self) -> frozenset[str]:
        """Names of the modules that own tensors."""
        return frozenset(name.rpartition(".")[0] for name in self.shapes)

    def _numbered(self, name: str) -> re.Match[str] | None:
        match = _EXPERT.fullmatch(name)
        return match if match and match[1].startswith(self.prefixes) else None

    def whose(self, name: str) -> Whose | None:
        """The experts that a stored tensor belongs to, None if it is nobody's.

        What quantisers store beside a weight (scales, blocks) belongs where that does.
        """
        if (match := self._numbered(name)) and match[1] in self.heads:
            return Whose(self._layer(name), int(match[2]), 0, match[1], match[3])
        beside = [each for each in self.axes if name == each or name.startswith(f"{each}_")]
        if not beside:
            return None
        return Whose(self._layer(name), None, self.axes[max(beside, key=len)])

    def knows(self, name: str) -> bool:
        """Whether a stored tensor has a place in the model, itself or as a part of a module."""
        return name in self.shapes or name.rpartition(".")[0] in self.modules

    def _layer(self, name: str) -> int:
        return next(n for n, prefix in enumerate(self.prefixes) if name.startswith(prefix))


def built(config: Any) -> Built:
    """Raises ValueError for a config of which transformers can build no model."""
    loader = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    try:
        # Only shapes are asked for; the config's dtype would become that of all running threads.
        with transformers_alone(), torch.device("meta"):
            model = loader.from_config(config, dtype=torch.float32)
        weights = model.state_dict()
        stored = revert_weight_conversion(model, weights)
    except Exception as error:  # torch and transformers have many for impossible sizes
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"The config describes no model ({said:.200}); copy it again.") from error
    shapes = ({name: tuple(t.shape) for name, t in each.items()} for each in (weights, stored))
    return Built(model, *shapes)


def layout_of(config: Any, fields: Fields, held: Mapping[str, Any]) -> Layout:
    """Of a checkpoint with this config, whose files hold tensors of these names.

    fields: the config as in its file. Raises ValueError for a model without routers, of which
    layers have different numbers of experts, whose config does not say how many, or counts others
    by the same number.
    """
    now = built(config)
    layers = _layers(now.model, config.model_type)
    count = _one_count(layers, config.model_type)
    more = built(type(config).from_dict(with_experts(config, fields, count, count + 1)))
    _check_growth(now, more, layers, config.model_type)
    first, second = (now.stored, more.stored)
    if sum(name in now.in_memory for name in held) > sum(name in first for name in held):
        first, second = now.in_memory, more.in_memory
    model: Any = now.model
    ties = getattr(model, "all_tied_weights_keys", None) or {}
    axes = dict(_grown(first, second))
    prefixes = _prefixes(layers, axes)
    return Layout(first, axes, layers, prefixes, frozenset({*ties, *ties.values()}))


def _prefixes(layers: list[RoutedLayer], axes: Mapping[str, int]) -> tuple[str, ...]:
    """What stored names of each layer begin with: its place in the list of layers."""
    matches = [_LAYER.match(f"{layer.block.name}.") for layer in layers]
    prefixes = tuple(match[0] for match in matches if match)
    distinct = len(set(prefixes)) == len(layers)
    if not distinct or not all(name.startswith(prefixes) for name in axes):
        raise ValueError(
            "This model cannot be cut: which layer its tensors belong to does not show in their "
            "names."
        )
    return prefixes


def _layers(model: nn.Module, family: str) -> list[RoutedLayer]:
    layers = KNOWN[family](model) if family in KNOWN else guessed_layers(model)
    if not layers:
        raise ValueError(
            f"No layer with a router was found in a model of type {family!r}, so there is nothing "
            "to cut."
        )
    if family in KNOWN:
        layers[0].check_restrictable()
    return layers


def _one_count(layers: list[RoutedLayer], family: str) -> int:
    counts = {layer.num_experts for layer in layers}
    if len(counts) > 1:
        raise ValueError(
            f"Layers of this {family!r} model have {min(counts)} to {max(counts)} experts, and it "
            "can be cut only if they have equally many."
        )
    return counts.pop()


def _check_growth(now: Built, more: Built, layers: list[RoutedLayer], family: str) -> None:
    """Raises ValueError unless one expert more is one more in the routed layers, and only there."""
    grown = {name for name, _ in _grown(now.in_memory, more.in_memory)}
    grown |= more.in_memory.keys() - now.in_memory.keys()
    homes = tuple(f"{layer.block.name}." for layer in layers)
    if outside := sorted(name for name in grown if not name.startswith(homes)):
        raise ValueError(
            f"A {family!r} model cannot be cut: its config has one number for these experts and "
            f"for others that no subset lists ({outside[0]})."
        )
    if any(not any(name.startswith(home) for name in grown) for home in homes):
        raise ValueError(
            f"A {family!r} model cannot be cut: its config does not say the number of its experts "
            "in a way that the installed transformers follows."
        )


def _grown(before: Mapping[str, Shape], after: Mapping[str, Shape]) -> Iterator[tuple[str, int]]:
    """Names of the tensors whose shape is another than before, and the first axis that is."""
    for name, shape in before.items():
        if after.get(name, shape) != shape:
            pairs = zip(shape, after[name], strict=True)
            yield name, next(axis for axis, (old, new) in enumerate(pairs) if old != new)


def with_experts(config: Any, fields: Fields, count: int, other: int) -> Fields:
    """The fields of a config for another number of experts."""
    return replaced(config, fields, EXPERTS, count, other)


def per_token(config: Any) -> int | None:
    """How many experts a token uses by the config; None where it does not say."""
    found = list(_values(config.to_dict(), PER_TOKEN))
    return max(found) if found else None


def with_per_token(config: Any, fields: Fields, most: int) -> Fields:
    """The fields of a config whose tokens use at most so many experts."""
    for value in sorted({value for value in _values(config.to_dict(), PER_TOKEN) if value > most}):
        fields = replaced(config, fields, PER_TOKEN, value, most)
    return fields


def replaced(config: Any, fields: Fields, names: tuple[str, ...], old: int, new: int) -> Fields:
    """Fields with another value where one of these names has the old one, at any depth.

    A value that the file leaves to its default is written into it.
    """
    if old in _values(fields, names):
        changed: Fields = _replaced(fields, names, old, new)
        return changed
    told = config.to_dict()
    return fields | {name: new for name in names if told.get(name) == old}


def _replaced(value: Any, names: tuple[str, ...], old: int, new: int, named: bool = False) -> Any:
    if isinstance(value, dict):
        return {
            name: _replaced(each, names, old, new, name in names) for name, each in value.items()
        }
    if isinstance(value, list) and named:
        return [_replaced(each, names, old, new, True) for each in value]
    return new if named and _is_whole(value) and value == old else value


def _values(value: Any, names: tuple[str, ...], named: bool = False) -> Iterator[int]:
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _values(each, names, name in names)
    elif isinstance(value, list) and named:
        for each in value:
            yield from _values(each, names, True)
    elif named and _is_whole(value):
        yield value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
