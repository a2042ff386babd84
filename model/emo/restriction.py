"""The experts that routers may use in this thread: what an expert subset sets and a router asks.

Shapes: R routed experts of a layer.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

from torch import Tensor, nn

_NONE: Mapping[int, Tensor] = MappingProxyType({})
_active: ContextVar[Mapping[int, Tensor]] = ContextVar("active_expert_masks", default=_NONE)
_most: ContextVar[int | None] = ContextVar("most_experts_kept", default=None)


def active_mask(router: nn.Module) -> Tensor | None:
    """The routed experts that the current subset keeps in this router: bool [R], or None."""
    return _active.get().get(id(router))


def active_keep_k() -> int | None:
    """The most experts that the current subset keeps in a layer, or None: it chooses tiles."""
    return _most.get()


@contextmanager
def restricted(masks: Mapping[int, Tensor], most: int) -> Iterator[None]:
    """Masks [R] by the id of their router, and the most experts that a layer keeps, for a block."""
    mask_token = _active.set({**_active.get(), **masks})
    most_token = _most.set(most)
    try:
        yield
    finally:
        _most.reset(most_token)
        _active.reset(mask_token)
