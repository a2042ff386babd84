"""Document clusters page, documents: their maps, those selected, the clusters as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from emo_viz.analysis.alignment import contingency
from emo_viz.analysis.runs import Comparison
from emo_viz.figures.clusters import (
    MARKER_SIZE,
    Shown,
    colour_groups,
    concentration,
    share_heatmap,
)
from emo_viz.figures.theme import chart_config
from emo_viz.ui.clusters.page import (
    CLUSTER,
    DOMAIN,
    EXPERT,
    UMAP,
    Clustered,
    Data,
    View,
    answer,
    colour_names,
    controls,
    find_clusters,
    map_points,
)
from emo_viz.ui.parts import maps, reader
from emo_viz.ui.parts.maps import MOST_DOMAINS, MOST_GROUPS
from emo_viz.ui.parts.reader import loss_column
from emo_viz.ui.parts.selection import Rows, Selection
from emo_viz.ui.parts.together import in_each, name
from emo_viz.ui.shell import routes
from emo_viz.ui.shell.words import count, escape_markdown, escape_plotly, share, shorten, visible

SELECTION = Selection(routes.CLUSTER_SELECTION)
FIRST_WORDS = 60
TABLE_HEIGHT = 248
USAGE_OF = {"probabilities": "mean router probabilities", "choices": "experts' shares of choices"}
COLOURED_BY = {DOMAIN: "domain", CLUSTER: "its own clusters", EXPERT: "top expert"}


def show(data: Data, headline: DeltaGenerator, row: DeltaGenerator) -> None:
    """The whole view: the answer into `headline`, the controls into `row`, the rest below."""
    view = controls(data, row)
    found = find_clusters(data, view)
    with headline:
        answer(data, view, found)
    listed = _documents_table(data, _maps(data, view, found), found)
    reading = st.container(border=True)
    _cluster_tables(data, found)
    _coverage(data, found)
    with reading:  # last: the only part that needs the models
        reader.reader(data.runs, data.documents, listed)


def _maps(data: Data, view: View, found: Mapping[str, Clustered]) -> Rows | None:
    """The maps with their legends; returns the rows selected on them, None for no selection."""
    points, method = map_points(data, view)
    names = colour_names(data, view, found)
    ids = data.documents["id"].tolist()
    most = MOST_DOMAINS if view.colour == DOMAIN else MOST_GROUPS
    drawn = {
        run: maps.Map(
            points[run],
            colour_groups(names[run], _first(data, run, view, found), most),
            _hover(data.version, run, view.k, view.layer, data, found[run]),
        )
        for run in data.runs.ids
    }
    maps.draw(
        maps.Maps(
            data.runs,
            drawn,
            ids,
            "documents",
            content=f"{data.version} {view} {method}",
            method=method,
            drawn=f"{data.size}, coloured by {COLOURED_BY[view.colour]},",
            domains=data.domains,
            only=view.domains,
            highlighted=np.isin(data.domains, view.domains) if view.domains else None,
            one_legend=view.colour == DOMAIN,
            marker_size=MARKER_SIZE,
            selection=SELECTION,
            opened=lambda rows: _opened([ids[row] for row in rows]),
        )
    )
    _map_caption(data, view, method)
    return maps.selected_rows(SELECTION, ids)


def _opened(selected: Sequence[str]) -> None:
    """The reader goes to the first document selected, unless it is in one of them."""
    if selected and st.session_state.get(reader.DOCUMENT) not in selected:
        reader.open_document(selected[0])


def _documents_table(data: Data, rows: Rows | None, found: Mapping[str, Clustered]) -> list[str]:
    """The selected documents, or all of them; choosing one opens it. Returns the ids listed."""
    listed = np.arange(len(data.documents)) if rows is None else rows
    if rows is None:
        st.markdown(f"##### All {count(len(listed), 'document')}")
        st.caption(f"Draw around points on a map to list their documents. {maps.CLICK}")
    else:
        _selection_summary(data, rows, found)
        if len(rows) == 0:
            st.caption("Draw around points on a map, or clear the selection.")
            return []
    table = data.documents.iloc[listed]
    ids = table["id"].tolist()
    key = f"cluster_rows_{SELECTION.current()}_{len(ids)}"
    st.dataframe(
        _listing(data, table, listed, found),
        hide_index=True,
        height=TABLE_HEIGHT,
        key=key,
        on_select=lambda: _open_row(key, ids),
        selection_mode="single-row",
        column_config=_columns(data.runs),
        alt="Documents with their domain, clusters, length and losses",
    )
    return ids


def _cluster_tables(data: Data, found: Mapping[str, Clustered]) -> None:
    """What each cluster holds, as a table for each model, to be exported."""
    st.markdown("##### What the clusters hold")
    tabs = st.tabs([escape_markdown(run.label) for run in data.runs])
    for tab, run in zip(tabs, data.runs, strict=True):
        one = found[run.id]
        with tab:
            st.dataframe(
                one.table.drop(columns="label").assign(purity=100 * one.table["purity"]),
                hide_index=True,
                column_config=_CLUSTER_COLUMNS,
                alt=f"Clusters of {run.label} with their size, domains, words and experts",
            )
            _export(data, run.id, one)


def _coverage(data: Data, found: Mapping[str, Clustered]) -> None:
    """Clusters by domains, every run."""
    tables = {}
    for run, one in found.items():
        domains, clusters, counts = contingency(data.domains, one.clustering.labels)
        tables[run] = pd.DataFrame(
            counts, index=[escape_plotly(each) for each in domains], columns=clusters
        )
    title = f"Where each domain's documents lie ({data.size})"
    fig = share_heatmap(data.runs, tables, title, Shown("domain", "documents", matched=True))
    held = in_each(data.runs, lambda run: share(concentration(tables[run])))
    st.plotly_chart(
        fig,
        config=chart_config("cluster heatmap"),
        width="stretch",
        key="cluster_heatmap",
        alt="Share of each domain's documents in each cluster; in the largest cluster of a domain "
        f"lie {held}",
    )
    st.caption(
        f"A row sums to 100 %. In the largest cluster of a domain lie {held} of its documents, "
        "mean over domains. The order of the clusters brings large shares to the diagonal."
    )


def _first(data: Data, run: str, view: View, found: Mapping[str, Clustered]) -> list[str]:
    """What gets the first colours: the highlighted domains; of clusters those that are the largest
    in the first run, so that matching clusters have the same colour in both maps."""
    if view.colour == DOMAIN:
        return list(view.domains)
    if view.colour == CLUSTER:
        largest = np.argsort(-found[data.runs.first.id].clustering.sizes, kind="stable")
        return [found[run].names[cluster] for cluster in largest]
    return []


def _map_caption(data: Data, view: View, method: str) -> None:
    where = "all layers" if view.layer is None else f"layer {view.layer}"
    matched = (
        " Clusters are matched by the documents they share: the same number and colour in both."
        if view.colour == CLUSTER and len(data.runs) > 1
        else ""
    )
    named = escape_markdown(", ".join(view.domains))
    highlight = f" All domains but {named} recede." if named else ""
    distances = " UMAP distances far apart mean little." if method == UMAP else ""
    kinds = dict.fromkeys(trace.manifest.usage_of for trace in data.traces.values())
    place = " and the ".join(USAGE_OF[kind] for kind in kinds)
    st.caption(
        f"{data.size}; a point is a document, its place the {place} of {where}."
        f"{maps.turned(data.runs, 'document')}{distances}{matched}{highlight}"
    )


def _selection_summary(data: Data, rows: Rows, found: Mapping[str, Clustered]) -> None:
    text = ""
    if len(rows):
        domains = pd.Series(data.domains).iloc[rows].value_counts(normalize=True)
        parts = [f"{share(domains.iloc[0])} {escape_markdown(str(domains.index[0]))}"]
        for run in data.runs:
            largest = np.bincount(found[run.id].clustering.labels[rows]).max() / len(rows)
            parts.append(f"{share(largest)} in one cluster of {name(run)}")
        text = f"{count(len(rows), 'document')} selected: {', '.join(parts)}"
    maps.summary(SELECTION, rows, "document", text)


def _open_row(key: str, ids: Sequence[str]) -> None:
    picked = st.session_state[key]["selection"]["rows"]
    if picked:
        reader.open_document(ids[picked[0]])


def _listing(
    data: Data, table: pd.DataFrame, listed: Rows, found: Mapping[str, Clustered]
) -> pd.DataFrame:
    clusters = {
        maps.cluster_column(run): np.array(one.labels)[listed] for run, one in found.items()
    }
    return pd.DataFrame(
        {
            "domain": table["domain"],
            "opening": [opening(text) for text in table["text"]],
            **clusters,
            "tokens": table["n_tokens"],
            **{loss_column(run): table[loss_column(run)] for run in data.runs.ids},
            "id": table["id"],
        }
    )


def _columns(runs: Comparison) -> dict[str, Any]:
    """How the listing's columns look."""
    clusters = {
        maps.cluster_column(run.id): st.column_config.TextColumn(f"{run.label} cluster", width=170)
        for run in runs
    }
    losses = {
        loss_column(run.id): st.column_config.NumberColumn(
            f"{run.label} loss", format="%.2f", help="Nats a token", width=95
        )
        for run in runs
    }
    return _COLUMNS | clusters | losses


