"""What a router computes from its logits in compiled code, on a CPU (router.c).

Shapes: B rows, T tokens a row, N = B*T tokens, D documents a row (at most), E experts, R routed
experts (the first of them), K routed slots a token.
"""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.native.compiled import available, call
from model.native.threads import PER_NUMBER, threads_for


def fits(logits: Tensor, mask: Tensor | None = None) -> bool:
    """Whether the library works on numbers and a mask of these types, here."""
    plain = logits.is_cpu and logits.dtype == torch.float32
    masked = mask is None or (mask.is_cpu and mask.dtype == torch.bool)
    return plain and masked and available()


@torch.compiler.disable
def top_k_ids(scores_NR: Tensor, k: int) -> Tensor:
    """Ids of the k largest scores of each row, falling: int64 [N, k]. Ties go to the lower id.

    torch.topk, many times faster for a few out of a hundred on a CPU.
    """
    if not fits(scores_NR) or k > scores_NR.shape[1]:  # torch says what is wrong
        return scores_NR.topk(k, dim=-1).indices
    ids_NK = scores_NR.new_empty(scores_NR.shape[0], k, dtype=torch.int64)
    sizes = (*_threads_for(scores_NR), *scores_NR.shape, k)
    call("emo_top_k", *sizes, scores_NR.contiguous(), ids_NK)
    return ids_NK


@torch.compiler.disable
def document_mass(
    logits_BTE: Tensor, segments_BT: Tensor, num_documents: int, num_routed: int
) -> Tensor:
    """Softmax of the routed logits summed over each document's tokens: float32 [B, D, R].

    Raises IndexError for a document that is not numbered 0 to `num_documents` - 1.
    """
    B, T, E = logits_BTE.shape
    if segments_BT.numel() and not _within(segments_BT, num_documents):
        raise IndexError(f"Documents of a row are numbered 0 to {num_documents - 1}.")
    first_B1 = torch.arange(B, device=logits_BTE.device).unsqueeze(1) * num_documents
    mass_BDR = logits_BTE.new_zeros(B, num_documents, num_routed)
    inputs = (logits_BTE.contiguous(), (segments_BT + first_B1).contiguous())
    sizes = (*_threads_for(logits_BTE), B * T, T, E, num_routed)
    call("emo_document_mass", *sizes, *inputs, mass_BDR)
    return mass_BDR


def _within(numbers: Tensor, end: int) -> bool:
    low, high = numbers.aminmax()
    return int(low) >= 0 and int(high) < end


class _Choice(torch.autograd.Function):
    """router.c on the logits of one layer; float32."""

    @staticmethod
    def forward(
        ctx: Any, logits_NE: Tensor, num_routed: int, slots: int, allowed_NR: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        N, E = logits_NE.shape
        scores_NR, lse_N = logits_NE.new_empty(N, num_routed), logits_NE.new_empty(N)
        ids_NK = logits_NE.new_empty(N, slots, dtype=torch.int64)
        stride, allowed_NR = _rows(allowed_NR)
        ctx.sizes = (N, E, num_routed, slots)
        inputs = (logits_NE.contiguous(), allowed_NR)
        sizes = (*_threads_for(logits_NE), *ctx.sizes, stride)
        call("emo_route_forward", *sizes, *inputs, scores_NR, lse_N, ids_NK)
        ctx.save_for_backward(scores_NR, ids_NK)
        ctx.mark_non_differentiable(ids_NK)
        ctx.set_materialize_grads(False)
        return scores_NR, scores_NR.gather(1, ids_NK), ids_NK, lse_N

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        dscores_NR: Tensor | None,
        dweights_NK: Tensor | None,
        _: None,
        dlse_N: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        scores_NR, ids_NK = ctx.saved_tensors
        N, E, _, slots = ctx.sizes
        stride, dscores_NR = _rows(dscores_NR)
        dweights_NK = _or_zeros(dweights_NK, scores_NR, N, slots)
        dlogits_NE = scores_NR.new_empty(N, E)
        gradients = (dscores_NR, dweights_NK, _or_zeros(dlse_N, scores_NR, N), dlogits_NE)
        sizes = (*_threads_for(scores_NR), *ctx.sizes, stride)
        call("emo_route_backward", *sizes, scores_NR, ids_NK, *gradients)
        return dlogits_NE, None, None, None


def _threads_for(numbers: Tensor) -> tuple[int, int]:
    """Threads for a pass over so many numbers, each of which takes the longest of all passes."""
    return threads_for(numbers.numel() * 2 * PER_NUMBER)


def _rows(values_NR: Tensor | None) -> tuple[int, Tensor | None]:
    """Items from one token's row to the next, 0 where all have the same, and the rows."""
    if values_NR is None:
        return 0, None
    if values_NR.stride(0) == 0:
        return 0, values_NR[:1].contiguous()
    return values_NR.shape[1], values_NR.contiguous()


def _or_zeros(gradient: Tensor | None, like: Tensor, *shape: int) -> Tensor:
    return like.new_zeros(shape) if gradient is None else gradient.contiguous()


@torch.compiler.disable
def choose(
    logits_NE: Tensor, num_routed: int, slots: int, allowed_NR: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores [N, R], those of the `slots` likeliest experts and their ids [N, K], lse [N].

    Scores are the softmax of the allowed routed logits, lse is their log-sum-exp. `allowed_NR` is
    bool and broadcasts to [N, R]. A row of which nothing is allowed is not a number.
    """
    assert slots <= num_routed <= logits_NE.shape[1]
    if allowed_NR is not None:
        allowed_NR = allowed_NR.expand(len(logits_NE), num_routed)
    chosen = _Choice.apply(logits_NE, num_routed, slots, allowed_NR)
    return cast(tuple[Tensor, Tensor, Tensor, Tensor], chosen)
