"""Clusters of tokens by their routing in all layers, and how well they follow the domain.

A token's vector is its router probabilities of all layers, mean-centred, in the PCA that holds 95 %
of the variance, at unit length; spherical k-means groups the tokens of the bundled documents.
`python -m emo_viz clusters` fits and stores them; a page then finds the clusters of a new
recording's tokens with one projection. The EOS that opens a document is not a token here.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emo_viz.analysis.alignment import (
    Alignment,
    alignment,
    contingency,
    difference_interval,
    ratio_interval,
)
from emo_viz.analysis.arrays import check_shape, damaged, load_arrays, save_arrays
from emo_viz.analysis.bootstrap import Interval, bootstrap_interval
from emo_viz.analysis.clusters import nearest, spherical_kmeans
from emo_viz.analysis.origins import Origins, Weights
from emo_viz.analysis.profiles import enriched, label, top_shares
from emo_viz.analysis.projection import content_key
from emo_viz.analysis.vectors import Pca, fit_pca, unit_rows

FORMAT = "emo-viz-token-clusters"
FORMAT_VERSION = 2
CLUSTERS = 32
MIN_TOKEN_COUNT = 3
TOP_TOKENS = 5
GROUPINGS = ("domain", "token", "document")


@dataclass(frozen=True)
class TokenTable:
    """Tokens of documents, without the opening EOS.

    rows: router probabilities [N, L * R]; token_ids [N]; documents [N]: index of each token's
    document among `ids` [D], whose domains are `domains` [D]. texts: text of a token id.
    """

    rows: NDArray[np.floating]
    token_ids: NDArray[np.int64]
    documents: NDArray[np.int64]
    ids: Sequence[str]
    domains: Sequence[str]
    texts: dict[int, str]


@dataclass(frozen=True)
class Agreement:
    """NMI of the token clusters with one grouping of the tokens."""

    nmi: Interval
    chance: float


@dataclass(frozen=True)
class TokenClusters:
    """Fitted token clusters of one run and what was measured on the documents they come from.

    run: its id. labels [K]: names made of domains and tokens. shares [K]: share of the tokens.
    agreements: "domain", "token", "document". modal_share: share of a document's tokens in its
    largest cluster, mean over documents. domain_influence [D]: see `Alignment`.
    """

    run: str
    pca: Pca
    centroids: NDArray[np.float32]
    shares: NDArray[np.float32]
    labels: list[str]
    agreements: dict[str, Agreement]
    modal_share: Interval
    domain_influence: NDArray[np.float64]
    documents: int
    tokens: int
    info: dict[str, Any]

    @property
    def origins(self) -> Origins:
        """What the clusters were made from, as far as their file says."""
        name, digest = self.info.get("model", ""), self.info.get("checkpoint_sha256")
        models = {self.run: Weights(str(name), str(digest))} if digest else {}
        return Origins(models, self.info.get("documents_sha256"))

    def assign(self, router_probs: NDArray[np.floating]) -> NDArray[np.int64]:
        """Cluster [T] of each token of router probabilities [L, T, R]; see `check`."""
        self.check(router_probs)
        return self.assign_rows(token_rows(router_probs))

    def assign_rows(self, rows: NDArray[np.floating]) -> NDArray[np.int64]:
        """Cluster [N] of each token of `token_rows` [N, L * R]."""
        return nearest(unit_rows(self.pca.project(rows)), self.centroids)

    def check(self, router_probs: NDArray[np.floating]) -> None:
        """Raises ValueError if router probabilities [L, T, R] are of a model of another shape."""
        layers, _, routed = router_probs.shape
        if layers * routed != len(self.pca.mean):
            raise ValueError("The token clusters were made with a model of another shape.")


@dataclass(frozen=True)
class Measured:
    """How one run's token clusters agree with the domain and with the token id, and the chance
    level of the former."""

    domain: Interval
    chance: float
    token: Interval
    clusters: int
    tokens: int


@dataclass(frozen=True)
class Headline:
    """Token clusters of one run or two against the domain, on the same documents.

    runs: by run id. difference: the first run less the second; ratio: the first over the second;
    for both, the same documents are drawn in the two. None for one run alone.
    """

    runs: dict[str, Measured]
    difference: Interval | None
    ratio: Interval | None
    documents: int
    origins: Origins


def token_rows(router_probs: NDArray[np.floating]) -> NDArray[np.floating]:
    """Router probabilities [L, T, R] as one row a token: [T, L * R]."""
    layers, _, routed = router_probs.shape
    return np.swapaxes(router_probs, 0, 1).reshape(router_probs.shape[1], layers * routed)


def fit_token_clusters(
    table: TokenTable,
    run: str,
    info: dict[str, Any],
    k: int = CLUSTERS,
    n: int = 1000,
    seed: int = 0,
) -> TokenClusters:
    """Cluster the tokens of `table` into `k` and measure the clusters with `n` resamples.

    run: its id. info: how the table was made; stored as it is. Raises ValueError for too few
    tokens.
    """
    pca = fit_pca(table.rows)
    clustering = spherical_kmeans(unit_rows(pca.project(table.rows)), k, seed)
    found, documents = clustering.labels, table.documents
    domains = np.asarray(table.domains)[documents]
    domain = alignment(found, domains, documents, "documents", n, seed)
    token = alignment(found, table.token_ids, documents, "items", n, seed)
    document = alignment(found, documents, documents, "items", n, seed)
    return TokenClusters(
        run=run,
        pca=pca,
        centroids=clustering.centroids,
        shares=(clustering.sizes / len(found)).astype(np.float32),
        labels=cluster_labels(found, table, k),
        agreements={
            "domain": _agreement(domain),
            "token": _agreement(token),
            "document": _agreement(document),
        },
        modal_share=bootstrap_interval(_modal_shares(found, documents), None, n, seed),
        domain_influence=domain.influence,
        documents=len(table.ids),
        tokens=len(found),
        info={**info, "ids": content_key(table.ids), "seed": seed, "resamples": n},
    )


def headline(*paths: Path) -> Headline:
    """What one stored file says, or two side by side.

    Raises ValueError if one is missing or damaged, if both are of one run, or if they are not of
    the same documents.
    """
    found = [load_token_clusters(path) for path in paths]
    first, *rest = found
    for other in rest:
        _check_comparable(first, other)
    both = [(one.agreements["domain"].nmi, one.domain_influence) for one in found]
    return Headline(
        runs={one.run: _measured(one) for one in found},
        difference=difference_interval(*both[0], *both[1]) if rest else None,
        ratio=ratio_interval(*both[0], *both[1]) if rest else None,
        documents=first.documents,
        origins=Origins(
            {run: weights for one in found for run, weights in one.origins.models.items()},
            next((one.origins.documents for one in found if one.origins.documents), None),
        ),
    )


def _measured(one: TokenClusters) -> Measured:
    domain = one.agreements["domain"]
    token = one.agreements["token"].nmi
    return Measured(domain.nmi, domain.chance, token, len(one.centroids), one.tokens)


def _check_comparable(one: TokenClusters, other: TokenClusters) -> None:
    if one.run == other.run:
        raise ValueError(
            f"Both files of token clusters are of the run {one.run}; name those of two runs."
        )
    if not _same_documents(one.info, other.info):
        raise ValueError(
            "The token clusters of the two models come from different documents; run "
            "`python -m emo_viz clusters` for both with the same ones."
        )


def _same_documents(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """By their texts where both files say them (those of earlier versions do not), else by ids."""
    texts = [made.get("documents_sha256") for made in (one, other)]
    return one["ids"] == other["ids"] and (None in texts or texts[0] == texts[1])


def save_token_clusters(path: Path, clusters: TokenClusters) -> None:
    """Write `clusters` as one .npz file, under a temporary name first."""
    arrays: dict[str, NDArray[Any]] = {
        "mean": clusters.pca.mean,
        "components": clusters.pca.components,
        "centroids": clusters.centroids,
        "shares": clusters.shares,
        "domain_influence": clusters.domain_influence,
    }
    measured = {
        "run": clusters.run,
        "explained": clusters.pca.explained,
        "labels": clusters.labels,
        "agreements": {name: asdict(each) for name, each in clusters.agreements.items()},
        "modal_share": asdict(clusters.modal_share),
        "documents": clusters.documents,
        "tokens": clusters.tokens,
        "made": clusters.info,
    }
    save_arrays(path, arrays, {"format": FORMAT, "format_version": FORMAT_VERSION, **measured})


def load_token_clusters(path: Path) -> TokenClusters:
    """Read stored clusters.

    Raises ValueError if there are none, or they are damaged or of another format version.
    """
    if not path.exists():
        raise ValueError(f"There is no file {path}; python -m emo_viz clusters writes it.")
    arrays, info = load_arrays(path, FORMAT, 1, FORMAT_VERSION)
    with damaged(path):
        made = dict(info["made"])
        # Version 1 knew a run by the name of its checkpoint's folder alone.
        run = made.get("model") or path.stem if info["format_version"] == 1 else info["run"]
        found = TokenClusters(
            run=str(run),
            pca=Pca(arrays["mean"], arrays["components"], float(info["explained"])),
            centroids=arrays["centroids"],
            shares=arrays["shares"],
            labels=[str(label) for label in info["labels"]],
            agreements={name: _read_agreement(info["agreements"][name]) for name in GROUPINGS},
            modal_share=Interval(**info["modal_share"]),
            domain_influence=arrays["domain_influence"],
            documents=int(info["documents"]),
            tokens=int(info["tokens"]),
            info=made,
        )
        _check_clusters(found)
    return found


def _read_agreement(fields: dict[str, Any]) -> Agreement:
    return Agreement(Interval(**fields["nmi"]), float(fields["chance"]))


def _check_clusters(found: TokenClusters) -> None:
    """Raises ValueError (KeyError, TypeError) unless the parts fit each other."""
    features = check_shape(found.pca.mean, None)
    components = check_shape(found.pca.components, None, features)
    count = check_shape(found.centroids, None, components)
    check_shape(found.shares, count)
    check_shape(found.domain_influence, found.documents)
    if len(found.labels) != count or not isinstance(found.info["ids"], str):
        raise ValueError("a label for each cluster and a digest of the ids are needed")
    _ = found.origins


def _agreement(measured: Alignment) -> Agreement:
    return Agreement(measured.nmi, measured.chance_nmi)


def _modal_shares(found: NDArray[np.int64], documents: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of each document's tokens that lie in its largest cluster [D]."""
    counts = contingency(documents, found)[2]
    shares: NDArray[np.float64] = counts.max(axis=1) / counts.sum(axis=1)
    return shares


def cluster_labels(found: NDArray[np.int64], table: TokenTable, k: int) -> list[str]:
    """A name for each of the k clusters [N] of tokens from its domains and its most enriched
    tokens; the table's rows are not looked at."""
    shares = top_shares(np.asarray(table.domains)[table.documents], found, k)
    tokens, clusters, counts = contingency(table.token_ids, found)
    frequent = counts.sum(axis=1) >= MIN_TOKEN_COUNT
    rates = np.zeros((k, int(frequent.sum())))
    rates[clusters] = (counts[frequent] / np.bincount(found, minlength=k)[clusters]).T
    picks = enriched(rates, counts[frequent].sum(axis=1) / len(found), TOP_TOKENS)
    texts = [_shown(table.texts[int(token)]) for token in tokens[frequent]]
    names = [list(dict.fromkeys(texts[i] for i in each)) for each in picks]
    return [label(*each) for each in zip(shares, names, strict=True)]


def _shown(text: str) -> str:
    """A token without its spaces, or its spaces made visible."""
    return text.strip() or text.replace("\n", "↵").replace("\t", "⇥").replace(" ", "␣")
