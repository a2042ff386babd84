"""Document clusters page, documents: the clusters of both models, how they are asked for, what they
say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray
from streamlit.delta_generator import DeltaGenerator

from emo_viz.analysis.alignment import Alignment, alignment
from emo_viz.analysis.clusters import Clustering, match_clusters, spherical_kmeans
from emo_viz.analysis.origins import Origins, of_trace
from emo_viz.analysis.profiles import WordTable, cluster_table, top_experts, word_table
from emo_viz.analysis.projection import Maps, content_key, load_maps, pca_map, procrustes
from emo_viz.analysis.vectors import flatten_usage, routing_vectors
from emo_viz.analysis.widths import apart
from emo_viz.server import assets, commands, library
from emo_viz.ui.parts import freshness
from emo_viz.ui.parts.freshness import OUT_OF_DATE
from emo_viz.ui.shell import links, missing, routes
from emo_viz.ui.shell.words import count, escape_markdown, interval

if TYPE_CHECKING:
    from emo_viz.trace import Trace

LABELS = assets.MODEL_LABELS
TOKENS, DOCUMENTS = "Tokens", "Documents"
DOMAIN, CLUSTER, EXPERT = "Domain", "Cluster", "Top expert"
ALL_DOMAINS = "All domains"
ALL_LAYERS = "All layers"
UMAP, PCA = "UMAP", "PCA"
FEWEST, MOST, USUAL = 2, 64, 24
MOST_HIGHLIGHTED = 10  # as many as there are colours


@dataclass(frozen=True)
class View:
    """What the controls ask for: domains to highlight (none: all), layer (None: all of them)."""

    colour: str
    domains: tuple[str, ...]
    k: int
    layer: int | None
    method: str


@dataclass(frozen=True, eq=False)
class Data:
    """The recorded documents, the same in both traces, and what is shared by every view.

    key: `content_key` of both traces. version: another one for any other content of them.
    """

    traces: "Mapping[str, Trace]"
    documents: pd.DataFrame
    domains: list[str]
    key: str
    version: str

    @cached_property
    def words(self) -> WordTable:
        """Which document holds which word."""
        return word_table(self.documents["text"].tolist())

    @property
    def layers(self) -> list[int]:
        """The layers that can tell documents apart: those of a single routed expert cannot."""
        routed = self.traces["emo"].manifest.model.routed
        return [layer for layer, experts in enumerate(routed) if experts > 1]

    @property
    def size(self) -> str:
        """ "1,104 documents, 269,935 tokens" """
        tokens = int(self.documents["n_tokens"].sum())
        return f"{count(len(self.documents), 'document')}, {count(tokens, 'token')}"


@dataclass(frozen=True, eq=False)
class Clustered:
    """One model's clusters: found, measured against the domains, and described."""

    clustering: Clustering
    measured: Alignment
    table: pd.DataFrame
    names: list[str]

    @property
    def labels(self) -> list[str]:
        """The cluster of each document, by number and name."""
        return [self.names[cluster] for cluster in self.clustering.labels]


def load_data() -> Data:
    """Both traces; ends the page with a sentence if they do not belong together."""
    traces = library.traces()
    emo, standard = (traces[name] for name in LABELS)
    stamp = assets.stamp(emo.path, standard.path)
    _check_fresh({name: _origins(name, stamp, one) for name, one in traces.items()})
    key = _key(stamp, emo, standard)
    if key is None:
        what = apart(emo.manifest.model.routed, standard.manifest.model.routed)
        layer = what if what.startswith("experts in layer") else "layers and experts"
        missing.empty_state(
            f"The traces of the two models hold different documents or another number of {layer}; "
            "record both from one file of documents with a matched pair.",
            commands.RECORD.format(folder=assets.MODEL_FOLDERS["emo"]),
        )
        st.stop()
    return _data(key, stamp, emo, standard)


def _check_fresh(made_from: Mapping[str, Origins]) -> None:
    """Traces of other models end the page; of other documents they are shown, and it is said."""
    folders = assets.MODEL_FOLDERS.values()
    lines = [commands.RECORD.format(folder=folder) for folder in folders]
    for documents in (False, True):
        try:
            for name, origins in made_from.items():
                freshness.check(f"The traces of {LABELS[name]}", origins, documents)
        except freshness.Stale as error:
            if documents:
                st.info(f"{error} This makes them: `{' && '.join(lines)}`")
                return
            missing.empty_state(str(error), "\n".join(lines), OUT_OF_DATE)
            st.stop()