def opening(text: str) -> str:
    """The first words of a document on one line."""
    return shorten(" ".join(visible(text[:240]).replace("↵", " ").split()), FIRST_WORDS)


def _export(data: Data, name: str, one: Clustered) -> None:
    row = st.container(horizontal=True)
    documents = pd.DataFrame(
        {
            "id": data.documents["id"],
            "domain": data.documents["domain"],
            "cluster": one.clustering.labels,
        }
    )
    k = len(one.clustering.centroids)
    for label, table in (("clusters", one.table), ("documents", documents)):
        row.download_button(
            f"Export {label} (CSV)",
            table.to_csv(index=False).encode(),
            f"{label}-{name}-{k}.csv",
            "text/csv",
            icon=":material/download:",
            key=f"cluster_export_{label}_{name}",
            on_click="ignore",
        )


@st.cache_resource(max_entries=64, show_spinner=False)
def _hover(
    key: str, name: str, k: int, layer: int | None, _data: Data, _clustered: Clustered
) -> list[str]:
    """Domain, opening, cluster and id of every document, as HTML for Plotly."""
    table = _data.documents
    labels = [escape_plotly(each) for each in _clustered.names]
    return [
        f"<b>{escape_plotly(domain)}</b><br>{escape_plotly(opening(text))}<br>"
        f"Cluster {labels[cluster]}<br>{escape_plotly(document)}"
        for domain, text, cluster, document in zip(
            table["domain"], table["text"], _clustered.clustering.labels, table["id"], strict=True
        )
    ]


_COLUMNS = {
    "domain": st.column_config.TextColumn("Domain", width=130),
    "opening": st.column_config.TextColumn("First words", width=250),
    "tokens": st.column_config.NumberColumn("Tokens", width=60),
    "id": st.column_config.TextColumn("Id", width="small"),
}
_CLUSTER_COLUMNS = {
    "cluster": st.column_config.NumberColumn("Cluster", width=55),
    "documents": st.column_config.NumberColumn("Documents", width=80),
    "purity": st.column_config.ProgressColumn(
        "Purity",
        format="%.0f %%",
        min_value=0,
        max_value=100,
        width=100,
        help="Share of the cluster's largest domain",
    ),
    "top_domains": st.column_config.TextColumn("Largest domains", width=330),
    "words": st.column_config.TextColumn(
        "Enriched words",
        width=290,
        help="Words that more of its documents hold than of all documents",
    ),
    "experts": st.column_config.TextColumn(
        "Enriched experts",
        width=240,
        help="Layer and expert, with its mean router probability relative to all documents",
    ),
}
