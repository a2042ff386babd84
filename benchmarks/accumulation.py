"""Four parts on one process and two on each of two: python -m benchmarks.accumulation

Trains a small model for 50 steps in float32 with rows in one piece, as one process x 4 parts and as
two processes (gloo) x 2 parts, and prints how far the losses and balancing values part at most.
"""

import multiprocessing
import tempfile
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import torch
import torch.distributed as dist

from benchmarks.runs import SMALL, metrics_of, train_small

PRESET = replace(SMALL, rows=8, steps=50, bf16=False)
NAMES = ("loss", "load_balancing_loss", "router_z_loss", "grad_norm")


def _as_rank(rank: int, store: str, out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{store}", world_size=2, rank=rank)
    train_small(Path(out), PRESET, accumulation=2)
    dist.destroy_process_group()


@click.command()
def main() -> None:
    """Print the largest differences."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train_small(folder / "whole", PRESET)
        train_small(folder / "1 x 4", PRESET, accumulation=4)
        context, store = multiprocessing.get_context("spawn"), str(folder / "store")
        processes = [
            context.Process(target=_as_rank, args=(rank, store, str(folder / "2 x 2")))
            for rank in range(2)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        if any(process.exitcode for process in processes):
            raise click.ClickException("One of the two processes failed; what it said is above.")
        for one, other in (("whole", "1 x 4"), ("1 x 4", "2 x 2"), ("whole", "2 x 2")):
            _compare(folder, one, other)


def _compare(folder: Path, one: str, other: str) -> None:
    runs = [metrics_of(folder / name) for name in (one, other)]
    print(f"{one} against {other}, {len(runs[0])} and {len(runs[1])} steps, largest difference:")
    for name in NAMES:
        values = [np.array([line[name] for line in run]) for run in runs]
        print(f"  {name:<22} {np.abs(values[0] - values[1]).max():.2e}")


if __name__ == "__main__":
    main()
