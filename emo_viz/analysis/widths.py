"""How many experts the layers of a model have: the same in each, or not."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from model.emo.config import EmoConfig


class Difference(NamedTuple):
    """The first layer in which two models have different numbers of experts, and the numbers."""

    layer: int
    one: int
    other: int


def experts_by_layer(config: "EmoConfig") -> tuple[int, ...]:
    """Experts of every layer, the shared ones counted."""
    return tuple(map(config.experts_in_layer, range(config.num_hidden_layers)))


def routed_by_layer(config: "EmoConfig") -> tuple[int, ...]:
    """Experts that the router of every layer chooses among; 0 in a layer without a router."""
    return tuple(max(0, n - config.num_shared_experts) for n in experts_by_layer(config))


def in_words(counts: Sequence[int]) -> str:
    """ "128", or "12 to 16" where the layers differ."""
    fewest, most = min(counts), max(counts)
    return f"{fewest}" if fewest == most else f"{fewest} to {most}"


def kept_of(keep_k: int, counts: Sequence[int]) -> str:
    """ "16 of 128"; "up to 14 of 12 to 16" where layers that have fewer keep all theirs, "all 12
    to 16" where all do."""
    if min(counts) < max(counts) <= keep_k:
        return f"all {in_words(counts)}"
    some_have_fewer = min(counts) < min(keep_k, max(counts))
    return f"{'up to ' if some_have_fewer else ''}{keep_k} of {in_words(counts)}"


def difference(one: Sequence[int], other: Sequence[int]) -> Difference | None:
    """Where two models of as many layers differ first; None if they do not."""
    for layer, (first, second) in enumerate(zip(one, other, strict=True)):
        if first != second:
            return Difference(layer, first, second)
    return None
