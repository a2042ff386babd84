"""Document clusters page: the two maps, the documents selected on them, the clusters as tables."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.alignment import contingency
from emo_viz.analysis.projection import place_labels
from emo_viz.figures.clusters import (
    Group,
    colour_groups,
    document_map,
    domain_heatmap,
    map_config,
)
from emo_viz.figures.theme import chart_config
from emo_viz.ui import cluster_selection
from emo_viz.ui.cluster_selection import EMPTY_REGION, Rows
from emo_viz.ui.clusters import (
    CLUSTER,
    DOMAIN,
    EXPERT,
    LABELS,
    UMAP,
    Clustered,
    Data,
    View,
    colour_names,
    map_points,
)
from emo_viz.ui.text import count, escape_html, escape_markdown, share, shorten, visible

DOCUMENT = "cluster_document"
FIRST_WORDS = 60
NARROWEST_MAP = 340
TABLE_HEIGHT = 248
COLOURED_BY = {DOMAIN: "domain", CLUSTER: "its own clusters", EXPERT: "top expert"}


def maps(data: Data, view: View, found: Mapping[str, Clustered]) -> Rows | None:
    """Both maps with their legends; returns the rows selected on them, None for no selection."""
    points, method = map_points(data, view)
    names = colour_names(data, view, found)
    ids = data.documents["id"].tolist()
    cluster_selection.follow_address(f"{data.key} {view} {method}")
    highlighted = np.isin(data.domains, view.domains) if view.domains else None
    groups = {name: colour_groups(names[name], _first(name, view, found)) for name in LABELS}
    side_by_side = st.grid(2, min_column_width=NARROWEST_MAP)
    for name in LABELS:
        with side_by_side.cell():
            _map(name, data, view, method, points[name], groups[name], found[name], highlighted)
            if view.colour != DOMAIN:
                _legend(groups[name], highlighted)
    if view.colour == DOMAIN:
        _legend(groups["emo"], highlighted)
    _map_caption(data, view, method)
    code = cluster_selection.current()
    rows = cluster_selection.decode(code, ids)
    if rows is None:
        st.warning("The link selects documents that are not here; nothing is selected.")
    return rows if code else None


def documents_table(data: Data, rows: Rows | None, found: Mapping[str, Clustered]) -> list[str]:
    """The selected documents, or all of them; choosing one opens it. Returns the ids listed."""
    listed = np.arange(len(data.documents)) if rows is None else rows
    if rows is None:
        st.markdown(f"##### All {count(len(listed), 'document')}")
        st.caption("Draw a lasso or a box on either map to list the documents inside it.")
    else:
        _selection_summary(data, rows, found)
        if len(rows) == 0:
            st.caption("Draw around points on either map, or clear the selection.")
            return []
    table = data.documents.iloc[listed]
    ids = table["id"].tolist()
    key = f"cluster_rows_{cluster_selection.current()}_{len(ids)}"
    st.dataframe(
        _listing(table, listed, found),
        hide_index=True,
        height=TABLE_HEIGHT,
        key=key,
        on_select=lambda: _open_row(key, ids),
        selection_mode="single-row",
        column_config=_COLUMNS,
        alt="Documents with their domain, clusters, length and losses",
    )
    return ids


def cluster_tables(data: Data, found: Mapping[str, Clustered]) -> None:
    """What each cluster holds, as a table for each model, to be exported."""
    st.markdown("##### What the clusters hold")
    for tab, (name, one) in zip(st.tabs(list(LABELS.values())), found.items(), strict=True):
        with tab:
            st.dataframe(
                one.table.drop(columns="label").assign(purity=100 * one.table["purity"]),
                hide_index=True,
                column_config=_CLUSTER_COLUMNS,
                alt=f"Clusters of {LABELS[name]} with their size, domains, words and experts",
            )
            _export(data, name, one)


def coverage(data: Data, found: Mapping[str, Clustered]) -> None:
    """Clusters by domains, both models."""
    tables = {}
    for name, one in found.items():
        domains, clusters, counts = contingency(data.domains, one.clustering.labels)
        tables[name] = pd.DataFrame(
            counts, index=[escape_html(each) for each in domains], columns=clusters
        )
    fig = domain_heatmap(tables, LABELS, f"Where each domain's documents lie ({data.size})")
    emo, standard = (_concentration(table) for table in tables.values())
    st.plotly_chart(
        fig,
        config=chart_config("cluster heatmap"),
        width="stretch",
        key="cluster_heatmap",
        alt=f"Share of each domain's documents in each cluster; the largest cluster of a domain "
        f"holds {share(emo)} of it in EMO and {share(standard)} in the standard MoE",
    )
    st.caption(
        f"A row sums to 100 %. The largest cluster of a domain holds {share(emo)} of its documents "
        f"in EMO and {share(standard)} in the standard MoE, mean over domains. The order of the "
        "clusters brings large shares to the diagonal."
    )


def _map(
    name: str,
    data: Data,
    view: View,
    method: str,
    points: NDArray[np.float32],
    groups: Sequence[Group],
    clustered: Clustered,
    highlighted: NDArray[np.bool_] | None,
) -> None:
    code, generation = cluster_selection.drawn(name)
    ids = data.documents["id"].tolist()
    selected = cluster_selection.decode(code, ids) if code else None
    hover = _hover(data.key, name, view.k, view.layer, data, clustered)
    title = f"{LABELS[name]}: {method} of routing"
    labels = [
        (escape_html(label.text), label.x, label.y)
        for label in place_labels(points, data.domains)
        if not view.domains or label.text in view.domains
    ]
    key = f"cluster_chart_{name}_{generation}"
    st.plotly_chart(
        document_map(points, groups, hover, title, method, labels, highlighted, selected),
        config=map_config(f"{method} {name}"),
        width="stretch",
        key=key,
        on_select=lambda: _select(name, key, points, ids),
        selection_mode=("box", "lasso"),
        alt=f"{method} map of {data.size} by the routing of {LABELS[name]}, coloured by "
        f"{COLOURED_BY[view.colour]}",
    )


def _select(name: str, key: str, points: NDArray[np.float32], ids: Sequence[str]) -> None:
    """Take over the region drawn; the reader goes to its first document unless it is in one."""
    cluster_selection.select(name, key, points, ids)
    rows = cluster_selection.decode(cluster_selection.current(), ids)
    inside = [] if rows is None else [ids[row] for row in rows]
    if inside and st.session_state.get(DOCUMENT) not in inside:
        st.session_state[DOCUMENT] = inside[0]


def _first(name: str, view: View, found: Mapping[str, Clustered]) -> list[str]:
    """What gets the first colours: the highlighted domains; of clusters those that are the largest
    in EMO, so that matching clusters have the same colour in both maps."""
    if view.colour == DOMAIN:
        return list(view.domains)
    if view.colour == CLUSTER:
        largest = np.argsort(-found["emo"].clustering.sizes, kind="stable")
        return [found[name].names[cluster] for cluster in largest]
    return []


def _map_caption(data: Data, view: View, method: str) -> None:
    where = "all layers" if view.layer is None else f"layer {view.layer}"
    matched = (
        " Clusters are matched by the documents they share: the same number and colour in both."
        if view.colour == CLUSTER
        else ""
    )
    named = escape_markdown(", ".join(view.domains))
    highlight = f" All domains but {named} recede." if named else ""
    distances = " UMAP distances far apart mean little." if method == UMAP else ""
    st.caption(
        f"{data.size}; a point is a document, its place the mean router probabilities of {where}. "
        f"The standard model's map is turned and resized onto EMO's, so that the same document "
        f"lies near the same place where the models agree.{distances}{matched}{highlight}"
    )


def _legend(groups: Sequence[Group], highlighted: NDArray[np.bool_] | None) -> None:
    """Marker, name and number of documents of every group."""
    items = []
    for group in groups:
        faded = highlighted is not None and not highlighted[group.rows].any()
        items.append(
            f'<span style="white-space:nowrap;opacity:{0.4 if faded else 1}">'
            f'<span aria-hidden="true" style="color:{group.colour}">{group.sign}</span> '
            f"{escape_html(shorten(group.name, 60))} "
            f'<span style="opacity:.65">({len(group.rows):,})</span></span>'
        )
    st.html(
        '<div style="display:flex;flex-wrap:wrap;gap:.1rem 1rem;font-size:.82rem;'
        f'line-height:1.5">{"".join(items)}</div>'
    )


def _selection_summary(data: Data, rows: Rows, found: Mapping[str, Clustered]) -> None:
    line = st.container(horizontal=True, vertical_alignment="center")
    if len(rows) == 0:
        text = "##### No document lies in this region"
        if cluster_selection.current() != EMPTY_REGION:
            text = "##### Nothing is selected"
    else:
        domains = pd.Series(data.domains).iloc[rows].value_counts(normalize=True)
        parts = [f"{share(domains.iloc[0])} {escape_markdown(str(domains.index[0]))}"]
        for name, one in found.items():
            largest = np.bincount(one.clustering.labels[rows]).max() / len(rows)
            parts.append(f"{share(largest)} in one cluster of {LABELS[name]}")
        text = f"##### {count(len(rows), 'document')} selected: {', '.join(parts)}"
    line.markdown(text)
    line.button(
        "Clear selection",
        icon=":material/close:",
        shortcut="Escape",
        on_click=cluster_selection.clear,
        key="cluster_clear",
    )


def _open_row(key: str, ids: Sequence[str]) -> None:
    picked = st.session_state[key]["selection"]["rows"]
    if picked:
        st.session_state[DOCUMENT] = ids[picked[0]]


def _listing(table: pd.DataFrame, listed: Rows, found: Mapping[str, Clustered]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "domain": table["domain"],
            "opening": [opening(text) for text in table["text"]],
            "emo": np.array(found["emo"].labels)[listed],
            "standard": np.array(found["standard"].labels)[listed],
            "tokens": table["n_tokens"],
            "emo_loss": table["emo_loss"],
            "standard_loss": table["standard_loss"],
            "id": table["id"],
        }
    )


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


def _concentration(table: pd.DataFrame) -> float:
    """Share of a domain's documents in its largest cluster, mean over domains."""
    return float((table.max(axis=1) / table.sum(axis=1)).mean())


