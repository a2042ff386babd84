"""Running a model over documents: routing records, per-token losses, continuations.

A document is EOS followed by its tokens. Losses are in nats; token t's loss is that of predicting
it from the tokens before it, and EOS has none (NaN).

Shapes: L layers, B documents of a batch, T tokens, R routed experts, K experts a token,
V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from model.modeling import EmoForCausalLM
from model.subset import active_mask

NUM_NEXT = 5


@dataclass(frozen=True)
class Encoded:
    """A text as tokens: ids with EOS first, each token's piece of it, how many were cut off."""

    token_ids: np.ndarray
    texts: list[str]
    dropped: int


@dataclass(frozen=True)
class Recording:
    """What a model did with one document; arrays are read-only.

    router_probs [L, T, R]: softmax over the routed experts (those of the active subset);
    expert_ids, gate_weights [L, T, K - shared]: routed experts by falling weight, not renormalised
    (a shared expert has weight 1); entropy [L, T] and loss [T] in nats; next_ids, next_probs
    [T, 5]: the likeliest tokens after position t.
    """

    token_ids: np.ndarray
    router_probs: np.ndarray
    expert_ids: np.ndarray
    gate_weights: np.ndarray
    entropy: np.ndarray
    loss: np.ndarray
    next_ids: np.ndarray
    next_probs: np.ndarray


def encode(tokenizer: PreTrainedTokenizerBase, text: str, max_tokens: int) -> Encoded:
    """Tokenise a text, EOS first, cut to `max_tokens` in all.

    Special tokens written in the text are read as plain text. Raises ValueError for a text of
    nothing but white space.
    """
    if not text.strip():
        raise ValueError("The text is empty; type or paste at least one word.")
    tokens = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    ids, ends = tokens["input_ids"], [end for _, end in tokens["offset_mapping"]]
    kept = ids[: max_tokens - 1]
    # A character of several tokens is shown at its first one: the pieces join to the text.
    starts = [0, *ends]
    texts = ["", *(text[start:end] for start, end in zip(starts, ends[: len(kept)], strict=False))]
    token_ids = np.array([tokenizer.eos_token_id, *kept], dtype=np.int64)
    return Encoded(token_ids, texts, len(ids) - len(kept))


@torch.inference_mode()
def record(model: EmoForCausalLM, token_ids: np.ndarray) -> Recording:
    """Run one document through the model, under the active expert subset if there is one.

    Raises ValueError for a document longer than the model's context.
    """
    _check_length(model, len(token_ids))
    ids_1T = torch.from_numpy(np.asarray(token_ids, dtype=np.int64))[None]
    out = model(input_ids=ids_1T, use_cache=False, output_router_logits=True)
    probs_LTR = _probabilities(model, out.router_logits)
    weights_LTK, ids_LTK = probs_LTR.topk(model.config.num_routed_per_tok, dim=-1)
    log_probs_TV = out.logits[0].float().log_softmax(-1)
    next_probs, next_ids = log_probs_TV.topk(NUM_NEXT, dim=-1)
    arrays = {
        "token_ids": ids_1T[0],
        "router_probs": probs_LTR,
        "expert_ids": ids_LTK.short(),
        "gate_weights": weights_LTK,
        "entropy": torch.special.entr(probs_LTR).sum(-1),
        "loss": _losses(log_probs_TV[None], ids_1T)[0],
        "next_ids": next_ids,
        "next_probs": next_probs.exp(),
    }
    return Recording(**{name: _frozen(value) for name, value in arrays.items()})


@torch.inference_mode()
def document_losses(
    model: EmoForCausalLM, documents: Sequence[np.ndarray], batch_tokens: int = 8192
) -> list[np.ndarray]:
    """Per-token losses of each document, float32, in the order given."""
    losses: list[np.ndarray] = [np.empty(0, np.float32)] * len(documents)
    for indices, ids_BT in _batches(model, documents, batch_tokens):
        logits = model(input_ids=ids_BT, use_cache=False, output_router_logits=False).logits
        losses_BT = _losses(logits.float().log_softmax(-1), ids_BT)
        for row, index in enumerate(indices):
            losses[index] = losses_BT[row, : len(documents[index])].numpy()
    return losses


