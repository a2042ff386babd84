"""Document clusters page, documents: the clusters of the runs, how they are asked for, what they
say."""

from collections.abc import Iterable, Mapping, Sequence
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
from emo_viz.analysis.projection import Maps, load_maps, pca_map, procrustes
from emo_viz.analysis.runs import Comparison
from emo_viz.analysis.vectors import flatten_usage, routing_vectors
from emo_viz.server import assets, commands, library
from emo_viz.trace import absent
from emo_viz.ui.parts import freshness, together
from emo_viz.ui.parts.freshness import OUT_OF_DATE
from emo_viz.ui.parts.reader import loss_column
from emo_viz.ui.parts.together import in_each
from emo_viz.ui.shell import links, missing, routes
from emo_viz.ui.shell.words import count, escape_markdown, interval

if TYPE_CHECKING:
    from emo_viz.trace import Trace

DESCRIBING: tuple["absent.Part", ...] = ("domain", "text")
NO_DOMAIN = "not known"
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
    """The recorded documents, the same in all traces, and what is shared by every view.

    traces: by run id, in the order of `runs`. documents: also the mean loss in each run
    (`reader.loss_column`). version: another one for any other content of the traces.
    """

    runs: Comparison
    traces: "Mapping[str, Trace]"
    documents: pd.DataFrame
    domains: list[str]
    version: str

    @cached_property
    def words(self) -> WordTable:
        """Which document holds which word."""
        return word_table(self.documents["text"].tolist())

    @property
    def layers(self) -> list[int]:
        """The layers that can tell documents apart in every run: those of a single routed expert
        cannot. None where the runs have different numbers of layers."""
        if self.runs.why_not("layers"):
            return []
        widths = [self.traces[run].manifest.model.routed for run in self.runs.ids]
        fewest = [min(experts) for experts in zip(*widths, strict=True)]
        return [layer for layer, experts in enumerate(fewest) if experts > 1]

    @property
    def size(self) -> str:
        """ "1,104 documents, 269,935 tokens" """
        tokens = int(self.documents["n_tokens"].sum())
        return f"{count(len(self.documents), 'document')}, {count(tokens, 'token')}"


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


def load_data() -> Data:
    """The traces of the runs, one of them where they do not hold the same documents."""
    recorded = library.traces()
    together.say_left_out(recorded.left_out)
    _check_fresh(recorded)
    runs = together.shown(recorded.comparison, "documents")
    _say_lacking(recorded.traces.values())
    key = " ".join(library.trace_key(run) for run in runs.ids)
    return _data(f"{key} {runs}", runs, {run: recorded.traces[run] for run in runs.ids})


def _say_lacking(traces: "Iterable[Trace]") -> None:
    """In one line for each trace what of the documents it does not hold."""
    for trace in traces:
        lacking = [part for part in DESCRIBING if not trace.has(part)]
        if lacking:
            said = escape_markdown(absent.sentence(trace.path.name, *lacking))
            st.info(said, icon=":material/visibility_off:")


def _check_enough(traces: "Iterable[Trace]") -> None:
    """Raises Missing unless there are documents to tell apart: counts alone are one."""
    for trace in traces:
        found, first = len(trace.usage), trace.usage[:1]
        if found < 2 * FEWEST or not any((row != first).any() for row in trace.usage):
            raise library.Missing(
                f"The trace {trace.path.name} holds {count(found, 'document')} of one routing; "
                f"clusters need {2 * FEWEST} documents or more that differ.",
                commands.RECORD.format(run=trace.path.name),
            )


def _check_fresh(recorded: library.Recorded) -> None:
    """Traces of other models end the page; of other documents they are shown, and it is said."""
    lines = commands.each(commands.RECORD, recorded.comparison.ids)
    for documents in (False, True):
        try:
            for run in recorded.comparison:
                origins = _origins(run.id, library.trace_key(run.id), recorded.traces[run.id])
                freshness.check(f"The traces of {run.label}", origins, documents)
        except freshness.Stale as error:
            if documents:
                st.info(f"{error} This makes them: {missing.in_words(lines)}")
                return
            missing.empty_state(str(error), lines, OUT_OF_DATE)
            st.stop()


def level(row: DeltaGenerator) -> str:
    """What the page shows, TOKENS or DOCUMENTS: the first of the controls."""
    return links.choice(row, "Show", [TOKENS, DOCUMENTS], routes.CLUSTER_LEVEL, what="view")


