"""Root-mean-square norm: torch's own, and compiled code where it is several times as fast.

Shapes: N rows, H numbers a row.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from model.native import WIDTH
from model.native.compiled import available, call
from model.native.threads import PER_NUMBER, threads_for


class _CompiledNorm(torch.autograd.Function):
    """norm.c, float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_H: Tensor, eps: float) -> Tensor:
        x, weight_H = x.contiguous(), weight_H.contiguous()
        H = x.shape[-1]
        N = x.numel() // H
        sizes = (*threads_for(x.numel() * PER_NUMBER), N, H)
        y, inverse_N = torch.empty_like(x), x.new_empty(N)
        eps_1 = torch.tensor([eps], dtype=torch.float32)
        call("emo_norm_forward", *sizes, x, weight_H, eps_1, y, inverse_N)
        ctx.save_for_backward(x, weight_H, inverse_N)
        ctx.sizes = sizes
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_H, inverse_N = ctx.saved_tensors
        dx, dweight_H = torch.empty_like(x), torch.zeros_like(weight_H)
        inputs = (x, weight_H, inverse_N, dy.contiguous())
        call("emo_norm_backward", *ctx.sizes, *inputs, dx, dweight_H)
        return dx, dweight_H, None


class EmoRMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        """The same shape; float32 on a CPU runs compiled, all else on torch."""
        if not self._compiled_fits(x):
            return super().forward(x)
        return self._compiled(x)

    def _compiled_fits(self, x: Tensor) -> bool:
        return (
            x.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and x.shape[-1:] == self.weight.shape
            and x.shape[-1] % WIDTH == 0
            and available()
        )

    @torch.compiler.disable
    def _compiled(self, x: Tensor) -> Tensor:
        assert self.eps is not None
        normed: Tensor = _CompiledNorm.apply(x, self.weight, self.eps)
        return normed
