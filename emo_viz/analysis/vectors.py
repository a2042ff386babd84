"""Routing vectors: mean router probabilities -> centred PCA -> unit length.

The same three steps serve documents (rows of a trace's usage) and tokens (rows of a recording), so
that "close" means the same thing on every page: a large cosine after the mean routing is removed.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

VARIANCE_SHARE = 0.95
ROWS_AT_ONCE = 1024  # few enough that a copy of them stays in the cache between two passes
# Of more columns, all components would take a minute: the largest are found by subspace iteration.
WIDEST = 1024
MOST_COMPONENTS = 64
OVERSAMPLING, ITERATIONS = 16, 4


Array = NDArray[Any]
Blocks = Callable[[], Iterable[NDArray[np.float32]]]


@dataclass(frozen=True)
class Pca:
    """Mean [F] and orthonormal components [C, F], with the share of the variance they explain."""

    mean: NDArray[np.float32]
    components: NDArray[np.float32]
    explained: float

    def project(self, rows: NDArray[np.floating]) -> NDArray[np.float32]:
        """Coordinates [N, C] of rows [N, F]."""
        parts = [(block - self.mean) @ self.components.T for block in _blocks(rows, np.float32)]
        return np.concatenate(parts) if parts else np.empty((0, len(self.components)), np.float32)


def flatten_usage(usage: NDArray[np.floating], layer: int | None = None) -> NDArray[np.float32]:
    """Usage [D, L, R] as one float32 vector per document: [D, L*R], or [D, R] of one `layer`.

    Raises ValueError for a layer that is not there.
    """
    if layer is None:
        return np.asarray(usage, np.float32).reshape(len(usage), -1)
    if not 0 <= layer < usage.shape[1]:
        raise ValueError(f"Layer {layer} does not exist: choose 0 to {usage.shape[1] - 1}.")
    return np.asarray(usage[:, layer], np.float32)


def fit_pca(
    rows: NDArray[np.floating], share: float = VARIANCE_SHARE, components: int | None = None
) -> Pca:
    """PCA of rows [N, F] with the fewest components that reach `share` of the variance, or with
    exactly `components` (fewer if the rows span fewer).

    Exact up to WIDEST columns; of more, the largest MOST_COMPONENTS at most (`explained` says what
    these carry), by subspace iteration. Either way independent of the order of the rows: the signs
    are fixed by the largest entry of each component. Raises ValueError for fewer than two rows or
    rows that are all the same.
    """
    if len(rows) < 2:
        raise ValueError("A PCA needs at least two rows.")
    wide = rows.shape[1] > WIDEST
    most = min(components or MOST_COMPONENTS, MOST_COMPONENTS) if wide else rows.shape[1]
    mean, variances, vectors, total = _largest(rows, most) if wide else _all(rows)
    rank = int((variances > _rounding(variances, mean, wide)).sum())
    if rank == 0:
        raise ValueError("All rows have the same routing, so there is nothing to tell them apart.")
    cumulative = np.cumsum(variances) / total
    kept = min(rank, most, components or int(np.searchsorted(cumulative, share - 1e-12)) + 1)
    return Pca(mean.astype(np.float32), _signed(vectors[:kept]), float(cumulative[kept - 1]))


def unit_rows(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows [N, C] scaled to length 1; a row of zeros stays as it is."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return scaled


def _rounding(variances: Array, mean: Array, wide: bool) -> float:
    """The variance that rounding alone makes: of a covariance in float64, or of rows in float32."""
    size = float(np.square(mean).sum())
    if not wide:
        return float(np.finfo(np.float64).eps * len(variances) * (variances[0] + size))
    eps = float(np.finfo(np.float32).eps)
    return eps * len(variances) * (float(variances[0]) + eps * size)


def _all(rows: NDArray[np.floating]) -> tuple[Array, Array, Array, float]:
    """Mean [F], variances [F] falling, their directions [F, F], and the sum of the variances."""
    mean, covariance = _moments(rows)
    variances, vectors = np.linalg.eigh(covariance)
    variances, vectors = np.clip(variances[::-1], 0, None), vectors.T[::-1]
    return mean, variances, vectors, float(variances.sum())


def _largest(rows: NDArray[np.floating], count: int) -> tuple[Array, Array, Array, float]:
    """As `_all`, but only the `count` largest, in float32; the sum is of all of them.

    Subspace iteration over the columns, so that the order of the rows changes nothing.
    """
    sums = sum(b.sum(axis=0, dtype=np.float64) for b in _blocks(rows, np.float32))
    mean = np.asarray(sums) / len(rows)
    centred = _centred(rows, mean.astype(np.float32))
    width = min(count + OVERSAMPLING, rows.shape[1])
    basis = np.random.default_rng(0).standard_normal((rows.shape[1], width), np.float32)
    for _ in range(ITERATIONS):
        basis = np.linalg.qr(_twice(centred, basis))[0]
    inner = basis.T.astype(np.float64) @ _twice(centred, basis) / (len(rows) - 1)
    variances, turns = np.linalg.eigh((inner + inner.T) / 2)
    vectors = (basis @ turns[:, ::-1]).T
    total = sum(map(_squares, centred()))
    return mean, np.clip(variances[::-1], 0, None), vectors, total / (len(rows) - 1)


def _squares(rows: NDArray[np.float32]) -> float:
    """The sum of the squares of all entries."""
    return float(np.einsum("ij,ij->i", rows, rows).sum(dtype=np.float64))


def _centred(rows: NDArray[np.floating], mean: NDArray[np.float32]) -> Blocks:
    """The rows [N, F] less their mean [F], block by block, as often as they are asked for.

    None are kept: memory that is new to the process costs more than taking the mean off again.
    """
    return lambda: (block - mean for block in _blocks(rows, np.float32))


def _twice(centred: Blocks, basis: NDArray[np.float32]) -> NDArray[np.float32]:
    """The scatter matrix of the rows times `basis` [F, W], without making it: [F, W]."""
    found = np.zeros_like(basis)
    for block in centred():
        found += block.T @ (block @ basis)
    return found


def _moments(rows: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean [F] and covariance [F, F] of the rows, in two passes of bounded memory."""
    mean = sum(b.sum(axis=0) for b in _blocks(rows, np.float64)) / len(rows)
    covariance = np.zeros((rows.shape[1], rows.shape[1]))
    for block in _blocks(rows, np.float64):
        centred = block - mean
        covariance += centred.T @ centred
    return np.asarray(mean), covariance / (len(rows) - 1)


def _blocks(rows: NDArray[np.floating], dtype: type) -> Iterator[NDArray[Any]]:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        yield np.asarray(rows[start : start + ROWS_AT_ONCE], dtype)


def _signed(components: NDArray[np.float64]) -> NDArray[np.float32]:
    """Components [C, F] turned so that the largest entry of each is positive."""
    largest = np.abs(components).argmax(axis=1)
    signs = np.sign(components[np.arange(len(components)), largest])
    signed: NDArray[np.float32] = (components * signs[:, None]).astype(np.float32)
    return signed
