"""Running a model over documents: routing records, per-token losses, continuations.

A document is EOS followed by its tokens. Losses are in nats; token t's loss is that of predicting
it from the tokens before it, and EOS has none (NaN).

Shapes: L layers, B documents of a batch, T tokens, R routed experts, K experts a token,
V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from model.emo.modeling import EmoForCausalLM
from model.emo.restriction import active_mask
from model.run.subset import (
    most_routed,
    routed_in_layer,
    routers_by_layer,
    slots_in_layer,
)

NUM_NEXT = 5
BATCH_TOKENS = 8192
# A longer text (characters) is not tokenised to its end, which takes a second a million.
LONG_TEXT = 100_000
REPLACEMENT = "\ufffd"  # what stands for bytes that are no character
MORE_BYTES = 3  # of a character, after its first


@dataclass(frozen=True)
class Encoded:
    """A text as tokens.

    token_ids: the opening token first. texts: each token's piece of the text, "" for the opening
    one; together they are the text, or its start if tokens were dropped. dropped: how many were;
    of a text longer than LONG_TEXT an estimate from its start (`exact` is False).
    """

    token_ids: np.ndarray
    texts: list[str]
    dropped: int
    exact: bool = True


@dataclass(frozen=True)
class Recording:
    """What a model did with one document; arrays are read-only.

    router_probs [L, T, R]: softmax over the routed experts (those of the active subset);
    expert_ids, gate_weights [L, T, K - shared]: the routed experts that the model used, by falling
    weight, and the weights that it gave them (a shared expert is not among them); entropy [L, T]
    and loss [T] in nats; next_ids, next_probs [T, 5]: the likeliest tokens after position t.

    R and K are those of the largest layer. A layer with fewer experts has probability 0 for those
    that it lacks, and where it has fewer than a token could use, id -1 with weight 0; the entropy
    of a layer without a router is NaN.
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
    """Tokenise a text as EMO reads it: `encode_after` with EOS as the opening token."""
    return encode_after(tokenizer.eos_token_id, tokenizer, text, max_tokens)


def encode_after(
    opening: int | None, tokenizer: PreTrainedTokenizerBase, text: str, max_tokens: int
) -> Encoded:
    """Tokenise a text, after an opening token if there is one, cut to `max_tokens` in all.

    Special tokens written in the text are read as plain text, and a byte order mark at its head is
    a character as any other: whoever decodes a file takes it off. Raises ValueError for a text of
    nothing but white space, with half a character in it, or of no tokens.
    """
    _check_text(text)
    first = [] if opening is None else [opening]
    kept = max_tokens - len(first)
    long = len(text) > LONG_TEXT
    ids, ends = _first_tokens(tokenizer, text, kept) if long else _tokens(tokenizer, text)
    if not ids:
        raise ValueError("The text has no tokens; type or paste at least one word.")
    whole = len(ids) <= kept
    # A character of several tokens is shown at its first one: the pieces join to the text.
    bounds = [0, *accumulate(ends[:kept], max)]
    if whole:
        bounds[-1] = len(text)
    exact = whole or not long
    dropped = len(ids) - kept if exact else _estimate(len(text), bounds[-1], kept)
    return Encoded(
        token_ids=np.array([*first, *ids[:kept]], dtype=np.int64),
        texts=[*("" for _ in first), *(text[start:end] for start, end in pairwise(bounds))],
        dropped=max(0, dropped),
        exact=exact,
    )


def _check_text(text: str) -> None:
    if not text.strip():
        raise ValueError("The text is empty; type or paste at least one word.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"The text holds half a character (a lone surrogate at position {error.start}); remove "
            "it, or read the file with the right encoding."
        ) from error


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int]]:
    """Ids, and where each token ends in the text."""
    tokens = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    return tokens["input_ids"], [end for _, end in tokens["offset_mapping"]]


def _first_tokens(
    tokenizer: PreTrainedTokenizerBase, text: str, count: int
) -> tuple[list[int], list[int]]:
    """At least the first `count` + 1 tokens of a text, or all, as the whole text would give them.

    Starts of the text are tokenised, each twice the last, until one more changes nothing in tokens
    that lie in the first half of the shorter start.
    """
    size = 32 * (count + 1)
    ids, ends = _tokens(tokenizer, text[:size])
    while size < len(text):
        shorter, size = (ids[: count + 1], ends[: count + 1]), 2 * size
        ids, ends = _tokens(tokenizer, text[:size])
        same = (ids[: count + 1], ends[: count + 1]) == shorter
        if same and len(shorter[0]) > count and max(shorter[1]) <= size // 4:
            break
    return ids, ends


def _estimate(length: int, read: int, tokens: int) -> int:
    """Tokens in the rest of a text, as dense as in the part that was read."""
    return round((length - read) * tokens / max(1, read)) or 1


