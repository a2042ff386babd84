"""Next-token loss straight from hidden states, without ever holding all logits.

Shapes: N tokens, H hidden size, V vocabulary, C tokens of a chunk.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from model.native import WIDTH
from model.native.compiled import available, call
from model.native.threads import PER_NUMBER, threads_for

COMPILED_DTYPES = (torch.float32, torch.bfloat16)
CHUNK_TOKENS = {"cpu": 256}
"""By device: on a CPU so few that a chunk's logits stay in a core's cache between passes."""
IGNORED = -100
"""The label of a token that has no loss."""


class _LinearCrossEntropy(torch.autograd.Function):
    """Computes loss and gradients chunk by chunk in the forward pass, so logits live briefly."""

    @staticmethod
    def forward(ctx: Any, h_NH: Tensor, w_VH: Tensor, labels_N: Tensor, z_coef: float) -> Tensor:
        dtype = h_NH.dtype
        if torch.is_autocast_enabled(h_NH.device.type):
            dtype = torch.get_autocast_dtype(h_NH.device.type)
        h, w = h_NH.to(dtype), w_VH.to(dtype)
        # Sums over many chunks are not kept in half precision.
        exact = torch.promote_types(w_VH.dtype, torch.float32)
        dh_NH, dw_VH = torch.empty_like(h), _zeros_to_sum_in(w, exact)
        total = h_NH.new_zeros((), dtype=exact)
        scale = 1.0 / h.shape[0]
        size = min(CHUNK_TOKENS.get(h.device.type, 4096), h.shape[0])
        logits_CV = h.new_empty(size, w.shape[0])
        for h_CH, dh_CH, labels_C in zip(
            h.split(size), dh_NH.split(size), labels_N.split(size), strict=True
        ):
            torch.mm(h_CH, w.t(), out=logits_CV[: len(h_CH)])
            loss, dlogits_CV = chunk_loss(logits_CV[: len(h_CH)], labels_C, z_coef, scale)
            total += loss
            torch.mm(dlogits_CV, w, out=dh_CH)
            if dtype == exact:
                dw_VH.addmm_(dlogits_CV.t(), h_CH)
            else:
                dw_VH += dlogits_CV.t() @ h_CH
        ctx.save_for_backward(dh_NH.to(h_NH.dtype), dw_VH.to(w_VH.dtype).contiguous())
        return total * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dloss: Tensor) -> tuple[Tensor | None, ...]:
        dh_NH, dw_VH = ctx.saved_tensors
        return dh_NH * dloss, dw_VH * dloss, None, None


def _zeros_to_sum_in(w_VH: Tensor, dtype: torch.dtype) -> Tensor:
    """[V, H], on a CPU column by column if products are of that type: they are a tenth faster."""
    if w_VH.is_cpu and w_VH.dtype == dtype:
        return w_VH.new_zeros(w_VH.shape[::-1], dtype=dtype).t()
    return torch.zeros_like(w_VH, dtype=dtype)


def chunk_loss(
    logits_CV: Tensor, labels_C: Tensor, z_coef: float, scale: float
) -> tuple[Tensor, Tensor]:
    """Summed loss of a chunk, and `scale` times its gradient, which takes the logits' place."""
    fits = logits_CV.is_cpu and logits_CV.dtype in COMPILED_DTYPES and logits_CV.is_contiguous()
    if fits and logits_CV.shape[1] % WIDTH == 0 and available():
        return _compiled_chunk_loss(logits_CV, labels_C, z_coef, scale)
    return _torch_chunk_loss(logits_CV, labels_C, z_coef, scale)


def _compiled_chunk_loss(
    logits_CV: Tensor, labels_C: Tensor, z_coef: float, scale: float
) -> tuple[Tensor, Tensor]:
    if labels_C.min() < 0 or labels_C.max() >= logits_CV.shape[1]:
        raise IndexError(f"Labels must be 0 to {logits_CV.shape[1] - 1}, the model's vocabulary.")
    loss = torch.empty((), dtype=torch.float32)
    scales = torch.tensor([scale, z_coef], dtype=torch.float32)
    half = int(logits_CV.dtype == torch.bfloat16)
    sizes = (*threads_for(logits_CV.numel() * 2 * PER_NUMBER), *logits_CV.shape, half)
    call("emo_cross_entropy", *sizes, logits_CV, labels_C.contiguous(), scales, loss)
    return loss, logits_CV


def _torch_chunk_loss(
    logits_CV: Tensor, labels_C: Tensor, z_coef: float, scale: float
) -> tuple[Tensor, Tensor]:
    dtype, logits_CV = logits_CV.dtype, logits_CV.float()
    labels_C1 = labels_C.unsqueeze(1)
    label_logits_C1, top_C1 = logits_CV.gather(1, labels_C1), logits_CV.amax(1, True)
    exp_CV = logits_CV.sub_(top_C1).exp_()
    sum_C1 = exp_CV.sum(1, keepdim=True)
    lse_C1 = sum_C1.log() + top_C1
    loss = (lse_C1 - label_logits_C1).sum() + z_coef * lse_C1.square().sum()
    dlogits_CV = exp_CV.mul_((1 + 2 * z_coef * lse_C1) / sum_C1)
    dlogits_CV.scatter_add_(1, labels_C1, torch.full_like(lse_C1, -1.0))
    return loss, dlogits_CV.mul_(scale).to(dtype)


@torch.compiler.disable
def linear_cross_entropy(
    hidden_NH: Tensor, head_VH: Tensor, labels_N: Tensor, z_coef: float = 0.0
) -> Tensor:
    """Mean of -log p(label) + z_coef * logsumexp(logits)^2, in nats a token.

    Tokens with the label IGNORED have no part in it; where none has another, it is 0. Matrix
    products run in the autocast dtype if one is set, the softmax in float32. Raises IndexError or
    RuntimeError for another label outside the vocabulary.
    """
    labels_N = labels_N.long()
    counted_N = labels_N != IGNORED
    # Whoever records a CUDA graph has looked at the labels; nothing can be read back there.
    if not _recording(labels_N) and not counted_N.all():
        hidden_NH, labels_N = hidden_NH[counted_N], labels_N[counted_N]
    if not len(labels_N):
        return (hidden_NH.sum() + head_VH.sum()) * 0
    return _LinearCrossEntropy.apply(hidden_NH, head_VH, labels_N, z_coef)


def _recording(tensor: Tensor) -> bool:
    return tensor.is_cuda and torch.cuda.is_current_stream_capturing()
