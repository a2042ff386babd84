"""Home: the way into the tour, and stories, each a link into a page with everything set.

What they are of is found in what is recorded; one whose runs lack what it needs is not offered.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pandas as pd
import streamlit as st

from emo_viz.analysis import stories
from emo_viz.analysis.curves import read_together
from emo_viz.analysis.glance import KEEP_K
from emo_viz.analysis.runs import Comparison
from emo_viz.figures.theme import sentence_case
from emo_viz.server import assets, library, typical
from emo_viz.ui.parts import text_links
from emo_viz.ui.parts.together import name
from emo_viz.ui.shell import routes, slots, subjects, tour
from emo_viz.ui.shell.words import escape_markdown, shorten

TITLE = 28  # characters of a document's title


@dataclass(frozen=True)
class Story:
    """label, note: safe for Markdown. page: its file; params: what its address says."""

    label: str
    note: str
    icon: str
    page: str
    params: dict[str, str] = field(default_factory=dict)


def draw(runs: Comparison, document: str | None = None) -> None:
    """One row of links. document: the one that is shown, if it is not the usual one."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="stories"):
        for story in offered(runs, document):
            way = slots.params() | story.params
            st.page_link(
                story.page, label=story.label, icon=story.icon, help=story.note, query_params=way
            )


def take_the_tour(place: st.delta_generator.DeltaGenerator) -> None:
    """The way into the tour, for whoever is not on it."""
    if tour.running():
        return
    place.button(
        "Take the tour",
        icon=":material/tour:",
        key="tour_begin",
        on_click=tour.begin,
        help="Five steps, a page each, with a note on what to look at.",
    )


def offered(runs: Comparison, document: str | None = None) -> list[Story]:
    """The stories that these runs can tell of a document, or of the usual one, and of others."""
    live = all(map(library.can_run, runs.ids))
    row = _row(runs, document)
    return [*_of_documents(runs, row, live), *_of_curves(runs, live), *_of_clusters(runs, row)]


def _row(runs: Comparison, document: str | None) -> pd.Series | None:
    try:
        documents = library.documents(runs.ids)
        if document is None or not (documents["id"] == document).any():
            return typical.document(runs)
        return library.row_of(documents, document)
    except library.Missing:
        return None


def _of_documents(runs: Comparison, row: pd.Series | None, live: bool) -> Iterator[Story]:
    """Those that run the models on a text."""
    if row is None or not live:
        return
    keep_k, domain = _keep_k(runs), str(row["domain"])
    title = escape_markdown(shorten(subjects.title(str(row.get("parent") or ""), row["id"]), TITLE))
    if keep_k is not None:
        yield Story(
            f"{_label(subjects.one_of(domain))} cut to {keep_k} experts",
            f"“{title}”, token by token, and what the cut models write after it.",
            ":material/content_cut:",
            routes.ABLATION,
            routes.ablation_of_document(str(row["id"])) | {routes.SUBSET_KEEP: str(keep_k)},
        )
    found = _mixed(runs.ids, typical.key(runs.ids))
    if found is not None:
        words = [escape_markdown(subjects.in_words(one)) for one in (found.first, found.second)]
        yield Story(
            f"{sentence_case(words[0])} and {words[1]} in one text",
            f"The beginning of a document of {words[0]} and of one of {words[1]}, read as one: "
            "where do the experts change?",
            ":material/alt_route:",
            routes.ROUTING,
            routes.routing_of_mixed(text_links.code_of(found.text)),
        )


def _label(words: str) -> str:
    return escape_markdown(sentence_case(words))


@st.cache_resource(max_entries=4, show_spinner=False)
def _mixed(runs: tuple[str, ...], key: str) -> stories.Mixed | None:
    return stories.mixed(library.documents(runs))


def _keep_k(runs: Comparison) -> int | None:
    """The measured number of experts that the page speaks of; None where none was measured."""
    found = _dearest(runs.ids, typical.key(runs.ids))
    return None if found is None else found.keep_k


def _of_curves(runs: Comparison, live: bool) -> Iterator[Story]:
    found = _dearest(runs.ids, typical.key(runs.ids))
    if found is None or not live:
        return
    first = name(runs.first)
    yield Story(
        f"{_label(subjects.in_words(found.domain))}: the domain a cut costs most",
        f"Of all domains the one in which {first} loses most with {found.keep_k} experts: "
        f"{found.increase:+.3f} nats a token.",
        ":material/trending_down:",
        routes.ABLATION,
        {routes.SUBSET_DOMAIN: found.domain, routes.SUBSET_KEEP: str(found.keep_k)},
    )


@st.cache_resource(max_entries=16, show_spinner=False)
def _dearest(runs: tuple[str, ...], key: str) -> stories.Cost | None:
    try:
        rows = read_together(assets.curves_paths(runs)).of_runs(runs).rows
    except ValueError:
        return None
    return stories.dearest(rows, runs[0], KEEP_K)


def _of_clusters(runs: Comparison, row: pd.Series | None) -> Iterator[Story]:
    if row is None or not assets.measured_path("token_map.npz", runs.ids).is_file():
        return
    domain = str(row["domain"])
    yield Story(
        f"{_label(subjects.in_words(domain))} on the map of all tokens",
        "Single tokens placed by their experts alone, those of one domain highlighted.",
        ":material/bubble_chart:",
        routes.CLUSTERS,
        {routes.CLUSTER_DOMAIN: domain},
    )
