"""Choosing the experts of a domain by what its documents' routers prefer.

Shapes: L layers, R routed experts.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from model.run.inference import router_probabilities
from model.run.subset import (
    ExpertSubset,
    Method,
    apply_subset,
    check_keep_k,
    full_subset,
    subset_from_scores,
)

if TYPE_CHECKING:
    from model.emo.modeling import EmoForCausalLM


def expert_scores(model: "EmoForCausalLM", documents: Sequence[np.ndarray]) -> np.ndarray:
    """Mean router probability of each routed expert over all tokens, one pass: float64 [L, R].

    R is that of the largest layer; 0 where a layer has fewer.
    """
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

    def scores(kept: ExpertSubset) -> np.ndarray:
        with apply_subset(model, kept):
            return expert_scores(model, documents)

    return select_greedy(config, scores, keep_k, calibration_ids)


def select_greedy(
    config: Any,
    scores: Callable[[ExpertSubset], np.ndarray],
    keep_k: int,
    calibration_ids: Sequence[str] = (),
    groups: int = 1,
) -> ExpertSubset:
    """Choose layer by layer; scores: of all experts [L, R] with a subset of them in force.

    config: an EmoConfig, or what stands for one (`model.run.live.Geometry`).
    """
    check_keep_k(config, keep_k)
    method, subset = "greedy", full_subset(config)
    chosen: list[tuple[int, ...]] = []
    for layer in range(config.num_hidden_layers):
        how = (keep_k, config, method, calibration_ids, groups)
        one_pass = subset_from_scores(scores(subset), *how)
        chosen.append(one_pass.experts[layer])
        subset = ExpertSubset(
            (*chosen, *full_subset(config).experts[layer + 1 :]), method, (), keep_k
        )
    return ExpertSubset(tuple(chosen), method, tuple(calibration_ids), keep_k)
