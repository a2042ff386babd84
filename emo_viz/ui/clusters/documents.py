"""Clusters page, documents: the clusters of the runs, how they are asked for, what they say."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray
from streamlit.delta_generator import DeltaGenerator

from emo_viz.analysis.alignment import Alignment, alignment
from emo_viz.analysis.clusters import Clustering, match_clusters, spherical_kmeans
from emo_viz.analysis.profiles import cluster_table, mean_entropy, mean_spread, top_experts
from emo_viz.analysis.projection import Maps, load_maps, pca_map, pca_scale, procrustes
from emo_viz.analysis.vectors import (
    MOST_COMPONENTS,
    VARIANCE_SHARE,
    Pca,
    fit_pca,
    flatten_usage,
    unit_rows,
)
from emo_viz.server import assets, commands, library
from emo_viz.ui.clusters.data import FEWEST, Data, check_enough
from emo_viz.ui.clusters.highlighting import highlight, title
from emo_viz.ui.parts.together import in_each
from emo_viz.ui.shell import links, missing, routes
from emo_viz.ui.shell.words import count, escape_markdown, interval, share

DOMAIN, CLUSTER, SOURCE, EXPERT = "Domain", "Cluster", "Source", "Top expert"
ENTROPY, SPREAD = "Entropy", "Spread"
COLOURS = (DOMAIN, CLUSTER, SOURCE, EXPERT, ENTROPY, SPREAD)
COLOURED_BY = {
    DOMAIN: "domain",
    CLUSTER: "its own clusters",
    SOURCE: "source",
    EXPERT: "top expert",
    ENTROPY: "the entropy of its routing",
    SPREAD: "the number of experts that hold half of its routing",
}
ALL_LAYERS = "All layers"
UMAP, PCA = "UMAP", "PCA"
MOST, USUAL = 64, 24


@dataclass(frozen=True)
class View:
    """What the controls ask for: domains to highlight (none: all), layer (None: all of them)."""

    colour: str
    domains: tuple[str, ...]
    k: int
    layer: int | None
    method: str


@dataclass(frozen=True, eq=False)
class Clustered:
    """One run's clusters: found, measured against the domains, and described."""

    clustering: Clustering
    measured: Alignment
    table: pd.DataFrame
    names: list[str]

    @property
    def labels(self) -> list[str]:
        """The cluster of each document, by number and name."""
        return [self.names[cluster] for cluster in self.clustering.labels]


def controls(data: Data, row: DeltaGenerator) -> View:
    """The controls of documents, put into `row`. Raises Missing for too few documents."""
    check_enough(data.traces.values())
    domains = sorted(set(data.domains))
    layers = [ALL_LAYERS, *map(str, data.layers)]
    with row:
        colour = links.select(
            st, "Colour by", COLOURS, routes.CLUSTER_COLOUR, what="colouring", width=140
        )
        layer = links.select(st, "Layer", layers, routes.CLUSTER_LAYER, width=120)
        k = links.slider(
            st,
            "Number of clusters",
            FEWEST,
            _most(data),
            usual_k(data),
            routes.CLUSTER_K,
            width=200,
        )
        opens = title("Highlight and map", domain=(routes.CLUSTER_DOMAIN, domains))
        with st.popover(opens, icon=":material/flare:"):
            method = _method()
            highlighted = highlight(
                st, "domain", domains, routes.ALL_DOMAINS, routes.CLUSTER_DOMAIN
            )
    only = None if layer == ALL_LAYERS else int(layer)
    return possible(data, View(colour=colour, domains=highlighted, k=k, layer=only, method=method))


def usual_k(data: Data) -> int:
    """The number of clusters unless another is asked for."""
    return min(USUAL, _most(data))


