"""Clusters page, tokens: the sampled tokens, how they are asked for, what they say."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray
from streamlit.delta_generator import DeltaGenerator

from emo_viz.analysis.runs import Comparison
from emo_viz.analysis.token_map import Sample, TokenMap, load_token_map
from emo_viz.analysis.tokens import Headline, TokenClusters, headline, load_token_clusters
from emo_viz.server import assets, commands
from emo_viz.ui.clusters.data import FEWEST, Data
from emo_viz.ui.clusters.documents import (
    ALL_LAYERS,
    CLUSTER,
    DOMAIN,
    ENTROPY,
    EXPERT,
    MOST,
    SOURCE,
    SPREAD,
)
from emo_viz.ui.clusters.highlighting import highlight, title
from emo_viz.ui.parts import freshness
from emo_viz.ui.parts.maps import cluster_column, with_quotes
from emo_viz.ui.parts.together import in_each, less
from emo_viz.ui.shell import links, missing, routes
from emo_viz.ui.shell.words import count, escape_markdown, interval, token_label

TOKEN = "Token"
PLAIN = (DOMAIN, CLUSTER, TOKEN, SOURCE)  # colourings that need no routing of single tokens
OF_ROUTING = (EXPERT, ENTROPY, SPREAD)
ALL_TOKENS = "All tokens"
CONTEXT = 48  # characters before and after a token
FREQUENT = 8  # a token that occurs so often in the sample can be highlighted


@dataclass(frozen=True)
class View:
    """What the controls ask for: domains and tokens to highlight (none: all of them), the number of
    clusters, and a layer by the model's own number (None: all of them)."""

    colour: str
    domains: tuple[str, ...]
    tokens: tuple[str, ...]
    k: int
    layer: int | None


@dataclass(frozen=True, eq=False)
class Tokens:
    """The sampled tokens, the same in all runs.

    table: a row for each, with the columns id, document, position, before, text, after (its place
    in the document's text), token (its label), domain and, for each run, the name of its cluster
    (`maps.cluster_column`). shares: by run id, the share that each cluster holds [K] of all tokens,
    or of those of the sample where the clusters are the sample's own (`of_sample`).
    """

    runs: Comparison
    version: str
    token_map: TokenMap
    table: pd.DataFrame
    shares: Mapping[str, NDArray[np.float32]]
    of_sample: bool = False

    @property
    def usual_k(self) -> int:
        """The number of stored clusters, of the first run."""
        return len(self.shares[self.runs.first.id])

    @property
    def layers(self) -> list[int]:
        """The layers whose routing is stored and can tell tokens apart in every run, by the models'
        own numbers; none where the runs' layers differ, or in a file of an earlier version."""
        held = [self.token_map.numbers.get(run, ()) for run in self.runs.ids]
        if len(set(held)) > 1:
            return []
        several = [
            (self.token_map.routing[run] > 0).any(axis=0).sum(axis=1) > 1
            for run in self.runs.ids
            if held[0]
        ]
        return [n for n, *tells in zip(held[0], *several, strict=True) if all(tells)]

    @cached_property
    def frequent(self) -> list[str]:
        """Labels of the tokens that occur often in the sample, most frequent first."""
        sizes = self.table["token"].value_counts()
        return [str(name) for name in sizes.index[sizes >= FREQUENT]]

    @property
    def size(self) -> str:
        """ "4,800 tokens of 1,142 documents" """
        documents = self.table["document"].nunique()
        return f"{count(len(self.table), 'token')} of {count(documents, 'document')}"

    def highlighted(self, view: View) -> NDArray[np.bool_] | None:
        """Which tokens are highlighted [N]; None for all of them."""
        wanted = {"domain": view.domains, "token": view.tokens}
        asked = [self.table[column].isin(names) for column, names in wanted.items() if names]
        return np.logical_and.reduce(asked) if asked else None


def measured(data: Data) -> Headline | None:
    """How the token clusters of the runs agree with the domains.

    None, and a sentence, if there are no files that belong together.
    """
    paths = _paths(data.runs)
    try:
        found = _headline(paths, assets.content(*paths))
        _check_runs(data.runs, found.runs)
        freshness.check("The token clusters", found.origins)
        return found
    except ValueError as error:
        _to_mend(error, commands.each(commands.CLUSTERS, data.runs.ids))
        return None


