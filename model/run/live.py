"""A model in memory as it is asked about one text: EMO's own format, or any family with routers.

EMO's checkpoints go through `model.run.inference`, all others through `model.families` and a
`Recorder`. Layers are those with a router: the others have nothing to show and nothing to cut.

Shapes: L layers with a router, T tokens, R routed experts of the largest layer, K of them a token,
V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from model.emo.modeling import EmoForCausalLM
from model.families.groups import groups_of
from model.run.checkpoint import is_of_other_family
from model.run.inference import (
    NUM_NEXT,
    Continuation,
    Encoded,
    Recording,
    continue_text,
    document_losses,
    encode_after,
    record,
    write_on,
)
from model.run.loading import load_model, load_tokenizer
from model.run.opening import Opened, longest_text, open_checkpoint
from model.run.recording import Recorder
from model.run.selection import expert_scores, select_greedy
from model.run.subset import (
    ExpertSubset,
    Method,
    apply_subset,
    fits_groups,
    full_subset,
    subset_from_scores,
)

Experts = Sequence[Sequence[int]]
"""The kept expert ids of each layer; () for all of them."""
NO_LOSS = (
    "An encoder-decoder has no loss of a text: its decoder has seen through the encoder what it "
    "would predict."
)


@dataclass(frozen=True)
class Geometry:
    """What `model.run.subset` reads of an EmoConfig, of a model of another family.

    experts: that the router of each layer chooses among. Experts that serve every token unasked are
    not counted: no subset can leave them out.
    """

    experts: tuple[int, ...]
    num_experts_per_tok: int
    num_shared_experts: int = 0
    objective: str = "unknown"

    @property
    def num_hidden_layers(self) -> int:
        """L."""
        return len(self.experts)

    @property
    def num_routed_per_tok(self) -> int:
        """Of the layer that gives a token most."""
        return self.num_experts_per_tok

    def experts_in_layer(self, layer: int) -> int:
        """Of one layer with a router."""
        return self.experts[layer]


class Live(ABC):
    """A model that is asked about texts, one at a time.

    geometry: of its experts, an EmoConfig or what stands for one. longest: tokens of a text, the
    opening one counted; None where the config does not say. own_layers: the model's own number of
    each layer with a router. absent: in words what it cannot say of a text. why_not_cut: a
    sentence, "" if experts can be left out. knows_probabilities: those of its routers. groups: of
    neighbouring experts that a router chooses among first.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    geometry: Any
    longest: int | None
    own_layers: tuple[int, ...]
    absent: tuple[str, ...] = ()
    why_not_cut: str = ""
    knows_probabilities: bool = True
    groups: int = 1

    @property
    def is_emo(self) -> bool:
        """Whether it is of EMO's own format, which all commands take."""
        return isinstance(self, LiveEmo)

    @property
    @abstractmethod
    def opening(self) -> int:
        """The token that is put before every text."""

    def groups_at(self, keep_k: int) -> int:
        """The groups, where a cut to so many experts can keep equally many of each; else 1."""
        fits = self.groups > 1 and fits_groups(self.geometry, keep_k, self.groups)
        return self.groups if fits else 1

    def encode(self, text: str, most: int) -> Encoded:
        """A text as at most so many tokens, the opening one counted. See `encode_after`."""
        return encode_after(self.opening, self.tokenizer, text, most)

    def most_tokens(self, most: int) -> int:
        """At most so many tokens of a text, or fewer if the model takes fewer."""
        return most if self.longest is None else min(most, self.longest)

    @abstractmethod
    def record(self, token_ids: np.ndarray) -> Recording:
        """One document; what is `absent` is NaN."""

    @abstractmethod
    def losses(self, token_ids: np.ndarray, experts: Experts = ()) -> np.ndarray:
        """Losses of one document [T] with some experts alone; NaN for the first token.

        Raises ValueError for experts that do not fit, or a model that cannot be cut.
        """

    @abstractmethod
    def many_losses(
        self, documents: Sequence[np.ndarray], experts: Experts, batch_tokens: int
    ) -> list[np.ndarray]:
        """`losses` of each document; `batch_tokens` of them are run together, padding counted."""

    @abstractmethod
    def scores(self, documents: Sequence[np.ndarray], experts: Experts = ()) -> np.ndarray:
        """Mean router probability of each routed expert over all tokens: float64 [L, R]."""

    @abstractmethod
    def go_on(
        self,
        token_ids: np.ndarray,
        tokens: int,
        experts: Experts = (),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Continuation:
        """The text after a prompt, with some experts alone: see `inference.continue_text`."""

    def select(
        self,
        documents: Sequence[np.ndarray],
        keep_k: int,
        method: Method,
        ids: Sequence[str] = (),
        groups: int = 1,
    ) -> ExpertSubset:
        """`selection.select_experts` on this model; equally many of each of some groups."""
        if method == "greedy":
            return select_greedy(
                self.geometry,
                lambda kept: self.scores(documents, kept.experts),
                keep_k,
                ids,
                groups,
            )
        how = (self.geometry, method, ids, groups)
        return subset_from_scores(self.scores(documents), keep_k, *how)


class LiveEmo(Live):
    """EMO's own format, as `model.run.inference` runs it."""

    def __init__(self, model: EmoForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model, self.tokenizer, self.geometry = model, tokenizer, model.config
        self.longest = int(model.config.max_position_embeddings)
        self.own_layers = tuple(range(model.config.num_hidden_layers))

    @property
    def opening(self) -> int:
        return int(self.tokenizer.eos_token_id)

    def record(self, token_ids: np.ndarray) -> Recording:
        return record(self.model, token_ids)

    def losses(self, token_ids: np.ndarray, experts: Experts = ()) -> np.ndarray:
        with self._cut(experts):
            return document_losses(self.model, [token_ids])[0]

    def many_losses(
        self, documents: Sequence[np.ndarray], experts: Experts, batch_tokens: int
    ) -> list[np.ndarray]:
        with self._cut(experts):
            return document_losses(self.model, documents, batch_tokens)

    def scores(self, documents: Sequence[np.ndarray], experts: Experts = ()) -> np.ndarray:
        if not experts:
            return expert_scores(self.model, documents)
        with self._cut(experts):
            return expert_scores(self.model, documents)

    def go_on(
        self,
        token_ids: np.ndarray,
        tokens: int,
        experts: Experts = (),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Continuation:
        how = (tokens, temperature, seed)
        with self._cut(experts):
            return continue_text(self.model, self.tokenizer, token_ids, *how)

    @contextmanager
    def _cut(self, experts: Experts) -> Iterator[None]:
        kept = tuple(map(tuple, experts))
        subset = ExpertSubset(kept, "", (), 0) if kept else full_subset(self.model.config)
        with apply_subset(self.model, subset):
            yield


class LiveFamily(Live):
    """Any family that `model.families` opens."""

    def __init__(self, opened: Opened) -> None:
        """Raises ValueError for a model without any token that could open a text."""
        if opened.opening is None:
            raise ValueError(
                f"{opened.name} has no token that could open a text (none for its beginning or "
                "end); name one as eos_token in tokenizer_config.json."
            )
        self._opening, self._routed = opened.opening, opened.model
        self._recorder = Recorder(opened.model)
        self.model, self.tokenizer = opened.model.model, opened.tokenizer
        self.longest = longest_text(self.model.config.to_dict())
        self.own_layers = self._recorder.places
        layers = opened.model.layers
        self.geometry = Geometry(
            tuple(layer.num_routed for layer in layers),
            max(min(layer.num_chosen, layer.num_routed) for layer in layers),
        )
        self.knows_probabilities = all(layer.rule is not None for layer in layers)
        self.groups = groups_of(self.model.config).number
        self.absent = tuple(self._lacks())
        self.why_not_cut = self._why_not_cut(opened.name)

    @property
    def opening(self) -> int:
        return self._opening

    @property
    def why_no_loss(self) -> str:
        """A sentence, "" if it has losses."""
        return NO_LOSS if self.model.config.is_encoder_decoder else ""

    def _lacks(self) -> Iterator[str]:
        if not self.knows_probabilities:
            yield "no router entropies, because how its routers choose was not recognised"
        if self.why_no_loss:
            yield (
                "no losses and no next tokens, because its decoder has seen through the encoder "
                "what it would predict"
            )

    def _why_not_cut(self, name: str) -> str:
        try:
            for layer in self._routed.layers:
                layer.check_restrictable()
        except ValueError as error:
            return str(error)
        if self.why_no_loss:
            return (
                f"{name} is an encoder-decoder, which has no loss of a text that a cut could "
                "change; its routing can be seen on the page Token routing."
            )
        return ""

    def record(self, token_ids: np.ndarray) -> Recording:
        whole = self._recorder.record_whole(token_ids)
        done, own = whole.routing, list(self.own_layers)
        none = np.full(len(token_ids), np.nan, np.float32)
        empty = np.empty((len(token_ids), 0))
        next_probs, next_ids = empty, empty.astype(np.int64)
        if whole.logits_TV is not None:
            probs_TV = whole.logits_TV.float().softmax(-1)
            best = probs_TV.topk(min(NUM_NEXT, probs_TV.shape[1]), dim=-1)
            next_probs, next_ids = best.values.cpu().numpy(), best.indices.cpu().numpy()
        unknown = np.full((len(own), len(token_ids), max(self.geometry.experts)), np.nan)
        arrays = {
            "token_ids": np.array(token_ids, np.int64),  # a copy, frozen below
            "router_probs": unknown if whole.probs_LTR is None else whole.probs_LTR[own],
            "expert_ids": done.expert_ids[own],
            "gate_weights": done.gate_weights[own],
            "entropy": np.tile(none, (len(own), 1)) if done.entropy is None else done.entropy[own],
            "loss": none if done.loss is None else done.loss,
            "next_ids": next_ids,
            "next_probs": next_probs,
        }
        for array in arrays.values():
            array.flags.writeable = False
        return Recording(**arrays)

    def losses(self, token_ids: np.ndarray, experts: Experts = ()) -> np.ndarray:
        with self._cut(experts):
            loss = self._recorder.record_whole(token_ids).routing.loss
        if loss is None:
            raise ValueError(self.why_no_loss)
        return loss

    def many_losses(
        self, documents: Sequence[np.ndarray], experts: Experts, batch_tokens: int
    ) -> list[np.ndarray]:
        with self._cut(experts):
            batches = self._recorder.record(documents, batch_tokens)
            found = {number: one.loss for batch in batches for number, one in batch}
        known = {number: loss for number, loss in found.items() if loss is not None}
        if len(known) < len(documents):
            raise ValueError(self.why_no_loss)
        return [known[number] for number in range(len(documents))]

    def scores(self, documents: Sequence[np.ndarray], experts: Experts = ()) -> np.ndarray:
        sums_LR = np.zeros((len(self.own_layers), max(self.geometry.experts)))
        tokens = 0
        with self._cut(experts):
            for batch in self._recorder.record(documents):
                for _, routing in batch:
                    if routing.usage is None:
                        raise ValueError(self.why_not_cut)
                    length = len(routing.token_ids) - 1
                    sums_LR += routing.usage[list(self.own_layers)].astype(np.float64) * length
                    tokens += length
        return sums_LR / tokens

    def probabilities(
        self, documents: Sequence[np.ndarray], batch_tokens: int
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """The place of each document and its router probabilities [T, L, R], float32.

        Raises ValueError if they are not known.
        """
        own = list(self.own_layers)
        for number, probs_LTR in self._recorder.probabilities(documents, batch_tokens):
            yield number, torch.from_numpy(probs_LTR[own]).transpose(0, 1)

    @torch.inference_mode()
    def go_on(
        self,
        token_ids: np.ndarray,
        tokens: int,
        experts: Experts = (),
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Continuation:
        with self._cut(experts):
            prompt_1T = torch.from_numpy(np.asarray(token_ids, dtype=np.int64))[None]
            prompt_1T = prompt_1T.to(self._recorder.device)
            longest = self.longest or len(token_ids) + 2 * tokens
            pad = self._recorder.config.pad_token_id
            how = (longest, pad, temperature, seed)
            return write_on(self.model, self.tokenizer, prompt_1T, tokens, *how)

    @contextmanager
    def _cut(self, experts: Experts) -> Iterator[None]:
        if not experts:
            yield
            return
        if self.why_not_cut:
            raise ValueError(self.why_not_cut)
        with self._routed.restricted(experts):
            yield


def open_live(folder: Path, device: str = "cpu", dtype: str = "float32") -> Live:
    """A checkpoint folder of any family on a device.

    Raises ValueError for what cannot be found, read or held in memory, and for a model without
    routers.
    """
    if is_of_other_family(folder):
        return LiveFamily(open_checkpoint(str(folder), device, dtype))
    model, tokenizer = load_model(folder, dtype, device), load_tokenizer(folder)
    return LiveEmo(model, tokenizer)