@torch.inference_mode()
def router_probabilities(
    model: EmoForCausalLM, documents: Sequence[np.ndarray], batch_tokens: int = 8192
) -> np.ndarray:
    """Router probabilities of every token of all documents, in order: float32 [L, tokens, R]."""
    parts: list[np.ndarray] = [np.empty(0)] * len(documents)
    for indices, ids_BT in _batches(model, documents, batch_tokens):
        out = model.model(input_ids=ids_BT, use_cache=False, output_router_logits=True)
        probs = _probabilities(model, out.router_logits)
        probs_LBTR = probs.view(probs.shape[0], *ids_BT.shape, -1)
        for row, index in enumerate(indices):
            parts[index] = probs_LBTR[:, row, : len(documents[index])].numpy()
    return np.concatenate(parts, axis=1)


def continue_text(
    model: EmoForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    token_ids: np.ndarray,
    max_new_tokens: int = 40,
    temperature: float = 0.0,
    seed: int = 0,
) -> str:
    """What the model writes after a prompt: likeliest tokens, or sampled if temperature > 0.

    A seed touches no random state but torch's own, inside this call.
    """
    ids_1T = torch.from_numpy(np.asarray(token_ids, dtype=np.int64))[None]
    room = model.config.max_position_embeddings - ids_1T.shape[1]
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        out_1T = model.generate(
            ids_1T,
            attention_mask=torch.ones_like(ids_1T),
            max_new_tokens=max(1, min(max_new_tokens, room)),
            pad_token_id=model.config.pad_token_id,
            **({"do_sample": False} | sampling),
        )
    return tokenizer.decode(out_1T[0, ids_1T.shape[1] :], skip_special_tokens=True)


def _probabilities(model: EmoForCausalLM, router_logits: Sequence[Tensor]) -> Tensor:
    """Softmax over the allowed routed experts of each layer, [L, tokens, R]."""
    num_routed = model.config.num_routed_experts
    layers = []
    for router, logits_NE in zip(model.routers(), router_logits, strict=True):
        logits_NR = logits_NE[:, :num_routed].float()
        mask_R = active_mask(router)
        if mask_R is not None:
            logits_NR = logits_NR.masked_fill(~mask_R, float("-inf"))
        layers.append(logits_NR.softmax(-1))
    return torch.stack(layers)


def _losses(log_probs_BTV: Tensor, ids_BT: Tensor) -> Tensor:
    losses_BT = torch.full(ids_BT.shape, float("nan"))
    picked = log_probs_BTV[:, :-1].gather(2, ids_BT[:, 1:, None])
    losses_BT[:, 1:] = -picked[..., 0]
    return losses_BT


def _batches(
    model: EmoForCausalLM, documents: Sequence[np.ndarray], batch_tokens: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Documents of similar length together, padded on the right (causal: no mask is needed)."""
    order = sorted(range(len(documents)), key=lambda i: len(documents[i]))
    batch: list[int] = []
    for index in order:
        _check_length(model, len(documents[index]))
        if batch and (len(batch) + 1) * len(documents[index]) > batch_tokens:
            yield batch, _padded(model, [documents[i] for i in batch])
            batch = []
        batch.append(index)
    if batch:
        yield batch, _padded(model, [documents[i] for i in batch])


def _padded(model: EmoForCausalLM, documents: list[np.ndarray]) -> Tensor:
    longest = max(map(len, documents))
    ids_BT = torch.full((len(documents), longest), model.config.pad_token_id or 0)
    for row, document in enumerate(documents):
        ids_BT[row, : len(document)] = torch.from_numpy(np.asarray(document, dtype=np.int64))
    return ids_BT


def _check_length(model: EmoForCausalLM, length: int) -> None:
    longest = model.config.max_position_embeddings
    if not 1 <= length <= longest:
        raise ValueError(f"A document must have 1 to {longest} tokens, not {length}.")


def _frozen(values: Tensor) -> np.ndarray:
    array = values.numpy()
    array.flags.writeable = False
    return array