def _paths(runs: Comparison) -> tuple[Path, ...]:
    return tuple(assets.token_clusters_path(run) for run in runs.ids)


def _check_runs(runs: Comparison, found: Iterable[str]) -> None:
    """Raises ValueError unless each file of token clusters is of the run that it is named after."""
    for run, other in zip(runs, found, strict=True):
        if run.id != other:
            path = assets.token_clusters_path(run.id).name
            raise ValueError(f"{path} holds the token clusters of {other}, not of {run.id}.")


def load(data: Data) -> Tokens | None:
    """The sampled tokens; None, and a sentence, if there is no map of these documents."""
    paths, path = _paths(data.runs), assets.measured_path("token_map.npz", data.runs.ids)
    try:
        found = _tokens(data.version, path, paths, assets.content(path, *paths), data)
        freshness.check("The token maps", found.token_map.origins)
        return found
    except ValueError as error:
        _to_mend(error, commands.token_map(data.runs.ids))
        return None


def controls(row: DeltaGenerator, found: Tokens) -> View:
    """The controls of this view, put into `row`."""
    domains = sorted(set(found.table["domain"]))
    layers = [ALL_LAYERS, *map(str, found.layers)]
    colours = [*PLAIN, *OF_ROUTING] if found.layers else PLAIN
    colour = links.select(
        row, "Colour by", colours, routes.CLUSTER_TOKEN_COLOUR, what="colouring", width=140
    )
    layer, k = ALL_LAYERS, found.usual_k
    if found.layers:
        layer = links.select(row, "Layer", layers, routes.CLUSTER_LAYER, width=120)
        k = _how_many(row, found)
    opens = title(
        "Highlight",
        domain=(routes.CLUSTER_DOMAIN, domains),
        token=(routes.CLUSTER_HIGHLIGHT, found.frequent),
    )
    more = row.popover(opens, icon=":material/flare:")
    return View(
        colour,
        highlight(more, "domain", domains, routes.ALL_DOMAINS, routes.CLUSTER_DOMAIN),
        highlight(more, "token", found.frequent, ALL_TOKENS, routes.CLUSTER_HIGHLIGHT),
        k,
        None if layer == ALL_LAYERS else int(layer),
    )


