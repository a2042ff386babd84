"""The training loop: one step is a pure function of (weights, optimiser state, step number)."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from model.inference import document_losses
from model.modeling import DocumentRouting, EmoForCausalLM
from model.train import checkpoint, parallel
from model.train.batches import Batch, PackedRows
from model.train.presets import Preset

Metrics = dict[str, float]


def learning_rate(preset: Preset, step: int) -> float:
    """Linear warm-up, then cosine down to `final_lr_share` of the peak."""
    if step < preset.warmup_steps:
        return preset.learning_rate * (step + 1) / preset.warmup_steps
    progress = (step - preset.warmup_steps) / max(1, preset.steps - preset.warmup_steps)
    share = preset.final_lr_share
    return preset.learning_rate * (
        share + (1 - share) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    )


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


def training_loss(
    model: EmoForCausalLM, batch: Batch, preset: Preset
) -> tuple[Tensor, Tensor, DocumentRouting]:
    """The objective, its next-token part, and what the routers reported."""
    documents = model.document_routing(batch.input_ids_BT, batch.pool_sizes_LBD)
    with torch.autocast("cpu", torch.bfloat16, enabled=preset.bf16):
        loss = model.next_token_loss(
            batch.input_ids_BT, batch.labels_BT, documents, preset.head_z_coef
        )
    if not documents.z_losses:
        return loss, loss.detach(), documents
    balancing, z_loss = model.router_losses(documents)
    total = loss + preset.balancing_coef * balancing + preset.router_z_coef * z_loss
    return total, loss.detach(), documents


def train_step(
    model: EmoForCausalLM,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    preset: Preset,
    step: int,
) -> Metrics:
    """One optimiser step on this process's rows; returns the metrics of the whole batch."""
    lr = learning_rate(preset, step)
    for group in optimizer.param_groups:
        group["lr"] = lr
    model.train()
    total, loss, documents = training_loss(model, batch, preset)
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    grad_norm = parallel.clip_gradients(model, preset.grad_clip)
    if not torch.isfinite(grad_norm):
        raise FloatingPointError(
            f"The gradient is not finite at step {step}; lower the learning rate and start again "
            f"from the last checkpoint."
        )
    optimizer.step()
    metrics = {"loss": float(loss), "grad_norm": float(grad_norm), "lr": lr}
    return parallel.average(metrics | _router_metrics(model, documents))


def _router_metrics(model: EmoForCausalLM, documents: DocumentRouting) -> Metrics:
    if not documents.z_losses:
        return {}
    balancing, z_loss = model.router_losses(documents)
    counts_LR = torch.stack(documents.counts_R)
    return {
        "load_balancing_loss": float(balancing.detach()),
        "router_z_loss": float(z_loss.detach()),
        "router_entropy": float(torch.stack(documents.entropies).mean()),
        "load_max_over_mean": float((counts_LR.amax(1) / counts_LR.mean(1)).mean()),
        "dead_experts": int((counts_LR == 0).sum()),
    }


class MetricsLog:
    """Metrics to a JSONL file and TensorBoard; on resume, lines past the checkpoint are dropped."""

    def __init__(self, folder: Path, first_step: int) -> None:
        self.path = folder / "metrics.jsonl"
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [
            line for line in lines if line.endswith("}") and json.loads(line)["step"] < first_step
        ]
        self.path.write_text("".join(line + "\n" for line in kept))
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def write(self, step: int, metrics: Metrics) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        for name, value in metrics.items():
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self.board.close()


def train(
    model: EmoForCausalLM,
    rows: PackedRows,
    preset: Preset,
    out: Path,
    heldout: list[np.ndarray],
    *,
    checkpoint_every: int = 50,
    evaluate_every: int = 200,
    stop_at: int | None = None,
    progress: Callable[..., Any] = tqdm,
) -> None:
    """Train to `preset.steps` (or `stop_at`), continuing from the newest checkpoint in `out`.

    Inside `parallel.process_group` the processes train together, and `model` is sharded in place.
    Raises ValueError if the checkpoint was made by another preset, or if the processes cannot
    share the rows of a step.
    """
    parallel.shard(model, preset)
    optimizer = make_optimizer(model, preset)
    out.mkdir(parents=True, exist_ok=True)
    first = _resume(out, model, optimizer, preset)
    log = MetricsLog(out, first) if parallel.leads() else None
    last = min(preset.steps, stop_at or preset.steps)
    bar = progress(
        range(first, last), initial=first, total=preset.steps, unit="step", disable=log is None
    )
    for step in bar:
        metrics = _timed_step(model, optimizer, rows, preset, step)
        if (step + 1) % evaluate_every == 0 or step + 1 == last:
            metrics["heldout_loss"] = heldout_loss(model, heldout)
        bar.set_postfix(loss=f"{metrics['loss']:.3f}", tok_s=f"{metrics['tokens_per_second']:.0f}")
        if log is not None:
            log.write(step, metrics)
        if (step + 1) % checkpoint_every == 0 or step + 1 == last:
            _checkpoints().save(out, step + 1, model, optimizer, {"preset": asdict(preset)})
    if log is not None:
        log.close()


def _timed_step(
    model: EmoForCausalLM,
    optimizer: torch.optim.Optimizer,
    rows: PackedRows,
    preset: Preset,
    step: int,
) -> Metrics:
    started = time.perf_counter()
    metrics = train_step(model, optimizer, parallel.share(rows.batch(step)), preset, step)
    return metrics | {"tokens_per_second": preset.tokens_per_step / (time.perf_counter() - started)}


def _checkpoints() -> ModuleType:
    """Who writes and reads checkpoints: one process a file, several their shards."""
    return parallel if parallel.world_size() > 1 else checkpoint


def _resume(
    out: Path, model: EmoForCausalLM, optimizer: torch.optim.Optimizer, preset: Preset
) -> int:
    newest = checkpoint.latest(out)
    if newest is None:
        return 0
    run = checkpoint.read_run(newest)
    wanted = json.loads(json.dumps(asdict(preset)))
    if other := [name for name in wanted if run["preset"].get(name) != wanted[name]]:
        raise ValueError(
            f"{newest} was trained with other settings ({', '.join(other)}); give the same ones, "
            "or choose another --out."
        )
    _checkpoints().restore(newest, model, optimizer)
    return int(run["step"])


def heldout_loss(model: EmoForCausalLM, documents: list[np.ndarray]) -> float:
    """Mean next-token loss over all tokens of the documents, in nats, without pools."""
    if not documents:
        return float("nan")
    model.eval()
    losses = np.concatenate([loss[1:] for loss in document_losses(model, documents)])
    return float(losses.mean())
