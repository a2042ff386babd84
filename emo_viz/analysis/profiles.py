"""What sets clusters apart: domains, words and experts, and a label made of these."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from emo_viz.analysis.alignment import contingency
from emo_viz.analysis.clusters import Clustering
from emo_viz.analysis.vectors import flatten_usage

WORD = re.compile(r"[^\W\d_]{2,24}")
MIN_WORD_DOCUMENTS = 3
TOP_DOMAINS = 3
TOP_WORDS = 6
TOP_EXPERTS = 3
LABEL_SHARE = 0.2  # a domain names a cluster from this share on
LABEL_WORDS = 3


@dataclass(frozen=True)
class WordTable:
    """Which document [D] holds which of the `words` [V]: a sparse 0/1 table [D, V]."""

    words: NDArray[np.str_]
    table: csr_array


def word_table(texts: Sequence[str]) -> WordTable:
    """The words of two letters or more that occur in at least three of the texts, lower case."""
    found = [set(WORD.findall(text.lower())) for text in texts]
    words, columns = np.unique([word for each in found for word in each], return_inverse=True)
    rows = np.repeat(np.arange(len(found)), [len(each) for each in found])
    table = csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(found), len(words)))
    common = np.flatnonzero(table.sum(axis=0) >= MIN_WORD_DOCUMENTS)
    return WordTable(words[common].astype(np.str_), table[:, common])


def enriched(
    inside: NDArray[np.floating], everywhere: NDArray[np.floating], top: int
) -> list[list[int]]:
    """For each cluster the columns whose rate inside [K, V] stands out most from the rate
    everywhere [V], at most `top`, most enriched first.

    A rate is weighed with the logarithm of its ratio to the rate everywhere, so that what comes
    first is both frequent and concentrated; columns that are no more frequent inside are left out.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.nan_to_num(inside * np.log(inside / everywhere), nan=0.0)
    order = np.argsort(-score, axis=1, kind="stable")[:, :top]
    return [[int(i) for i in row if score[k, i] > 0] for k, row in enumerate(order)]


def cluster_table(
    clustering: Clustering,
    domains: Sequence[str],
    words: WordTable,
    usage: NDArray[np.floating],
) -> pd.DataFrame:
    """One row a cluster: what it holds and what sets it apart from all documents.

    usage: [D, L, R]. Columns: cluster, label, documents, purity (share of its largest domain),
    top_domains, words, experts (each with the ratio of its mean probability to that everywhere).
    """
    sizes = clustering.sizes
    shares = top_shares(domains, clustering.labels, len(sizes))
    word_lists = _enriched_words(clustering, words)
    return pd.DataFrame(
        {
            "cluster": np.arange(len(sizes)),
            "label": [label(*each) for each in zip(shares, word_lists, strict=True)],
            "documents": sizes,
            "purity": [each[0][1] if each else np.nan for each in shares],
            "top_domains": [
                ", ".join(f"{name} {100 * part:.0f} %" for name, part in s) for s in shares
            ],
            "words": [", ".join(each) for each in word_lists],
            "experts": _enriched_experts(clustering, usage),
        }
    )


def top_shares(
    groups: ArrayLike, labels: NDArray[np.int64], k: int
) -> list[list[tuple[str, float]]]:
    """For each of `k` clusters its largest groups with their share of the cluster, falling."""
    names, found, counts = contingency(groups, labels)
    table = np.zeros((k, len(names)))
    table[found] = counts.T
    table /= np.maximum(table.sum(axis=1, keepdims=True), 1)
    order = np.argsort(-table, axis=1, kind="stable")[:, :TOP_DOMAINS]
    return [
        [(str(names[i]), float(row[i])) for i in top if row[i] > 0]
        for row, top in zip(table, order, strict=True)
    ]


def label(shares: Sequence[tuple[str, float]], words: Sequence[str]) -> str:
    """A cluster's name from its data: "rfc 71 % · header packet byte"; "mixed" has no large
    domain."""
    named = [f"{name} {100 * share:.0f} %" for name, share in shares if share >= LABEL_SHARE][:2]
    parts = [" + ".join(named) or "mixed", " ".join(words[:LABEL_WORDS])]
    return " · ".join(part for part in parts if part)


def expert_name(index: int, routed: int) -> str:
    """Name of an entry of a flat [L * R] vector, as on every page: "L2 E17"."""
    return f"L{index // routed} E{index % routed}"


def top_experts(
    usage: NDArray[np.floating], layer: int | None = None, numbers: Sequence[int] | None = None
) -> list[str]:
    """For each document (or token) of usage [D, L, R] the expert with the largest mean router
    probability, in `layer` or in any. numbers [L]: the model's own number of each layer, if it is
    not its place."""
    routed = usage.shape[2]
    best = flatten_usage(usage, layer).argmax(axis=1) + (layer or 0) * routed
    own = range(usage.shape[1]) if numbers is None else numbers
    return [expert_name(own[i // routed] * routed + i % routed, routed) for i in best.tolist()]


def mean_entropy(usage: NDArray[np.floating], layer: int | None = None) -> NDArray[np.float32]:
    """Of the router probabilities of each row of usage [D, L, R], in nats: in `layer`, or the mean
    over all layers [D]."""
    shares = _of_layer(usage, layer)
    logs = np.log(np.where(shares > 0, shares, 1))
    found: NDArray[np.float32] = -(shares * logs).sum(axis=2).mean(axis=1)
    return found


def mean_spread(usage: NDArray[np.floating], layer: int | None = None) -> NDArray[np.float32]:
    """How many experts hold half of the routing of each row of usage [D, L, R]: in `layer`, or the
    mean over all layers [D]."""
    held = np.cumsum(-np.sort(-_of_layer(usage, layer), axis=2), axis=2)
    fewest = 1 + (held < held[..., -1:] / 2).sum(axis=2)
    found: NDArray[np.float32] = fewest.mean(axis=1).astype(np.float32)
    return found


def _of_layer(usage: NDArray[np.floating], layer: int | None) -> NDArray[np.float32]:
    own = usage if layer is None else usage[:, layer : layer + 1]
    return np.asarray(own, np.float32)


def _member(clustering: Clustering) -> csr_array:
    """Weights [K, N] that average rows over each cluster."""
    labels, sizes = clustering.labels, clustering.sizes
    cells = (labels, np.arange(len(labels)))
    return csr_array((1 / sizes[labels], cells), shape=(len(sizes), len(labels)))


def _enriched_words(clustering: Clustering, words: WordTable) -> list[list[str]]:
    rates = (_member(clustering) @ words.table).toarray()
    picks = enriched(rates, np.asarray(words.table.mean(axis=0)), TOP_WORDS)
    return [[str(words.words[i]) for i in each] for each in picks]


def _enriched_experts(clustering: Clustering, usage: NDArray[np.floating]) -> list[str]:
    flat = flatten_usage(usage)
    # Dense: a product of matrices takes a tenth of the time of one with a sparse matrix.
    means = _member(clustering).toarray().astype(flat.dtype) @ flat
    everywhere = flat.mean(axis=0)
    return [
        ", ".join(
            f"{expert_name(i, usage.shape[2])} ×{means[cluster, i] / everywhere[i]:.1f}"
            for i in picks
        )
        for cluster, picks in enumerate(enriched(means, everywhere, TOP_EXPERTS))
    ]
