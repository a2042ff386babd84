"""Next-token loss straight from hidden states, without ever holding all logits.

Shapes: N tokens, H hidden size, V vocabulary, C tokens of a chunk.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_TOKENS = 1024


class _LinearCrossEntropy(torch.autograd.Function):
    """Computes loss and gradients chunk by chunk in the forward pass, so logits live briefly."""

    @staticmethod
    def forward(ctx: Any, h_NH: Tensor, w_VH: Tensor, labels_N: Tensor, z_coef: float) -> Tensor:
        dtype = h_NH.dtype
        if torch.is_autocast_enabled(h_NH.device.type):
            dtype = torch.get_autocast_dtype(h_NH.device.type)
        h, w = h_NH.to(dtype), w_VH.to(dtype)
        dh_NH, dw_VH = torch.empty_like(h), torch.zeros_like(w_VH)
        total = h_NH.new_zeros(())
        scale = 1.0 / h.shape[0]
        for start in range(0, h.shape[0], CHUNK_TOKENS):
            chunk = slice(start, start + CHUNK_TOKENS)
            logits_CV = (h[chunk] @ w.t()).float()
            label_C1 = labels_N[chunk].unsqueeze(1)
            lse_C1 = logits_CV.logsumexp(1, keepdim=True)
            total += (lse_C1 - logits_CV.gather(1, label_C1)).sum() + z_coef * lse_C1.square().sum()
            probs_CV = logits_CV.sub_(lse_C1).exp_()
            dlogits_CV = probs_CV.mul_(1 + 2 * z_coef * lse_C1)
            dlogits_CV.scatter_add_(1, label_C1, torch.full_like(lse_C1, -1.0))
            dlogits_CV = dlogits_CV.mul_(scale).to(dtype)
            torch.mm(dlogits_CV, w, out=dh_NH[chunk])
            dw_VH += dlogits_CV.t() @ h[chunk]
        ctx.save_for_backward(dh_NH.to(h_NH.dtype), dw_VH)
        return total * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        dh_NH, dw_VH = ctx.saved_tensors
        return dh_NH * dloss, dw_VH * dloss, None, None


def linear_cross_entropy(
    hidden_NH: Tensor, head_VH: Tensor, labels_N: Tensor, z_coef: float = 0.0
) -> Tensor:
    """Mean of -log p(label) + z_coef * logsumexp(logits)^2, in nats a token.

    Matrix products run in the autocast dtype if one is set, the softmax in float32.
    """
    return _LinearCrossEntropy.apply(hidden_NH, head_VH, labels_N, z_coef)
