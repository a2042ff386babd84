"""Our CPU experts against others': python -m benchmarks.expert_layer

One expert layer of nano size (training step, one text) and of the 1B/14B size, forward and
forward+backward, in one run against transformers' `grouped_mm`, its `eager` loop and `batched_mm`
(one text only: it copies a weight matrix a slot), and against kt-kernel's experts where it is
installed (`benchmarks.kt`). Prints medians and, last, our ratio to the best of them. At the 1B/14B
size the eager loop is left out: its backward allocates a gradient of all experts for each expert,
minutes a run.

Freed memory stays with the process, as in `make train-nano`: faulting in gigabytes of gradients
anew costs both sides more than the experts, and never the same.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import click
import torch
from torch import Tensor

from benchmarks.kt import kt_sides
from benchmarks.timing import interleaved, prepare, report
from model.emo.config import EmoConfig
from model.emo.modeling import EmoExperts
from model.emo.routing import route


@dataclass(frozen=True)
class Size:
    hidden: int
    width: int
    tokens: int
    dtype: torch.dtype
    peers: tuple[str, ...] = ("grouped_mm", "eager")


SIZES = {
    "nano, training step": Size(128, 32, 16_384, torch.float32),
    "nano, one text": Size(128, 32, 256, torch.float32, ("grouped_mm", "eager", "batched_mm")),
    "nano, one text, bf16": Size(128, 32, 256, torch.bfloat16),
    "1B/14B layer, bf16": Size(2048, 1024, 512, torch.bfloat16, ("grouped_mm",)),
    "1B/14B layer, fp32": Size(2048, 1024, 512, torch.float32, ("grouped_mm",)),
}
E, K = 128, 8
OURS = "ours"
REST = 0.1
"""Seconds after which threads of kt-kernel and of torch that wait for work sleep, caches cold."""


@click.command()
@click.option("--rounds", default=5)
@click.option("--threads", default=1)
@click.option("--size", "names", multiple=True, default=tuple(SIZES), show_default=True)
@click.option(
    "--tokens", type=int, multiple=True, help="Instead of a size's own; any number of times."
)
@click.option("--forward", is_flag=True, help="The forward pass alone.")
@click.option("--quantile", default=0.5, help="Of the rounds: the median, or 0 for the fastest.")
@click.option(
    "--rest", default=REST, show_default=True, help="Seconds between calls, beside kt-kernel."
)
@click.option("--avx2", is_flag=True, help="All sides without AVX-512, as on a smaller processor.")
def main(
    rounds: int,
    threads: int,
    names: tuple[str, ...],
    tokens: tuple[int, ...],
    forward: bool,
    quantile: float,
    rest: float,
    avx2: bool,
) -> None:
    """Print medians and ratios."""
    prepare(threads, avx2)
    lines = []
    sizes = [(name, SIZES[name]) for name in names]
    if tokens:
        sizes = [(name, replace(size, tokens=count)) for name, size in sizes for count in tokens]
    for name, size in sizes:
        experts, inputs = _layer(size)
        for backward in (False,) if forward else (False, True):
            sides = {OURS: _run(experts, inputs, "emo_moe", backward)}
            for peer in size.peers:
                sides[f"transformers {peer}"] = _run(experts, inputs, peer, backward)
            kt = {} if backward else _kt(experts, inputs, threads)
            title = f"{name}, {size.tokens:,} tokens, forward{'+backward' * backward}"
            pause = rest if kt else 0.0
            medians = interleaved(sides | kt, rounds, quantile, wall=bool(kt), rest=pause)
            report(title, medians, OURS)
            lines.append((title, medians))
        del experts, inputs, sides, kt
    for title, medians in lines:
        best = min(time for side, time in medians.items() if side != OURS)
        print(f"{title}: {best / medians[OURS]:.2f}x the others' best")


def _kt(
    experts: EmoExperts, inputs: tuple[Tensor, Tensor, Tensor], threads: int
) -> dict[str, Callable[[], object]]:
    """kt-kernel, where it is installed."""
    hidden, ids, weights = inputs
    return kt_sides(experts.gate_up_proj, experts.down_proj, hidden, ids, weights, threads)


def _layer(size: Size) -> tuple[EmoExperts, tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    config = EmoConfig(
        hidden_size=size.hidden, intermediate_size=size.width, num_experts=E, num_experts_per_tok=K
    )
    experts = EmoExperts(config, 0).to(size.dtype)
    for weight in experts.parameters():
        torch.nn.init.normal_(weight, std=0.02, generator=generator)
    hidden = torch.randn(size.tokens, size.hidden, generator=generator).to(size.dtype)
    logits = torch.randn(size.tokens, E, generator=generator)
    routed = route(logits + torch.randn(E, generator=generator), 1, K)
    weights = routed.gate_weights_NK.to(size.dtype).requires_grad_()
    return experts, (hidden.requires_grad_(), routed.expert_ids_NK, weights)


def _run(
    experts: EmoExperts, inputs: tuple[Tensor, Tensor, Tensor], kind: str, backward: bool
) -> Callable[[], object]:
    hidden, ids, weights = inputs
    upstream = torch.ones_like(hidden)

    def run() -> None:
        experts.config._experts_implementation = kind
        with torch.set_grad_enabled(backward):
            out = experts(hidden, ids, weights)
            if backward:
                torch.autograd.grad(out, (hidden, weights, *experts.parameters()), upstream)

    return run


if __name__ == "__main__":
    main()
