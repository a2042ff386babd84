"""`moe`: the expert layer behind one call, with three interchangeable backends.

`triton` runs the kernels of this folder (CUDA; under TRITON_INTERPRET=1 also a CPU, for tests),
`grouped_mm` torch's grouped product on any device, `reference` a plain loop in any dtype, float64
included. The triton backend is registered with torch.library, so that torch.compile keeps it in one
graph and activation checkpointing can replay it.

Shapes: T tokens, K experts a token, S = T*K slots, E logical and P physical experts, H hidden size,
I expert width, J = 2I.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from model.kernels import metadata
from model.kernels.reference import reference_experts

Backend = Literal["triton", "grouped_mm", "reference"]
Save = Literal["xh", "x"]
KERNEL_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def moe(
    x_TH: Tensor,
    w13_PJH: Tensor,
    w2_PHI: Tensor,
    s_TK: Tensor,
    idx_TK: Tensor,
    phys_E: Tensor | None = None,
    detach_TK: Tensor | None = None,
    save: Save = "xh",
    backend: Backend | None = None,
    live: int | None = None,
) -> Tensor:
    """Sum over each token's slots of s * w2[e] @ (silu(gate) * up): [T, H] in x's dtype.

    `w13` holds gate over up. A slot whose id is outside 0..E-1 is dropped: it computes nothing and
    has no gradient. `phys` maps an expert to its row of the weights, or to -1 if the weights do not
    hold it (its slots are dropped), so that a subset can live in a small buffer; the gradients of
    the weights come back in the same rows. `detach` marks slots that let no gradient into their
    expert and the input (the gate weight still gets its own). `save="x"` computes the
    pre-activation again in the backward pass instead of keeping it (triton; 4 KiB instead of
    36 KiB a token at H 2048, I 1024, top-8). `live` says how many experts the ids can name at most,
    where a mask leaves fewer than the weights hold: it chooses faster tiles, and no number depends
    on its being right beyond rounding.

    Under autocast the products take its dtype. Weights may be float32 where the products are not
    (masters): the kernels convert them for the length of a pass, keep no copy, and give float32
    gradients. Raises ValueError for shapes that do not fit.
    """
    _check(x_TH, w13_PJH, w2_PHI, s_TK, idx_TK, save)
    computed_TH = x_TH.to(_product_dtype(x_TH))
    with torch.autocast(x_TH.device.type, enabled=False):
        bucket_S = metadata.physical_experts(idx_TK, w2_PHI.shape[0], phys_E)
        backend = backend or default_backend(x_TH.device, computed_TH.dtype)
        operands = (computed_TH, w13_PJH, w2_PHI, s_TK, bucket_S)
        if backend == "triton":
            return _triton_moe(*operands, detach_TK, save, live).to(x_TH.dtype)
        return _plain_moe(backend, *operands, detach_TK).to(x_TH.dtype)


def _product_dtype(x: Tensor) -> torch.dtype:
    """x's own dtype, or that of autocast, which leaves float64 alone."""
    autocast = torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64
    return torch.get_autocast_dtype(x.device.type) if autocast else x.dtype


def _plain_moe(
    backend: str,
    x_TH: Tensor,
    w13_PJH: Tensor,
    w2_PHI: Tensor,
    s_TK: Tensor,
    bucket_S: Tensor,
    detach_TK: Tensor | None,
) -> Tensor:
    """What autograd differentiates."""
    if backend not in PLAIN:
        raise ValueError(f"Unknown backend {backend!r}: triton, grouped_mm or reference.")
    w13_PJH, w2_PHI = w13_PJH.to(x_TH.dtype), w2_PHI.to(x_TH.dtype)
    run, bucket_TK = PLAIN[backend], bucket_S.view_as(s_TK)
    if detach_TK is None:
        return run(x_TH, w13_PJH, w2_PHI, s_TK, bucket_TK)
    kept_TK = torch.where(detach_TK, metadata.DROPPED, bucket_TK)
    cut_TK = torch.where(detach_TK, bucket_TK, metadata.DROPPED)
    kept_TH = run(x_TH, w13_PJH, w2_PHI, s_TK, kept_TK)
    return kept_TH + run(x_TH.detach(), w13_PJH.detach(), w2_PHI.detach(), s_TK, cut_TK)


