"""Home: the way into the tour, and stories, each a link into a page with everything set.

What they are of is found in what is recorded; one whose runs lack what it needs is not offered.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import streamlit as st

from emo_viz.analysis import stories
from emo_viz.analysis.curves import read_together
from emo_viz.analysis.glance import KEEP_K
from emo_viz.analysis.runs import Comparison
from emo_viz.server import assets, library, typical
from emo_viz.ui.parts import text_links
from emo_viz.ui.parts.together import name
from emo_viz.ui.shell import routes, slots, tour
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


def draw(runs: Comparison) -> None:
    """One row: the tour, then the stories."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.button(
            "Take the tour",
            icon=":material/tour:",
            key="tour_begin",
            on_click=tour.begin,
            disabled=tour.running(),
            help="Five steps, a page each, with a note on what to look at.",
        )
        for story in offered(runs):
            way = slots.params() | story.params
            st.page_link(
                story.page, label=story.label, icon=story.icon, help=story.note, query_params=way
            )


def offered(runs: Comparison) -> list[Story]:
    """The stories that these runs can tell."""
    live = all(map(library.can_run, runs.ids))
    return [*_of_documents(runs, live), *_of_curves(runs, live), *_of_clusters(runs)]


def _of_documents(runs: Comparison, live: bool) -> Iterator[Story]:
    """Those that run the models on a text."""
    try:
        row = typical.document(runs)
    except library.Missing:
        return
    if not live:
        return
    title = escape_markdown(shorten(str(row.get("parent") or row["id"]), TITLE))
    keep_k = _keep_k(runs)
    if keep_k is not None:
        yield Story(
            f"“{title}” cut to {keep_k} experts",
            f"One document of {escape_markdown(str(row['domain']))}, token by token, and what the "
            "cut models write after it.",
            ":material/content_cut:",
            routes.ABLATION,
            routes.ablation_of_document(str(row["id"])) | {routes.SUBSET_KEEP: str(keep_k)},
        )
    found = _mixed(runs.ids, typical.key(runs.ids))
    if found is not None:
        both = f"{escape_markdown(found.first)} and {escape_markdown(found.second)}"
        yield Story(
            f"{both} in one text",
            f"The beginning of a document of {both}, read as one: where do the experts change?",
            ":material/alt_route:",
            routes.ROUTING,
            routes.routing_of_text(text_links.code_of(found.text)),
        )


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
    domain, first = escape_markdown(found.domain), name(runs.first)
    yield Story(
        f"{domain}: the dearest cut",
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


def _of_clusters(runs: Comparison) -> Iterator[Story]:
    if not assets.measured_path("token_map.npz", runs.ids).is_file():
        return
    try:
        domain = str(typical.document(runs)["domain"])
    except library.Missing:
        return
    yield Story(
        f"{escape_markdown(domain)} among all tokens",
        "Single tokens placed by their experts alone, those of one domain highlighted.",
        ":material/bubble_chart:",
        routes.CLUSTERS,
        {routes.CLUSTER_DOMAIN: domain},
    )
