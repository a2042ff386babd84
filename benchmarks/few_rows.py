"""A few rows times a large matrix on one CPU thread: python -m benchmarks.few_rows

What an expert of the 1B/14B size does: rows [M, 2048] times a matrix [2048, 2048] that no cache
holds, stored as it is or transposed, and the head of the nano models. Ours against torch.mm; the
last columns of a line are billions of multiplications and additions a second.
"""

from collections.abc import Callable

import click
import torch

from benchmarks.timing import interleaved
from model.emo.modeling import EmoHead
from model.native.products import MAX_ROWS, multiply

SIDE = 2048
MATRICES = 8  # in turn: together they are larger than any cache
HEAD_ROWS, HIDDEN, VOCABULARY = 256, 128, 4096


@click.command()
@click.option("--rounds", default=9)
def main(rounds: int) -> None:
    """Print medians and ratios."""
    torch.set_num_threads(1)
    for dtype in (torch.bfloat16, torch.float32):
        for transposed in (True, False):
            for rows in (2, 8, 32, MAX_ROWS):
                sides = _products(rows, transposed, dtype)
                layout = "transposed" if transposed else "row by row"
                name = f"{rows} rows, {layout}, {str(dtype).removeprefix('torch.')}"
                _line(name, sides, rounds, 2 * MATRICES * rows * SIDE**2)
    _line("head, 256 rows", _head(), rounds, 2 * HEAD_ROWS * HIDDEN * VOCABULARY)


def _products(rows: int, transposed: bool, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    a = torch.randn(rows, SIDE).to(dtype)
    matrices = torch.randn(MATRICES, SIDE, SIDE).to(dtype)
    views = [b.t() if transposed else b for b in matrices]
    out = torch.empty(rows, SIDE, dtype=dtype)
    return {
        "ours": lambda: [multiply(a, b, out) for b in views],
        "torch": lambda: [torch.mm(a, b, out=out) for b in views],
    }


def _head() -> dict[str, Callable[[], object]]:
    head, hidden = EmoHead(HIDDEN, VOCABULARY, bias=False), torch.randn(1, HEAD_ROWS, HIDDEN)
    run = torch.inference_mode()
    return {
        "ours": run(lambda: head(hidden)),
        "torch": run(lambda: torch.nn.functional.linear(hidden, head.weight)),
    }


def _line(name: str, sides: dict[str, Callable[[], object]], rounds: int, operations: int) -> None:
    medians = interleaved(sides, rounds)
    speeds = ", ".join(f"{side} {operations / s / 1e9:6.1f}" for side, s in medians.items())
    print(f"{name:<36} {medians['torch'] / medians['ours']:5.2f}x   {speeds}")


if __name__ == "__main__":
    main()
