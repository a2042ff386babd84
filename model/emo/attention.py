"""Attention of one layer; on a CPU, for whole texts, compiled code that never leaves a document.

Shapes: B rows, T tokens a row, A heads, D numbers a head, H hidden size.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.models.llama.modeling_llama import LlamaAttention

from model.emo.routing import positions_in_segment
from model.native import WIDTH
from model.native.compiled import available, call
from model.native.threads import threads_for

COMPILED_DTYPES = (torch.float32, torch.bfloat16)
WITHOUT_EFFECT = {
    *("position_embeddings", "position_ids", "cache_position", "use_cache", "num_items_in_batch"),
    *("output_router_logits", "output_hidden_states", "output_attentions"),
}
"""Arguments that do not change how transformers attends by sdpa."""
HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_forward_hooks_always_called", "_forward_hooks_with_kwargs"),
)


class _DocumentAttention(torch.autograd.Function):
    """attention.c on queries, keys and values of one product; bf16 or float32."""

    @staticmethod
    def forward(
        ctx: Any, qkv_BT3AD: Tensor, cosine_BTD: Tensor, sine_BTD: Tensor, first_BT: Tensor
    ) -> Tensor:
        B, T, _, A, D = qkv_BT3AD.shape
        half = int(qkv_BT3AD.dtype == torch.bfloat16)
        sizes = (*threads_for(B * A * T * T * D), B, T, A, D, half)
        inputs = (qkv_BT3AD.contiguous(), cosine_BTD, sine_BTD, first_BT)
        out_BTH = qkv_BT3AD.new_empty(B, T, A * D)
        lse_BAT = torch.empty(B, A, T, dtype=torch.float32)
        call("emo_attention_forward", *sizes, *inputs, out_BTH, lse_BAT)
        ctx.save_for_backward(*inputs, out_BTH, lse_BAT)
        ctx.sizes = sizes
        return out_BTH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_BTH: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        dqkv_BT3AD = torch.empty_like(saved[0])
        call("emo_attention_backward", *ctx.sizes, *saved, dout_BTH.contiguous(), dqkv_BT3AD)
        return dqkv_BT3AD, None, None, None


class EmoAttention(LlamaAttention):
    """Llama attention without QK-norm, as the released models have it."""

    def forward(
        self, hidden_states: Tensor, segments_BT: Tensor | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """Attended states [B, T, H] and, where transformers computes them, attention weights.

        `segments_BT` numbers the documents of packed rows (`model.emo.routing`) where the mask that
        transformers made says just that; the mask serves where compiled code does not.
        """
        if not self._whole_texts(segments_BT, kwargs) or not self._compiled_fits(hidden_states):
            attended: tuple[Tensor, Tensor | None] = super().forward(hidden_states, **kwargs)
            return attended
        attended_BTH = self._within_documents(
            hidden_states, segments_BT, *kwargs["position_embeddings"]
        )
        return self.o_proj(attended_BTH), None

    def _whole_texts(self, segments_BT: Tensor | None, kwargs: dict[str, Any]) -> bool:
        """Whether every token sees just its document so far, and nothing else is asked for."""
        asked = {name for name, value in kwargs.items() if value is not None} - WITHOUT_EFFECT
        if segments_BT is not None:
            asked.discard("attention_mask")
        return not asked and self.is_causal and getattr(self.config, "is_causal", True)

    def _compiled_fits(self, hidden_BTH: Tensor) -> bool:
        projections = (self.q_proj, self.k_proj, self.v_proj)
        return (
            hidden_BTH.device.type == "cpu"
            and hidden_BTH.dtype == torch.float32
            and _autocast_dtype() in COMPILED_DTYPES
            and self.head_dim % WIDTH == 0
            and self.scaling == self.head_dim**-0.5
            and self.num_key_value_groups == 1
            and not self.attention_dropout
            and self.config._attn_implementation == "sdpa"
            and all(_is_plain(projection) for projection in projections)
            and available()
        )

    @torch.compiler.disable
    def _within_documents(
        self, hidden_BTH: Tensor, segments_BT: Tensor | None, cosine: Tensor, sine: Tensor
    ) -> Tensor:
        B, T, _ = hidden_BTH.shape
        weight = torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])
        qkv_BT3AD = F.linear(hidden_BTH, weight).view(B, T, 3, -1, self.head_dim)
        angles = (
            table.float().expand(B, T, self.head_dim).contiguous() for table in (cosine, sine)
        )
        attended: Tensor = _DocumentAttention.apply(
            qkv_BT3AD, *angles, _first_tokens(B, T, segments_BT)
        )
        return attended


def _autocast_dtype() -> torch.dtype:
    """What products of float32 come out as."""
    enabled = torch.is_autocast_enabled("cpu")
    return torch.get_autocast_dtype("cpu") if enabled else torch.float32


def _is_plain(projection: nn.Module) -> bool:
    """Whether its weight tells all: no adapter around it, no hook, no bias, not offloaded."""
    if type(projection) is not nn.Linear or len(list(projection.parameters())) != 1:
        return False
    hooked = "forward" in vars(projection) or any(getattr(projection, name) for name in HOOKS)
    return not hooked and projection.weight.is_cpu and projection.weight.dtype == torch.float32


def _first_tokens(B: int, T: int, segments_BT: Tensor | None) -> Tensor:
    """Where in its row the document of each token begins: int32 [B, T]."""
    if segments_BT is None:
        return torch.zeros(B, T, dtype=torch.int32)
    return (torch.arange(T) - positions_in_segment(segments_BT)).int().contiguous()