def default_backend(device: torch.device, dtype: torch.dtype) -> Backend:
    """triton on CUDA, grouped_mm elsewhere, and reference where neither knows the number format."""
    if dtype not in KERNEL_DTYPES:
        return "reference"
    return "triton" if device.type == "cuda" else "grouped_mm"


def _check(x: Tensor, w13: Tensor, w2: Tensor, s: Tensor, idx: Tensor, save: str) -> None:
    P, H, I = w2.shape  # noqa: E741
    if w13.shape != (P, 2 * I, H) or x.dim() != 2 or x.shape[1] != H:
        raise ValueError(
            f"w13 {tuple(w13.shape)}, w2 {tuple(w2.shape)} and x {tuple(x.shape)} do not fit: "
            "they must be [P, 2I, H], [P, H, I] and [T, H]."
        )
    if s.shape != idx.shape or idx.dim() != 2 or idx.shape[0] != x.shape[0] or not idx.shape[1]:
        raise ValueError(
            f"Gate weights {tuple(s.shape)} and expert ids {tuple(idx.shape)} must both be [T, K] "
            f"with T = {x.shape[0]} and K at least 1."
        )
    if w13.dtype != w2.dtype or w13.dtype not in (_product_dtype(x), torch.float32):
        raise ValueError(
            f"x is {x.dtype}, w13 {w13.dtype}, w2 {w2.dtype}: they must agree, or the weights both "
            "be float32."
        )
    if save not in ("xh", "x"):
        raise ValueError(f"Unknown save option {save!r}: xh or x.")


def _triton_moe(
    x: Tensor,
    w13: Tensor,
    w2: Tensor,
    s: Tensor,
    bucket: Tensor,
    detach: Tensor | None,
    save: Save,
    live: int | None,
) -> Tensor:
    if x.dtype not in KERNEL_DTYPES:
        raise ValueError(f"The triton backend has no kernels for {x.dtype}; use reference.")
    learning = torch.is_grad_enabled() and any(t.requires_grad for t in (x, w13, w2, s))
    detach_S = None if detach is None else detach.reshape(-1).to(torch.int8)
    tensors = (t.contiguous() for t in (x, w13, w2, s))
    return forward_op(*tensors, bucket, detach_S, learning and save == "xh", live)[0]


