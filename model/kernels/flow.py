"""The forward and backward pass as launches: allocates, runs the kernels in order, nothing else.

Imported only where Triton runs: on CUDA, or in tests under Triton's interpreter. Scratch is freed
as soon as its last reader is launched; only what `forward` returns outlives it.

Shapes: T tokens, K experts a token, S slots, P physical experts, H hidden size, I expert width,
J = 2I, B column blocks of the activation gradient, D documents a row, R routed experts.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from model.kernels import backward, forward, metadata, plans, pool, sorting
from model.kernels.metadata import SlotOrder, Tiles


class Saved(NamedTuple):
    """What the forward pass leaves for the backward pass besides its inputs."""

    h_SJ: Tensor  # empty when not saved
    order_S: Tensor
    starts_P1: Tensor


class Gradients(NamedTuple):
    """Empty where the gradient was not asked for."""

    x_TH: Tensor
    w13_PJH: Tensor
    w2_PHI: Tensor
    s_TK: Tensor


def table_name(device: torch.device) -> str:
    """The architecture's table; on a CPU only Triton's interpreter can run."""
    if device.type == "cuda":
        return plans.architecture(torch.cuda.get_device_capability(device)[0])
    if not triton.knobs.runtime.interpret:
        raise ValueError("The triton backend needs a CUDA device; use grouped_mm on this one.")
    return "interpreter"


def _layer(x_TH: Tensor, w2_PHI: Tensor, num_slots: int) -> plans.Layer:
    P, H, I = w2_PHI.shape  # noqa: E741
    K = num_slots // max(x_TH.shape[0], 1)
    return plans.Layer(H, I, max(K, 1), P, x_TH.dtype != torch.float32)


def _run(
    module: Any, launch: plans.Launch, programs: int, *tensors: Tensor, **scalars: int
) -> None:
    """Launch `programs` times the plan's blocks."""
    _start(getattr(module, launch.kernel), (programs * launch.blocks,), launch, *tensors, **scalars)


def _sum_slots(launch: plans.Launch, y_SH: Tensor, s: Tensor, bucket_S: Tensor, T: int) -> Tensor:
    out_TH = y_SH.new_empty(T, y_SH.shape[1])
    operands = (y_SH, s, bucket_S, out_TH)
    _start(forward.sum_slots_kernel, (T, launch.blocks), launch, *operands)
    return out_TH


def _start(
    kernel: Any, grid: tuple[int, ...], launch: plans.Launch, *tensors: Tensor, **scalars: int
) -> None:
    """The one place where kernels start; an empty grid starts nothing."""
    if all(grid):
        launch, operands = _describe(kernel.arg_names, launch, tensors)
        with _on(tensors[0].device):
            kernel[grid](*operands, **scalars, **launch.constants, **launch.options())


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be the one that holds the tensors."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _describe(
    names: list[str], launch: plans.Launch, tensors: tuple[Tensor, ...]
) -> tuple[plans.Launch, list[Any]]:
    """Tensor descriptors in place of the tensors that the launch loads through them.

    A descriptor must start at a multiple of 16 bytes, which a view of weights need not: then the
    launch is the one on pointers.
    """
    blocks, operands = launch.described(), dict(zip(names, tensors, strict=False))
    if any(operands[name].data_ptr() % plans.DESCRIPTOR_ALIGNMENT for name in blocks):
        return launch.on_pointers(), list(tensors)
    made = {name: TensorDescriptor.from_tensor(operands[name], blocks[name]) for name in blocks}
    return launch, list((operands | made).values())


def sort_slots(bucket_S: Tensor, num_experts: int, BM: int) -> tuple[SlotOrder, Tiles]:
    """As `metadata.sort_slots_by_expert` and `tile_map`, but for rows that no expert owns.

    They are not written, as none of the other kernels reads them.
    """
    S = bucket_S.shape[0]
    order_S, starts_P1 = torch.empty_like(bucket_S), bucket_S.new_empty(num_experts + 1)
    if S > plans.FEW_SLOTS:
        _sort_many(bucket_S, order_S, starts_P1)
        return SlotOrder(order_S, starts_P1), cut_tiles(starts_P1, S, BM)
    tiles = _unwritten_tiles(starts_P1, S, BM)
    launch, M = plans.sort_few_launch(num_experts, BM), tiles.expert_M.shape[0]
    _run(sorting, launch, 1, bucket_S, order_S, starts_P1, *tiles, S=S, M=M)
    return SlotOrder(order_S, starts_P1), tiles


