"""How each family routes one token, with plain numbers, from the papers and configs alone.

Independent of model/families: every function gives {expert: gate weight} for one token's logits.
"""

import math


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