@torch.inference_mode()
def record(model: EmoForCausalLM, token_ids: np.ndarray) -> Recording:
    """Run one document through the model, under the active expert subset if there is one.

    Raises ValueError for a document longer than the model's context.
    """
    _check_document(model, token_ids)
    ids_1T = torch.from_numpy(np.asarray(token_ids, dtype=np.int64))[None].to(model.device)
    out = model.model(
        input_ids=ids_1T,
        use_cache=False,
        output_router_logits=True,
        output_gate_weights=True,
        output_expert_ids=True,
    )
    probs_LTR = _probabilities(model, out.router_logits, ids_1T.numel())
    ids_LTK, weights_LTK = _used(model, out.expert_ids, out.gate_weights, ids_1T.numel())
    log_probs_TV = model.lm_head(out.last_hidden_state)[0].float().log_softmax(-1)
    next_probs, next_ids = log_probs_TV.topk(min(NUM_NEXT, log_probs_TV.shape[1]), dim=-1)
    arrays = {
        "token_ids": ids_1T[0],
        "router_probs": probs_LTR,
        "expert_ids": ids_LTK.short(),
        "gate_weights": weights_LTK,
        "entropy": _entropy(model, probs_LTR),
        "loss": _losses(log_probs_TV[None], ids_1T)[0],
        "next_ids": next_ids,
        "next_probs": next_probs.exp(),
    }
    return Recording(**{name: _frozen(value) for name, value in arrays.items()})


