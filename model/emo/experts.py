"""Expert backends behind transformers' ExpertsInterface: the same numbers at different speed.

`emo_moe` is the one the models use: the kernels of `model.kernels` on CUDA; on a CPU the compiled
code of `model.native` for small experts and, without gradients, for those that are large for their
rows (`native.wide`); else `sorted_experts`. That one sorts the (token, expert) rows by expert and
runs one matrix product an expert (`native.products` where experts are large), with a hand-written
backward. Row counts of small experts in bf16 are padded to a multiple of ROW_MULTIPLE, because
oneDNN compiles a kernel for every new shape. `kernels.reference` is the plain loop that tests
compare with.

Shapes: N tokens, K experts a token, S = N*K slots, P rows (slots sorted by expert, padded),
E experts, H hidden size, I expert width.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers.activations import SiLUActivation
from transformers.integrations.moe import ExpertsInterface, _default_apply_gate

from model import native
from model.emo.restriction import active_keep_k
from model.native import wide
from model.native.products import multiply
from model.native.wide import wide_forward

if TYPE_CHECKING:
    from model.kernels.ops import Save

ROW_MULTIPLE = 32


class SortedSlots(NamedTuple):
    """Slots grouped by expert. A slot with an id outside 0..E-1 is dropped: it owns no row."""

    row_of_slot_S: Tensor  # row of each slot; dropped slots point at the last row, which is zero
    slot_of_row_P: Tensor  # slot of each row; padding rows point at slot S
    sizes: list[int]  # rows of each expert's group, padding included, then 1 for the zero row


def sort_slots(expert_ids_NK: Tensor, num_experts: int, multiple: int = 1) -> SortedSlots:
    """Sort slots by expert, each group padded to a multiple of rows; one zero row at the end."""
    flat_S = expert_ids_NK.reshape(-1)
    num_slots = flat_S.numel()
    live_S = (flat_S >= 0) & (flat_S < num_experts)
    bucket_S = torch.where(live_S, flat_S, num_experts)
    counts = torch.bincount(bucket_S, minlength=num_experts + 1)[:num_experts]
    padded = (counts + multiple - 1) // multiple * multiple
    ends = padded.cumsum(0)
    shift = F.pad(ends - padded - (counts.cumsum(0) - counts), (0, 1))
    order = bucket_S.argsort(stable=True)
    num_rows = int(ends[-1]) + 1
    row = torch.arange(num_slots) + shift[bucket_S[order]]
    row = torch.where(live_S[order], row, num_rows - 1)
    row_of_slot_S = torch.empty_like(order).scatter_(0, order, row)
    slot_of_row_P = torch.full((num_rows,), num_slots).scatter_(0, row, order)
    slot_of_row_P[-1] = num_slots
    return SortedSlots(row_of_slot_S, slot_of_row_P, [*padded.tolist(), 1])


def _per_expert_product(
    rows_PA: Tensor, weight_EAC: Sequence[Tensor], sizes: list[int], C: int
) -> Tensor:
    """rows of expert e times weight e, for all experts: [P, C]; the last (spare) row is zero."""
    out_PC = rows_PA.new_empty(rows_PA.shape[0], C)
    # One split makes all views at once: slicing in the loop would cost as much as the products.
    groups = zip(sizes, rows_PA.split(sizes), out_PC.split(sizes), strict=True)
    for weight_AC, (size, rows, out) in zip(weight_EAC, groups, strict=False):
        if size:
            multiply(rows, weight_AC, out)
    out_PC[-1] = 0
    return out_PC


def _per_expert_gradient(left_PA: Tensor, right_PC: Tensor, sizes: list[int]) -> Tensor:
    """left_e^T @ right_e for every expert e: [E, A, C]; zero for experts without rows."""
    out_EAC = left_PA.new_empty(len(sizes) - 1, left_PA.shape[1], right_PC.shape[1])
    groups = zip(out_EAC, sizes, left_PA.split(sizes), right_PC.split(sizes), strict=False)
    for out_AC, size, left, right in groups:
        if size:
            torch.mm(left.t(), right, out=out_AC)
        else:
            out_AC.zero_()
    return out_EAC


def _gather_rows(x_NH: Tensor, slot_of_row_P: Tensor, top_k: int) -> Tensor:
    """The token of every row; padding rows hold zeros, so that they add nothing to gradients."""
    padded = F.pad(x_NH, (0, 0, 0, 1))
    return padded.index_select(0, slot_of_row_P // top_k)


def _sum_slots(y_PH: Tensor, row_of_slot_S: Tensor, s_NK: Tensor | None, K: int) -> Tensor:
    """Each token's K rows (times their gate weights), added in slot order (deterministic)."""
    rows_NK = row_of_slot_S.view(-1, K)
    if s_NK is not None:
        # A dropped slot's gate weight may be anything, not a number included.
        s_NK = torch.where(rows_NK == y_PH.shape[0] - 1, 0, s_NK).to(y_PH.dtype)
    return F.embedding_bag(rows_NK, y_PH, mode="sum", per_sample_weights=s_NK)


