"""Forward passes over many documents at once, on any device, each with experts of its own.

Shapes: D documents, M domains, L layers with a router, B documents of a batch, T tokens a row,
N = B*T, R routed experts, E experts.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from model.emo.documents import DocumentRouting
from model.emo.modeling import EmoForCausalLM
from model.emo.restriction import restricted

BATCH_TOKENS, GPU_BATCH_TOKENS = 8192, 65_536

Documents = Sequence[NDArray[np.int64]]


class Batch(NamedTuple):
    """Documents of similar length, padded on the right: no token sees what comes after it."""

    places: NDArray[np.int64]  # [B] among all documents
    ids_BT: Tensor
    lengths: NDArray[np.int64]  # [B]


def batch_tokens(device: torch.device) -> int:
    """Tokens of a batch; a GPU takes more, so that it works longer than it is waited for."""
    return BATCH_TOKENS if device.type == "cpu" else GPU_BATCH_TOKENS


def batches(model: EmoForCausalLM, documents: Documents) -> Iterator[Batch]:
    """All documents, the shortest first. Raises ValueError for one that the model cannot take."""
    _check(model, documents)
    lengths = np.array([len(tokens) for tokens in documents], np.int64)
    most = batch_tokens(model.device)
    order = np.argsort(lengths, kind="stable")
    start = 0
    while start < len(order):
        count = 1
        while start + count < len(order) and (count + 1) * lengths[order[start + count]] <= most:
            count += 1
        places = order[start : start + count]
        ids_BT = torch.full((count, int(lengths[places].max())), model.config.pad_token_id or 0)
        for row, place in enumerate(places):
            ids_BT[row, : lengths[place]] = torch.from_numpy(documents[place])
        yield Batch(places, ids_BT.to(model.device), lengths[places])
        start += count


def _check(model: EmoForCausalLM, documents: Documents) -> None:
    longest, known = model.config.max_position_embeddings, model.config.vocab_size
    for tokens in documents:
        if not 2 <= len(tokens) <= longest or tokens.max() >= known:
            raise ValueError(
                f"A document of {len(tokens)} tokens, ids up to {tokens.max(initial=0)}, does not "
                f"fit the model (2 to {longest} tokens, {known} ids); give the corpus that it was "
                "trained on."
            )


@torch.inference_mode()
def token_losses(
    model: EmoForCausalLM,
    documents: Documents,
    masks_DLR: NDArray[np.bool_] | None = None,
    causal_pool: int | None = None,
) -> list[NDArray[np.float32]]:
    """The losses of each document's tokens but the first, in nats: [length - 1] each.

    masks_DLR: the routed experts that each document may use. causal_pool: routed experts in a pool
    that is chosen anew at every token, from the document so far.
    """
    losses: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(documents)
    for batch in batches(model, documents):
        with _restricted(model, batch, masks_DLR):
            hidden = model.model(
                input_ids=batch.ids_BT,
                use_cache=False,
                output_router_logits=False,
                documents=_pools(model, batch, causal_pool),
            ).last_hidden_state
        losses_BT = _next_token_losses(model, hidden, batch.ids_BT).cpu().numpy()
        for row, place in enumerate(batch.places):
            losses[place] = losses_BT[row, : batch.lengths[row] - 1]
    return losses


def document_means(losses: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """The mean of each document's token losses: [D]."""
    return np.array([each.mean(dtype=np.float64) for each in losses])


def _next_token_losses(model: EmoForCausalLM, hidden_BTH: Tensor, ids_BT: Tensor) -> Tensor:
    logits_NV = model.lm_head(hidden_BTH[:, :-1]).flatten(0, 1).float()
    return F.cross_entropy(logits_NV, ids_BT[:, 1:].flatten(), reduction="none").view(
        len(ids_BT), -1
    )


def _restricted(
    model: EmoForCausalLM, batch: Batch, masks_DLR: NDArray[np.bool_] | None
) -> AbstractContextManager[None]:
    """Every token of a batch keeps to the experts of its document."""
    if masks_DLR is None:
        return nullcontext()
    masks_BLR = torch.from_numpy(masks_DLR[batch.places]).to(model.device)
    T = batch.ids_BT.shape[1]
    shared = model.config.num_shared_experts
    masks = {
        id(router): masks_BLR[:, layer, : router.num_experts - shared].repeat_interleave(T, 0)
        for layer, router in enumerate(model.routers())
    }
    return restricted(masks, model.config.num_experts)


def _pools(model: EmoForCausalLM, batch: Batch, size: int | None) -> DocumentRouting | None:
    if size is None:
        return None
    B = len(batch.places)
    sizes_LBD = torch.full((model.config.num_hidden_layers, B, 1), size, device=model.device)
    documents = DocumentRouting(torch.zeros_like(batch.ids_BT), sizes_LBD)
    documents.pool_choice = "causal"
    return documents


@torch.inference_mode()
def router_probabilities(
    model: EmoForCausalLM, documents: Documents
) -> Iterator[tuple[int, Tensor]]:
    """The place of each document and its tokens' router probabilities [T, L, R], on the device.

    Softmax over the routed experts; the first token, the end-of-text one, is left out. A layer with
    fewer experts than the largest has 0 for those that it lacks.
    """
    shared = model.config.num_shared_experts
    widest = max(router.num_experts for router in model.routers()) - shared
    for batch in batches(model, documents):
        out = model.model(input_ids=batch.ids_BT, use_cache=False, output_router_logits=True)
        routed = [logits[:, : logits.shape[1] - shared] for logits in out.router_logits]
        layers = [F.pad(each.softmax(-1), (0, widest - each.shape[1])) for each in routed]
        probs_BTLR = torch.stack(layers, 1).view(*batch.ids_BT.shape, len(layers), -1)
        for row, place in enumerate(batch.places):
            yield int(place), probs_BTLR[row, 1 : batch.lengths[row]]
