"""Clusters page, tokens: clusters of the sample that the maps show, and what its routing says.

The stored clusters are of all tokens and all layers. Of other numbers of clusters or of one layer
there are those of the sample alone, whose routing the file of the maps holds.
"""

from dataclasses import replace

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.alignment import Alignment, alignment
from emo_viz.analysis.clusters import Clustering, spherical_kmeans
from emo_viz.analysis.profiles import mean_entropy, mean_spread, top_experts
from emo_viz.analysis.quality import Quality, quality
from emo_viz.analysis.tokens import Headline, TokenTable, cluster_labels
from emo_viz.analysis.vectors import fit_pca, flatten_usage, unit_rows
from emo_viz.ui.clusters.data import FEWEST
from emo_viz.ui.clusters.documents import ENTROPY
from emo_viz.ui.clusters.quality import OfSample
from emo_viz.ui.clusters.tokens import Tokens, View
from emo_viz.ui.parts.maps import cluster_column, with_quotes
from emo_viz.ui.parts.together import in_each
from emo_viz.ui.shell.words import interval


def is_stored(found: Tokens, view: View) -> bool:
    """Whether the view shows the stored clusters of all tokens."""
    return view.layer is None and view.k == found.usual_k


def seen(found: Tokens, view: View) -> Tokens:
    """The tokens with the clusters and places that the view asks for."""
    if is_stored(found, view):
        return found
    return _seen(found.version, view.k, view.layer, found)


def answer(found: Tokens, view: View, said: Headline) -> None:
    """How the clusters that are shown follow the domains: one line, whosever they are."""
    if is_stored(found, view):
        agreed = {run: one.domain for run, one in said.runs.items()}
    else:
        agreed = {
            run: _aligned(found.version, run, view.k, view.layer, found).nmi
            for run in found.runs.ids
        }
    nmi = in_each(found.runs, lambda run: f"**{interval(agreed[run])}**")
    of = "all tokens" if is_stored(found, view) else "the sampled tokens"
    st.caption(f"NMI with the domain: {nmi}; {view.k} clusters of {of}, {where(view)}")


def measured(found: Tokens, view: View) -> dict[str, OfSample]:
    """The sample's clusters in every run; {} where its routing is not stored."""
    if not found.layers:
        return {}
    key, k, layer = found.version, view.k, view.layer
    return {
        run: OfSample(
            _aligned(key, run, k, layer, found),
            _quality(key, run, k, layer, found),
            clusters(key, run, k, layer, found).sizes,
        )
        for run in found.runs.ids
    }


def where(view: View) -> str:
    """ "all layers", "layer 2" """
    return "all layers" if view.layer is None else f"layer {view.layer}"


def details(found: Tokens, view: View) -> None:
    """What the clusters shown are of, where they are the sample's own."""
    if not found.of_sample:
        return
    st.caption(
        f"Colours, tables and names are of {view.k} clusters of the sample alone: {found.size}, "
        f"routing of {where(view)}; all shares and counts are of these tokens. A document that is "
        "read keeps the stored clusters of all tokens."
    )


def experts_of(found: Tokens, run: str, view: View) -> list[str]:
    """The expert of the largest router probability of each token [N], by the layers' own numbers,
    in the view's layer or in any."""
    probabilities, numbers = found.token_map.probabilities(run), found.token_map.numbers[run]
    return top_experts(probabilities, _place(found, run, view.layer), numbers)


def number_of(found: Tokens, run: str, view: View) -> NDArray[np.float32]:
    """What a token's colour on a scale says [N]: ENTROPY in nats, or SPREAD in experts, of its
    router probabilities; of several layers the mean."""
    each = mean_entropy if view.colour == ENTROPY else mean_spread
    return each(found.token_map.probabilities(run), _place(found, run, view.layer))


def most(found: Tokens, layer: int | None) -> int:
    """How many tokens differ in their routing, but for rounding, in the run where fewest do."""
    return max(FEWEST, min(_directions(found.version, run, layer, found) for run in found.runs.ids))


def _place(found: Tokens, run: str, layer: int | None) -> int | None:
    return None if layer is None else found.token_map.numbers[run].index(layer)


@st.cache_resource(max_entries=12, show_spinner="Preparing the routing of this layer …")
def _vectors(key: str, run: str, layer: int | None, _found: Tokens) -> NDArray[np.float32]:
    """The tokens of a run as unit vectors [N, C]; key: the version of the tokens."""
    rows = flatten_usage(_found.token_map.probabilities(run), _place(_found, run, layer))
    return unit_rows(fit_pca(rows).project(rows))


@st.cache_resource(max_entries=12, show_spinner=False)
def _directions(key: str, run: str, layer: int | None, _found: Tokens) -> int:
    return len(np.unique(_vectors(key, run, layer, _found).round(5), axis=0))


@st.cache_resource(max_entries=128, show_spinner="Clustering the sampled tokens …")
def clusters(key: str, run: str, k: int, layer: int | None, _found: Tokens) -> Clustering:
    """k clusters of the sample in one run; key: the version of the tokens."""
    return spherical_kmeans(_vectors(key, run, layer, _found), k)


@st.cache_resource(max_entries=128, show_spinner=False)
def _aligned(key: str, run: str, k: int, layer: int | None, _found: Tokens) -> Alignment:
    labels, table = clusters(key, run, k, layer, _found).labels, _found.table
    return alignment(labels, table["domain"].tolist(), table["document"].tolist())


@st.cache_resource(max_entries=32, show_spinner=False)
def _quality(key: str, run: str, k: int, layer: int | None, _found: Tokens) -> Quality:
    return quality(_vectors(key, run, layer, _found), clusters(key, run, k, layer, _found), (1, 2))


@st.cache_resource(max_entries=64, show_spinner=False)
def _seen(key: str, k: int, layer: int | None, _found: Tokens) -> Tokens:
    made = {run: clusters(key, run, k, layer, _found) for run in _found.runs.ids}
    names = {cluster_column(run): _names(_found, one, k) for run, one in made.items()}
    whole = _found.token_map
    places = whole.places
    if layer is not None:  # the file may hold other runs too, which need not have this layer
        places = {
            run: whole.layer_places[run][whole.numbers[run].index(layer)] for run in _found.runs.ids
        }
    labels = {run: one.labels for run, one in made.items()}
    return replace(
        _found,
        version=f"{key} {k} {layer}",
        token_map=replace(whole, places=places, clusters=whole.clusters | labels),
        table=_found.table.assign(**names),
        shares={
            run: (one.sizes / len(_found.table)).astype(np.float32) for run, one in made.items()
        },
        of_sample=True,
    )


def _names(found: Tokens, made: Clustering, k: int) -> list[str]:
    """The cluster of each token by number and name."""
    sample, table = found.token_map.sample, found.table
    ids = sorted(set(table["document"]))
    row = {document: place for place, document in enumerate(ids)}
    domain_of = dict(zip(table["document"], table["domain"], strict=True))
    about = TokenTable(
        rows=np.empty((len(table), 0), np.float32),
        token_ids=sample.token_ids,
        documents=np.array([row[document] for document in table["document"]]),
        ids=ids,
        domains=[domain_of[document] for document in ids],
        texts=dict(zip(sample.token_ids.tolist(), table["text"], strict=True)),
    )
    labels = cluster_labels(made.labels, about, k)
    return [f"{own}: {with_quotes(labels[own])}" for own in made.labels]
