"""Products of a few rows with a large matrix on a CPU (see products.c).

Shapes: M rows, K summed numbers, N columns.
"""

from ctypes import c_long
from functools import lru_cache

import torch
from torch import Tensor

from model.native.compiled import call, library

MULTIPLE = 32
MAX_ROWS = 64
"""As products.c has it; a BLAS library wins back its time on more."""
MIN_NUMBERS = 2**18
"""Numbers of a matrix below which it is not worth to leave torch."""


def multiply(a_MK: Tensor, b_KN: Tensor, out_MN: Tensor) -> None:
    """out = a @ b. `a` and `out` are row by row, `b` is, or its transpose is.

    Compiled code where that is the faster way, which is on one thread; else torch.mm.
    """
    if not _fits(a_MK, b_KN):
        torch.mm(a_MK, b_KN, out=out_MN)
        return
    (M, K), N = a_MK.shape, b_KN.shape[1]
    transposed, half = int(not b_KN.is_contiguous()), int(a_MK.dtype == torch.bfloat16)
    call("emo_product", M, N, K, transposed, half, a_MK, b_KN, out_MN)


def _fits(a_MK: Tensor, b_KN: Tensor) -> bool:
    """Whether the compiled product takes these operands, and gains."""
    K, N = b_KN.shape
    # To put a matrix into another order for a single row costs more than it saves.
    fewest = 2 if b_KN.is_contiguous() else 1
    return (
        torch.get_num_threads() == 1  # threads would have to meet again after every expert
        and fewest <= a_MK.shape[0] <= MAX_ROWS
        and K * N >= MIN_NUMBERS
        and K % MULTIPLE == 0
        and N % MULTIPLE == 0
        and a_MK.dtype == b_KN.dtype
        and a_MK.is_contiguous()
        and (b_KN.is_contiguous() or b_KN.t().is_contiguous())
        and has_products(a_MK.dtype)
    )


@lru_cache
def has_products(dtype: torch.dtype) -> bool:
    """Whether the library multiplies this type, and faster than torch, on this processor."""
    loaded = library()
    if loaded is None or dtype not in (torch.float32, torch.bfloat16):
        return False
    return bool(loaded.emo_has_products(c_long(dtype == torch.bfloat16)))