def _sort_many(bucket_S: Tensor, order_S: Tensor, starts_P1: Tensor) -> None:
    S, P = bucket_S.shape[0], starts_P1.shape[0] - 1
    count, add, place = plans.sort_many_launches(P)
    C = plans.cdiv(S, count.constants["BS"] * count.constants["STEPS"])
    counts_PC, counts_P = bucket_S.new_empty(P, C), bucket_S.new_empty(P)
    _run(sorting, count, C, bucket_S, counts_PC, S=S, C=C)
    _run(sorting, add, P, counts_PC, counts_P, C=C)
    _run(sorting, place, C, bucket_S, counts_PC, counts_P, order_S, starts_P1, S=S, C=C)


def cut_tiles(starts_P1: Tensor, num_slots: int, BM: int) -> Tiles:
    """As `metadata.tile_map`."""
    tiles = _unwritten_tiles(starts_P1, num_slots, BM)
    launch, M = plans.cut_tiles_launch(starts_P1.shape[0] - 1, BM), tiles.expert_M.shape[0]
    _run(sorting, launch, plans.cdiv(M, launch.constants["BS"]), starts_P1, *tiles, M=M)
    return tiles


def _unwritten_tiles(starts_P1: Tensor, num_slots: int, BM: int) -> Tiles:
    M = metadata.num_tiles(num_slots, starts_P1.shape[0] - 1, BM)
    return Tiles(starts_P1.new_empty(M), starts_P1.new_empty(M))


def run_forward(
    x_TH: Tensor,
    w13_PJH: Tensor,
    w2_PHI: Tensor,
    s_TK: Tensor,
    bucket_S: Tensor,
    save_h: bool,
    live: int | None = None,
) -> tuple[Tensor, Saved]:
    """[T, H] in x's dtype, and what the backward pass needs; `live` as in `plans.forward_plan`.

    Weights of another type than x are converted one after the other and not kept.
    """
    S, (P, H, I) = bucket_S.shape[0], w2_PHI.shape  # noqa: E741
    layer = _layer(x_TH, w2_PHI, S)
    plan = plans.forward_plan(table_name(x_TH.device), layer, S, save_h, live)
    (order_S, starts_P1), tiles = sort_slots(bucket_S, P, plan.BM)
    h_SJ = x_TH.new_empty(S if save_h else 0, 2 * I)
    a_SI = x_TH.new_empty(S, I)
    count = tiles.expert_M.shape[0]
    _run(
        forward,
        plan.up,
        count,
        x_TH,
        w13_PJH.to(x_TH.dtype),
        order_S,
        starts_P1,
        *tiles,
        h_SJ,
        a_SI,
    )
    y_SH = x_TH.new_empty(S, H)
    _run(forward, plan.down, count, a_SI, w2_PHI.to(x_TH.dtype), order_S, starts_P1, *tiles, y_SH)
    del a_SI
    out_TH = _sum_slots(plan.combine, y_SH, s_TK, bucket_S, x_TH.shape[0])
    return out_TH, Saved(h_SJ, order_S, starts_P1)


