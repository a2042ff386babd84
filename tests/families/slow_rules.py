"""How each family routes one token, with plain numbers, from the papers and configs alone.

Independent of model/families: every function gives {expert: gate weight} for one token's logits.
"""

import math
from collections import Counter
from typing import Any


def softmax(values: dict[int, float]) -> dict[int, float]:
    top = max(values.values())
    exps = {e: math.exp(v - top) for e, v in values.items()}
    total = sum(exps.values())
    return {e: v / total for e, v in exps.items()}


def best(values: dict[int, float], k: int) -> list[int]:
    return sorted(values, key=lambda e: -values[e])[:k]


def softmax_then_top(logits: dict[int, float], k: int, renormalise: bool) -> dict[int, float]:
    scores = softmax(logits)
    chosen = {e: scores[e] for e in best(scores, k)}
    total = sum(chosen.values()) if renormalise else 1.0
    return {e: v / total for e, v in chosen.items()}


def top_then_softmax(logits: dict[int, float], k: int) -> dict[int, float]:
    return softmax({e: logits[e] for e in best(logits, k)})


def deepseek(
    logits: dict[int, float], k: int, bias: list[float], groups: int, kept: int, scale: float
) -> dict[int, float]:
    scores = {e: 1 / (1 + math.exp(-v)) for e, v in logits.items()}
    choice = {e: scores[e] + bias[e] for e in scores}
    size = len(bias) // groups
    members = {g: [e for e in choice if e // size == g] for g in range(groups)}
    worth = {
        g: sum(sorted((choice[e] for e in es), reverse=True)[:2]) for g, es in members.items() if es
    }
    allowed = {e: choice[e] for g in best(worth, kept) for e in members[g]}
    chosen = {e: scores[e] for e in best(allowed, k)}
    total = sum(chosen.values())
    return {e: scale * v / total for e, v in chosen.items()}


def sparsemixer(logits: dict[int, float], k: int, jitter: float) -> dict[int, float]:
    left, weights = dict(logits), {}
    for _ in range(k):
        first = max(left, key=lambda e: left[e])
        top = left[first]
        near = {e: v for e, v in left.items() if (top - v) / max(abs(logits[e]), top) <= 2 * jitter}
        weights[first] = softmax(near)[first]
        del left[first]
    return weights


def expected(family: str, router: Any, k: int, logits: dict[int, float]) -> dict[int, float]:
    """One token of a causal family; `router` is asked for its bias and its settings alone."""
    if family in ("deepseek_v3", "glm4_moe"):
        bias = router.e_score_correction_bias.tolist()
        groups = (router.num_group, router.topk_group)
        return deepseek(logits, k, bias, *groups, router.routed_scaling_factor)
    if family in ("gpt_oss", "granitemoe", "jetmoe"):
        return top_then_softmax(logits, k)
    if family == "phimoe":
        return sparsemixer(logits, k, 0.3)
    if family == "emo":
        shared = max(logits)
        routed_logits = {e: v for e, v in logits.items() if e != shared}
        return softmax_then_top(routed_logits, k - 1, renormalise=False) | {shared: 1.0}
    renormalise = family in ("mixtral", "dbrx") or getattr(router, "norm_topk_prob", False)
    return softmax_then_top(logits, k, renormalise)


def switch(tokens: list[dict[int, float]], capacity: int) -> list[dict[int, float]]:
    """A text's tokens in turn: the likeliest expert, nothing once that has `capacity` tokens."""
    served: Counter[int] = Counter()
    chosen = []
    for logits in tokens:
        first = best(logits, 1)[0]
        served[first] += 1
        chosen.append({first: softmax(logits)[first]} if served[first] <= capacity else {})
    return chosen


def nllb(tokens: list[dict[int, float]]) -> list[dict[int, float]]:
    """As transformers 5.23 runs it without a capacity: to experts 1 and 0, whoever was chosen."""
    chosen = []
    for logits in tokens:
        scores = softmax(logits)
        first, second = (scores[e] for e in best(scores, 2))
        chosen.append({1: first / (first + second), 0: second / (first + second)})
    return chosen
