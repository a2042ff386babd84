"""How many threads a compiled function takes, and from where (threads.h)."""

from ctypes import CDLL, c_void_p, cast
from functools import lru_cache

import torch

FEWEST_PRODUCTS = 2**24
"""Multiplications below which other threads are not worth to be woken."""
PER_NUMBER = 16
"""Multiplications that take as long as to work off one number of a pass over memory."""


def threads_for(products: int) -> tuple[int, int]:
    """The first two arguments of a compiled function with so many multiplications to do.

    They are the address of what runs work on threads, and how many: torch's own, if it is worth it.
    """
    return _pool(), torch.get_num_threads() if products >= FEWEST_PRODUCTS else 1


@lru_cache
def _pool() -> int:
    """Address of what runs work on the OpenMP threads that torch's operations use; 0 without.

    GNU's runtime has this function, and LLVM's and Intel's under the same name. Threads of our own
    would compete with those, which spin for milliseconds after each operation of torch's.
    """
    try:
        return cast(CDLL(None).GOMP_parallel, c_void_p).value or 0
    except (OSError, TypeError, AttributeError):  # no such symbol; no name for the process itself
        return 0
