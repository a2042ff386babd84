"""The two passes of a training step: the objective, its gradients, and what they report."""

from dataclasses import dataclass

import torch
from torch import Tensor

from model.emo.documents import DocumentRouting
from model.emo.modeling import EmoExperts, EmoForCausalLM
from model.train import parallel
from model.train.batches import Batch
from model.train.presets import Preset


@dataclass(frozen=True)
class Reported:
    """Scalars on the model's device: the objective, its next-token part, the gradient's norm before
    it was clipped, and the routers' figures by name.
    """

    total: Tensor
    loss: Tensor
    grad_norm: Tensor
    routers: dict[str, Tensor]


def keep_for_backward(model: EmoForCausalLM, preset: Preset) -> None:
    """Have the experts keep what the preset says between the passes, where a GPU runs them."""
    for module in model.modules():
        if isinstance(module, EmoExperts):
            module.save = preset.save


def training_loss(
    model: EmoForCausalLM, batch: Batch, preset: Preset, documents: DocumentRouting | None = None
) -> tuple[Tensor, Tensor, DocumentRouting]:
    """The objective, its next-token part, and what the routers reported.

    `documents` are found in the batch unless given.
    """
    batch = batch.to(model.device)
    if documents is None:
        documents = model.document_routing(batch.input_ids_BT, batch.pool_sizes_LBD)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=preset.bf16):
        loss = model.next_token_loss(
            batch.input_ids_BT, batch.labels_BT, documents, preset.head_z_coef
        )
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
    total, loss, documents = training_loss(model, batch, preset, documents)
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    grad_norm = parallel.clip_gradients(model, preset.grad_clip)
    return Reported(total.detach(), loss, grad_norm, router_figures(model, documents))


def router_figures(model: EmoForCausalLM, documents: DocumentRouting) -> dict[str, Tensor]:
    """What the routers reported, as scalars; none for a dense model."""
    if not documents.z_losses:
        return {}
    balancing, z_loss = model.router_losses(documents)
    counts_LR = torch.stack(documents.counts_R)
    return {
        "load_balancing_loss": balancing.detach(),
        "router_z_loss": z_loss.detach(),
        "router_entropy": torch.stack(documents.entropies).mean(),
        "load_max_over_mean": (counts_LR.amax(1) / counts_LR.mean(1)).mean(),
        "dead_experts": (counts_LR == 0).sum(),
    }
