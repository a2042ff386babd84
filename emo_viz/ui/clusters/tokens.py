"""Document clusters page, tokens: the sampled tokens, how they are asked for, what they say."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray
from streamlit.delta_generator import DeltaGenerator

from emo_viz.analysis.token_map import Sample, TokenMap, load_token_map, map_key
from emo_viz.analysis.tokens import Headline, TokenClusters, headline, load_token_clusters
from emo_viz.server import assets, commands
from emo_viz.ui.clusters.page import ALL_DOMAINS, Data, highlight
from emo_viz.ui.parts import freshness
from emo_viz.ui.shell import links, routes
from emo_viz.ui.shell.words import count, escape_markdown, interval, token_label

LABELS = assets.MODEL_LABELS
DOMAIN, CLUSTER, TOKEN = "Domain", "Cluster", "Token"
ALL_TOKENS = "All tokens"
CONTEXT = 48  # characters before and after a token
FREQUENT = 8  # a token that occurs so often in the sample can be highlighted


@dataclass(frozen=True)
class View:
    """What the controls ask for: domains and tokens to highlight (none: all of them)."""

    colour: str
    domains: tuple[str, ...]
    tokens: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Tokens:
    """The sampled tokens of both models.

    table: a row for each, with the columns id, document, position, before, text, after (its place
    in the document's text), token (its label), domain, emo and standard (names of its clusters).
    """

    version: str
    token_map: TokenMap
    table: pd.DataFrame

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


def measured() -> Headline | None:
    """How the token clusters of both models agree with the domains.

    None, and a sentence, if there are no two files that belong together.
    """
    paths = [assets.token_clusters_path(name) for name in LABELS]
    try:
        found = _headline(paths[0], paths[1], assets.stamp(*paths))
        freshness.check("The token clusters", found.origins)
        return found
    except ValueError as error:
        _to_mend(error, *(commands.CLUSTERS.format(folder=f) for f in _folders()))
        return None


def load(data: Data) -> Tokens | None:
    """The sampled tokens; None, and a sentence, if there is no map of these documents."""
    paths = [assets.token_clusters_path(name) for name in LABELS]
    path = assets.analysis_path("token_map.npz")
    stamp = assets.stamp(path, *paths)
    try:
        found = _tokens(data.version, path, paths[0], paths[1], stamp, data)
        freshness.check("The token maps", found.token_map.origins)
        return found
    except ValueError as error:
        _to_mend(error, commands.TOKEN_MAP)
        return None


def controls(row: DeltaGenerator, found: Tokens) -> View:
    """The controls of this view, put into `row`."""
    domains = sorted(set(found.table["domain"]))
    colour = links.choice(
        row, "Colour by", [DOMAIN, CLUSTER, TOKEN], routes.CLUSTER_TOKEN_COLOUR, what="colouring"
    )
    return View(
        colour,
        highlight(row, "Highlight domains", domains, ALL_DOMAINS, routes.CLUSTER_DOMAIN),
        highlight(row, "Highlight tokens", found.frequent, ALL_TOKENS, routes.CLUSTER_HIGHLIGHT),
    )


def answer(said: Headline, found: Tokens | None, domains: int) -> None:
    """The first line of the page: whose token clusters follow the domains, in numbers."""
    st.markdown(
        f"#### Clusters of single tokens share **{interval(said.emo)}** of their information with "
        f"the domain in EMO, **{interval(said.standard)}** in the standard MoE."
    )
    st.markdown(
        f"EMO less standard MoE: **{interval(said.difference, '+.3f')}**, "
        f"{interval(said.ratio)} times as much. With the token itself the clusters share "
        f"**{interval(said.emo_token)}** in EMO and **{interval(said.standard_token)}** in the "
        "standard MoE."
    )
    drawn = "" if found is None else f" The maps show {found.size}{_per_domain(found)}."
    st.caption(
        f"Normalised mutual information (NMI) of {said.clusters} clusters by the routing of all "
        f"layers with {count(domains, 'domain')} and with the token ids, "
        f"{count(said.documents, 'document')}, {count(said.tokens, 'token')}; in brackets the 95 % "
        "interval over documents, for the difference over the same documents in both models. "
        f"Shuffled domains reach {said.emo_chance:.2f} (EMO) and {said.standard_chance:.2f} "
        f"(standard MoE).{drawn}"
    )


def colour_names(found: Tokens, view: View) -> dict[str, list[str]]:
    """What each token is coloured by, for both models."""
    columns = {name: view.colour.lower() if view.colour != CLUSTER else name for name in LABELS}
    return {name: found.table[column].tolist() for name, column in columns.items()}


def _per_domain(found: Tokens) -> str:
    sizes = found.table["domain"].value_counts()
    return f", {sizes.max():,} of each domain" if sizes.nunique() == 1 else ""


def _folders() -> list[str]:
    return list(assets.MODEL_FOLDERS.values())


def _to_mend(error: ValueError, *commands: str) -> None:
    said = str(error) if isinstance(error, freshness.Stale) else escape_markdown(str(error))
    st.info(f"{said} This makes it:")
    st.code("\n".join(commands), language="bash", wrap_lines=True)


@st.cache_resource(max_entries=2, show_spinner=False)
def _headline(emo: Path, standard: Path, stamp: assets.Stamp) -> Headline:
    return headline(emo, standard)


@st.cache_resource(max_entries=2, show_spinner="Reading the tokens …")
def _tokens(
    version: str, path: Path, emo: Path, standard: Path, stamp: assets.Stamp, _data: Data
) -> Tokens:
    """Raises ValueError if there is no map, or one of other documents or other clusters."""
    token_map = load_token_map(path)
    clusters = {"emo": load_token_clusters(emo), "standard": load_token_clusters(standard)}
    ids, texts = _data.documents["id"].tolist(), _data.documents["text"].tolist()
    if token_map.key != map_key(ids, texts, clusters):
        raise ValueError(f"{path.name} is of other documents or other token clusters.")
    table = _sampled(token_map.sample, _data.documents)
    version = f"{version} {stamp}"
    return Tokens(version, token_map, table.assign(**_cluster_names(token_map, clusters)))


def _cluster_names(token_map: TokenMap, clusters: dict[str, TokenClusters]) -> dict[str, list[str]]:
    return {
        name: [f"{cluster}: {one.labels[cluster]}" for cluster in token_map.clusters[name]]
        for name, one in clusters.items()
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
        }
    )


def _name(piece: str, token_id: int) -> str:
    """A token's label; one that continues a character of several tokens has no text."""
    return token_label(piece) if piece else f"part of a character ({token_id})"
