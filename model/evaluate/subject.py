"""What is measured, as measures ask it: EMO's own format its fast way, any other family through the
protocol of `model.families`.

Shapes: D documents, L layers with a router, R routed experts of the largest layer, T tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from model.emo.modeling import EmoForCausalLM
from model.evaluate.passes import Documents, batch_tokens, router_probabilities, token_losses
from model.run.checkpoint import is_of_other_family
from model.run.inference import encode
from model.run.live import LiveFamily
from model.run.loading import load_model, load_tokenizer
from model.run.opening import open_checkpoint

Masks = NDArray[np.bool_]
Losses = list[NDArray[np.float32]]
LONGEST = 1 << 16  # tokens, of a model that does not say


class Subject(ABC):
    """A model in eval mode.

    experts: that the router of each layer chooses among; slots: of them a token uses. shared: that
    serve every token and count in keep-k. absent: by the measure that cannot be had, why not.
    has_pools: whether `losses` takes a causal pool. longest: text that it takes, in tokens.
    """

    experts: tuple[int, ...]
    slots: int
    shared: int = 0
    absent: Mapping[str, str] = {}
    has_pools: bool = False
    longest: int

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What its evaluation says of it."""

    @abstractmethod
    def encode(self, text: str, most: int) -> NDArray[np.int64]:
        """A text as at most so many tokens, the opening one first."""

    @abstractmethod
    def losses(
        self, documents: Documents, masks_DLR: Masks | None = None, causal_pool: int | None = None
    ) -> Losses:
        """The losses of each document's tokens but the first, in nats: see `token_losses`."""

    @abstractmethod
    def probabilities(self, documents: Documents) -> Iterator[tuple[int, Tensor]]:
        """The place of each document and its router probabilities [T, L, R] but the first token's.

        A layer with fewer experts than R has 0 for those that it lacks.
        """


class EmoSubject(Subject):
    """EMO's own format."""

    has_pools = True

    def __init__(self, model: EmoForCausalLM, folder: Path | None = None) -> None:
        """folder: of its tokenizer, which texts need."""
        self.model, self._folder = model, folder
        self.longest = int(model.config.max_position_embeddings)
        self.slots = model.config.num_routed_per_tok
        self.shared = model.config.num_shared_experts
        self.experts = tuple(router.num_experts - self.shared for router in model.routers())

    def describe(self) -> dict[str, Any]:
        config = self.model.config
        return {
            "objective": config.objective,
            "num_experts": 0 if config.objective == "dense" else config.num_experts,
            "num_experts_per_tok": config.num_experts_per_tok,
            "parameters": sum(weight.numel() for weight in self.model.parameters()),
        }

    def encode(self, text: str, most: int) -> NDArray[np.int64]:
        return encode(self._tokenizer, text, min(most, self.longest)).token_ids

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        assert self._folder is not None, "texts need a tokenizer"
        return load_tokenizer(self._folder)

    def losses(
        self, documents: Documents, masks_DLR: Masks | None = None, causal_pool: int | None = None
    ) -> Losses:
        return token_losses(self.model, documents, masks_DLR, causal_pool)

    def probabilities(self, documents: Documents) -> Iterator[tuple[int, Tensor]]:
        return router_probabilities(self.model, documents)


class FamilySubject(Subject):
    """Any family. Documents with the same experts are run together."""

    def __init__(self, live: LiveFamily) -> None:
        """Raises ValueError for a model that has no losses."""
        if live.why_no_loss:
            raise ValueError(live.why_no_loss)
        self.live = live
        self.experts = live.geometry.experts
        self.slots = live.geometry.num_experts_per_tok
        self.longest = live.most_tokens(LONGEST)
        self._at_once = batch_tokens(live.model.device)
        self.absent = {"pool": "only EMO's own format can draw a pool from the document so far"}
        if live.why_not_cut:
            self.absent["cuts"] = live.why_not_cut
        if not live.knows_probabilities:
            self.absent["modules"] = "how its routers choose was not recognised"

    def describe(self) -> dict[str, Any]:
        return {
            "objective": "unknown",
            "family": self.live.model.config.model_type,
            "num_experts": max(self.experts),
            "num_experts_per_tok": self.slots,
            "parameters": sum(weight.numel() for weight in self.live.model.parameters()),
        }

    def encode(self, text: str, most: int) -> NDArray[np.int64]:
        return self.live.encode(text, min(most, self.longest)).token_ids

    def losses(
        self, documents: Documents, masks_DLR: Masks | None = None, causal_pool: int | None = None
    ) -> Losses:
        assert causal_pool is None, "see has_pools"
        self._check(documents)
        losses: Losses = [np.empty(0, np.float32)] * len(documents)
        for kept, places in self._alike(len(documents), masks_DLR):
            own = [documents[place] for place in places]
            found = self.live.many_losses(own, kept, self._at_once)
            for place, loss in zip(places, found, strict=True):
                losses[place] = loss[1:]
        return losses

    def _check(self, documents: Documents) -> None:
        if any(not 2 <= len(tokens) <= self.longest for tokens in documents):
            raise ValueError(
                f"The model takes 2 to {self.longest:,} tokens and a document has others; give "
                "shorter ones."
            )

    def _alike(
        self, count: int, masks_DLR: Masks | None
    ) -> Iterator[tuple[list[list[int]], list[int]]]:
        """Kept experts of every layer, and the documents that have these."""
        if masks_DLR is None:
            yield [], list(range(count))
            return
        places: dict[bytes, list[int]] = {}
        for place, mask_LR in enumerate(masks_DLR):
            places.setdefault(mask_LR.tobytes(), []).append(place)
        for own in places.values():
            pairs = zip(masks_DLR[own[0]], self.experts, strict=True)
            yield [np.flatnonzero(mask_R[:number]).tolist() for mask_R, number in pairs], own

    def probabilities(self, documents: Documents) -> Iterator[tuple[int, Tensor]]:
        for place, probs_TLR in self.live.probabilities(documents, self._at_once):
            yield place, probs_TLR[1:]


def subject_of(model: "EmoForCausalLM | Subject") -> Subject:
    """A loaded EMO model as what is measured; another subject as it is."""
    return model if isinstance(model, Subject) else EmoSubject(model)


def open_subject(folder: Path, device: torch.device, dtype: str = "float32") -> Subject:
    """A checkpoint folder of any family on a device.

    Raises ValueError for what cannot be found, read or held in memory, and for a model without
    losses.
    """
    if is_of_other_family(folder):
        return FamilySubject(LiveFamily(open_checkpoint(str(folder), str(device), dtype)))
    return EmoSubject(load_model(folder, dtype, device), folder)
