"""Ways to run 128 small experts on a CPU: python -m benchmarks.expert_backends

One nano expert layer, forward and forward+backward, at a training step's tokens and at one text's.
Candidates: compiled code (with a compiler), sorted rows with one product an expert (fp32, bf16),
`F.grouped_mm` (fp32, bf16), padded `bmm` (fp32), and the plain loop. The first is what ships.
"""

from collections.abc import Callable

import click
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.timing import interleaved, report
from model import native
from model.emo.experts import native_experts, sort_slots, sorted_experts
from model.emo.routing import route
from model.kernels.reference import reference_experts

H, I, E, K = 128, 32, 128, 8  # noqa: E741
Experts = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


@click.command()
@click.option("--rounds", default=5)
@click.option("--threads", default=1)
def main(rounds: int, threads: int) -> None:
    """Print medians and ratios."""
    torch.set_num_threads(threads)
    for num_tokens in (16_384, 256):
        tensors, ids_NK, upstream = _problem(num_tokens)
        for backward in (False, True):
            sides = {
                name: _run(experts, tensors, ids_NK, upstream, backward)
                for name, experts in CANDIDATES.items()
            }
            title = f"{num_tokens:,} tokens, forward{'+backward' * backward}"
            report(title, interleaved(sides, rounds), next(iter(CANDIDATES)))


def _problem(num_tokens: int) -> tuple[list[Tensor], Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, std: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator) * std

    routed = route(normal(num_tokens, E) + normal(E), 1, K)
    tensors = [normal(num_tokens, H), normal(E, 2 * I, H, std=0.02), normal(E, H, I, std=0.02)]
    tensors = [t.requires_grad_() for t in (*tensors, routed.gate_weights_NK)]
    return tensors, routed.expert_ids_NK, normal(num_tokens, H)


def _run(
    experts: Experts, tensors: list[Tensor], ids_NK: Tensor, upstream: Tensor, backward: bool
) -> Callable[[], object]:
    def run() -> None:
        with torch.set_grad_enabled(backward):
            out = experts(*tensors, ids_NK)
            if backward:
                torch.autograd.grad(out, tensors, upstream)

    return run


def in_bf16(experts: Experts) -> Experts:
    def run(*args: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return experts(*args)

    return run


def grouped(dtype: torch.dtype) -> Experts:
    def run(x_NH: Tensor, w13: Tensor, w2: Tensor, s_NK: Tensor, ids_NK: Tensor) -> Tensor:
        order = ids_NK.flatten().argsort(stable=True)
        counts = torch.bincount(ids_NK.flatten(), minlength=E)
        ends = counts.cumsum(0).int()
        rows = x_NH.to(dtype)[order // K]
        gate, up = F.grouped_mm(rows, w13.to(dtype).transpose(1, 2), offs=ends).chunk(2, -1)
        y = F.grouped_mm(F.silu(gate) * up, w2.to(dtype).transpose(1, 2), offs=ends)
        y = y * s_NK.flatten()[order, None].to(dtype)
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(order.numel()))
        return y[inverse].view(-1, K, H).sum(1).to(x_NH.dtype)

    return run


def padded_bmm(x_NH: Tensor, w13: Tensor, w2: Tensor, s_NK: Tensor, ids_NK: Tensor) -> Tensor:
    """Every expert padded to the busiest routed one; the shared expert runs densely."""
    routed_ids = ids_NK[:, :-1]
    slots = sort_slots(routed_ids, E - 1)
    counts = torch.tensor(slots.sizes[:-1])
    starts = counts.cumsum(0) - counts
    width = int(counts.max())
    offset = torch.arange(width)
    row = torch.where(offset < counts[:, None], starts[:, None] + offset, int(counts.sum()))
    slot_EW = slots.slot_of_row_P[row]
    x_pad = F.pad(x_NH, (0, 0, 0, 1))
    gate, up = torch.bmm(x_pad[slot_EW // (K - 1)], w13[:-1].transpose(1, 2)).chunk(2, -1)
    y_EWH = torch.bmm(F.silu(gate) * up, w2[:-1].transpose(1, 2))
    expert_of_slot = routed_ids.flatten()
    position = slots.row_of_slot_S - starts[expert_of_slot]
    y_SH = y_EWH[expert_of_slot, position] * s_NK[:, :-1].reshape(-1, 1)
    gate, up = F.linear(x_NH, w13[-1]).chunk(2, -1)
    return y_SH.view(-1, K - 1, H).sum(1) + F.linear(F.silu(gate) * up, w2[-1]) * s_NK[:, -1:]


COMPILED = {"compiled code, fp32": native_experts} if native.library() else {}
CANDIDATES: dict[str, Experts] = COMPILED | {
    "sorted rows, fp32": sorted_experts,
    "sorted rows, bf16": in_bf16(sorted_experts),
    "grouped_mm, bf16": grouped(torch.bfloat16),
    "grouped_mm, fp32": grouped(torch.float32),
    "padded bmm, fp32": padded_bmm,
    "plain loop, fp32": reference_experts,
}


if __name__ == "__main__":
    main()
