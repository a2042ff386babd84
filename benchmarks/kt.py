"""kt-kernel's bf16 experts (KTransformers) as one more side of a benchmark, where it is installed.

It is no dependency: `pip install --no-deps kt-kernel==0.7.2 gguf`, best in an environment of their
own that sees this one's torch. It has no fp32 experts, and keeps a copy of the weights in its own
order.

Shapes: T tokens, K experts a token, E experts, H hidden size, I expert width, J = 2*I.
"""

from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

BACKENDS = ("AMXBF16_MOE", "AVX2BF16_MOE")
"""In the package's own order; the first runs on AVX-512 where there is no AMX."""


def kt_sides(
    w13_EJH: Tensor, w2_EHI: Tensor, x_TH: Tensor, ids_TK: Tensor, s_TK: Tensor, threads: int
) -> dict[str, Callable[[], object]]:
    """A forward pass by the bf16 backend that the installed package would take; or nothing."""
    if find_spec("kt_kernel") is None or w13_EJH.dtype != torch.bfloat16:
        return {}
    moe = _module().moe
    inputs = (x_TH.detach(), ids_TK, s_TK.detach().float())
    backend = next(getattr(moe, name) for name in BACKENDS if hasattr(moe, name))
    return {"kt-kernel": _side(backend, w13_EJH, w2_EHI, inputs, threads)}


@lru_cache
def _module() -> Any:
    from kt_kernel import kt_kernel_ext

    return kt_kernel_ext


@lru_cache
def _pool(threads: int) -> Any:
    return _module().CPUInfer(threads)


def _side(
    backend: Any, w13_EJH: Tensor, w2_EHI: Tensor, inputs: tuple[Tensor, ...], threads: int
) -> Callable[[], object]:
    (E, J, H), (x_TH, ids_TK, s_TK), pool = w13_EJH.shape, inputs, _pool(threads)
    config = _module().moe.MOEConfig(E, ids_TK.shape[1], H, J // 2, 0)
    config.max_len, config.pool = max(len(x_TH), 32), pool.backend_
    gate, up = (half.detach().contiguous() for half in w13_EJH.chunk(2, 1))
    config.gate_proj, config.up_proj = gate.data_ptr(), up.data_ptr()
    config.down_proj, order = w2_EHI.data_ptr(), torch.arange(E)
    experts = backend(config)
    pool.submit(experts.load_weights_task(order.data_ptr()))
    pool.sync()
    tokens, out_TH = torch.tensor([len(x_TH)], dtype=torch.int32), torch.empty_like(x_TH)
    read = (ids_TK, s_TK, x_TH, out_TH)  # kept by `run`: kt-kernel knows addresses alone

    def run() -> Tensor:
        pointers = [tensor.data_ptr() for tensor in read]
        task = experts.forward_task(tokens.data_ptr(), ids_TK.shape[1], *pointers, False)
        pool.submit(task)
        pool.sync()
        return out_TH

    return run
