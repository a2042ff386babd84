"""Less memory for more work: what a forward pass keeps for the backward pass, and what it redoes.

"experts": what the experts of a layer keep is computed again when the gradient comes, most of a
layer's memory. "layers": only what enters a layer is kept. The numbers are those of "none".
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

from torch import nn
from torch.utils.checkpoint import checkpoint

from model.emo.modeling import EmoDecoderLayer, EmoExperts

Recompute = Literal["none", "experts", "layers"]
REDONE: dict[str, type[nn.Module]] = {"experts": EmoExperts, "layers": EmoDecoderLayer}


@contextmanager
def recomputed(model: nn.Module, what: Recompute) -> Iterator[None]:
    """For the length of a `with` block, these parts of the model are run again for their gradients.

    Raises ValueError for a word that is none of them.
    """
    if what != "none" and what not in REDONE:
        raise ValueError(f"{what!r} cannot be recomputed; choose none, {', '.join(REDONE)}.")
    kind = REDONE.get(what)
    parts = [module for module in model.modules() if kind is not None and isinstance(module, kind)]
    for part in parts:
        # Nothing here is random, and asking for the generator's state would end a CUDA graph.
        redo = partial(checkpoint, part.forward, use_reentrant=False, preserve_rng_state=False)
        part.forward = redo
    try:
        yield
    finally:
        for part in parts:
            del part.__dict__["forward"]
