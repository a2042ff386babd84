"""Percentile bootstrap over documents: how sure a number is that was averaged over documents.

Documents, not tokens, are drawn with replacement, because the tokens of one document are not
independent of each other. Two calls with the same number of documents, `n` and `seed` draw the same
documents, so differences and ratios of two models can be taken sample by sample.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_DRAWS_AT_ONCE = 1 << 19  # draws held in memory at a time: 4 MiB of indices, in the cache


@dataclass(frozen=True)
class Interval:
    """A mean over `n` documents with its interval; `low` and `high` are NaN if `n` is 1."""

    mean: float
    low: float
    high: float
    n: int


def bootstrap_interval(
    values_per_document: ArrayLike,
    weights: ArrayLike | None = None,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Mean of one value per document [D], weighted by `weights` [D] (say, token counts), with its
    percentile interval over `n` resamples of the documents.

    Documents of weight 0 are left out and not counted. One document gives NaN bounds: a single
    document says nothing about the spread. Raises ValueError for no document, a value or weight
    that is not finite, a negative weight, or shapes that differ.
    """
    return bootstrap_intervals([values_per_document], weights, n, seed, level)[0]


def bootstrap_intervals(
    several: Sequence[ArrayLike],
    weights: ArrayLike | None = None,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> list[Interval]:
    """`bootstrap_interval` of several values of the same documents, which are drawn once."""
    checked = [_checked(values, weights) for values in several]
    weight = checked[0][1]
    means = [float(np.average(values, weights=weight)) for values, _ in checked]
    if len(weight) == 1:
        return [Interval(mean, np.nan, np.nan, 1) for mean in means]
    columns = np.stack([*(values * weight for values, _ in checked), weight], axis=1)
    sums = np.concatenate([c @ columns for c in resample_counts(len(weight), n, seed)])
    samples = (sums[:, :-1] / sums[:, -1:]).T
    return [
        percentile_interval(mean, each, len(weight), level)
        for mean, each in zip(means, samples, strict=True)
    ]


def percentile_interval(
    mean: float, samples: NDArray[np.float64], n_documents: int, level: float = 0.95
) -> Interval:
    """The interval that holds the middle `level` of the bootstrap `samples` of a statistic.

    Raises ValueError for a level that is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"The level of an interval must lie between 0 and 1, not {level}.")
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(mean), float(low), float(high), n_documents)


def resample_counts(n_documents: int, n: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each document was drawn: blocks [<= n, n_documents] that stack to `n` resamples.

    The blocks keep memory bounded; every row sums to `n_documents`.
    """
    rng = np.random.default_rng(seed)
    rows = max(1, MAX_DRAWS_AT_ONCE // n_documents)
    for start in range(0, n, rows):
        size = min(rows, n - start)
        drawn = rng.integers(n_documents, size=(size, n_documents))
        drawn += np.arange(size)[:, None] * n_documents
        counts = np.bincount(drawn.ravel(), minlength=size * n_documents)
        yield counts.reshape(size, n_documents).astype(np.float64)


def _checked(
    values: ArrayLike, weights: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The values and weights [D] of the documents whose weight is above 0."""
    value = np.asarray(values, dtype=np.float64)
    weight = np.ones_like(value) if weights is None else np.asarray(weights, dtype=np.float64)
    if value.ndim != 1 or weight.shape != value.shape:
        raise ValueError(
            f"Values and weights must be one number per document, not {value.shape} and "
            f"{weight.shape}."
        )
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise ValueError("Weights of documents must be finite and not negative.")
    value, weight = value[weight > 0], weight[weight > 0]
    if len(value) == 0:
        raise ValueError("An interval needs at least one document of positive weight.")
    if not np.isfinite(value).all():
        raise ValueError("Values of documents must be finite; leave out documents without a value.")
    return value, weight