def _most(data: Data) -> int:
    return min(MOST, len(data.documents) // 2)


def usual(data: Data) -> View:
    """The view that nobody has changed: what the page's headline is about. Raises Missing for too
    few documents."""
    check_enough(data.traces.values())
    view = View(colour=DOMAIN, domains=(), k=usual_k(data), layer=None, method=UMAP)
    return replace(view, k=min(view.k, _most_groups(data, None)))


def possible(data: Data, view: View) -> View:
    """The view with no more clusters than there are ways to be routed, and a sentence if fewer.

    In a layer of two routed experts there are two: more of the one, or of the other.
    """
    most = _most_groups(data, view.layer)
    if view.k <= most:
        return view
    where = "all layers" if view.layer is None else f"layer {view.layer}"
    st.info(f"The routing of {where} tells apart {most} groups of documents at most.")
    return replace(view, k=most)


def _most_groups(data: Data, layer: int | None) -> int:
    return min(_directions(data.version, run, layer, data) for run in data.runs.ids)


def _method() -> str:
    """The kind of map."""
    return links.choice(
        st,
        "Map",
        [UMAP, PCA],
        routes.CLUSTER_MAP,
        help="UMAP keeps neighbours together and says little about long distances; PCA shows the "
        "two directions of largest variance.",
    )


def find_clusters(data: Data, view: View) -> dict[str, Clustered]:
    """The clusters of every run."""
    return {run: _clustered(data.version, run, view.k, view.layer, data) for run in data.runs.ids}


def measured(data: Data, view: View) -> dict[str, Alignment]:
    """How the clusters of every run follow the domains, without what describes them."""
    key, k, layer = data.version, view.k, view.layer
    return {run: _grouped(key, run, k, layer, data)[1] for run in data.runs.ids}


def answer(data: Data, view: View, found: Mapping[str, Clustered]) -> None:
    """How the clusters that are asked for follow the domains, in numbers."""
    if not data.has_domains:
        _answer_without_domains(data, view, found)
        return
    runs, measured = data.runs, {run: one.measured for run, one in found.items()}
    nmi = in_each(runs, lambda run: f"**{interval(measured[run].nmi)}**")
    st.caption(f"{view.k} clusters agree with the domain (NMI, 0 to 1) by {nmi}.")


def details(data: Data, view: View, found: Mapping[str, Clustered]) -> None:
    """How it was measured."""
    if not data.has_domains:
        st.caption("No domains are known to compare the clusters with.")
        return
    runs, measured = data.runs, {run: one.measured for run, one in found.items()}
    where = "all layers" if view.layer is None else f"layer {view.layer}"
    chance = in_each(runs, lambda run: f"{measured[run].chance_nmi:.2f}")
    ari = in_each(runs, lambda run: interval(measured[run].ari))
    st.caption(
        f"Normalised mutual information (NMI) of {view.k} clusters with "
        f"{count(len(set(data.domains)), 'domain')}, {data.size}, routing of {where}; in "
        f"brackets the 95 % interval over documents. Shuffled domains reach {chance}. Adjusted "
        f"Rand index, 0 by chance: {ari}."
    )
    if said := runs.why_not("layers"):
        st.caption(escape_markdown(said))


def _answer_without_domains(data: Data, view: View, found: Mapping[str, Clustered]) -> None:
    """How the documents spread over the clusters, where nothing else is known of them."""
    sizes = in_each(data.runs, lambda run: f"**{found[run].clustering.sizes.max():,}**")
    documents = count(len(data.documents), "document")
    st.caption(f"Of {documents}, the largest of {view.k} clusters by routing holds {sizes}.")


def map_points(data: Data, view: View) -> tuple[dict[str, NDArray[np.float32]], str]:
    """Coordinates [D, 2] of every run and the name of the method that made them.

    Falls back to PCA, and says so, where there is no UMAP of these traces.
    """
    maps = _umaps(data) if view.method == UMAP else None
    if maps is None:
        return _pca(data.version, view.layer, data), PCA
    slot = 0 if view.layer is None else 1 + view.layer
    return {run: maps.places[run][slot] for run in data.runs.ids}, UMAP


def number_of(data: Data, run: str, view: View) -> NDArray[np.float32]:
    """What a document's colour on a scale says [D]: ENTROPY in nats, or SPREAD in experts.

    Entropy is that of a document's mean router probabilities, spread the number of experts that
    hold half of them; of several layers their mean.
    """
    each = mean_entropy if view.colour == ENTROPY else mean_spread
    return each(data.traces[run].usage, view.layer)


def experts_of(data: Data, run: str, view: View) -> list[str]:
    """The top expert of each document."""
    return top_experts(data.traces[run].usage, view.layer)


def _umaps(data: Data) -> Maps | None:
    path = assets.measured_path("maps.npz", data.runs.ids)
    try:
        maps = _stored_maps(path, assets.content(path))
        problem = "" if _are_of(data, maps) else "The stored UMAP is of other traces."
    except ValueError as error:
        problem = str(error)
    if not problem:
        return maps
    way = missing.in_words(commands.maps(data.runs.ids))
    st.info(f"{escape_markdown(problem)} The maps show a PCA instead. To make the UMAP: {way}")
    return None


def _are_of(data: Data, maps: Maps) -> bool:
    """Whether stored maps are of these traces. Maps of version 1 can tell only by all their runs:
    those that are not shown are opened for it."""
    usages = {run: data.traces[run].usage for run in data.runs.ids}
    if maps.pair_key:
        try:
            usages = {run: library.trace(run).usage for run in maps.places}
        except library.Missing:
            return False
    return usages.keys() <= maps.places.keys() and maps.are_of(data.documents["id"], usages)


@st.cache_resource(max_entries=2, show_spinner=False)
def _stored_maps(path: Path, key: str) -> Maps:
    return load_maps(path)


@st.cache_resource(max_entries=20, show_spinner="Preparing the routing of this layer …")
def vectors(key: str, run: str, layer: int | None, _data: Data) -> NDArray[np.float32]:
    """The documents of a run as unit vectors [D, C]; key: the version of the data."""
    return unit_rows(_reduced(key, run, layer, _data)[1])


@st.cache_resource(max_entries=8, show_spinner=False)
def _reduced(key: str, run: str, layer: int | None, _data: Data) -> tuple[Pca, NDArray[np.float32]]:
    """The PCA of a run's documents, from which clusters and map are made, and their places."""
    rows = flatten_usage(_data.traces[run].usage, layer)
    pca = fit_pca(rows)
    return pca, pca.project(rows)


def reduction(data: Data, view: View) -> str:
    """Where so much routing is recorded that not all of its variance is looked at: a sentence."""
    fitted = {run: _reduced(data.version, run, view.layer, data)[0] for run in data.runs.ids}
    if not any(_is_cut(pca) for pca in fitted.values()):
        return ""
    one = fitted[data.runs.first.id]
    held = in_each(data.runs, lambda run: share(fitted[run].explained))
    return (
        f"Clusters look at the {len(one.components)} largest principal components of the "
        f"{len(one.mean):,} numbers a document, which hold {held} of the variance."
    )


def _is_cut(pca: Pca) -> bool:
    return len(pca.components) == MOST_COMPONENTS and pca.explained < VARIANCE_SHARE


@st.cache_resource(max_entries=20, show_spinner=False)
def _directions(key: str, run: str, layer: int | None, _data: Data) -> int:
    """How many documents differ in their routing, but for rounding."""
    return len(np.unique(vectors(key, run, layer, _data).round(5), axis=0))


@st.cache_resource(max_entries=256, show_spinner="Clustering the documents …")
def _grouped(
    key: str, run: str, k: int, layer: int | None, _data: Data
) -> tuple[Clustering, Alignment]:
    clustering = spherical_kmeans(vectors(key, run, layer, _data), k)
    first = _data.runs.first.id
    if run != first:
        clustering = match_clusters(clustering, _grouped(key, first, k, layer, _data)[0])
    return clustering, alignment(clustering.labels, _data.domains)


@st.cache_resource(max_entries=256, show_spinner=False)
def _clustered(key: str, run: str, k: int, layer: int | None, _data: Data) -> Clustered:
    clustering, measured = _grouped(key, run, k, layer, _data)
    table = cluster_table(clustering, _data.domains, _data.words, _data.traces[run].usage)
    names = [f"{n}: {label}" for n, label in zip(table["cluster"], table["label"], strict=True)]
    return Clustered(clustering, measured, table, names)


@st.cache_resource(max_entries=20, show_spinner=False)
def _pca(key: str, layer: int | None, _data: Data) -> dict[str, NDArray[np.float32]]:
    ids = _data.runs.ids
    flat = {run: _flat(key, run, layer, _data) for run in ids}
    first = flat[ids[0]]
    return {run: own if own is first else procrustes(own, first) for run, own in flat.items()}


def _flat(key: str, run: str, layer: int | None, data: Data) -> NDArray[np.float32]:
    """A run's map: of the PCA that its clusters are made of, unless that kept one direction."""
    places = _reduced(key, run, layer, data)[1]
    if places.shape[1] > 1:
        return pca_scale(places)
    return pca_map(flatten_usage(data.traces[run].usage, layer))
