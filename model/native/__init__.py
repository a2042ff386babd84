"""A layer's experts and top-k as machine code, compiled from experts.c when first needed.

A C compiler (`cc`, or the one that CC names) makes a library for the processor at hand and keeps it
in the user's cache folder; without a compiler `library()` is None and callers stay with torch.

Shapes: N tokens, K experts a token, S = N*K slots, E experts, R of them routed, H hidden size,
I expert width, J = 2*I.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("experts.c")
FLAGS = ["-O3", "-march=native", "-fPIC", "-shared"]
WIDTH = 32
"""Hidden size and expert width must be multiples of this (as in experts.c)."""
MAX_WEIGHTS = 2**16
"""Weights of one expert above which blocked products of a BLAS library are faster."""

log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled library, or None (with one line in the log) where it cannot be had."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        log.info("No C compiler: experts run on torch's products, about half as fast.")
        return None
    try:
        return ctypes.CDLL(str(_compiled(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("experts.c did not compile or load (%s); experts run on torch.", error)
        return None


def _compiled(compiler: str) -> Path:
    """Path of the library for this source, compiler and processor; made if it is not there."""
    key = "\n".join([SOURCE.read_text(), *FLAGS, _version(compiler), _processor()])
    name = f"experts-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    path = _cache_folder() / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / name
            command = [compiler, *FLAGS, "-o", str(made), str(SOURCE), "-lm"]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            made.replace(path)
    return path


def _cache_folder() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "emo-viz"


def _version(compiler: str) -> str:
    command = [compiler, "--version"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def _processor() -> str:
    """What -march=native depends on: a home folder may be shared between machines."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    flags = [line for line in lines if line.startswith(("flags", "Features"))][:1]
    return "\n".join([platform.machine(), platform.processor(), *flags])


def experts_forward(
    x_NH: Tensor, w13_EJH: Tensor, w2_EHI: Tensor, s_NK: Tensor, ids_NK: Tensor, keep: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Sum over the K slots of s * down(silu(gate(x)) * up(x)): [N, H], and what backward needs.

    Float32; ids outside 0..E-1 drop their slot. Without `keep` no pre-activations are stored.
    """
    E, J, H = w13_EJH.shape
    S, K = ids_NK.numel(), ids_NK.shape[1]
    x_NH, s_NK = x_NH.contiguous(), s_NK.contiguous()
    order_S = torch.empty(S, dtype=torch.int32)
    offsets = torch.empty(E + 1, dtype=torch.int32)
    call("emo_sort_slots", S, E, ids_NK.contiguous(), order_S, offsets)
    h_SJ = x_NH.new_empty(S, J) if keep else None
    out_NH = torch.zeros_like(x_NH)
    inputs = (x_NH, w13_EJH, w2_EHI, s_NK, order_S, offsets)
    call("emo_experts_forward", K, E, H, J // 2, *inputs, h_SJ, out_NH)
    return out_NH, inputs if h_SJ is None else (*inputs, h_SJ)


def experts_backward(saved: tuple[Tensor, ...], dout_NH: Tensor) -> tuple[Tensor, ...]:
    """Gradients of x, w13, w2 and s, from what `experts_forward` kept."""
    x_NH, w13_EJH, w2_EHI, s_NK = saved[:4]
    E, J, H = w13_EJH.shape
    grads = tuple(torch.zeros_like(tensor) for tensor in (x_NH, w13_EJH, w2_EHI, s_NK))
    sizes = (s_NK.shape[1], E, H, J // 2)
    call("emo_experts_backward", *sizes, *saved, dout_NH.contiguous(), *grads)
    return grads


@torch.compiler.disable
def top_k_ids(scores_NR: Tensor, k: int) -> Tensor:
    """Ids of the k largest scores of each row, falling: int64 [N, k]. Ties go to the lower id.

    torch.topk, many times faster for a few out of a hundred on a CPU.
    """
    if scores_NR.device.type != "cpu" or scores_NR.dtype != torch.float32 or library() is None:
        return scores_NR.topk(k, dim=-1).indices
    ids_NK = torch.empty(scores_NR.shape[0], k, dtype=torch.int64)
    call("emo_top_k", *scores_NR.shape, k, scores_NR.contiguous(), ids_NK)
    return ids_NK


def fits(w13_EJH: Tensor, w2_EHI: Tensor) -> bool:
    """Whether the library handles these weights, and well: sizes, type, layout."""
    _, J, H = w13_EJH.shape
    return (
        H % WIDTH == 0
        and (J // 2) % WIDTH == 0
        and J * H <= MAX_WEIGHTS
        and w13_EJH.dtype == w2_EHI.dtype == torch.float32
        and w13_EJH.is_contiguous()
        and w2_EHI.is_contiguous()
        and library() is not None
    )


def call(name: str, *arguments: Tensor | int | None) -> None:
    """Call one function of the library; tensors go as pointers, integers as C longs, None as 0."""
    loaded = library()
    assert loaded is not None
    values = [
        ctypes.c_long(value)
        if isinstance(value, int)
        else ctypes.c_void_p(None if value is None else value.data_ptr())
        for value in arguments
    ]
    if getattr(loaded, name)(*values):
        raise MemoryError(f"{name}: no memory left for a block of rows.")
