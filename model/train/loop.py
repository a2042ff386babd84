"""The training loop: one step is a pure function of (weights, optimiser state, step number)."""

import math
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
from model.train.graph import GraphedBackward, can_record
from model.train.metrics import Metrics, MetricsLog
from model.train.presets import Preset
from model.train.resume import identity, keeper, resume
from model.train.step import Reported, backward, keep_for_backward, training_loss

Passes = Callable[[EmoForCausalLM, torch.optim.Optimizer, Batch, Preset], Reported]


def learning_rate(preset: Preset, step: int) -> float:
    """Linear warm-up, then cosine (or a line) down to `final_lr_share` of the peak."""
    if step < preset.warmup_steps:
        return preset.learning_rate * (step + 1) / preset.warmup_steps
    progress = (step - preset.warmup_steps) / max(1, preset.steps - preset.warmup_steps)
    share, progress = preset.final_lr_share, min(progress, 1.0)
    fall = 1 - progress if preset.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return preset.learning_rate * (share + (1 - share) * fall)


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
) -> Metrics:
    """One optimiser step on this process's rows; returns the metrics of the whole batch.

    Raises NotFinite, with the weights as they were, if the loss or the gradient is not finite.
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
    optimizer.step()
    metrics = {"loss": float(reported.loss), "grad_norm": float(reported.grad_norm), "lr": lr}
    routers = {name: value.item() for name, value in reported.routers.items()}
    return parallel.average(metrics | routers)


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
) -> None:
    """Train to `preset.steps` (or `stop_at`), continuing from the newest checkpoint in `out`.

    corpus: digest of what is trained on, kept with the run. Inside `parallel.process_group` the
    processes train together, and `model` is sharded in place. It trains on the device it is on;
    `graph` records its steps there where that can be done. Each process takes its rows of a step in
    `accumulation` parts, one after the other. Raises ValueError if the checkpoint
    is of another run or cannot be written, if the processes cannot share the rows of a step, and
    (NotFinite) if the numbers are no longer finite.
    """
    parallel.check_rows(preset, accumulation)
    keep_for_backward(model, preset)
    parallel.shard(model, preset)
    optimizer = make_optimizer(model, preset)
    run = identity(preset, corpus)
    first = resume(out, model, optimizer, run)
    last = min(preset.steps, stop_at or preset.steps)
    if stop_at is not None and last <= first < preset.steps:
        parallel.tell(f"{out} stands at step {first} already; --stop-at {stop_at} asks no more.")
    passes = _Latest(_passes(model, accumulation, graph))
    log = _open_log(out, first) if parallel.leads() else None
    bar = progress(
        range(first, last), initial=first, total=preset.steps, unit="step", disable=log is None
    )
    try:
        for step in bar:
            metrics = _timed_step(model, optimizer, rows, preset, step, passes)
            if heldout and ((step + 1) % evaluate_every == 0 or step + 1 == last):
                metrics["heldout_loss"] = heldout_loss(model, heldout)
            bar.set_postfix(
                loss=f"{metrics['loss']:.3f}", tok_s=f"{metrics['tokens_per_second']:.0f}"
            )
            if log is not None:
                log.write(step, metrics)
                if passes.counts_LR is not None and (step % load_every == 0 or step + 1 == last):
                    log.write_load(step, passes.counts_LR)
            if (step + 1) % checkpoint_every == 0 or step + 1 == last:
                keeper().save(out, step + 1, model, optimizer, run)
    finally:
        if log is not None:
            log.close()


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


def _timed_step(
    model: EmoForCausalLM,
    optimizer: torch.optim.Optimizer,
    rows: PackedRows,
    preset: Preset,
    step: int,
    passes: Passes,
) -> Metrics:
    started = time.perf_counter()
    batch = parallel.share(rows.batch(step))
    metrics = train_step(model, optimizer, batch, preset, step, passes=passes)
    return metrics | {"tokens_per_second": preset.tokens_per_step / (time.perf_counter() - started)}


def heldout_loss(model: EmoForCausalLM, documents: list[np.ndarray]) -> float:
    """Mean next-token loss over all tokens of the documents, in nats, without pools."""
    model.eval()
    losses = np.concatenate([loss[1:] for loss in document_losses(model, documents)])
    return float(losses.mean())
