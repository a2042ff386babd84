"""A run killed again and again ends as one that was not: python -m benchmarks.kills

Trains a small model for 200 steps, killed by SIGKILL at random moments and started again each time,
and compares the last checkpoint, the metrics and the load with those of a run left alone, byte by
byte. After every kill each folder that is named like a checkpoint must be whole.
"""

import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import click
from safetensors.torch import load_file

from benchmarks.runs import SMALL, metrics_of, train_small
from model.train import checkpoint

FILES = ("model.safetensors", "optimizer.safetensors")
KEPT = ("loss", "grad_norm", "lr", "load_balancing_loss", "dead_experts", "skipped_steps")


def _train(out: Path, steps: int, every: int) -> None:
    train_small(out, replace(SMALL, steps=steps), checkpoint_every=every)


def _lines(out: Path) -> int:
    file = out / "metrics.jsonl"
    return len(file.read_bytes().splitlines()) if file.exists() else 0


def _killed(out: Path, steps: int, every: int, draw: random.Random, kills: int) -> list[int]:
    """Start the run until it has been killed so often; the steps that it had written each time."""
    moments = []
    while len(moments) < kills:
        command = [sys.executable, "-m", "benchmarks.kills", "--child", str(out)]
        process = subprocess.Popen([*command, "--steps", str(steps), "--every", str(every)])
        first = max((checkpoint.step_of(p) for p in checkpoint.newest_first(out)), default=0)
        goal = first + draw.randint(1, max(1, 2 * (steps - first) // (kills - len(moments) + 1)))
        while process.poll() is None and _lines(out) < min(goal, steps - 1):
            time.sleep(0.01)
        time.sleep(draw.random() * 0.05)  # anywhere in a step, and in the writing of a checkpoint
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
        moments.append(_lines(out))
        _check_whole(out)
    return moments


def _check_whole(out: Path) -> None:
    for path in checkpoint.newest_first(out):
        run = checkpoint.read_run(path)
        assert run["step"] == checkpoint.step_of(path), path
        for name in FILES:
            load_file(path / name)


@click.command()
@click.option("--kills", default=10)
@click.option("--steps", default=200)
@click.option("--every", default=7, help="Steps from one checkpoint to the next.")
@click.option("--seed", default=0, help="Of the moments.")
@click.option("--child", type=click.Path(path_type=Path), help="Only train, in this folder.")
def main(kills: int, steps: int, every: int, seed: int, child: Path | None) -> None:
    """Print when it was killed and whether the runs end alike."""
    if child is not None:
        return _train(child, steps, every)
    with tempfile.TemporaryDirectory() as name:
        whole, killed = Path(name) / "whole", Path(name) / "killed"
        _train(whole, steps, every)
        print("Killed at steps", _killed(killed, steps, every, random.Random(seed), kills))
        _train(killed, steps, every)
        ends = [checkpoint.latest(out) for out in (whole, killed)]
        for file in FILES:
            same = len({(end / file).read_bytes() for end in ends if end is not None}) == 1
            print(f"  step-{steps}/{file}: {'bit-identical' if same else 'DIFFERENT'}")
        lines = [[{k: m[k] for k in KEPT} for m in metrics_of(out)] for out in (whole, killed)]
        print(f"  {len(lines[1])} lines of metrics: {'equal' if lines[0] == lines[1] else 'NOT'}")
        left = sorted(path.name for path in killed.glob(".*"))
        print(f"  left half-written: {left or 'nothing'}")


if __name__ == "__main__":
    main()
