"""Percentile bootstrap over documents: what another draw of documents might have given.

Shapes: D documents, C columns (measures).
"""

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000
Span = list[float]
"""Mean, and the ends of its 95 % interval."""

Array = NDArray[np.float64]


def domain_means(
    loss_DC: Array, tokens_D: Array, domains_D: NDArray[np.int64]
) -> tuple[Array, Array]:
    """Means [C] and the means of DRAWS resamples [DRAWS, C], in nats a token.

    Token-weighted inside a domain, then the plain mean over domains; documents are drawn inside
    each domain, the same ones whatever the measures are.
    """
    means, drawn = [], []
    for domain in np.unique(domains_D):
        here = domains_D == domain
        sums_DC, tokens = loss_DC[here] * tokens_D[here, None], tokens_D[here]
        counts = _resamples(int(here.sum()), int(domain))
        means.append(sums_DC.sum(0) / tokens.sum())
        drawn.append((counts @ sums_DC) / (counts @ tokens)[:, None])
    return np.mean(means, 0), np.mean(drawn, 0)


def pooled_mean(sums_D: Array, counts_D: Array) -> Span:
    """Sum over count of all documents together, with its interval."""
    drawn = _resamples(len(sums_D), 0)
    totals = drawn @ counts_D
    samples = (drawn @ sums_D)[totals > 0] / totals[totals > 0]
    return span(float(sums_D.sum() / max(counts_D.sum(), 1)), samples)


def span(mean: float, samples: Array) -> Span:
    """The mean with the middle 95 % of the samples, rounded to what is worth keeping."""
    if not len(samples):
        return [round(mean, 5), float("nan"), float("nan")]
    low, high = np.quantile(samples, [0.025, 0.975])
    return [round(float(value), 5) for value in (mean, low, high)]


def _resamples(size: int, seed: int) -> Array:
    """How often each of `size` documents was drawn: [DRAWS, size]."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(size, np.full(size, 1 / size), DRAWS).astype(np.float64)
