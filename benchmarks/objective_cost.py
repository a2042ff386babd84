"""What an EMO step costs beside a standard one: python -m benchmarks.objective_cost

One optimiser step of the nano preset by each objective, in turn in one process; ratios of the
fastest rounds, and of the medians. `--recompute` adds what recomputing costs, `--accumulation` what
four parts cost with the balance of the whole step and of each part, `--compile` what torch.compile
makes of attention and norms, and of a dense model.
"""

import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

import click
import numpy as np
import torch

from benchmarks.timing import keep_freed_memory
from model.emo.modeling import EmoForCausalLM
from model.train.accumulation import Accumulated
from model.train.batches import PackedRows
from model.train.loop import make_optimizer, train_step
from model.train.presets import bf16_gains, find_preset
from model.train.recompute import Recompute, recomputed
from model.train.step import backward, keep_for_backward

EOS = 0
BARS = {"emo": 1.10, "causal": 1.25}
Step = Callable[[], object]


def _side(
    objective: str,
    rows: int | None,
    parts: int = 1,
    redo: Recompute = "none",
    balance: str = "step",
    compiled: bool = False,
) -> Step:
    torch.manual_seed(0)
    bf16 = bf16_gains(torch.device("cpu"))
    preset = find_preset("nano", objective, rows=rows, bf16=bf16)
    preset = replace(preset, balance=balance)
    tokens = np.random.default_rng(0).integers(2, 4096, 2_000_000).astype(np.uint16)
    tokens[::200] = EOS
    batch = PackedRows(tokens, preset, EOS).batch(0)
    model = EmoForCausalLM(preset.model_config(EOS, 1))
    keep_for_backward(model, preset)
    if compiled:
        _compile(model)
    optimizer = make_optimizer(model, preset)
    passes = Accumulated(parts) if parts > 1 else backward

    def step() -> None:
        with ExitStack() as stack:
            stack.enter_context(recomputed(model, redo))
            train_step(model, optimizer, batch, preset, 0, passes)

    return step


def _compile(model: EmoForCausalLM) -> None:
    for layer in model.model.layers:
        for name, part in layer.named_children():
            if name != "mlp" or model.config.objective == "dense":
                part.compile(dynamic=False)


@click.command()
@click.option("--rounds", default=7)
@click.option("--rows", type=int, help="Instead of the preset's.")
@click.option("--recompute", is_flag=True)
@click.option("--accumulation", is_flag=True)
@click.option("--compile", "compiled", is_flag=True)
def main(
    rounds: int, rows: int | None, recompute: bool, accumulation: bool, compiled: bool
) -> None:
    """Print seconds of a step and ratios to the standard objective's."""
    torch.set_num_threads(1)
    keep_freed_memory()
    sides = {name: _side(name, rows) for name in ("standard", "emo", "causal")}
    if recompute:
        sides["standard, experts again"] = _side("standard", rows, redo="experts")
        sides["standard, layers again"] = _side("standard", rows, redo="layers")
    if accumulation:
        for balance in ("step", "micro"):
            sides[f"standard, 4 parts, {balance}"] = _side("standard", rows, 4, balance=balance)
    if compiled:
        sides["emo, compiled"] = _side("emo", rows, compiled=True)
        sides["dense"] = _side("dense", rows)
        sides["dense, compiled"] = _side("dense", rows, compiled=True)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, step in sides.items():
            started = time.process_time()
            step()
            if turn:  # the first warms up
                seconds[name].append(time.process_time() - started)
    best = {name: min(times) for name, times in seconds.items()}
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    for name in sides:
        ratios = best[name] / best["standard"], middle[name] / middle["standard"]
        bar = f"   bar {BARS[name]:.2f}" if name in BARS else ""
        print(
            f"{name:<28} {best[name]:6.3f} s   {ratios[0]:.3f} of the fastest, {ratios[1]:.3f} of "
            f"the medians{bar}"
        )


if __name__ == "__main__":
    main()
