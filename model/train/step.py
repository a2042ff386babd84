"""The two passes of a training step: the objective, its gradients, and what they report."""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.emo.documents import DocumentRouting
from model.emo.loss import IGNORED
from model.emo.modeling import EmoExperts, EmoForCausalLM
from model.train import parallel
from model.train.batches import Batch
from model.train.presets import Preset


@dataclass(frozen=True)
class Reported:
    """Scalars on the model's device: the objective, its next-token part, the gradient's norm before
    it was clipped, and the routers' figures by name. `counts_LR` are the slots that every routed
    expert got in every layer that has a router, all processes summed; None for a dense model.
    """

    total: Tensor
    loss: Tensor
    grad_norm: Tensor
    routers: dict[str, Tensor]
    counts_LR: Tensor | None = None


def keep_for_backward(model: EmoForCausalLM, preset: Preset) -> None:
    """Have the experts keep what the preset says between the passes, where a GPU runs them."""
    for module in model.modules():
        if isinstance(module, EmoExperts):
            module.save = preset.save


def training_loss(
    model: EmoForCausalLM,
    batch: Batch,
    preset: Preset,
    documents: DocumentRouting | None = None,
    share: float = 1.0,
) -> tuple[Tensor, Tensor, DocumentRouting]:
    """The objective, its next-token part, and what the routers reported.

    `documents` are found in the batch unless given. `share` is how many tokens with a loss this
    batch has for each that the batches beside it have on average (`label_share`).
    """
    batch = batch.to(model.device)
    if documents is None:
        documents = model.document_routing(batch.input_ids_BT, batch.pool_sizes_LBD)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=preset.bf16):
        loss = model.next_token_loss(
            batch.input_ids_BT, batch.labels_BT, documents, preset.head_z_coef
        )
    loss = loss if share == 1 else loss * share
    if not documents.z_losses:
        return loss, loss.detach(), documents
    balancing, z_loss = model.router_losses(documents)
    total = loss + preset.balancing_coef * balancing + preset.router_z_coef * z_loss
    total = total + model.extra_loss(documents)
    return total, loss.detach(), documents


def backward(
    model: EmoForCausalLM,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    preset: Preset,
    documents: DocumentRouting | None = None,
) -> Reported:
    """Leave the clipped gradients of one step's batch in the parameters."""
    share = label_share(batch)
    total, loss, documents = training_loss(model, batch, preset, documents, share)
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    grad_norm = parallel.clip_gradients(model, preset.grad_clip)
    counts_LR = expert_counts(documents)
    routers = router_figures(model, documents) | load_figures(counts_LR)
    return Reported(total.detach(), loss, grad_norm, routers, counts_LR)


def counted_tokens(batch: Batch) -> int:
    """Tokens of a batch that have a loss."""
    return int((batch.labels_BT != IGNORED).sum())


def label_share(batch: Batch) -> float:
    """Tokens with a loss in this process's rows, over the mean of all processes; 1 for one."""
    if parallel.world_size() == 1:
        return 1.0
    mine = counted_tokens(batch)
    return mine * parallel.world_size() / max(1, parallel.total(mine))


def router_figures(model: EmoForCausalLM, documents: DocumentRouting) -> dict[str, Tensor]:
    """The routers' losses and entropy, as scalars; none for a dense model."""
    if not documents.z_losses:
        return {}
    balancing, z_loss = model.router_losses(documents)
    return {
        "load_balancing_loss": balancing.detach(),
        "router_z_loss": z_loss.detach(),
        "router_entropy": torch.stack(documents.entropies).mean(),
    }


def expert_counts(documents: DocumentRouting) -> Tensor | None:
    """Slots of every routed expert by layer: [L, R]; None for a dense model."""
    return torch.stack(documents.counts_R) if documents.counts_R else None


def load_figures(counts_LR: Tensor | None) -> dict[str, Tensor]:
    """How evenly the experts are used, as scalars."""
    if counts_LR is None:
        return {}
    return {
        "load_max_over_mean": (counts_LR.amax(1) / counts_LR.mean(1)).mean(),
        "dead_experts": (counts_LR == 0).sum(),
    }