@torch.inference_mode()
def document_losses(
    model: EmoForCausalLM, documents: Sequence[np.ndarray], batch_tokens: int = BATCH_TOKENS
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
def router_probabilities(model: EmoForCausalLM, documents: Sequence[np.ndarray]) -> np.ndarray:
    """Router probabilities of every token of all documents, in order: float32 [L, tokens, R].

    R is that of the largest layer; 0 where a layer has fewer.
    """
    parts: list[np.ndarray] = [np.empty(0)] * len(documents)
    for indices, ids_BT in _batches(model, documents, BATCH_TOKENS):
        out = model.model(input_ids=ids_BT, use_cache=False, output_router_logits=True)
        probs = _probabilities(model, out.router_logits, ids_BT.numel())
        probs_LBTR = probs.view(probs.shape[0], *ids_BT.shape, -1)
        for row, index in enumerate(indices):
            parts[index] = probs_LBTR[:, row, : len(documents[index])].numpy()
    return np.concatenate(parts, axis=1)


class Continuation(NamedTuple):
    """What a model writes after a prompt. ended: by itself, and not for want of tokens.

    token_ids: those it is made of; pieces: what each adds to the text, "" as long as it leaves a
    character open.
    """

    text: str
    ended: bool
    token_ids: tuple[int, ...] = ()
    pieces: tuple[str, ...] = ()


def continue_text(
    model: EmoForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    token_ids: np.ndarray,
    max_new_tokens: int = 40,
    temperature: float = 0.0,
    seed: int = 0,
) -> Continuation:
    """What the model writes after a prompt: likeliest tokens, or sampled if temperature > 0.

    If `max_new_tokens` end inside a character, it is completed, or left out where the model does
    not complete it. A seed touches no random state but torch's own, inside this call.
    """
    _check_document(model, token_ids)
    prompt_1T = torch.from_numpy(np.asarray(token_ids, dtype=np.int64))[None].to(model.device)
    longest = model.config.max_position_embeddings
    pad = model.config.pad_token_id
    return write_on(model, tokenizer, prompt_1T, max_new_tokens, longest, pad, temperature, seed)


def write_on(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompt_1T: Tensor,
    max_new_tokens: int,
    longest: int,
    pad: int | None,
    temperature: float = 0.0,
    seed: int = 0,
) -> Continuation:
    """`continue_text` of a decoder of any family that takes `longest` tokens in all."""
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {}

    def write(ids_1T: Tensor, tokens: int) -> Tensor:
        written: Tensor = model.generate(
            ids_1T,
            attention_mask=torch.ones_like(ids_1T),
            max_new_tokens=max(1, min(tokens, longest - ids_1T.shape[1])),
            pad_token_id=pad,
            **({"do_sample": False} | sampling),
        )
        return written

    devices = [prompt_1T.device] if prompt_1T.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        out_1T = write(prompt_1T, max_new_tokens)
        asked = out_1T.shape[1] - prompt_1T.shape[1]
        for _ in range(MORE_BYTES):
            written = out_1T[0, prompt_1T.shape[1] :].tolist()
            whole = not _ends_inside_a_character(tokenizer, written)
            if whole or written[-1] == tokenizer.eos_token_id or out_1T.shape[1] >= longest:
                break
            out_1T = write(out_1T, 1)
    written = out_1T[0, prompt_1T.shape[1] :].tolist()
    room = max(1, min(max_new_tokens, longest - prompt_1T.shape[1]))
    ended = len(written) < room or written[-1] == tokenizer.eos_token_id
    tokens, text = _whole_characters(tokenizer, written, asked)
    return Continuation(text, ended, tuple(tokens), _pieces(tokenizer, tokens, text))


def _whole_characters(
    tokenizer: PreTrainedTokenizerBase, written: list[int], asked: int
) -> tuple[list[int], str]:
    """All tokens and their text, or those asked for without the character they do not complete."""
    if not _ends_inside_a_character(tokenizer, written):
        return written, tokenizer.decode(written, skip_special_tokens=True)
    tokens = written[:asked]
    return tokens, tokenizer.decode(tokens, skip_special_tokens=True).rstrip(REPLACEMENT)


def _pieces(tokenizer: PreTrainedTokenizerBase, token_ids: list[int], text: str) -> tuple[str, ...]:
    """What each token adds to a text, of which the first ones together are the start."""
    starts = (
        tokenizer.decode(token_ids[:count], skip_special_tokens=True).rstrip(REPLACEMENT)
        for count in range(1, len(token_ids))
    )
    ends = [min(len(start), len(text)) for start in starts]
    bounds = accumulate([0, *ends, len(text)], max)
    return tuple(text[start:end] for start, end in pairwise(bounds))


def _ends_inside_a_character(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> bool:
    """Whether the last tokens are bytes without the rest of their character.

    A tokenizer decodes them to the character that a model may also have written itself.
    """
    if not tokenizer.decode(ids, skip_special_tokens=True).endswith(REPLACEMENT):
        return False
    own = tokenizer(REPLACEMENT, add_special_tokens=False)["input_ids"]
    plain = [token for token in ids if token not in tokenizer.all_special_ids]
    return not own or plain[-len(own) :] != own


def _probabilities(model: EmoForCausalLM, router_logits: Sequence[Tensor], tokens: int) -> Tensor:
    """Softmax over the allowed routed experts of each layer, [L, tokens, R]."""
    config = model.config
    shape = (config.num_hidden_layers, tokens, most_routed(config))
    probs_LNR = torch.zeros(shape, dtype=torch.float32)
    routers = routers_by_layer(model).items()
    for (layer, router), logits_NE in zip(routers, router_logits, strict=True):
        num_routed = routed_in_layer(config, layer)
        logits_NR = logits_NE[:, :num_routed].float()
        mask_R = active_mask(router)
        if mask_R is not None:
            logits_NR = logits_NR.masked_fill(~mask_R, float("-inf"))
        probs_LNR[layer, :, :num_routed] = logits_NR.softmax(-1)
    return probs_LNR


def _used(
    model: EmoForCausalLM, expert_ids: Sequence[Tensor], gate_weights: Sequence[Tensor], tokens: int
) -> tuple[Tensor, Tensor]:
    """The routers' own choices without the shared experts, ids and weights [L, tokens, slots]."""
    config = model.config
    layers = range(config.num_hidden_layers)
    shape = (len(layers), tokens, max(slots_in_layer(config, layer) for layer in layers))
    ids_LNS, weights_LNS = torch.full(shape, -1), torch.zeros(shape, dtype=torch.float32)
    routed = zip(routers_by_layer(model), expert_ids, gate_weights, strict=True)
    for layer, ids_NK, weights_NK in routed:
        slots = slots_in_layer(config, layer)
        ids_LNS[layer, :, :slots] = ids_NK[:, :slots]
        weights_LNS[layer, :, :slots] = weights_NK[:, :slots].float()
    return ids_LNS, weights_LNS


def _entropy(model: EmoForCausalLM, probs_LNR: Tensor) -> Tensor:
    """Nats, [L, tokens]."""
    entropy_LN = torch.special.entr(probs_LNR).sum(-1)
    routed = routers_by_layer(model)
    entropy_LN[[layer not in routed for layer in range(len(entropy_LN))]] = float("nan")
    return entropy_LN


def _losses(log_probs_BTV: Tensor, ids_BT: Tensor) -> Tensor:
    losses_BT = torch.full(ids_BT.shape, float("nan"), dtype=torch.float32)
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
        _check_document(model, documents[index])
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
    return ids_BT.to(model.device)


def _check_document(model: EmoForCausalLM, token_ids: np.ndarray) -> None:
    longest, known = model.config.max_position_embeddings, model.config.vocab_size
    if not 1 <= len(token_ids) <= longest:
        raise ValueError(f"A document must have 1 to {longest} tokens, not {len(token_ids)}.")
    if not 0 <= np.min(token_ids) <= np.max(token_ids) < known:
        raise ValueError(
            f"There is no token {np.max(token_ids)} among the model's {known}; use the tokenizer "
            "that belongs to it."
        )


def _frozen(values: Tensor) -> np.ndarray:
    array = values.cpu().numpy()
    array.flags.writeable = False
    return array
