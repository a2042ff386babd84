"""Expert subsets: which experts of each layer stay, how they were chosen, and how to apply them.

A subset is data. `apply_subset` masks the router logits of a loaded model for the length of a
`with` block, in this thread alone: nothing is copied and the model itself is not touched, so two
threads can run different subsets of one model at once. Masking before the softmax gives the same
outputs as deleting the experts (the released subset checkpoints).

Shapes: L layers, E experts, R routed experts, T tokens.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from model.emo.restriction import restricted
from model.fields import is_count

if TYPE_CHECKING:
    from model.emo.config import EmoConfig
    from model.emo.modeling import EmoForCausalLM

Method = Literal["router_probability", "greedy"]

FORMAT = "emo-viz-subset"
FORMAT_VERSION = 1
AGAIN = "make it again with python -m emo_viz subset"


@dataclass(frozen=True)
class ExpertSubset:
    """Kept experts of every layer (ascending ids, shared ones included) and where they come from.

    A layer without experts keeps none: (). `calibration` names the documents that the choice was
    made from, `documents_sha256` is a digest of their texts, `domain` theirs, if one was asked for;
    `budget` is the keep-k asked. `model` and `weights_sha256` (`files.weights_digest`) say whose
    experts these are; "" where it is not known.
    """

    experts: tuple[tuple[int, ...], ...]
    method: str
    calibration: tuple[str, ...]
    budget: int
    model: str = ""
    weights_sha256: str = ""
    domain: str | None = None
    documents_sha256: str = ""

    @property
    def keep_k(self) -> int:
        """Experts kept a layer, the shared one counted; layers that have fewer keep them all."""
        return self.budget

    def to_json(self) -> str:
        """The subset as the text of a file."""
        return json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION} | asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ExpertSubset":
        """Reads files of older programs, which do not say whose experts they list, as well.

        Raises ValueError for text that is not a subset: ids must be whole numbers from 0, each
        once, ascending.
        """
        try:
            fields = json.loads(text.removeprefix("\ufeff"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"This is not an expert subset, because not JSON; {AGAIN}.") from error
        _check_fields(fields)
        return cls(
            tuple(map(tuple, fields["experts"])),
            fields["method"],
            tuple(fields["calibration"]),
            fields["budget"],
            **{name: fields[name] for name in ORIGIN if name in fields},
        )


ORIGIN = ("model", "weights_sha256", "domain", "documents_sha256")


def _check_fields(fields: Any) -> None:
    """Raises ValueError unless these are the fields of a subset, each of its type."""
    if not isinstance(fields, dict) or not isinstance(fields.get("experts"), list):
        raise ValueError(
            "This is not an expert subset: JSON with experts (the kept ids of each layer), method, "
            f"calibration and budget; {AGAIN}."
        )
    version = fields.get("format_version", FORMAT_VERSION)
    if version != FORMAT_VERSION or fields.get("format", FORMAT) != FORMAT:
        raise ValueError(
            f"This is a subset of format {fields.get('format')!r}, version {version!r}, and this "
            f"program reads version {FORMAT_VERSION} of {FORMAT!r}; {AGAIN}."
        )
    for layer, experts in enumerate(fields["experts"]):
        _check_ids(layer, experts)
    calibration = fields.get("calibration")
    fits = {
        "method": isinstance(fields.get("method"), str),
        "calibration": isinstance(calibration, list)
        and all(isinstance(name, str) for name in calibration),
        "budget": is_count(fields.get("budget")),
    }
    fits |= {name: isinstance(fields.get(name, ""), str) for name in ORIGIN}
    fits["domain"] = isinstance(fields.get("domain"), str | None)
    if wrong := [name for name, fit in fits.items() if not fit]:
        raise ValueError(f"This expert subset has no proper {wrong[0]}; {AGAIN}.")


def _check_ids(layer: int, experts: Any) -> None:
    if not isinstance(experts, list) or not all(map(is_count, experts)):
        raise ValueError(
            f"The experts of layer {layer} in this subset are not a list of whole numbers from 0; "
            f"{AGAIN}."
        )
    if any(after <= before for before, after in pairwise(experts)):
        raise ValueError(
            f"The experts of layer {layer} in this subset are not in ascending order, each once; "
            f"sort them, or {AGAIN}."
        )


@contextmanager
def apply_subset(model: "EmoForCausalLM", subset: ExpertSubset) -> Iterator[None]:
    """Route only to the subset's experts inside the block, in this thread.

    Raises ValueError if the subset was made for another geometry.
    """
    with restricted(_masks(model, subset), max(map(len, subset.experts))):
        yield


def _masks(model: "EmoForCausalLM", subset: ExpertSubset) -> dict[int, Tensor]:
    """By the id of each router: the routed experts that it may use, bool [R of its layer]."""
    check_subset(model.config, subset)
    masks = {}
    for layer, router in routers_by_layer(model).items():
        num_routed = routed_in_layer(model.config, layer)
        mask_R = torch.zeros(num_routed, dtype=torch.bool, device=model.device)
        mask_R[[e for e in subset.experts[layer] if e < num_routed]] = True
        masks[id(router)] = mask_R
    return masks


def routers_by_layer(model: "EmoForCausalLM") -> dict[int, nn.Module]:
    """The router of each layer that has one, in the order of the layers."""
    mlps: list[Any] = [block.mlp for block in model.model.layers]
    return {layer: mlp.gate for layer, mlp in enumerate(mlps) if hasattr(mlp, "gate")}


def routed_in_layer(config: "EmoConfig", layer: int) -> int:
    """R of one layer: the experts that its router chooses among; 0 in a layer without a router."""
    return max(0, config.experts_in_layer(layer) - config.num_shared_experts)


def most_experts(config: "EmoConfig") -> int:
    """Experts of the layer that has most, the shared ones counted."""
    return max(map(config.experts_in_layer, range(config.num_hidden_layers)))


def most_routed(config: "EmoConfig") -> int:
    """Routed experts of the layer that has most."""
    return max(0, most_experts(config) - config.num_shared_experts)


def slots_in_layer(config: "EmoConfig", layer: int) -> int:
    """Routed experts of a token in one layer: as many as a token uses, or all that there are."""
    return min(config.num_routed_per_tok, routed_in_layer(config, layer))


def check_subset(config: "EmoConfig", subset: ExpertSubset) -> None:
    """Raises ValueError unless the subset fits the geometry and keeps enough experts a layer."""
    if config.objective == "dense":
        raise ValueError("A dense model has no experts to choose among.")
    if len(subset.experts) != config.num_hidden_layers:
        raise ValueError(
            f"The subset has {len(subset.experts)} layers, the model {config.num_hidden_layers}; "
            f"{AGAIN} for it."
        )
    for layer, kept in enumerate(subset.experts):
        num_experts, needed = config.experts_in_layer(layer), slots_in_layer(config, layer)
        distinct = {e for e in kept if 0 <= e < num_experts}
        routed = {e for e in distinct if e < routed_in_layer(config, layer)}
        if len(distinct) != len(kept) or len(routed) < needed:
            ids = f"0..{num_experts - 1}, each once," if num_experts else "none"
            raise ValueError(
                f"Layer {layer} of the subset does not fit: ids must be {ids} and at least "
                f"{needed} of them routed experts; {AGAIN} for it."
            )


def check_keep_k(config: "EmoConfig", keep_k: int, groups: int = 1) -> None:
    """Raises ValueError unless top-k <= keep_k <= number of experts in the largest layer.

    Of several groups of experts, equally many of each must make it, and as many as a cut takes.
    """
    most = most_experts(config)
    least = min(config.num_experts_per_tok, most)
    if not least <= keep_k <= most:
        raise ValueError(
            f"keep-k must be {least} (the experts each token uses) to {most}, not {keep_k}."
        )
    if groups > 1:
        _check_groups(config, keep_k, groups)


def fits_groups(config: "EmoConfig", keep_k: int, groups: int) -> bool:
    """Whether equally many experts of each of several groups, as a cut takes them, make keep_k."""
    from model.families.groups import LEAST_OF_GROUP  # here: EMO's own format needs no families

    num_kept = keep_k - config.num_shared_experts
    return not num_kept % groups and num_kept >= LEAST_OF_GROUP * groups


def _check_groups(config: "EmoConfig", keep_k: int, groups: int) -> None:
    from model.families.groups import LEAST_OF_GROUP

    if not fits_groups(config, keep_k, groups):
        raise ValueError(
            f"keep-k must be a multiple of {groups}, the groups, and at least {LEAST_OF_GROUP} of "
            f"each, not {keep_k}."
        )


def full_subset(config: "EmoConfig") -> ExpertSubset:
    """All experts of every layer."""
    layers = range(config.num_hidden_layers)
    experts = tuple(tuple(range(config.experts_in_layer(layer))) for layer in layers)
    return ExpertSubset(experts, "full", (), most_experts(config))


def random_subset(config: "EmoConfig", keep_k: int, seed: int, groups: int = 1) -> ExpertSubset:
    """keep_k - shared routed experts drawn at random for each layer, and the shared ones.

    groups: of neighbouring experts, of which equally many are drawn.
    """
    check_keep_k(config, keep_k, groups)
    rng = np.random.default_rng(seed)
    scores_LR = rng.random((config.num_hidden_layers, most_routed(config)))
    return subset_from_scores(scores_LR, keep_k, config, f"random seed {seed}", (), groups)


def subset_from_scores(
    scores_LR: np.ndarray,
    keep_k: int,
    config: "EmoConfig",
    method: str,
    calibration_ids: Sequence[str] = (),
    groups: int = 1,
) -> ExpertSubset:
    """Keep, in each layer, the routed experts of the highest score and the shared ones.

    Scores beyond the routed experts of a layer are not read; a layer that has no more than keep_k
    experts keeps them all. groups: of neighbouring experts, of which equally many are kept.
    """
    check_keep_k(config, keep_k, groups)
    num_kept = keep_k - config.num_shared_experts
    layers = []
    for layer, scores_R in enumerate(scores_LR):
        num_routed = routed_in_layer(config, layer)
        order_R = _by_score(scores_R[:num_routed], groups)
        shared = range(num_routed, config.experts_in_layer(layer))
        layers.append((*sorted(map(int, order_R[:num_kept])), *shared))
    return ExpertSubset(tuple(layers), method, tuple(calibration_ids), keep_k)


def _by_score(scores_R: np.ndarray, groups: int) -> np.ndarray:
    """Experts by falling score: the best of every group first, then the second of every group."""
    order_GR = np.argsort(-scores_R.reshape(groups, -1), axis=1, kind="stable")
    first_G1 = np.arange(groups)[:, None] * order_GR.shape[1]
    return (order_GR + first_G1).T.ravel()
