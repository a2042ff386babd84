"""Recording what the routers of any model really did on documents, in batches of similar length.

Experts and gate weights come from the tape of `model.families`: they are those that the model
used. A decoder reads a document as it is. Of an encoder-decoder, the encoder reads the document and
the decoder the same tokens after its own start token; a loss is left out, because the decoder has
seen through the encoder what it would predict.

Shapes: L layers of the model, B documents of a batch, T tokens, E experts of a router, R experts
that are chosen, K of them a token. R and K are those of the largest layer.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from model.families import RoutedModel, Tape
from model.families.routed import RoutedLayer
from model.families.rules import DROPPED

# Logits of a batch, which for a large vocabulary are most of its memory: 1 GB in float32.
MOST_LOGITS = 2**28
LOSSES_AT_A_TIME = 1024  # of a long document's tokens, for the same reason
_PLACE = re.compile(r"(.+?)\.(\d+)(?:\.|$)")


@dataclass(frozen=True)
class Routing:
    """What a model's routers did with one document: all that a trace keeps of it.

    expert_ids, gate_weights [L, T, K]: the experts that were used, by falling weight, and their
    weights (shared experts that serve every token are not among them), -1 and 0 where there is
    none. usage [L, R]: mean router probability over the tokens after the opening one; entropy
    [L, T], NaN in a layer without a router; both None where some router's rule was not recognised.
    loss [T]: NaN for the first token, None where there is none to know. Entropy and loss in nats.
    """

    token_ids: np.ndarray
    expert_ids: np.ndarray
    gate_weights: np.ndarray
    usage: np.ndarray | None
    entropy: np.ndarray | None
    loss: np.ndarray | None
    opened: bool = True

    @property
    def router_probs(self) -> np.ndarray | None:
        """What a writer averages to `usage`, exactly: one position, after a place for the opening.

        Probabilities of all tokens would be most of what is recorded, and no trace keeps them.
        """
        if self.usage is None:
            return None
        return np.repeat(self.usage[:, None], 1 + self.opened, axis=1)


@dataclass(frozen=True)
class Recorder:
    """A routed model as what records documents: `record` is the entry.

    opened: whether the first token of each document opens it and counts in no average.
    """

    routed: RoutedModel
    opened: bool = True

    @cached_property
    def places(self) -> tuple[int, ...]:
        """Which layer of the model each layer with a router is; a decoder's follow the encoder's.

        Where the model's own list of layers is not to be found, routers are numbered as they come.
        """
        return _places(self.routed)[0]

    @cached_property
    def num_layers(self) -> int:
        """L: layers of the model, with a router or without."""
        return _places(self.routed)[1]

    @property
    def device(self) -> torch.device:
        """Where token ids go in."""
        model: Any = self.routed.model
        device: torch.device = model.get_input_embeddings().weight.device
        if device.type == "meta":  # offloaded: it is brought to where the rest runs
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return device

    @property
    def config(self) -> Any:
        """The config of the language model."""
        model: Any = self.routed.model
        return model.config.get_text_config()

    @torch.inference_mode()
    def record(
        self, documents: Sequence[np.ndarray], batch_tokens: int | None = None
    ) -> Iterator[list[tuple[int, Routing]]]:
        """Batch by batch: the document's number among `documents` and what was done with it.

        A batch holds at most `batch_tokens` tokens, padding counted, or one document, if that is
        longer or None was given. Shorter documents come first. Raises ValueError for tokens that
        the model does not have.
        """
        for batch in self._batches(documents, batch_tokens):
            tokens = [documents[number] for number in batch]
            with self.routed.recorded() as tape:
                logits_BTV = self._run(tokens)
            layers = self._layers(tape, len(tokens))
            yield list(zip(batch, self._routings(tokens, layers, logits_BTV), strict=True))

    @torch.inference_mode()
    def record_whole(self, token_ids: np.ndarray) -> "Whole":
        """One document alone, with what no trace keeps. Raises ValueError as `record` does."""
        self._check(token_ids)
        with self.routed.recorded() as tape:
            logits_BTV = self._run([token_ids])
        layers = self._layers(tape, 1)
        (routing,) = self._routings([token_ids], layers, logits_BTV)
        (probs_LTR,) = self._probabilities([token_ids], layers)
        return Whole(routing, probs_LTR, None if logits_BTV is None else logits_BTV[0])

    @torch.inference_mode()
    def probabilities(
        self, documents: Sequence[np.ndarray], batch_tokens: int | None = None
    ) -> Iterator[tuple[int, np.ndarray]]:
        """The document's number and its router probabilities [L, T, R]; batches as `record` has.

        Raises ValueError where some router's rule was not recognised.
        """
        for batch in self._batches(documents, batch_tokens):
            tokens = [documents[number] for number in batch]
            with self.routed.recorded() as tape:
                self._run(tokens)
            layers = self._layers(tape, len(tokens))
            for number, probs_LTR in zip(batch, self._probabilities(tokens, layers), strict=True):
                if probs_LTR is None:
                    raise ValueError("The probabilities of some router are not known.")
                yield number, probs_LTR

    def _probabilities(
        self, documents: list[np.ndarray], layers: "list[_Layer]"
    ) -> Iterator[np.ndarray | None]:
        """Router probabilities [L, T, R] of each document; None if some router's are not known."""
        known = all(layer.probs is not None for layer in layers)
        for row, token_ids in enumerate(documents):
            own = [layer.of(row, len(token_ids)).probs for layer in layers]
            yield self._stacked(own, 0) if known else None

    def _batches(
        self, documents: Sequence[np.ndarray], batch_tokens: int | None
    ) -> Iterator[list[int]]:
        """Documents of similar length together; the order is that of the lengths, then given."""
        alone = batch_tokens is None or any(layer.alone for layer in self.routed.layers)
        most = 0 if alone else min(batch_tokens or 0, MOST_LOGITS // self._vocabulary())
        batch: list[int] = []
        for number in sorted(range(len(documents)), key=lambda n: len(documents[n])):
            self._check(documents[number])
            if batch and (len(batch) + 1) * len(documents[number]) > most:
                yield batch
                batch = []
            batch.append(number)
        if batch:
            yield batch

    def _vocabulary(self) -> int:
        model: Any = self.routed.model
        return len(model.get_input_embeddings().weight)

    def _check(self, token_ids: np.ndarray) -> None:
        known = self._vocabulary()
        if not 0 <= np.min(token_ids) <= np.max(token_ids) < known:
            raise ValueError(
                f"There is no token {np.max(token_ids)} among the model's {known}; use the "
                "tokenizer that belongs to it."
            )

    def _run(self, documents: list[np.ndarray]) -> Tensor | None:
        """One forward pass; the logits, or None where they are no prediction of what follows."""
        model: Any = self.routed.model
        device = self.device
        ids_BT, real_BT = _padded(documents, int(self.config.pad_token_id or 0))
        more: dict[str, Any] = {}
        if hasattr(model.config, "output_router_logits"):
            more["output_router_logits"] = False  # else a loss of training is computed with them
        if not real_BT.all():
            more["attention_mask"] = real_BT.long().to(device)
        if not model.config.is_encoder_decoder:
            logits: Tensor = model(input_ids=ids_BT.to(device), use_cache=False, **more).logits
            return logits
        started_BT = ids_BT.clone()
        start = model.config.decoder_start_token_id
        started_BT[:, 0] = ids_BT[:, 0] if start is None else start
        if "attention_mask" in more:
            more["decoder_attention_mask"] = more["attention_mask"]
        model(input_ids=ids_BT.to(device), decoder_input_ids=started_BT.to(device), **more)
        return None

    def _routings(
        self, documents: list[np.ndarray], layers: "list[_Layer]", logits_BTV: Tensor | None
    ) -> Iterator[Routing]:
        """What was done with each document; padding is cut off."""
        for row, token_ids in enumerate(documents):
            own = [layer.of(row, len(token_ids)) for layer in layers]
            logits_TV = None if logits_BTV is None else logits_BTV[row]
            usage_LR, entropy_LT = self._judged(own)
            yield Routing(
                token_ids,
                self._stacked([layer.ids for layer in own], DROPPED),
                self._stacked([layer.weights for layer in own], 0),
                usage_LR,
                entropy_LT,
                None if logits_TV is None else _losses(logits_TV, token_ids),
                self.opened,
            )

    def _layers(self, tape: Tape, batch: int) -> "list[_Layer]":
        """What the tape says of every layer. Raises ValueError if one did not run."""
        return [self._layer(number, tape, batch) for number in range(len(self.places))]

    def _layer(self, number: int, tape: Tape, batch: int) -> "_Layer":
        """Raises ValueError if the layer did not run."""
        layer = self.routed.layers[number]
        if number not in tape.expert_ids:
            raise ValueError(f"{layer.block.name} did not use its router; nothing can be recorded.")
        ids_NK, weights_NK = _by_weight(layer, tape.expert_ids[number], tape.gate_weights[number])
        logits_NE = tape.router_logits.get(number)
        probs_NR = None if logits_NE is None else layer.probabilities(logits_NE)
        entropy_N = None if probs_NR is None else torch.special.entr(probs_NR).sum(-1)
        parts = (ids_NK.short(), weights_NK, probs_NR, entropy_N)
        return _Layer(*(None if p is None else p.unflatten(0, (batch, -1)).cpu() for p in parts))

    def _stacked(self, layers: list[np.ndarray], fill: float) -> np.ndarray:
        """Values [T, n] of the layers with routers as [L, T, most n]."""
        width = max(layer.shape[-1] for layer in layers)
        shape = (self.num_layers, *layers[0].shape[:-1], width)
        values = np.full(shape, fill, layers[0].dtype)
        for place, layer in zip(self.places, layers, strict=True):
            values[place, ..., : layer.shape[-1]] = layer
        return values

    def _judged(self, layers: "list[_Layer]") -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
        """Usage [L, R] and entropy [L, T]."""
        if any(layer.probs is None for layer in layers):
            return None, None
        first = int(self.opened)
        usage_LR = self._stacked([layer.probs[first:].mean(axis=0) for layer in layers], 0)
        entropy_LT = self._stacked([layer.entropy for layer in layers], np.nan)
        return usage_LR, entropy_LT


class Whole(NamedTuple):
    """A document's routing, router probabilities [L, T, R] (None: some router's rule was not
    recognised) and logits [T, V] on the model's device (None: they predict nothing)."""

    routing: Routing
    probs_LTR: np.ndarray | None
    logits_TV: Tensor | None


class _Layer(NamedTuple):
    """A layer's part: ids and weights [B, T, K], probabilities [B, T, R], entropy [B, T]."""

    ids: Any
    weights: Any
    probs: Any
    entropy: Any

    def of(self, row: int, length: int) -> "_Layer":
        """One document's, as NumPy arrays."""
        return _Layer(*(None if part is None else part[row, :length].numpy() for part in self))


def _places(routed: RoutedModel) -> tuple[tuple[int, ...], int]:
    found = [_PLACE.match(layer.block.name) for layer in routed.layers]
    lists = [routed.model.get_submodule(match[1]) if match else None for match in found]
    if not all(isinstance(each, nn.ModuleList) for each in lists):
        return tuple(range(len(lists))), len(lists)
    places, before = [], 0
    matches = [match for match in found if match]
    for path, group in groupby(matches, key=lambda match: match[1]):
        places += [before + int(match[2]) for match in group]
        before += sum(1 for _ in routed.model.get_submodule(path).children())
    return tuple(places), before


def _padded(documents: list[np.ndarray], pad: int) -> tuple[Tensor, Tensor]:
    """Token ids [B, T], padded on the right, and which of them are a document's own."""
    longest = max(map(len, documents))
    ids_BT = torch.full((len(documents), longest), pad)
    for row, document in enumerate(documents):
        ids_BT[row, : len(document)] = torch.from_numpy(np.asarray(document, dtype=np.int64))
    lengths_B1 = torch.tensor([[len(document)] for document in documents])
    return ids_BT, torch.arange(longest) < lengths_B1


def _by_weight(layer: RoutedLayer, ids_NK: Tensor, weights_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and float32 weights of the chosen experts by falling weight, empty slots last.

    Shared experts that the model hands its experts too are taken out.
    """
    weights_NK = weights_NK.float()
    kept_NK = (ids_NK >= 0) & (ids_NK < layer.num_routed)
    order_NK = weights_NK.masked_fill(~kept_NK, -torch.inf).argsort(
        dim=-1, descending=True, stable=True
    )
    order_NK = order_NK[:, : min(layer.num_chosen, layer.num_routed)]
    kept_NK = kept_NK.gather(1, order_NK)
    ids_NK = ids_NK.gather(1, order_NK).masked_fill(~kept_NK, DROPPED)
    return ids_NK, weights_NK.gather(1, order_NK).masked_fill(~kept_NK, 0)


def _losses(logits_TV: Tensor, token_ids: np.ndarray) -> np.ndarray:
    """Nats [T]; the first token has none."""
    losses_T = np.full(len(token_ids), np.nan, np.float32)
    next_T1 = torch.from_numpy(np.asarray(token_ids[1:], np.int64))[:, None]
    for at in range(0, len(token_ids) - 1, LOSSES_AT_A_TIME):
        following_T1 = next_T1[at : at + LOSSES_AT_A_TIME].to(logits_TV.device)
        log_probs_TV = logits_TV[at : at + len(following_T1)].float().log_softmax(-1)
        found_T = -log_probs_TV.gather(1, following_T1)[:, 0]
        losses_T[1 + at : 1 + at + len(found_T)] = found_T.cpu().numpy()
    return losses_T