def controls(data: Data, row: DeltaGenerator) -> View:
    """The controls of documents, put into `row`. Raises Missing for too few documents."""
    _check_enough(data.traces.values())
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
    most = min(_directions(data.version, run, view.layer, data) for run in data.runs.ids)
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
    """The clusters of every run."""
    return {run: _clustered(data.version, run, view.k, view.layer, data) for run in data.runs.ids}


def answer(data: Data, view: View, found: Mapping[str, Clustered]) -> None:
    """The first line of the page: whose clusters follow the domains, in numbers."""
    if set(data.domains) == {NO_DOMAIN}:
        _answer_without_domains(data, view, found)
        return
    runs, measured = data.runs, {run: one.measured for run, one in found.items()}
    nmi = in_each(runs, lambda run: f"**{interval(measured[run].nmi)}**")
    st.markdown(f"#### Document clusters agree with the domain (NMI, 0 to 1) by {nmi}.")
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
    st.markdown(f"#### Of {documents}, the largest of {view.k} clusters by routing holds {sizes}.")
    where = "all layers" if view.layer is None else f"layer {view.layer}"
    st.caption(f"{data.size}, routing of {where}. No domains are known to compare them with.")


def map_points(data: Data, view: View) -> tuple[dict[str, NDArray[np.float32]], str]:
    """Coordinates [D, 2] of every run and the name of the method that made them.

    Falls back to PCA, and says so, where there is no UMAP of these traces.
    """
    maps = _umaps(data) if view.method == UMAP else None
    if maps is None:
        return _pca(data.version, view.layer, data), PCA
    slot = 0 if view.layer is None else 1 + view.layer
    return {run: maps.places[run][slot] for run in data.runs.ids}, UMAP


def colour_names(data: Data, view: View, found: Mapping[str, Clustered]) -> dict[str, list[str]]:
    """What each document is coloured by, for every run."""
    if view.colour == DOMAIN:
        return dict.fromkeys(data.runs.ids, data.domains)
    if view.colour == CLUSTER:
        return {run: one.labels for run, one in found.items()}
    return {run: top_experts(data.traces[run].usage, view.layer) for run in data.runs.ids}


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


@st.cache_resource(max_entries=4, show_spinner=False)
def _origins(run: str, key: str, _trace: "Trace") -> Origins:
    return of_trace(_trace, run)


@st.cache_resource(max_entries=2, show_spinner="Reading the documents …")
def _data(key: str, _runs: Comparison, _traces: "Mapping[str, Trace]") -> Data:
    documents = _traces[_runs.first.id].documents.drop(columns="mean_loss")
    losses = {loss_column(run): _traces[run].documents["mean_loss"] for run in _runs.ids}
    documents = documents.assign(**losses)
    # What an import lacks: said by `_say_lacking`, and nothing that a view would fail on.
    documents = documents.fillna({"domain": NO_DOMAIN, "text": ""})
    return Data(_runs, _traces, documents, documents["domain"].tolist(), key)


@st.cache_resource(max_entries=20, show_spinner="Preparing the routing of this layer …")
def _vectors(key: str, run: str, layer: int | None, _data: Data) -> NDArray[np.float32]:
    return routing_vectors(flatten_usage(_data.traces[run].usage, layer))


@st.cache_resource(max_entries=20, show_spinner=False)
def _directions(key: str, run: str, layer: int | None, _data: Data) -> int:
    """How many documents differ in their routing, but for rounding."""
    return len(np.unique(_vectors(key, run, layer, _data).round(5), axis=0))


@st.cache_resource(max_entries=256, show_spinner="Clustering the documents …")
def _clustered(key: str, run: str, k: int, layer: int | None, _data: Data) -> Clustered:
    clustering = spherical_kmeans(_vectors(key, run, layer, _data), k)
    first = _data.runs.first.id
    if run != first:
        clustering = match_clusters(clustering, _clustered(key, first, k, layer, _data).clustering)
    table = cluster_table(clustering, _data.domains, _data.words, _data.traces[run].usage)
    names = [f"{n}: {label}" for n, label in zip(table["cluster"], table["label"], strict=True)]
    measured = alignment(clustering.labels, _data.domains)
    return Clustered(clustering, measured, table, names)


@st.cache_resource(max_entries=20, show_spinner=False)
def _pca(key: str, layer: int | None, _data: Data) -> dict[str, NDArray[np.float32]]:
    ids = _data.runs.ids
    flat = {run: pca_map(flatten_usage(_data.traces[run].usage, layer)) for run in ids}
    first = flat[ids[0]]
    return {run: own if own is first else procrustes(own, first) for run, own in flat.items()}
