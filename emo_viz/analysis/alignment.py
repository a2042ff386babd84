"""How well clusters agree with a known grouping: NMI and ARI, their spread and their chance level.

NMI (mutual information over the mean of the two entropies) is 1 for the same grouping and, in a
finite sample, well above 0 for unrelated ones; so it comes with the value that shuffled groups
reach. ARI is adjusted for chance by construction.

Intervals are over documents, with the clusters as they are. A resample that repeats documents
looks like a smaller sample, in which NMI is higher and varies less; so what is resampled is each
document's contribution to the measured value, found by leaving that document out (its jackknife
pseudo-value). tests/analysis/test_alignment.py holds that the intervals cover what they say.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.special import xlogy

from emo_viz.analysis.bootstrap import Interval, bootstrap_interval, bootstrap_intervals

SHUFFLES = 20

Array = NDArray[np.float64]
Codes = NDArray[np.intp]


@dataclass(frozen=True)
class Alignment:
    """Agreement of clusters with groups; `chance_nmi` is the mean NMI of shuffled groups.

    influence [D]: what each document contributes to the NMI beyond the mean document; needed to
    compare two measurements of the same documents.
    """

    nmi: Interval
    ari: Interval
    chance_nmi: float
    influence: Array


@dataclass(frozen=True)
class _Tables:
    """Items per document and cell [D, cells]: by cluster, by group, and by both at once."""

    clusters: csr_array
    groups: csr_array
    both: csr_array


def alignment(
    clusters: ArrayLike,
    groups: ArrayLike,
    documents: ArrayLike | None = None,
    shuffle: Literal["documents", "items"] = "documents",
    n: int = 1000,
    seed: int = 0,
) -> Alignment:
    """Agreement of `clusters` [N] with `groups` [N] of items that lie in `documents` [N].

    Without `documents` every item is a document. shuffle: what changes its group for the chance
    level, whole documents (each must have one group) or single items. n: resamples. Raises
    ValueError for arrays of different lengths or without items, and for documents of several
    groups.
    """
    cluster, group, document = _codes(clusters, groups, documents)
    nmi, ari = _scores(_tables(cluster, group, document))
    influence = _influence(nmi)
    of_nmi, of_ari = bootstrap_intervals([influence, _influence(ari)], None, n, seed)
    return Alignment(
        nmi=_moved(of_nmi, nmi[0]),
        ari=_moved(of_ari, ari[0]),
        chance_nmi=_chance(cluster, group, document, shuffle, seed),
        influence=influence,
    )


def ratio_interval(
    upper: Interval, upper_influence: Array, lower: Interval, lower_influence: Array, n: int = 1000
) -> Interval:
    """Ratio of two NMI of the same documents, each with its influence [D]; NaN over 0."""
    if lower.mean == 0:
        return Interval(np.nan, np.nan, np.nan, upper.n)
    ratio = upper.mean / lower.mean
    influence = (upper_influence - ratio * lower_influence) / lower.mean
    return _interval(ratio, influence, n)


def difference_interval(
    one: Interval, influence: Array, other: Interval, other_influence: Array, n: int = 1000
) -> Interval:
    """One NMI less another of the same documents, each with its influence [D].

    Both are resampled with the same documents, so what is common to them does not widen it.
    """
    return _interval(one.mean - other.mean, influence - other_influence, n)


def contingency(
    rows: ArrayLike, columns: ArrayLike
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]:
    """Distinct row labels [A], distinct column labels [B] and the counts of their pairs [A, B]."""
    row_names, row = np.unique(np.asarray(rows), return_inverse=True)
    column_names, column = np.unique(np.asarray(columns), return_inverse=True)
    counts = np.bincount(
        row * len(column_names) + column, minlength=len(row_names) * len(column_names)
    )
    return row_names, column_names, counts.reshape(len(row_names), len(column_names))


def _codes(
    clusters: ArrayLike, groups: ArrayLike, documents: ArrayLike | None
) -> tuple[Codes, Codes, Codes]:
    """The three labels as 0, 1, 2, ..."""
    size = len(np.asarray(clusters))
    labels = (clusters, groups, np.arange(size) if documents is None else documents)
    if size == 0 or any(len(np.asarray(each)) != size for each in labels):
        raise ValueError("Clusters, groups and documents must name the same items, at least one.")
    cluster, group, document = (np.unique(each, return_inverse=True)[1] for each in labels)
    return cluster, group, document


def _tables(cluster: Codes, group: Codes, document: Codes) -> _Tables:
    pair = np.unique(cluster * (group.max() + 1) + group, return_inverse=True)[1]
    return _Tables(*(_cells(document, cell) for cell in (cluster, group, pair)))


def _cells(document: Codes, cell: Codes) -> csr_array:
    """Items [D, cells] of every document in every cell."""
    table: csr_array = csr_array((np.ones(len(cell)), (document, cell)))
    table.sum_duplicates()
    return table


def _scores(tables: _Tables) -> tuple[Array, Array]:
    """NMI and ARI [1 + D]: of all documents, then with each one left out."""
    parts = (tables.clusters, tables.groups, tables.both)
    items = _sums(lambda x: x, tables.clusters)
    safe = np.maximum(items, 1)  # a single document left out leaves nothing
    h_c, h_g, h_cg = (np.log(safe) - _sums(lambda x: xlogy(x, x), part) / safe for part in parts)
    nmi = _ratio_or_one(np.maximum(h_c + h_g - h_cg, 0), (h_c + h_g) / 2)
    pairs_c, pairs_g, pairs_cg = (_sums(lambda x: x * (x - 1) / 2, part) for part in parts)
    expected = pairs_c * pairs_g / np.maximum(items * (items - 1) / 2, 1)
    return nmi, _ratio_or_one(pairs_cg - expected, (pairs_c + pairs_g) / 2 - expected)


def _sums(function: Callable[[Array], Array], table: csr_array) -> Array:
    """Sum of `function` over the cells [1 + D]: of all documents, then with each one left out.

    Leaving a document out changes only its own cells.
    """
    totals = np.asarray(table.sum(axis=0), np.float64)
    each = function(totals)
    in_cells = totals[table.indices]
    changes = function(in_cells - table.data) - each[table.indices]
    changed = csr_array((changes, table.indices, table.indptr), shape=table.shape)
    sums: Array = each.sum() + np.concatenate([[0.0], changed.sum(axis=1)])
    return sums


def _ratio_or_one(numerator: Array, denominator: Array) -> Array:
    """numerator / denominator; 1 where both groupings are one single group."""
    single = denominator <= 1e-12
    ratio: Array = np.where(single, 1.0, numerator / np.where(single, 1.0, denominator))
    return ratio


def _influence(scores: Array) -> Array:
    """Jackknife pseudo-values [D] less their mean, from the scores [1 + D]."""
    without = scores[1:]
    influence: Array = (len(without) - 1) * (without.mean() - without)
    return influence


def _interval(value: float, influence: Array, n: int) -> Interval:
    return _moved(bootstrap_interval(influence, None, n), value)


def _moved(around: Interval, value: float) -> Interval:
    """The interval of a value, from that of its influence."""
    return Interval(float(value), value + around.low, value + around.high, around.n)


def _chance(cluster: Codes, group: Codes, document: Codes, shuffle: str, seed: int) -> float:
    """Mean NMI over shuffles of the groups."""
    shuffled = _shuffles(group, document, shuffle, np.random.default_rng(seed))
    return float(np.mean([_scores(_tables(cluster, each, document))[0][0] for each in shuffled]))


def _shuffles(
    group: Codes, document: Codes, shuffle: str, rng: np.random.Generator
) -> Iterator[Codes]:
    if shuffle == "items":
        for _ in range(SHUFFLES):
            yield rng.permutation(group)
        return
    of_document = np.empty(document.max() + 1, np.intp)
    of_document[document] = group
    if (of_document[document] != group).any():
        raise ValueError("Groups that differ inside a document can only be shuffled item by item.")
    for _ in range(SHUFFLES):
        yield rng.permutation(of_document)[document]
