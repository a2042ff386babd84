"""The training loop: one step is a pure function of (weights, optimiser state, step number)."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from model.emo.modeling import EmoForCausalLM
from model.emo.objectives import corrected_bias
from model.run.inference import document_losses
from model.train import checkpoint, finite, parallel
from model.train.accumulation import Accumulated, split
from model.train.batches import Batch, PackedRows
from model.train.checkpoint import NEWEST_TWO, Kept
from model.train.graph import GraphedBackward, can_record
from model.train.guard import Guard
from model.train.metrics import Metrics, MetricsLog
from model.train.presets import Preset
from model.train.recompute import Recompute, recomputed
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
    parts: int = 1,
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
        where = _first_bad(model, split(batch, parts), preset)
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
        if preset.bias_rate:
            _correct(model, reported.counts_LR, preset.bias_rate)
    return metrics | ({"skipped_steps": guard.skipped} if guard else {})


def _correct(model: EmoForCausalLM, counts_LR: torch.Tensor | None, rate: float) -> None:
    """Move every router's bias towards an even load; the counts are the same in all processes."""
    if counts_LR is None:
        return
    for router, counts_R in zip(model.routers(), counts_LR, strict=True):
        if router.correction_bias is not None:
            router.correction_bias.copy_(corrected_bias(router.correction_bias, counts_R, rate))


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
    recompute: Recompute = "none",
    gather: parallel.Gather = "fp32",
) -> None:
    """Train to `preset.steps` (or `stop_at`), continuing from the newest checkpoint in `out`.

    corpus: digest of what is trained on, kept with the run. Inside `parallel.process_group` the
    processes train together, and `model` is sharded in place. It trains on the device it is on;
    `graph` records its steps there where that can be done. Each process takes its rows of a step in
    `accumulation` parts, one after the other, and does again for the backward pass what `recompute`
    says instead of keeping it. Checkpoints are written beside the training and are whole when this
    returns. Raises ValueError if the checkpoint is of another run or cannot be written, if the
    processes cannot share the rows of a step, and (NotFinite) if numbers are no longer finite.
    """
    parallel.check_rows(preset, accumulation)
    keep_for_backward(model, preset)
    parallel.shard(model, preset, gather)
    optimizer, guard = make_optimizer(model, preset), Guard(preset)
    run = identity(preset, corpus, accumulation, gather)
    resumed = resume(out, model, optimizer, run)
    first, last = int(resumed["step"]), min(preset.steps, stop_at or preset.steps)
    guard.load(resumed.get("guard") or {})
    _tell_if_done(out, first, last, preset)
    log = _open_log(out, first) if parallel.leads() else None
    writer = Writer(out, kept)
    said = {"initial": first, "total": preset.steps, "unit": "step", "disable": log is None}
    training = _Training(model, optimizer, rows, preset, guard, _passes(model, accumulation, graph))
    try:
        with recomputed(model, recompute):
            for step in (bar := progress(range(first, last), **said)):
                metrics, done = training.step(step), step + 1
                if heldout and (done % evaluate_every == 0 or done == last):
                    metrics["heldout_loss"] = heldout_loss(model, heldout)
                bar.set_postfix(**training.shown(metrics))
                if log is not None:
                    load = step % load_every == 0 or done == last
                    log.write(step, metrics, training.counts_LR if load else None)
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


@dataclass
class _Training:
    """A run in progress, and the slots that every routed expert got in its latest step [L, R]."""

    model: EmoForCausalLM
    optimizer: torch.optim.Optimizer
    rows: PackedRows
    preset: Preset
    guard: Guard
    passes: Passes
    counts_LR: torch.Tensor | None = None

    @property
    def parts(self) -> int:
        """In how many parts a step is taken."""
        return self.passes.parts if isinstance(self.passes, Accumulated) else 1

    def step(self, step: int) -> Metrics:
        """One step of the run: `train_step`, and how fast it was."""
        started = time.perf_counter()
        batch = parallel.share(self.rows.batch(step))
        made = (self.model, self.optimizer, batch, self.preset, step)
        metrics = train_step(*made, passes=self._noting, parts=self.parts, guard=self.guard)
        seconds = time.perf_counter() - started
        return metrics | {"tokens_per_second": self.preset.tokens_per_step / seconds}

    def shown(self, metrics: Metrics) -> dict[str, str]:
        """What the progress bar says of a step."""
        shown = {"loss": f"{metrics['loss']:.3f}"}
        return shown | {"tok_s": f"{metrics['tokens_per_second']:.0f}"}

    def _noting(self, *given: Any) -> Reported:
        reported = self.passes(*given)
        self.counts_LR = reported.counts_LR
        return reported


class Silent(list[int]):
    """A progress bar for `train` that shows nothing, as where several runs have no room for one."""

    def __init__(self, steps: Iterable[int], **_: Any) -> None:
        super().__init__(steps)

    def set_postfix(self, **_: Any) -> None:
        """Nothing."""


def _tell_if_done(out: Path, first: int, last: int, preset: Preset) -> None:
    if last <= first < preset.steps:
        parallel.tell(f"{out} stands at step {first} already; --stop-at {last} asks no more.")


def _open_log(out: Path, first_step: int) -> MetricsLog:
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.tidy(out)
    return MetricsLog(out, first_step)


def heldout_loss(model: EmoForCausalLM, documents: list[np.ndarray]) -> float:
    """Mean next-token loss over all tokens of the documents, in nats, without pools."""
    model.eval()
    losses = np.concatenate([loss[1:] for loss in document_losses(model, documents)])
    return float(losses.mean())
