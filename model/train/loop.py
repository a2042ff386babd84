"""The training loop: one step is a pure function of (weights, optimiser state, step number)."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from model.emo.modeling import EmoForCausalLM
from model.run.inference import document_losses
from model.train import checkpoint, finite, parallel
from model.train.accumulation import Accumulated, split
from model.train.batches import Batch, PackedRows
from model.train.checkpoint import NEWEST_TWO, Kept
from model.train.graph import GraphedBackward, can_record
from model.train.guard import Guard
from model.train.metrics import Metrics, MetricsLog
from model.train.presets import Preset
from model.train.resume import identity, resume
from model.train.schedule import learning_rate
from model.train.step import Reported, backward, keep_for_backward, training_loss
from model.train.writer import Writer

Passes = Callable[[EmoForCausalLM, torch.optim.Optimizer, Batch, Preset], Reported]


def make_optimizer(model: EmoForCausalLM, preset: Preset) -> torch.optim.AdamW:
    """AdamW; no weight decay on embeddings (paper appendix A) nor on norms."""
    plain = [p for n, p in model.named_parameters() if "embed_tokens" in n or p.ndim == 1]
    exempt = {id(p) for p in plain}
    decayed = [p for p in model.parameters() if id(p) not in exempt]
    groups = [
        {"params": decayed, "weight_decay": preset.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=preset.learning_rate, betas=preset.betas, eps=1e-8, fused=True
    )


def train_step(
    model: EmoForCausalLM,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    preset: Preset,
    step: int,
    passes: Passes = backward,
    guard: Guard | None = None,
) -> Metrics:
    """One optimiser step on this process's rows; returns the metrics of the whole batch.

    A step that `guard` finds out of line changes no weight. Raises NotFinite, with the weights as
    they were, if the loss or the gradient is not finite.
    """
    lr = learning_rate(preset, step)
    for group in optimizer.param_groups:
        group["lr"] = lr
    model.train()
    reported = passes(model, optimizer, batch, preset)
    if not parallel.smallest(int(torch.isfinite(reported.grad_norm) & reported.total.isfinite())):
        where = _first_bad(model, split(batch, getattr(passes, "parts", 1)), preset)
        raise finite.NotFinite(
            f"At step {step} a number is NaN or infinite, first in {where}; training stops and its "
            "checkpoints stay. Train with --fp32, another --seed or a lower learning_rate in the "
            "preset, to a new --out."
        )
    metrics = {"loss": float(reported.loss), "grad_norm": float(reported.grad_norm), "lr": lr}
    routers = {name: value.item() for name, value in reported.routers.items()}
    metrics = parallel.average(metrics | routers)
    why = guard.judge(metrics["loss"], metrics["grad_norm"]) if guard else None
    if why:
        parallel.tell(f"Step {step} changes nothing: {why}.")
    else:
        optimizer.step()
    return metrics | ({"skipped_steps": guard.skipped} if guard else {})


def _first_bad(model: EmoForCausalLM, parts: list[Batch], preset: Preset) -> str:
    """In words, where the first part of a step that is not finite goes wrong."""
    for part in parts:
        losses = partial(training_loss, model, part, preset)
        where = finite.find(model, losses)
        if where != finite.NOWHERE:
            return where
    return finite.NOWHERE


def train(
    model: EmoForCausalLM,
    rows: PackedRows,
    preset: Preset,
    out: Path,
    heldout: list[np.ndarray],
    *,
    corpus: str | None = None,
    checkpoint_every: int = 50,
    evaluate_every: int = 200,
    stop_at: int | None = None,
    graph: bool = True,
    progress: Callable[..., Any] = tqdm,
    accumulation: int = 1,
    load_every: int = 20,
    kept: Kept = NEWEST_TWO,
) -> None:
    """Train to `preset.steps` (or `stop_at`), continuing from the newest checkpoint in `out`.

    corpus: digest of what is trained on, kept with the run. Inside `parallel.process_group` the
    processes train together, and `model` is sharded in place. It trains on the device it is on;
    `graph` records its steps there where that can be done. Each process takes its rows of a step in
    `accumulation` parts, one after the other. Checkpoints are written beside the training, after
    every so many steps and those that `kept` names, and are whole when this returns. Raises
    ValueError if the checkpoint is of another run or cannot be written, if the processes cannot
    share the rows of a step, and (NotFinite) if the numbers are no longer finite.
    """
    parallel.check_rows(preset, accumulation)
    keep_for_backward(model, preset)
    parallel.shard(model, preset)
    optimizer, guard = make_optimizer(model, preset), Guard(preset)
    run = identity(preset, corpus, accumulation)
    resumed = resume(out, model, optimizer, run)
    first, last = int(resumed["step"]), min(preset.steps, stop_at or preset.steps)
    guard.load(resumed.get("guard") or {})
    if stop_at is not None and last <= first < preset.steps:
        parallel.tell(f"{out} stands at step {first} already; --stop-at {stop_at} asks no more.")
    passes = _Latest(_passes(model, accumulation, graph))
    log = _open_log(out, first) if parallel.leads() else None
    writer = Writer(out, kept)
    bar = progress(
        range(first, last), initial=first, total=preset.steps, unit="step", disable=log is None
    )
    try:
        for step in bar:
            metrics = _timed_step(model, optimizer, rows, preset, step, passes, guard)
            done = step + 1
            if heldout and (done % evaluate_every == 0 or done == last):
                metrics["heldout_loss"] = heldout_loss(model, heldout)
            bar.set_postfix(
                loss=f"{metrics['loss']:.3f}", tok_s=f"{metrics['tokens_per_second']:.0f}"
            )
            _log(log, step, metrics, passes.counts_LR, step % load_every == 0 or done == last)
            writer.check()
            if done % checkpoint_every == 0 or done == last or done in kept.at:
                writer.save(done, model, optimizer, run | {"guard": guard.state()})
        writer.wait()
    finally:
        if log is not None:
            log.close()
        writer.close()


def _passes(model: EmoForCausalLM, accumulation: int, graph: bool) -> Passes:
    if accumulation > 1:
        return Accumulated(accumulation)
    return GraphedBackward() if graph and can_record(model) else backward


class _Latest:
    """Passes that remember what the latest of them reported of the experts' load."""

    def __init__(self, passes: Passes) -> None:
        self.passes = passes
        self.parts = getattr(passes, "parts", 1)
        self.counts_LR: torch.Tensor | None = None

    def __call__(self, *given: Any) -> Reported:
        reported = self.passes(*given)
        self.counts_LR = reported.counts_LR
        return reported


def _open_log(out: Path, first_step: int) -> MetricsLog:
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.tidy(out)
    return MetricsLog(out, first_step)


def _log(
    log: MetricsLog | None,
    step: int,
    metrics: Metrics,
    counts_LR: torch.Tensor | None,
    load: bool,
) -> None:
    if log is not None:
        log.write(step, metrics)
        if load and counts_LR is not None:
            log.write_load(step, counts_LR)


def _timed_step(
    model: EmoForCausalLM,
    optimizer: torch.optim.Optimizer,
    rows: PackedRows,
    preset: Preset,
    step: int,
    passes: Passes,
    guard: Guard,
) -> Metrics:
    started = time.perf_counter()
    batch = parallel.share(rows.batch(step))
    metrics = train_step(model, optimizer, batch, preset, step, passes=passes, guard=guard)
    return metrics | {"tokens_per_second": preset.tokens_per_step / (time.perf_counter() - started)}


def heldout_loss(model: EmoForCausalLM, documents: list[np.ndarray]) -> float:
    """Mean next-token loss over all tokens of the documents, in nats, without pools."""
    model.eval()
    losses = np.concatenate([loss[1:] for loss in document_losses(model, documents)])
    return float(losses.mean())
