"""A step in parts: rows that do not fit in memory at once, with the gradients of all of them.

Only the balancing loss asks more than a sum over the parts: balance is demanded of the whole step
(paper, appendix A.1: over all of its tokens), whose expert counts no part knows by itself. A
forward pass without gradients counts them first. The released code demands it of every part
instead, over all processes; `Preset.balance` chooses. The overlap and mutual-information losses and
expert capacities are of each part and process.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from model.emo.documents import DocumentRouting
from model.emo.modeling import EmoForCausalLM
from model.train import parallel
from model.train.batches import Batch
from model.train.presets import Preset
from model.train.step import (
    Reported,
    counted_tokens,
    expert_counts,
    load_figures,
    router_figures,
    training_loss,
)


def split(batch: Batch, parts: int) -> list[Batch]:
    """A batch as so many of equal rows, in order."""
    chunks = (batch.input_ids_BT, batch.labels_BT)
    ids, labels = (tensor.chunk(parts) for tensor in chunks)
    sizes = batch.pool_sizes_LBD.chunk(parts, dim=1)
    return [Batch(*part) for part in zip(ids, labels, sizes, strict=True)]


class Accumulated:
    """`step.backward` over so many parts of a batch, one after the other."""

    def __init__(self, parts: int) -> None:
        self.parts = parts

    def __call__(
        self,
        model: EmoForCausalLM,
        optimizer: torch.optim.Optimizer,
        batch: Batch,
        preset: Preset,
    ) -> Reported:
        """As `step.backward`: the same losses and gradients but for rounding."""
        pieces = split(batch, self.parts)
        totals = whole_step_totals(model, pieces, preset) if _needs_counts(preset) else {}
        counted = parallel.total(counted_tokens(batch)) / (parallel.world_size() * self.parts)
        optimizer.zero_grad(set_to_none=True)
        parts = []
        for piece in pieces:
            documents = _documents(model, piece, totals)
            share = counted_tokens(piece) / max(counted, 1)
            total, loss, documents = training_loss(model, piece, preset, documents, share)
            figures, counts_LR = router_figures(model, documents), expert_counts(documents)
            parts.append(Reported(total.detach(), loss, total.detach(), figures, counts_LR))
            (total / self.parts).backward()
        grad_norm = parallel.clip_gradients(model, preset.grad_clip)
        # Of a part that was given the totals of the step, these are its counts.
        return _joined(parts[:1] if totals else parts, parts, grad_norm)


def whole_step_totals(
    model: EmoForCausalLM, pieces: Iterable[Batch], preset: Preset
) -> dict[int, Tensor]:
    """By layer, the slots of every routed expert and the tokens of all pieces and processes."""
    sums: dict[int, Tensor] = {}
    for piece in pieces:
        documents = _documents(model, piece, {})
        device = model.device
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=preset.bf16):
            model.report_routing(piece.input_ids_BT.to(device), documents)
        for layer, totals in documents.totals.items():
            sums[layer] = sums[layer] + totals if layer in sums else totals
    return sums


def _needs_counts(preset: Preset) -> bool:
    """Whether a loss asks for the counts of the whole step."""
    asked = preset.balance == "step" and preset.balancing_coef > 0
    return asked and preset.objective != "dense" and not preset.balancing_rows


def _documents(model: EmoForCausalLM, piece: Batch, totals: dict[int, Tensor]) -> DocumentRouting:
    piece = piece.to(model.device)
    documents = model.document_routing(piece.input_ids_BT, piece.pool_sizes_LBD)
    documents.totals = dict(totals)
    return documents


def _joined(counting: list[Reported], parts: list[Reported], grad_norm: Tensor) -> Reported:
    """What the parts reported as one: means, and the counts of those `counting` summed."""
    counts = [part.counts_LR for part in counting if part.counts_LR is not None]
    counts_LR = torch.stack(counts).sum(0) if counts else None
    names = parts[0].routers
    figures = {name: torch.stack([part.routers[name] for part in parts]).mean() for name in names}
    return Reported(
        torch.stack([part.total for part in parts]).mean(),
        torch.stack([part.loss for part in parts]).mean(),
        grad_norm,
        figures | load_figures(counts_LR),
        counts_LR,
    )