def _sorted_forward(
    x_NH: Tensor, w13_EJH: Tensor, w2_EHI: Tensor, s_NK: Tensor, ids_NK: Tensor, keep: bool
) -> tuple[Tensor, Tensor, SortedSlots]:
    """[N, H], the pre-activations [P, J] (anything unless `keep`), the order."""
    slots = sort_slots(ids_NK, w13_EJH.shape[0], _row_multiple(w13_EJH))
    weights = (w13_EJH.transpose(1, 2).unbind(0), w2_EHI.transpose(1, 2).unbind(0))
    if _is_short(w13_EJH):
        x_PH = _gather_rows(x_NH, slots.slot_of_row_P, ids_NK.shape[1])
        h_PJ = _per_expert_product(x_PH, weights[0], slots.sizes, w13_EJH.shape[1])
        gate_PI, up_PI = h_PJ.chunk(2, -1)
        sizes, H = slots.sizes, x_NH.shape[1]
        y_PH = _per_expert_product(F.silu(gate_PI).mul_(up_PI), weights[1], sizes, H)
    else:
        y_PH, h_PJ = _expert_after_expert(x_NH, *weights, slots, ids_NK.shape[1], keep)
    return _sum_slots(y_PH, slots.row_of_slot_S, s_NK, ids_NK.shape[1]), h_PJ, slots