@torch.library.custom_op("emo_kernels::moe_forward", mutates_args=())
def forward_op(
    x_TH: Tensor,
    w13_PJH: Tensor,
    w2_PHI: Tensor,
    s_TK: Tensor,
    bucket_S: Tensor,
    detach_S: Tensor | None,
    save_h: bool,
    live: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output, and the h, order and starts that the backward pass reads."""
    from model.kernels.flow import run_forward

    out_TH, saved = run_forward(x_TH, w13_PJH, w2_PHI, s_TK, bucket_S, save_h, live)
    return out_TH, *saved


@forward_op.register_fake
def _(
    x_TH: Tensor,
    w13_PJH: Tensor,
    w2_PHI: Tensor,
    s_TK: Tensor,
    bucket_S: Tensor,
    detach_S: Tensor | None,
    save_h: bool,
    live: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    S = bucket_S.shape[0]
    return (
        torch.empty_like(x_TH),
        x_TH.new_empty(S if save_h else 0, w13_PJH.shape[1]),
        bucket_S.new_empty(S),
        bucket_S.new_empty(w2_PHI.shape[0] + 1),
    )


@torch.library.custom_op("emo_kernels::moe_backward", mutates_args=())
def backward_op(
    dout_TH: Tensor,
    x_TH: Tensor,
    w13_PJH: Tensor,
    w2_PHI: Tensor,
    s_TK: Tensor,
    bucket_S: Tensor,
    detach_S: Tensor | None,
    h_SJ: Tensor,
    order_S: Tensor,
    starts_P1: Tensor,
    needs_x: bool,
    needs_weights: bool,
    live: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, w13, w2 and s; empty where not needed."""
    from model.kernels.flow import Saved, run_backward

    saved = Saved(h_SJ, order_S, starts_P1)
    inputs = (x_TH, w13_PJH, w2_PHI, s_TK, bucket_S, detach_S, saved)
    found = run_backward(dout_TH.contiguous(), *inputs, needs_x, needs_weights, live)
    return found.x_TH, found.w13_PJH, found.w2_PHI, found.s_TK


@backward_op.register_fake
def _(
    dout_TH: Tensor,
    x_TH: Tensor,
    w13_PJH: Tensor,
    w2_PHI: Tensor,
    s_TK: Tensor,
    bucket_S: Tensor,
    detach_S: Tensor | None,
    h_SJ: Tensor,
    order_S: Tensor,
    starts_P1: Tensor,
    needs_x: bool,
    needs_weights: bool,
    live: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return (
        torch.empty_like(x_TH) if needs_x else x_TH.new_empty(0),
        torch.empty_like(w13_PJH) if needs_weights else x_TH.new_empty(0),
        torch.empty_like(w2_PHI) if needs_weights else x_TH.new_empty(0),
        torch.empty_like(s_TK),
    )


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, detach_S, _, ctx.live = inputs
    ctx.detached = detach_S is not None
    kept = (*tensors, *output[1:], *((detach_S,) if ctx.detached else ()))
    ctx.save_for_backward(*kept)
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, dout_TH: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    x, w13, w2, s, bucket, h, order, starts, *rest = ctx.saved_tensors
    needs = ctx.needs_input_grad[:4]
    detach = rest[0] if ctx.detached else None
    saved = (x, w13, w2, s, bucket, detach, h, order, starts)
    gradients = backward_op(dout_TH, *saved, needs[0], needs[1] or needs[2], ctx.live)
    wanted = (g if need else None for g, need in zip(gradients, needs, strict=True))
    return (*wanted, None, None, None, None)


forward_op.register_autograd(_backward, setup_context=_save_for_backward)


def grouped_mm_moe(x_TH: Tensor, w13: Tensor, w2: Tensor, s_TK: Tensor, idx_TK: Tensor) -> Tensor:
    """Sorted rows through torch's grouped product, differentiated by autograd.

    Rows past the last group are uninitialised in its output and in its input gradient, so both
    ends are masked.
    """
    T, K = idx_TK.shape
    slots = metadata.sort_slots_by_expert(idx_TK.reshape(-1), w2.shape[0])
    row_S1 = torch.arange(T * K, device=x_TH.device).unsqueeze(1)
    live_S1 = row_S1 < slots.starts_P1[-1]
    ends_P = slots.starts_P1[1:]
    order_S = slots.order_S.long()
    x_SH = torch.where(live_S1, x_TH[order_S // K], 0)
    gate, up = F.grouped_mm(x_SH, w13.transpose(1, 2), offs=ends_P).chunk(2, -1)
    y_SH = F.grouped_mm(F.silu(gate) * up, w2.transpose(1, 2), offs=ends_P)
    y_SH = torch.where(live_S1, y_SH, 0) * s_TK.reshape(-1)[order_S, None].to(x_TH.dtype)
    row_of_slot_S = torch.empty_like(order_S).scatter_(0, order_S, row_S1.squeeze(1))
    return y_SH[row_of_slot_S].view(T, K, -1).sum(1)


def reference_moe(x_TH: Tensor, w13: Tensor, w2: Tensor, s_TK: Tensor, idx_TK: Tensor) -> Tensor:
    """A loop over experts."""

    return reference_experts(x_TH, w13, w2, s_TK, idx_TK)


PLAIN: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "grouped_mm": grouped_mm_moe,
    "reference": reference_moe,
}


@torch.library.custom_op("emo_kernels::document_pools", mutates_args=())
def document_pools(
    logits_BTE: Tensor, segments_BT: Tensor, sizes_BD: Tensor, num_routed: int
) -> Tensor:
    """Each token's document pool from router logits: bool [B, T, R], without a gradient.

    The first `num_routed` columns of the logits are routed experts. Ties go to the lower id.
    Triton only: CUDA, or a CPU under the interpreter.
    """
    from model.kernels.flow import run_document_pools

    return run_document_pools(logits_BTE, segments_BT, sizes_BD, num_routed)


@document_pools.register_fake
def _(logits_BTE: Tensor, segments_BT: Tensor, sizes_BD: Tensor, num_routed: int) -> Tensor:
    B, T, _ = logits_BTE.shape
    return logits_BTE.new_empty(B, T, num_routed, dtype=torch.bool)