def _how_many(row: DeltaGenerator, found: Tokens) -> int:
    """The number of clusters: those that are stored, or any other of the sample."""
    return links.slider(
        row,
        "Number of clusters",
        FEWEST,
        max(found.usual_k, min(MOST, len(found.table) // 2)),
        found.usual_k,
        routes.CLUSTER_TOKEN_K,
        width=200,
        help=f"{found.usual_k} clusters of all layers are those of all tokens. Of another number, "
        f"and of one layer, the {len(found.table):,} sampled tokens are clustered.",
    )


def details(runs: Comparison, said: Headline, found: Tokens | None, domains: int) -> None:
    """Whose token clusters follow the domains, in numbers, and how that was measured."""
    agreed = in_each(runs, lambda run: f"**{interval(said.runs[run].domain)}**")
    of_token = in_each(runs, lambda run: f"**{interval(said.runs[run].token)}**")
    st.markdown(f"Clusters of single tokens agree with the domain (NMI, 0 to 1) by {agreed}.")
    st.markdown(f"{_gap(runs, said)}With the token itself they agree by {of_token}.")
    drawn = "" if found is None else f" The maps show {found.size}{_per_domain(found)}."
    first = said.runs[runs.first.id]
    chance = in_each(runs, lambda run: f"{said.runs[run].chance:.2f}")
    paired = (
        ", for the difference over the same documents in both models" if said.difference else ""
    )
    st.caption(
        f"Normalised mutual information (NMI) of {first.clusters} clusters by the routing of all "
        f"layers with {count(domains, 'domain')} and with the token ids, "
        f"{count(said.documents, 'document')}, {count(first.tokens, 'token')}; in brackets the "
        f"95 % interval over documents{paired}. Shuffled domains reach {chance}.{drawn}"
    )


def _gap(runs: Comparison, said: Headline) -> str:
    """How far two runs are apart, as a sentence before another; "" for one alone."""
    if said.difference is None or said.ratio is None:
        return ""
    return (
        f"{less(runs)}: **{interval(said.difference, '+.3f')}**, {interval(said.ratio)} times as "
        "much. "
    )


def colour_names(found: Tokens, view: View, run: str) -> list[str]:
    """What each token of a run is coloured by."""
    column = cluster_column(run) if view.colour == CLUSTER else view.colour.lower()
    names: list[str] = found.table[column].tolist()
    return names


def _per_domain(found: Tokens) -> str:
    sizes = found.table["domain"].value_counts()
    return f", {sizes.max():,} of each domain" if sizes.nunique() == 1 else ""


def _to_mend(error: ValueError, command: str) -> None:
    said = str(error) if isinstance(error, freshness.Stale) else escape_markdown(str(error))
    st.info(f"{said} This makes it:")
    missing.mend(command)


@st.cache_resource(max_entries=2, show_spinner=False)
def _headline(paths: tuple[Path, ...], key: str) -> Headline:
    return headline(*paths)


@st.cache_resource(max_entries=2, show_spinner="Reading the tokens …")
def _tokens(version: str, path: Path, paths: tuple[Path, ...], key: str, _data: Data) -> Tokens:
    """Raises ValueError if there is no map, or one of other documents or other clusters."""
    token_map, runs = load_token_map(path), _data.runs
    clusters = dict(zip(runs.ids, map(load_token_clusters, paths), strict=True))
    if absent := clusters.keys() - token_map.places.keys():
        raise ValueError(f"{path.name} holds no map of {min(absent)}.")
    ids, texts = _data.documents["id"].tolist(), _data.documents["text"].tolist()
    if not token_map.is_of(ids, texts, _all_clusters(token_map, clusters)):
        raise ValueError(f"{path.name} is of other documents or other token clusters.")
    table = _sampled(token_map.sample, _data.documents)
    names = _cluster_names(token_map, clusters)
    shares = {run: one.shares for run, one in clusters.items()}
    return Tokens(runs, f"{version} {key}", token_map, table.assign(**names), shares)


def _all_clusters(
    token_map: TokenMap, clusters: dict[str, TokenClusters]
) -> dict[str, TokenClusters]:
    """A map of version 1 can be told only by the clusters of all its runs."""
    if not token_map.pair_key:
        return clusters
    others = [run for run in token_map.places if run not in clusters]
    return clusters | {run: load_token_clusters(assets.token_clusters_path(run)) for run in others}


def _cluster_names(token_map: TokenMap, clusters: dict[str, TokenClusters]) -> dict[str, list[str]]:
    return {
        cluster_column(run): [
            f"{own}: {with_quotes(one.labels[own])}" for own in token_map.clusters[run]
        ]
        for run, one in clusters.items()
    }


def _sampled(sample: Sample, documents: pd.DataFrame) -> pd.DataFrame:
    """Each token with its document and what stands around it."""
    own = documents.iloc[sample.documents].reset_index(drop=True)
    spans = list(zip(own["text"], sample.starts, sample.ends, strict=True))
    pieces = [text[start:end] for text, start, end in spans]
    return pd.DataFrame(
        {
            "id": [f"{i}:{at}" for i, at in zip(own["id"], sample.positions, strict=True)],
            "document": own["id"],
            "position": sample.positions,
            "before": [text[max(0, start - CONTEXT) : start] for text, start, _ in spans],
            "text": pieces,
            "after": [text[end : end + CONTEXT] for text, _, end in spans],
            "token": [_name(*each) for each in zip(pieces, sample.token_ids, strict=True)],
            "domain": own["domain"],
            "source": own["source"],
        }
    )


def _name(piece: str, token_id: int) -> str:
    """A token's label; one that continues a character of several tokens has no text."""
    return token_label(piece) if piece else f"part of a character ({token_id})"