class _Backward:
    """The launches of one backward pass, which share most of their operands."""

    def __init__(
        self,
        x_TH: Tensor,
        w13_PJH: Tensor,
        w2_PHI: Tensor,
        s_TK: Tensor,
        bucket_S: Tensor,
        detach_S: Tensor | None,
        saved: Saved,
        live: int | None = None,
    ) -> None:
        self.x_TH, self.w13_PJH, self.w2_PHI, self.s_TK = x_TH, w13_PJH, w2_PHI, s_TK
        self.bucket_S, self.detach_S, self.saved = bucket_S, detach_S, saved
        self.S = bucket_S.shape[0]
        layer = _layer(x_TH, w2_PHI, self.S)
        arch = table_name(x_TH.device)
        self.plan = plans.backward_plan(arch, layer, self.S, detach_S is not None, live)
        self.tiles: Tiles = cut_tiles(saved.starts_P1, self.S, self.plan.BM)
        self.num_tiles = self.tiles.expert_M.shape[0]
        self.sorted = (saved.order_S, saved.starts_P1)

    def h(self) -> Tensor:
        """The saved pre-activation, or the same bits computed again."""
        if self.saved.h_SJ.shape[0] == self.S:
            return self.saved.h_SJ
        h_SJ = self.x_TH.new_empty(self.S, self.w13_PJH.shape[1])
        launch, rows = self.plan.recompute, (*self.sorted, *self.tiles)
        # No activation is stored: its pointer is never used.
        w13_PJH = self.w13_PJH.to(self.x_TH.dtype)
        _run(forward, launch, self.num_tiles, self.x_TH, w13_PJH, *rows, h_SJ, h_SJ)
        return h_SJ

    def act_grad(self, dout_TH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """dh [S, J] and s * a [S, I] in expert order, and ds [S] in slot order."""
        h_SJ = self.h()
        launch = self.plan.act_grad
        dh_SJ, sa_SI = torch.empty_like(h_SJ), h_SJ.new_empty(self.S, h_SJ.shape[1] // 2)
        ds_SB = h_SJ.new_empty(self.S, launch.blocks, dtype=torch.float32)
        detach_S = self.bucket_S if self.detach_S is None else self.detach_S
        operands = (dout_TH, self.w2_PHI.to(dout_TH.dtype), h_SJ, self.s_TK, detach_S)
        rows = (*self.sorted, *self.tiles)
        _run(backward, launch, self.num_tiles, *operands, *rows, dh_SJ, sa_SI, ds_SB)
        # Dropped slots were not written: their gate weight has no gradient.
        ds_S = torch.where(self.bucket_S >= 0, ds_SB.sum(1), 0.0)
        return dh_SJ, sa_SI, ds_S.to(self.s_TK.dtype)

    def weight_grads(self, dout_TH: Tensor, dh_SJ: Tensor, sa_SI: Tensor) -> tuple[Tensor, Tensor]:
        dw2_PHI, dw13_PJH = torch.empty_like(self.w2_PHI), torch.empty_like(self.w13_PJH)
        P = dw2_PHI.shape[0]
        _run(backward, self.plan.dw2, P, dout_TH, sa_SI, *self.sorted, dw2_PHI)
        _run(backward, self.plan.dw13, P, dh_SJ, self.x_TH, *self.sorted, dw13_PJH)
        return dw13_PJH, dw2_PHI

    def input_grad(self, dh_SJ: Tensor) -> Tensor:
        dx_SH = self.x_TH.new_empty(self.S, self.x_TH.shape[1])
        operands = (dh_SJ, self.w13_PJH.to(dh_SJ.dtype), *self.sorted, *self.tiles, dx_SH)
        _run(forward, self.plan.input_grad, self.num_tiles, *operands)
        T = self.x_TH.shape[0]
        return _sum_slots(self.plan.reduce, dx_SH, self.s_TK, self.bucket_S, T)


def run_backward(
    dout_TH: Tensor,
    x_TH: Tensor,
    w13_PJH: Tensor,
    w2_PHI: Tensor,
    s_TK: Tensor,
    bucket_S: Tensor,
    detach_S: Tensor | None,
    saved: Saved,
    needs_x: bool,
    needs_weights: bool,
    live: int | None = None,
) -> Gradients:
    """Gradients of all four inputs, each in its input's dtype.

    Those not needed stay empty (the gate's costs nothing).
    """
    run = _Backward(x_TH, w13_PJH, w2_PHI, s_TK, bucket_S, detach_S, saved, live)
    dh_SJ, sa_SI, ds_S = run.act_grad(dout_TH)
    dw13, dw2 = x_TH.new_empty(0), x_TH.new_empty(0)
    if needs_weights:
        dw13, dw2 = run.weight_grads(dout_TH, dh_SJ, sa_SI)
    del sa_SI
    dx_TH = run.input_grad(dh_SJ) if needs_x else x_TH.new_empty(0)
    return Gradients(dx_TH, dw13, dw2, ds_S.view_as(s_TK))


def run_document_pools(
    logits_BTE: Tensor, segments_BT: Tensor, sizes_BD: Tensor, num_routed: int
) -> Tensor:
    """Kernel P: bool [B, T, R], what each token's document may use."""
    B, T, E = logits_BTE.shape
    D = sizes_BD.shape[1]
    allowed_BTR = torch.zeros(B, T, num_routed, dtype=torch.int8, device=logits_BTE.device)
    document_BD = torch.arange(D, device=segments_BT.device).expand(B, D).contiguous()
    segments_BT = segments_BT.contiguous()
    starts_BD = torch.searchsorted(segments_BT, document_BD, out_int32=True)
    ends_BD = torch.searchsorted(segments_BT, document_BD, right=True, out_int32=True)
    launch = plans.pool_launch(num_routed, E)
    tensors = (logits_BTE.contiguous(), starts_BD, ends_BD, sizes_BD.int().contiguous())
    _run(pool, launch, B * D, *tensors, allowed_BTR, T=T, D=D)
    return allowed_BTR.bool()