@st.cache_resource(max_entries=64, show_spinner=False)
def _hover(
    key: str, name: str, k: int, layer: int | None, _data: Data, _clustered: Clustered
) -> list[str]:
    """Domain, opening, cluster and id of every document, as HTML for Plotly."""
    table = _data.documents
    labels = [escape_html(each) for each in _clustered.names]
    return [
        f"<b>{escape_html(domain)}</b><br>{escape_html(opening(text))}<br>"
        f"Cluster {labels[cluster]}<br>{escape_html(document)}"
        for domain, text, cluster, document in zip(
            table["domain"], table["text"], _clustered.clustering.labels, table["id"], strict=True
        )
    ]


_COLUMNS = {
    "domain": st.column_config.TextColumn("Domain", width=130),
    "opening": st.column_config.TextColumn("First words", width=250),
    "emo": st.column_config.TextColumn("EMO cluster", width=170),
    "standard": st.column_config.TextColumn("Standard MoE cluster", width=170),
    "tokens": st.column_config.NumberColumn("Tokens", width=60),
    "emo_loss": st.column_config.NumberColumn(
        "EMO loss", format="%.2f", help="Nats a token", width=75
    ),
    "standard_loss": st.column_config.NumberColumn(
        "Standard loss", format="%.2f", help="Nats a token", width=95
    ),
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
