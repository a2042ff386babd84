"""A layer's experts in compiled code, on a CPU (see model.native.compiled).

Shapes: N tokens, K experts a token, S = N*K slots, E experts, H hidden size,
I expert width, J = 2*I.
"""

from functools import lru_cache

import torch
from torch import Tensor

from model.native.compiled import available, call, library
from model.native.threads import threads_for

WIDTH = 32
"""Row lengths must be multiples of this: two of the widest vectors (simd.h)."""
MAX_WEIGHTS = 2**16
"""Weights of one expert above which blocked products of a BLAS library are faster."""


def experts_forward(
    x_NH: Tensor,
    w13_EJH: Tensor,
    w2_EHI: Tensor,
    s_NK: Tensor,
    ids_NK: Tensor,
    keep: bool,
    half: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Sum over the K slots of s * down(silu(gate(x)) * up(x)): [N, H], and what backward needs.

    Float32; with `half` the operands of each product are rounded to bf16, where the processor
    multiplies it. Without `keep` no pre-activations are stored, and x and the weights may be bf16:
    they are read as they are, and only results are rounded. Ids outside 0..E-1 drop their slot.
    """
    E, J, H = w13_EJH.shape
    (N, K), S = ids_NK.shape, ids_NK.numel()
    x_NH, s_NK = x_NH.contiguous(), s_NK.float().contiguous()
    order_S = torch.empty(S, dtype=torch.int32)
    offsets = torch.empty(E + 1, dtype=torch.int32)
    call("emo_sort_slots", S, E, ids_NK.contiguous(), order_S, offsets)
    h_SJ = x_NH.new_empty(S, J) if keep else None
    out_NH = torch.empty_like(x_NH)
    inputs = (x_NH, w13_EJH, w2_EHI, s_NK, order_S, offsets)
    stored = int(x_NH.dtype == torch.bfloat16)
    sizes = (*threads_for(S * J * H), N, K, E, H, J // 2, int(half), stored)
    call("emo_experts_forward", *sizes, *inputs, h_SJ, out_NH)
    return out_NH, inputs if h_SJ is None else (*inputs, h_SJ)


def experts_backward(
    saved: tuple[Tensor, ...], dout_NH: Tensor, half: bool = False
) -> tuple[Tensor, ...]:
    """Gradients of x, w13, w2 and s, from what `experts_forward` kept."""
    x_NH, w13_EJH, w2_EHI, s_NK = saved[:4]
    E, J, H = w13_EJH.shape
    grads = tuple(torch.zeros_like(tensor) for tensor in (x_NH, w13_EJH, w2_EHI, s_NK))
    sizes = (*threads_for(s_NK.numel() * J * H), *s_NK.shape, E, H, J // 2, int(half))
    call("emo_experts_backward", *sizes, *saved, dout_NH.contiguous(), *grads)
    return grads


def fits(w13_EJH: Tensor, w2_EHI: Tensor) -> bool:
    """Whether the library handles these weights, and well: sizes, type, layout."""
    _, J, H = w13_EJH.shape
    return (
        H % WIDTH == 0
        and (J // 2) % WIDTH == 0
        and J * H <= MAX_WEIGHTS
        and w13_EJH.dtype == w2_EHI.dtype
        and w13_EJH.dtype in (torch.float32, torch.bfloat16)
        and w13_EJH.is_contiguous()
        and w2_EHI.is_contiguous()
        and available()
    )


@lru_cache
def half_gains() -> bool:
    """Whether this processor's products of bf16 are faster than those of float32."""
    loaded = library()
    return loaded is not None and bool(loaded.emo_half_gains())
