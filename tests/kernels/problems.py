"""Random expert layers of unit scale, their float64 truth, and errors that do not depend on scale.

Shapes: T tokens, K experts a token, E experts, H hidden size, I expert width.
"""

import contextlib
from typing import NamedTuple

import torch

from model.kernels import ops

BARS = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}
BLOCK = 16


class Problem(NamedTuple):
    tensors: list  # x, w13, w2, s
    idx: torch.Tensor
    upstream: torch.Tensor


def make(
    T=37,
    E=5,
    K=3,
    H=40,
    I=24,  # noqa: E741
    dtype=torch.float32,
    idx=None,
    seed=0,
    gates=None,
    weights=None,
):
    """Operands rounded to dtype; every activation and output is of order one.

    The gate weights are float32 and the experts' weights are as x unless told otherwise.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=1.0):
        return torch.randn(shape, generator=generator) * scale

    tensors = [normal(T, H), normal(E, 2 * I, H, scale=H**-0.5), normal(E, H, I, scale=I**-0.5)]
    tensors = [t.to(dtype) for t in tensors] + [normal(T, K).to(gates or torch.float32)]
    tensors[1:3] = [t.to(weights or dtype) for t in tensors[1:3]]
    if idx is None:
        idx = torch.randint(0, E, (T, K), generator=generator)
    return Problem([t.requires_grad_() for t in tensors], idx, normal(T, H).to(dtype))


def run(problem, backend="triton", **options):
    """Output and the gradients of x, w13, w2 and s."""
    out = ops.moe(*problem.tensors, problem.idx, backend=backend, **options)
    return [out.detach(), *torch.autograd.grad(out, problem.tensors, problem.upstream)]


def truth(problem, **options):
    """The same in float64, from the same rounded operands."""
    tensors = [t.detach().double().requires_grad_() for t in problem.tensors]
    exact = Problem(tensors, problem.idx, problem.upstream.double())
    return run(exact, "reference", **options)


def error(got, want):
    """Relative Frobenius error; inf where the truth is all zero and the result is not."""
    distance, size = float((got.double() - want).norm()), float(want.norm())
    if distance == 0:
        return 0.0
    return distance / size if size else float("inf")


def block_error(got, want):
    """The worst relative error of any 16 neighbouring columns, so that one bad block shows."""
    pairs = zip(got.split(BLOCK, -1), want.split(BLOCK, -1), strict=True)
    return max((error(a, b) for a, b in pairs), default=0.0)


def assert_close(got, want, bar):
    names = ("out", "dx", "dw13", "dw2", "ds")
    for name, a, b in zip(names, got, want, strict=True):
        assert a.shape == b.shape, name
        assert error(a, b) <= bar, f"{name}: {error(a, b):.2e} > {bar:.0e}"
        assert block_error(a, b) <= 3 * bar, f"{name}: one block is off by {block_error(a, b):.2e}"


def assert_same_bits(first, second):
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


@contextlib.contextmanager
def poisoned_scratch():
    """Every uninitialised tensor is NaN, so that a row nobody wrote cannot be read unnoticed."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