def level(row: DeltaGenerator) -> str:
    """What the page shows, TOKENS or DOCUMENTS: the first of the controls."""
    return links.choice(row, "Show", [TOKENS, DOCUMENTS], routes.CLUSTER_LEVEL, what="view")


def controls(data: Data, row: DeltaGenerator) -> View:
    """The controls of documents, put into `row`."""
    domains = sorted(set(data.domains))
    layers = [ALL_LAYERS, *map(str, data.layers)]
    most = min(MOST, len(data.documents) // 2)
    with row:
        colour, method = _how_to_draw()
        highlighted = highlight(st, "Highlight", domains, ALL_DOMAINS, routes.CLUSTER_DOMAIN)
        layer = links.select(st, "Layer", layers, routes.CLUSTER_LAYER, width=120)
        k = links.slider(
            st, "Number of clusters", FEWEST, most, min(USUAL, most), routes.CLUSTER_K, width=200
        )
    only = None if layer == ALL_LAYERS else int(layer)
    return _possible(data, View(colour=colour, domains=highlighted, k=k, layer=only, method=method))


def _possible(data: Data, view: View) -> View:
    """The view with no more clusters than there are ways to be routed, and a sentence if fewer.

    In a layer of two routed experts there are two: more of the one, or of the other.
    """
    most = min(_directions(data.version, name, view.layer, data) for name in LABELS)
    if view.k <= most:
        return view
    where = "all layers" if view.layer is None else f"layer {view.layer}"
    st.info(f"The routing of {where} tells apart {most} groups of documents at most.")
    return replace(view, k=most)


def highlight(
    place: Any, label: str, options: Sequence[str], all_of_them: str, key: str
) -> tuple[str, ...]:
    """Names to highlight, none for all of them; also in the address."""
    what = label.removeprefix("Highlight").strip().removesuffix("s") or "domain"
    return links.several(
        place,
        what,
        label,
        options,
        MOST_HIGHLIGHTED,
        key,
        placeholder=all_of_them,
        width=210,
    )


def _how_to_draw() -> tuple[str, str]:
    """What the points are coloured by, and the kind of map."""
    colour = links.choice(
        st, "Colour by", [DOMAIN, CLUSTER, EXPERT], routes.CLUSTER_COLOUR, what="colouring"
    )
    method = links.choice(
        st,
        "Map",
        [UMAP, PCA],
        routes.CLUSTER_MAP,
        help="UMAP keeps neighbours together and says little about long distances; PCA shows the "
        "two directions of largest variance.",
    )
    return colour, method


def find_clusters(data: Data, view: View) -> dict[str, Clustered]:
    """The clusters of both models."""
    return {name: _clustered(data.version, name, view.k, view.layer, data) for name in LABELS}


def answer(data: Data, view: View, found: Mapping[str, Clustered]) -> None:
    """The first line of the page: whose clusters follow the domains, in numbers."""
    emo, standard = (found[name].measured for name in LABELS)
    st.markdown(
        f"#### Document clusters of EMO share **{interval(emo.nmi)}** of their information with "
        f"the domain, those of the standard MoE **{interval(standard.nmi)}**."
    )
    where = "all layers" if view.layer is None else f"layer {view.layer}"
    st.caption(
        f"Normalised mutual information (NMI) of {view.k} clusters with "
        f"{count(len(set(data.domains)), 'domain')}, {data.size}, routing of {where}; in "
        f"brackets the 95 % interval over documents. Shuffled domains reach "
        f"{emo.chance_nmi:.2f} (EMO) and {standard.chance_nmi:.2f} (standard MoE). Adjusted Rand "
        f"index, 0 by chance: {interval(emo.ari)} and {interval(standard.ari)}."
    )


def map_points(data: Data, view: View) -> tuple[dict[str, NDArray[np.float32]], str]:
    """Coordinates [D, 2] of both models and the name of the method that made them.

    Falls back to PCA, and says so, where there is no UMAP of these traces.
    """
    maps = _umaps(data) if view.method == UMAP else None
    if maps is None:
        return _pca(data.version, view.layer, data), PCA
    slot = 0 if view.layer is None else 1 + view.layer
    return {"emo": maps.emo[slot], "standard": maps.standard[slot]}, UMAP


def colour_names(data: Data, view: View, found: Mapping[str, Clustered]) -> dict[str, list[str]]:
    """What each document is coloured by, for both models."""
    if view.colour == DOMAIN:
        return dict.fromkeys(LABELS, data.domains)
    if view.colour == CLUSTER:
        return {name: one.labels for name, one in found.items()}
    return {name: top_experts(data.traces[name].usage, view.layer) for name in LABELS}


def _umaps(data: Data) -> Maps | None:
    path = assets.analysis_path("maps.npz")
    try:
        maps = _stored_maps(path, assets.stamp(path))
        problem = "" if maps.key == data.key else "The stored UMAP is of other traces."
    except ValueError as error:
        problem = str(error)
    if not problem:
        return maps
    st.info(
        f"{escape_markdown(problem)} The maps show a PCA instead. "
        f"To make the UMAP: `{commands.MAPS}`"
    )
    return None


@st.cache_resource(max_entries=2, show_spinner=False)
def _stored_maps(path: Path, stamp: assets.Stamp) -> Maps:
    return load_maps(path)


@st.cache_resource(max_entries=4, show_spinner=False)
def _origins(name: str, stamp: assets.Stamp, _trace: "Trace") -> Origins:
    return of_trace(_trace, name)


@st.cache_resource(max_entries=2, show_spinner=False)
def _key(stamp: assets.Stamp, _emo: "Trace", _standard: "Trace") -> str | None:
    """The content key of both traces; None if they do not hold the same documents."""
    same_shape = _emo.manifest.model.routed == _standard.manifest.model.routed
    if not same_shape or list(_emo.documents["id"]) != list(_standard.documents["id"]):
        return None
    return content_key(_emo.documents["id"], _emo.usage, _standard.usage)


@st.cache_resource(max_entries=2, show_spinner="Reading the documents …")
def _data(key: str, stamp: assets.Stamp, _emo: "Trace", _standard: "Trace") -> Data:
    documents = _emo.documents.rename(columns={"mean_loss": "emo_loss"})
    documents["standard_loss"] = _standard.documents["mean_loss"]
    return Data(
        traces={"emo": _emo, "standard": _standard},
        documents=documents,
        domains=documents["domain"].tolist(),
        key=key,
        version=f"{key} {stamp}",
    )


@st.cache_resource(max_entries=20, show_spinner="Preparing the routing of this layer …")
def _vectors(key: str, name: str, layer: int | None, _data: Data) -> NDArray[np.float32]:
    return routing_vectors(flatten_usage(_data.traces[name].usage, layer))


@st.cache_resource(max_entries=20, show_spinner=False)
def _directions(key: str, name: str, layer: int | None, _data: Data) -> int:
    """How many documents differ in their routing, but for rounding."""
    return len(np.unique(_vectors(key, name, layer, _data).round(5), axis=0))


@st.cache_resource(max_entries=256, show_spinner="Clustering the documents …")
def _clustered(key: str, name: str, k: int, layer: int | None, _data: Data) -> Clustered:
    clustering = spherical_kmeans(_vectors(key, name, layer, _data), k)
    if name != "emo":
        clustering = match_clusters(clustering, _clustered(key, "emo", k, layer, _data).clustering)
    table = cluster_table(clustering, _data.domains, _data.words, _data.traces[name].usage)
    names = [f"{n}: {label}" for n, label in zip(table["cluster"], table["label"], strict=True)]
    measured = alignment(clustering.labels, _data.domains)
    return Clustered(clustering, measured, table, names)


@st.cache_resource(max_entries=20, show_spinner=False)
def _pca(key: str, layer: int | None, _data: Data) -> dict[str, NDArray[np.float32]]:
    flat = {name: pca_map(flatten_usage(_data.traces[name].usage, layer)) for name in LABELS}
    return {"emo": flat["emo"], "standard": procrustes(flat["standard"], flat["emo"])}
