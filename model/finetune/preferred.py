"""Extension mode: a document changes only the experts that it prefers (emo's follow-up training).

Of every document the E routed experts of the largest router probability, summed over its tokens,
are its module. Forward nothing changes; backward the output of every (token, slot) whose expert is
outside the module, and that of the shared experts, is a constant: it teaches no expert, no gate
and no layer below.

Shapes: B rows, T tokens, N = B*T, R routed experts, K experts a token.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from model.emo.documents import DocumentRouting
from model.emo.modeling import EmoForCausalLM, EmoSparseMlp
from model.emo.routing import document_pools

NO_EXPERT = -1  # a slot that the experts leave out


@contextmanager
def preferred_only(model: EmoForCausalLM, number: int) -> Iterator[None]:
    """Inside the block, what is trained with documents trains only their `number` experts."""
    blocks = [module for module in model.modules() if isinstance(module, EmoSparseMlp)]
    undo = [_extend(block, number) for block in blocks]
    try:
        yield
    finally:
        for each in undo:
            each()


def _extend(block: EmoSparseMlp, number: int) -> Callable[[], None]:
    """Split the experts' work of one layer in what teaches and what does not; returns the undo."""
    experts: Any = block.experts
    plain, inside_NK = experts.forward, _Inside(number)
    hook = block.gate.register_forward_hook(inside_NK)

    def split(hidden_NH: Tensor, ids_NK: Tensor, weights_NK: Tensor) -> Tensor:
        mine_NK = inside_NK.take()
        if mine_NK is None:  # not in training
            return plain(hidden_NH, ids_NK, weights_NK)
        taught = plain(hidden_NH, ids_NK.masked_fill(~mine_NK, NO_EXPERT), weights_NK)
        with torch.no_grad():
            rest = plain(hidden_NH, ids_NK.masked_fill(mine_NK, NO_EXPERT), weights_NK)
        return taught + rest

    experts.forward = split

    def undo() -> None:
        hook.remove()
        del experts.forward  # the class' own again

    return undo


class _Inside:
    """Hears a router and keeps, for its experts, which slots are of the document's module."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._mine_NK: Tensor | None = None

    @torch.no_grad()
    def __call__(self, router: Any, args: tuple[Any, ...], out: tuple[Tensor, ...]) -> None:
        documents: DocumentRouting | None = args[1] if len(args) > 1 else None
        if documents is None:
            return
        logits_NE, _, ids_NK = out
        segments_BT = documents.segments_BT
        shared: int = router.num_shared
        scores_NR = logits_NE[:, : logits_NE.shape[1] - shared].float().softmax(-1)
        sizes_BD = segments_BT.new_full((len(segments_BT), int(segments_BT.max()) + 1), self.number)
        scores_BTR = scores_NR.view(*segments_BT.shape, -1)
        module_NR = document_pools(scores_BTR, segments_BT, sizes_BD).flatten(0, 1)
        slots = ids_NK.shape[1] - shared
        mine_NK = torch.zeros_like(ids_NK, dtype=torch.bool)
        mine_NK[:, :slots] = module_NR.gather(1, ids_NK[:, :slots])
        self._mine_NK = mine_NK

    def take(self) -> Tensor | None:
        """What was heard last, once."""
        mine_NK, self._mine_NK = self._mine_NK, None
        return mine_NK