def _expert_after_expert(
    x_NH: Tensor,
    w13_EHJ: Sequence[Tensor],
    w2_EIH: Sequence[Tensor],
    slots: SortedSlots,
    K: int,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """Each row's output [P, H] and pre-activation; an expert's rows stay in the cache throughout.

    Many small experts would pay more for the calls than they gain by the cache.
    """
    (H, J), sizes = w13_EHJ[0].shape, slots.sizes
    most, num_rows = max(sizes), sum(sizes)
    x_pad, tokens = F.pad(x_NH, (0, 0, 0, 1)), (slots.slot_of_row_P // K).split(sizes)
    rows_MH, h_PJ = x_NH.new_empty(most, H), x_NH.new_empty(num_rows if keep else most, J)
    h = h_PJ.split(sizes) if keep else [h_PJ[:size] for size in sizes]
    y_PH = x_NH.new_empty(num_rows, H)
    groups = zip(w13_EHJ, w2_EIH, tokens, h, y_PH.split(sizes), sizes, strict=False)
    for w13_HJ, w2_IH, token, h_e, y_e, size in groups:
        if size:
            rows = torch.index_select(x_pad, 0, token, out=rows_MH[:size])
            multiply(rows, w13_HJ, h_e)
            gate, up = h_e.chunk(2, -1)
            multiply(F.silu(gate).mul_(up), w2_IH, y_e)
    # Dropped slots point at the last row, which no expert writes.
    h_PJ[-1] = y_PH[-1] = 0
    return y_PH, h_PJ


class _SortedExperts(torch.autograd.Function):
    """Sum over the K slots of s * down(silu(gate(x)) * up(x)), with gate weights s."""

    @staticmethod
    def forward(
        ctx: Any, x_NH: Tensor, w13_EJH: Tensor, w2_EHI: Tensor, s_NK: Tensor, ids_NK: Tensor
    ) -> Tensor:
        inputs = (x_NH, w13_EJH, w2_EHI, s_NK)
        out_NH, h_PJ, slots = _sorted_forward(*inputs, ids_NK, keep=True)
        ctx.save_for_backward(*inputs, h_PJ, *slots[:2])
        ctx.sizes = slots.sizes
        return out_NH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_NH: Tensor) -> tuple[Tensor | None, ...]:
        x_NH, w13_EJH, w2_EHI, s_NK, h_PJ, row_of_slot_S, slot_of_row_P = ctx.saved_tensors
        sizes, K = ctx.sizes, s_NK.shape[1]
        s_P1 = F.pad(s_NK.reshape(-1), (0, 1))[slot_of_row_P].unsqueeze(1).to(x_NH.dtype)
        dy_PH = _gather_rows(dout_NH.to(x_NH.dtype), slot_of_row_P, K)
        dsa_PI = _per_expert_product(dy_PH, w2_EHI.unbind(0), sizes, w2_EHI.shape[2])
        ds_P, sa_PI, dh_PJ = _activation_backward(h_PJ, dsa_PI, s_P1)
        dw2_EHI = _per_expert_gradient(dy_PH, sa_PI, sizes)
        dw13_EJH = _per_expert_gradient(dh_PJ, _gather_rows(x_NH, slot_of_row_P, K), sizes)
        dx_PH = _per_expert_product(dh_PJ, w13_EJH.unbind(0), sizes, x_NH.shape[1])
        dx_NH = _sum_slots(dx_PH, row_of_slot_S, None, K)
        ds_NK = ds_P[row_of_slot_S].view_as(s_NK).to(s_NK.dtype)
        return dx_NH, dw13_EJH, dw2_EHI, ds_NK, None


def _activation_backward(
    h_PJ: Tensor, dsa_PI: Tensor, s_P1: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of every row's gate weight [P], s * activation [P, I], gradient of h [P, J].

    `dsa` is the gradient of s * activation; it is overwritten.
    """
    (gate_PI, up_PI), dh_PJ = h_PJ.chunk(2, -1), torch.empty_like(h_PJ)
    dgate_PI, dup_PI = dh_PJ.chunk(2, -1)
    silu_PI = F.silu(gate_PI)
    a_PI = silu_PI * up_PI
    ds_P = (dsa_PI * a_PI).sum(-1, dtype=torch.float32)
    da_PI = dsa_PI.mul_(s_P1)
    torch.mul(da_PI, silu_PI, out=dup_PI)
    torch.ops.aten.silu_backward(da_PI.mul_(up_PI), gate_PI, grad_input=dgate_PI)
    return ds_P, a_PI.mul_(s_P1), dh_PJ


class _NativeExperts(torch.autograd.Function):
    """The same sum in compiled code (experts.c); rows stay in the cache between products."""

    @staticmethod
    def forward(
        ctx: Any,
        x_NH: Tensor,
        w13_EJH: Tensor,
        w2_EHI: Tensor,
        s_NK: Tensor,
        ids_NK: Tensor,
        half: bool,
    ) -> Tensor:
        out_NH, saved = native.experts_forward(x_NH, w13_EJH, w2_EHI, s_NK, ids_NK, True, half)
        ctx.save_for_backward(*saved)
        ctx.half = half
        return out_NH

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout_NH: Tensor) -> tuple[Tensor | None, ...]:
        return *native.experts_backward(ctx.saved_tensors, dout_NH, ctx.half), None, None


def native_experts(
    x_NH: Tensor, w13_EJH: Tensor, w2_EHI: Tensor, s_NK: Tensor, ids_NK: Tensor
) -> Tensor:
    """SwiGLU experts in compiled code: [N, H] in x's dtype, which is w's; see `native.fits`.

    Sums are float32. So are the operands of products: bf16 ones are widened, all at once where
    gradients are wanted. Under bf16 autocast operands in float32 are rounded to bf16, where that is
    faster.
    """
    inputs, ids_NK = (x_NH, w13_EJH, w2_EHI, s_NK), ids_NK.long()
    half = x_NH.dtype == torch.float32 and _casts_to_bf16() and native.half_gains()
    if _learning(*inputs):
        widened = (tensor.float() for tensor in inputs)
        return _NativeExperts.apply(*widened, ids_NK, half).to(x_NH.dtype)
    return native.experts_forward(*inputs, ids_NK, keep=False, half=half)[0]


def _casts_to_bf16() -> bool:
    autocast = torch.is_autocast_enabled("cpu")
    return autocast and torch.get_autocast_dtype("cpu") == torch.bfloat16


def _learning(*inputs: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)


def _row_multiple(w13_EJH: Tensor) -> int:
    """Padding of row counts: pays where products are short and oneDNN compiles for every shape."""
    return ROW_MULTIPLE if _is_short(w13_EJH) and w13_EJH.dtype == torch.bfloat16 else 1


def _is_short(w13_EJH: Tensor) -> bool:
    """Whether an expert is so small that calls, not arithmetic, take the time."""
    return w13_EJH[0].numel() <= native.MAX_WEIGHTS


def sorted_experts(
    x_NH: Tensor, w13_EJH: Tensor, w2_EHI: Tensor, s_NK: Tensor, ids_NK: Tensor
) -> Tensor:
    """SwiGLU experts on a CPU: [N, H] in x's dtype; computes in the autocast dtype if one is set.

    `w13` holds gate over up, [E, 2I, H]; `ids` outside 0..E-1 drop their slot.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x_NH.dtype
    inputs = (x_NH.to(dtype), w13_EJH.to(dtype), w2_EHI.to(dtype), s_NK)
    if _learning(*inputs):
        return _SortedExperts.apply(*inputs, ids_NK).to(x_NH.dtype)
    return _sorted_forward(*inputs, ids_NK, keep=False)[0].to(x_NH.dtype)


def is_plain_swiglu(experts: Any) -> bool:
    """Whether a fused-expert module computes down(silu(gate) * up) and nothing else.

    gpt-oss has biases and interleaves gate and up, others have another activation or a norm.
    """
    own_gate = getattr(type(experts), "_apply_gate", _default_apply_gate)
    layout = {"has_gate": True, "is_concatenated": True, "has_bias": False, "is_transposed": False}
    layout["has_post_expert_norm"] = False
    return (
        isinstance(experts.act_fn, torch.nn.SiLU | SiLUActivation)
        and own_gate is _default_apply_gate
        and all(getattr(experts, name, wanted) == wanted for name, wanted in layout.items())
    )


def _cuda_experts(
    x_NH: Tensor, w13_EJH: Tensor, w2_EHI: Tensor, s_NK: Tensor, ids_NK: Tensor, save: "Save" = "xh"
) -> Tensor:
    """The Triton kernels (a plain loop in float64), in the autocast dtype if one is set.

    With an expert subset active they take the tiles that fit the rows of so few experts. `save`
    says what they keep for the backward pass.
    """
    # Triton is imported where it is used: a CPU-only reader of this module never needs it.
    from model.kernels.ops import moe

    return moe(x_NH, w13_EJH, w2_EHI, s_NK, ids_NK, save=save, live=active_keep_k())


# torch.compile would break its graph at every expert, and trace each anew for any number of rows.
@torch.compiler.disable
def _cpu_experts(
    x_NH: Tensor, w13_EJH: Tensor, w2_EHI: Tensor, s_NK: Tensor, ids_NK: Tensor
) -> Tensor:
    """Compiled code where it fits, under autocast too: it is the faster of the two."""
    if _runs_wide(x_NH, w13_EJH, w2_EHI, s_NK, ids_NK):
        return wide_forward(x_NH, w13_EJH, w2_EHI, s_NK, ids_NK)
    if x_NH.dtype == w13_EJH.dtype and native.fits(w13_EJH, w2_EHI):
        return native_experts(x_NH, w13_EJH, w2_EHI, s_NK, ids_NK)
    return sorted_experts(x_NH, w13_EJH, w2_EHI, s_NK, ids_NK)


def _runs_wide(x_NH: Tensor, w13_EJH: Tensor, w2_EHI: Tensor, s_NK: Tensor, ids_NK: Tensor) -> bool:
    """Whether experts are large for their rows, and nothing is learned or cast."""
    return (
        wide.fits(x_NH, w13_EJH, w2_EHI, ids_NK)
        and not _learning(x_NH, w13_EJH, w2_EHI, s_NK)
        and not torch.is_autocast_enabled("cpu")
    )


def emo_moe(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """ExpertsInterface entry: Triton kernels on CUDA, compiled code or sorted rows on a CPU.

    Experts that are not plain SwiGLU, and other devices, get transformers' grouped_mm. Experts
    with `save = "x"` keep less for the backward pass on CUDA (`model.kernels.ops.moe`).
    """
    operands = (self.gate_up_proj, self.down_proj, top_k_weights, top_k_index)
    if hidden_states.device.type == "cuda" and is_plain_swiglu(self):
        return _cuda_experts(hidden_states, *operands, save=getattr(self, "save", "xh"))
    if hidden_states.device.type == "cpu" and is_plain_swiglu(self):
        return _cpu_experts(hidden_states, *operands)
    grouped_mm = ExpertsInterface._global_mapping["grouped_mm"]
    return grouped_mm(self, hidden_states, top_k_index, top_k_weights)


ExpertsInterface.register("emo_moe", emo_moe)
