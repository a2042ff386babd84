"""Expert subsets: which experts of each layer stay, how they were chosen, and how to apply them.

A subset is data. `apply_subset` masks the router logits of a loaded model for the length of a
`with` block, in this thread alone: nothing is copied and the model itself is not touched, so two
threads can run different subsets of one model at once. Masking before the softmax gives the same
outputs as deleting the experts (the released subset checkpoints).

Shapes: L layers, E experts, R routed experts, T tokens.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from model.config import EmoConfig
    from model.modeling import EmoForCausalLM

Method = Literal["router_probability", "greedy"]

_NONE: Mapping[int, Tensor] = MappingProxyType({})
_active: ContextVar[Mapping[int, Tensor]] = ContextVar("active_expert_masks", default=_NONE)
_most: ContextVar[int | None] = ContextVar("most_experts_kept", default=None)


def active_mask(router: nn.Module) -> Tensor | None:
    """The routed experts that the current subset keeps in this router: bool [R], or None."""
    return _active.get().get(id(router))


def active_keep_k() -> int | None:
    """The most experts that the current subset keeps in a layer, or None: it chooses tiles."""
    return _most.get()


@dataclass(frozen=True)
class ExpertSubset:
    """Kept experts of every layer (ascending ids, shared ones included) and where they come from.

    `calibration` names the documents that the choice was made from; `budget` is the keep-k asked.
    """

    experts: tuple[tuple[int, ...], ...]
    method: str
    calibration: tuple[str, ...]
    budget: int

    @property
    def keep_k(self) -> int:
        """Experts kept a layer, the shared one counted."""
        return self.budget

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ExpertSubset":
        """Raises ValueError for text that is not a subset."""
        try:
            fields = json.loads(text)
            experts = tuple(tuple(int(e) for e in layer) for layer in fields["experts"])
            return cls(
                experts, str(fields["method"]), tuple(fields["calibration"]), int(fields["budget"])
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                "This is not an expert subset: JSON with experts (the kept ids of each layer), "
                "method, calibration and budget. Export it again."
            ) from error


@contextmanager
def apply_subset(model: "EmoForCausalLM", subset: ExpertSubset) -> Iterator[None]:
    """Route only to the subset's experts inside the block, in this thread.

    Raises ValueError if the subset was made for another geometry.
    """
    masks_L = _masks(model, subset)
    masks = {id(router): mask for router, mask in zip(model.routers(), masks_L, strict=True)}
    token = _active.set({**_active.get(), **masks})
    token_of_most = _most.set(max(map(len, subset.experts)))
    try:
        yield
    finally:
        _most.reset(token_of_most)
        _active.reset(token)


def _masks(model: "EmoForCausalLM", subset: ExpertSubset) -> list[Tensor]:
    check_subset(model.config, subset)
    masks = []
    for layer, kept in enumerate(subset.experts):
        num_routed = model.config.experts_in_layer(layer) - model.config.num_shared_experts
        mask_R = torch.zeros(num_routed, dtype=torch.bool, device=model.device)
        mask_R[[e for e in kept if e < num_routed]] = True
        masks.append(mask_R)
    return masks


def check_subset(config: "EmoConfig", subset: ExpertSubset) -> None:
    """Raises ValueError unless the subset fits the geometry and keeps enough experts a layer."""
    if config.objective == "dense":
        raise ValueError("A dense model has no experts to choose among.")
    if len(subset.experts) != config.num_hidden_layers:
        raise ValueError(
            f"The subset has {len(subset.experts)} layers, the model {config.num_hidden_layers}."
        )
    for layer, kept in enumerate(subset.experts):
        num_experts = config.experts_in_layer(layer)
        num_routed = num_experts - config.num_shared_experts
        needed = min(config.num_experts_per_tok, num_experts) - config.num_shared_experts
        if any(not 0 <= e < num_experts for e in kept) or (
            len({e for e in kept if e < num_routed}) < needed
        ):
            raise ValueError(
                f"Layer {layer} of the subset does not fit: ids must be 0..{num_experts - 1} and "
                f"at least {needed} of them routed experts."
            )


def check_keep_k(config: "EmoConfig", keep_k: int) -> None:
    """Raises ValueError unless top-k <= keep_k <= number of experts."""
    if not config.num_experts_per_tok <= keep_k <= config.num_experts:
        raise ValueError(
            f"keep-k must be {config.num_experts_per_tok} (the experts each token uses) to "
            f"{config.num_experts}, not {keep_k}."
        )


def full_subset(config: "EmoConfig") -> ExpertSubset:
    """All experts of every layer."""
    layer = tuple(range(config.num_experts))
    return ExpertSubset((layer,) * config.num_hidden_layers, "full", (), config.num_experts)


def random_subset(config: "EmoConfig", keep_k: int, seed: int) -> ExpertSubset:
    """keep_k - shared routed experts drawn at random for each layer, and the shared ones."""
    check_keep_k(config, keep_k)
    rng = np.random.default_rng(seed)
    scores_LR = rng.random((config.num_hidden_layers, config.num_routed_experts))
    return subset_from_scores(scores_LR, keep_k, config, f"random seed {seed}", ())


def subset_from_scores(
    scores_LR: np.ndarray,
    keep_k: int,
    config: "EmoConfig",
    method: str,
    calibration_ids: Sequence[str] = (),
) -> ExpertSubset:
    """Keep, in each layer, the routed experts of the highest score and the shared ones."""
    check_keep_k(config, keep_k)
    num_kept = keep_k - config.num_shared_experts
    order_LR = np.argsort(-scores_LR, axis=1, kind="stable")
    shared = tuple(range(config.num_routed_experts, config.num_experts))
    layers = tuple(tuple(sorted(map(int, row[:num_kept]))) + shared for row in order_LR)
    return ExpertSubset(layers, method, tuple(calibration_ids), keep_k)


def expert_scores(model: "EmoForCausalLM", documents: Sequence[np.ndarray]) -> np.ndarray:
    """Mean router probability of each routed expert over all tokens, one pass: float64 [L, R]."""
    from model.inference import router_probabilities

    return router_probabilities(model, documents).mean(1, dtype=np.float64)


def select_experts(
    model: "EmoForCausalLM",
    documents: Sequence[np.ndarray],
    keep_k: int,
    method: Method = "router_probability",
    calibration_ids: Sequence[str] = (),
) -> ExpertSubset:
    """Choose keep_k experts a layer for the domain of some calibration documents (token ids).

    "router_probability" ranks by mean router probability in one pass of the full model; "greedy"
    chooses layer by layer, each measured with the layers below it already cut (reference: its
    default "layerwise"). Raises ValueError for a keep-k out of range or no documents.
    """
    config = model.config
    check_keep_k(config, keep_k)
    if not documents:
        raise ValueError("Expert selection needs at least one calibration document.")
    if method == "router_probability":
        scores_LR = expert_scores(model, documents)
        return subset_from_scores(scores_LR, keep_k, config, method, calibration_ids)
    if method != "greedy":
        raise ValueError(f"Unknown selection method {method!r}: router_probability or greedy.")
    subset = full_subset(config)
    chosen: list[tuple[int, ...]] = []
    for layer in range(config.num_hidden_layers):
        with apply_subset(model, subset):
            scores_LR = expert_scores(model, documents)
        one_pass = subset_from_scores(scores_LR, keep_k, config, method, calibration_ids)
        chosen.append(one_pass.experts[layer])
        subset = ExpertSubset(
            (*chosen, *full_subset(config).experts[layer + 1 :]), method, (), keep_k
        )
    return ExpertSubset(tuple(chosen), method, tuple(calibration_ids), keep_k)
