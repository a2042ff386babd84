"""The expert layer as a plain loop: what every other way to compute it is compared with.

Shapes: N tokens, K experts a token, E experts, H hidden size, I expert width, J = 2*I.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def reference_experts(
    x_NH: Tensor,
    w13_EJH: Tensor,
    w2_EHI: Tensor,
    s_NK: Tensor,
    ids_NK: Tensor,
    activation: Callable[[Tensor], Tensor] = F.silu,
) -> Tensor:
    """The same sum as a plain loop over experts, any dtype, differentiated by autograd."""
    out_NH = torch.zeros_like(x_NH)
    for e, (w13_JH, w2_HI) in enumerate(zip(w13_EJH.unbind(0), w2_EHI.unbind(0), strict=True)):
        token, slot = torch.where(ids_NK == e)
        gate, up = F.linear(x_NH[token], w13_JH).chunk(2, -1)
        y = F.linear(activation(gate) * up, w2_HI) * s_NK[token, slot, None]
        out_NH = out_NH.index_add(0, token, y.to(out_NH.dtype))
    return out_NH
