"""A layer of experts that are large for their rows on a CPU, forward (see wide.c).

Shapes: N tokens, K experts a token, E experts, H hidden size, I expert width, J = 2*I.
"""

from ctypes import c_long
from functools import lru_cache

import torch
from torch import Tensor

from model.native import MAX_WEIGHTS, WIDTH
from model.native.compiled import call, library
from model.native.threads import threads_for

MOST_ROWS = 64
"""Rows of the average expert above which a BLAS library's blocked products are faster."""
MOST_ROWS_OF_SMALL = 6
"""The same of experts of at most MAX_WEIGHTS, and of experts.c, which puts them in order first."""


def fits(x_NH: Tensor, w13_EJH: Tensor, w2_EHI: Tensor, ids_NK: Tensor) -> bool:
    """Whether `wide_forward` takes these, and gains: rows an expert, type, sizes, layout."""
    E, J, H = w13_EJH.shape
    most = MOST_ROWS if J * H > MAX_WEIGHTS else MOST_ROWS_OF_SMALL
    return (
        ids_NK.numel() <= most * E
        and H % WIDTH == 0
        and (J // 2) % WIDTH == 0
        and x_NH.dtype == w13_EJH.dtype == w2_EHI.dtype
        and w13_EJH.is_contiguous()
        and w2_EHI.is_contiguous()
        and _gains(x_NH.dtype)
    )


@lru_cache
def _gains(dtype: torch.dtype) -> bool:
    loaded = library()
    if loaded is None or dtype not in (torch.float32, torch.bfloat16):
        return False
    return bool(loaded.emo_has_wide(c_long(dtype == torch.bfloat16)))


@lru_cache
def _kind(dtype: torch.dtype) -> int:
    """How wide.c multiplies weights of this type on this processor: a number of its own."""
    loaded = library()
    assert loaded is not None
    return int(loaded.emo_wide_kind(c_long(dtype == torch.bfloat16)))


def wide_forward(
    x_NH: Tensor, w13_EJH: Tensor, w2_EHI: Tensor, s_NK: Tensor, ids_NK: Tensor
) -> Tensor:
    """Sum over the K slots of s * down(silu(gate(x)) * up(x)): [N, H] in x's dtype.

    Threads are torch's own, and their number. Ids outside 0..E-1 drop their slot. Equal inputs give
    equal bits, whatever the number of threads.
    """
    E, J, H = w13_EJH.shape
    N, K = ids_NK.shape
    out_NH = torch.empty_like(x_NH, memory_format=torch.contiguous_format)
    sizes = (*threads_for(ids_NK.numel() * J * H), N, K, E, H, J // 2, _kind(x_NH.dtype))
    inputs = (x_NH.contiguous(), w13_EJH, w2_EHI, s_NK.float().contiguous())
    call("emo_wide_forward", *sizes, *inputs, ids_NK.long().contiguous(), out_NH)
    return out_NH
