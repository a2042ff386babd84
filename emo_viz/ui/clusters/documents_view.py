"""Clusters page, documents: their maps, those selected, and what lies below."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.alignment import contingency
from emo_viz.analysis.runs import Comparison, Run
from emo_viz.figures.clusters import (
    Group,
    Shown,
    colour_groups,
    concentration,
    scale_groups,
    share_heatmap,
)
from emo_viz.figures.theme import CHART_CONFIG, colour_of
from emo_viz.ui.clusters import quality
from emo_viz.ui.clusters.data import FIRST_WORDS, Data
from emo_viz.ui.clusters.documents import (
    CLUSTER,
    COLOURED_BY,
    DOMAIN,
    ENTROPY,
    EXPERT,
    SOURCE,
    SPREAD,
    UMAP,
    Clustered,
    View,
    answer,
    controls,
    details,
    experts_of,
    find_clusters,
    map_points,
    number_of,
    reduction,
)
from emo_viz.ui.parts import export, maps, reader, rows_to_open
from emo_viz.ui.parts.lazy_tabs import Tab, lazy_tabs
from emo_viz.ui.parts.point_maps import Fact, Panel, payload
from emo_viz.ui.parts.reader import loss_column
from emo_viz.ui.parts.selection import Rows, Selection
from emo_viz.ui.parts.together import in_each, name
from emo_viz.ui.shell import routes
from emo_viz.ui.shell.words import by_hand, count, escape_markdown, escape_plotly, opening, share

SELECTION = Selection(routes.CLUSTER_SELECTION)
MARKER_SIZE = 7
ABOVE = "34.5rem"  # what stands above and below the maps' plots on the first screen
TABLE_HEIGHT = 320
USAGE_OF = {"probabilities": "mean router probabilities", "choices": "experts' shares of choices"}


def show(data: Data) -> None:
    """The whole view, from its controls down."""
    view = controls(data, st.container(horizontal=True, vertical_alignment="bottom", gap="small"))
    found = find_clusters(data, view)
    answer(data, view, found)
    ids = data.documents["id"].tolist()
    SELECTION.follow_address(ids, "documents")
    rows = SELECTION.rows(ids)
    listed = ids if rows is None else [ids[row] for row in rows]
    maps.summary(SELECTION, rows, "document", _said(data, rows, found), lambda: _read(listed))
    method = _maps(data, view, found, rows)
    _below(data, view, found, rows)
    _explanation(data, view, found, method)
    reader.drawer(data.runs, data.documents, listed or ids)


def _maps(data: Data, view: View, found: Mapping[str, Clustered], rows: Rows | None) -> str:
    """The maps with their legends; returns how their places were found."""
    points, method = map_points(data, view)
    maps.draw(
        maps.Shown(
            data.documents["id"].tolist(),
            f"{data.version} {view.colour} {view.k} {view.layer} {method}",
            partial(_sent, data, view, found, points, method),
            np.isin(data.domains, view.domains) if view.domains else None,
            SELECTION,
            _shown(view, rows),
        )
    )
    return method


def _shown(view: View, rows: Rows | None = None) -> str:
    """What is shown, for who takes it home. rows: the selected ones, where they count."""
    return maps.restricted(view.layer, view.k, view.domains, rows, "document")


def _sent(
    data: Data,
    view: View,
    found: Mapping[str, Clustered],
    points: Mapping[str, NDArray[np.float32]],
    method: str,
) -> dict[str, Any]:
    """What the browser is sent of the maps."""
    names, codes = np.unique(data.domains, return_inverse=True)
    one_legend = view.colour in (DOMAIN, SOURCE)
    return payload(
        maps.channel(SELECTION),
        [_panel(data, view, found, run, points[run.id], method) for run in data.runs],
        [Fact("Domain", codes, [str(each) for each in names])],
        [opening(text, FIRST_WORDS) for text in data.documents["text"]],
        data.documents["id"].tolist(),
        "documents",
        method,
        MARKER_SIZE,
        one_legend,
        ABOVE if one_legend else f"calc({ABOVE} + 1rem)",
        f"{data.provenance} · coloured by {COLOURED_BY[view.colour]}",
    )


def _panel(
    data: Data,
    view: View,
    found: Mapping[str, Clustered],
    run: Run,
    points: NDArray[np.float32],
    method: str,
) -> Panel:
    one, first = found[run.id], found[data.runs.first.id]
    named = one.labels if view.colour == CLUSTER else data.domains
    return Panel(
        run=run.id,
        name=run.label,
        colour=colour_of(run),
        alt=f"{method} map of {data.size}, coloured by {COLOURED_BY[view.colour]}, in {run.label}",
        points=points,
        groups=_groups(data, view, one, first, run.id),
        names=maps.names_of(
            points, named, view.colour in (CLUSTER, DOMAIN), view.colour == CLUSTER
        ),
        own=Fact("Cluster", one.clustering.labels, one.names),
    )


def _groups(data: Data, view: View, one: Clustered, first: Clustered, run: str) -> list[Group]:
    """What the documents of a run are coloured by."""
    if view.colour in (ENTROPY, SPREAD):
        look = (".2f", "nats") if view.colour == ENTROPY else (".1f", "experts")
        values = {each: number_of(data, each, view) for each in data.runs.ids}
        return scale_groups(values[run], np.concatenate(list(values.values())), *look)
    if view.colour == EXPERT:
        return colour_groups(experts_of(data, run, view))
    if view.colour == CLUSTER:
        return _matched(data, one, first)
    source = view.colour == SOURCE
    return data.groups(data.documents["source"].tolist() if source else data.domains, data.domains)


def _matched(data: Data, one: Clustered, first: Clustered) -> list[Group]:
    """The clusters of a run; one that matches a cluster of the first run looks as that one does."""
    labels, others = one.clustering.labels, first.clustering.labels
    if not data.has_domains or set(labels) - set(others):
        return data.groups(one.labels, data.domains)
    of_first = data.groups([f"{cluster:04}" for cluster in others], data.domains)
    return [
        replace(
            group, name=one.names[int(group.name)], rows=np.flatnonzero(labels == int(group.name))
        )
        for group in of_first
    ]


def _read(listed: Sequence[str]) -> None:
    if listed:
        reader.open_document(listed[0])


def _below(data: Data, view: View, found: Mapping[str, Clustered], rows: Rows | None) -> None:
    """What lies below the maps, each part made only while it is looked at."""
    lazy_tabs(
        routes.CLUSTER_PART,
        [
            Tab("Documents", lambda: _documents_table(data, view, rows, found)),
            Tab("Clusters", lambda: _cluster_tables(data, view, found)),
            Tab("Quality", lambda: quality.of_documents(data, view, found)),
            Tab("Domains", lambda: _coverage(data, view, found)),
            *quality.confusion_tab(data.runs, lambda: _confusion(data, found)),
        ],
        "part",
    )


def _documents_table(
    data: Data, view: View, rows: Rows | None, found: Mapping[str, Clustered]
) -> None:
    """The selected documents, or all of them; choosing one opens it."""
    listed = np.arange(len(data.documents)) if rows is None else rows
    if len(listed) == 0:
        st.caption(by_hand("Draw around points on a map, or clear the selection."))
        return
    what = "All" if rows is None else "The selected"
    to_read = by_hand("; press Open in a row to read it")
    st.caption(f"{what} {count(len(listed), 'document')}{to_read}.")
    table = data.documents.iloc[listed]
    ids = table["id"].tolist()
    key = f"cluster_rows_{SELECTION.current()}_{len(ids)}"
    rows_to_open.table(
        _listing(data, table, listed, found),
        key,
        lambda row: reader.open_document(ids[row]),
        _columns(data.runs),
        height=TABLE_HEIGHT,
        alt="Documents with their domain, clusters, length and losses",
    )
    tables = {"Documents": lambda: export.by_label(_listing(data, table, listed, found), data.runs)}
    _export(data, "listing", _shown(view, rows), tables)


def _cluster_tables(data: Data, view: View, found: Mapping[str, Clustered]) -> None:
    """What each cluster holds, as a table for each model, to be exported."""
    tables: dict[str, export.Table] = {
        f"Clusters of {run.label}": partial(_table_of, found[run.id]) for run in data.runs
    }
    tables |= {
        "Cluster of every document": lambda: export.by_label(_members(data, found), data.runs)
    }
    _export(data, "clusters", _shown(view), tables)
    tabs = st.tabs([escape_markdown(run.label) for run in data.runs])
    for tab, run in zip(tabs, data.runs, strict=True):
        one = found[run.id]
        with tab:
            st.dataframe(
                _named_table(one),
                hide_index=True,
                column_config=_CLUSTER_COLUMNS,
                alt=f"Clusters of {run.label} with their size, domains, words and experts",
            )


def _table_of(one: Clustered) -> pd.DataFrame:
    return one.table


def _named_table(one: Clustered) -> pd.DataFrame:
    """The table with each cluster's name in place of its number."""
    names = list(map(maps.short_name, one.names))
    named = one.table.assign(cluster=names, purity=100 * one.table["purity"])
    return named.drop(columns="label")


def _confusion(data: Data, found: Mapping[str, Clustered]) -> None:
    labels = [one.clustering.labels for one in found.values()]
    names = [list(map(maps.short_name, one.names)) for one in found.values()]
    quality.confusion(data.runs, labels, names, "document", data.documents["id"].tolist())


def _coverage(data: Data, view: View, found: Mapping[str, Clustered]) -> None:
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
        config=CHART_CONFIG,
        width="stretch",
        key="cluster_heatmap",
        alt="Share of each domain's documents in each cluster; in the largest cluster of a domain "
        f"lie {held}",
    )
    st.caption(
        f"A row sums to 100 %. In the largest cluster of a domain lie {held} of its documents, "
        "mean over domains. The order of the clusters brings large shares to the diagonal."
    )
    named = {run.label: partial(_by_domain, data, found[run.id]) for run in data.runs}
    charts = {"Where each domain's documents lie": "cluster_heatmap"}
    _export(data, "domains", _shown(view), named, charts)


def _by_domain(data: Data, one: Clustered) -> pd.DataFrame:
    """Documents by domain and cluster, the names as they are."""
    domains, clusters, counts = contingency(data.domains, one.clustering.labels)
    return pd.DataFrame(counts, domains, clusters).rename_axis("domain").reset_index()


def _explanation(data: Data, view: View, found: Mapping[str, Clustered], method: str) -> None:
    """How what is shown was measured and laid out."""
    where = "all layers" if view.layer is None else f"layer {view.layer}"
    matched = (
        " Clusters are matched by the documents they share: the same number and look in both."
        if view.colour == CLUSTER and len(data.runs) > 1
        else ""
    )
    named = escape_markdown(", ".join(view.domains))
    highlight = f" All domains but {named} recede." if named else ""
    distances = " UMAP distances far apart mean little." if method == UMAP else ""
    kinds = dict.fromkeys(trace.manifest.usage_of for trace in data.traces.values())
    place = " and the ".join(USAGE_OF[kind] for kind in kinds)
    with st.expander("How it was measured"):
        st.caption(
            f"{data.size}; a point is a document, its place the {place} of {where}."
            f"{maps.turned(data.runs, 'document')}{distances}{matched}{highlight}"
        )
        if reduced := reduction(data, view):
            st.caption(reduced)
        details(data, view, found)


def _said(data: Data, rows: Rows | None, found: Mapping[str, Clustered]) -> str:
    """ "57 documents: 97 % chess, 80 % in one cluster of EMO, ..." """
    if rows is None or len(rows) == 0:
        return ""
    domains = pd.Series(data.domains).iloc[rows].value_counts(normalize=True)
    parts = [f"{share(domains.iloc[0])} {escape_markdown(str(domains.index[0]))}"]
    for run in data.runs:
        largest = np.bincount(found[run.id].clustering.labels[rows]).max() / len(rows)
        parts.append(f"{share(largest)} in one cluster of {name(run)}")
    return f"{count(len(rows), 'document')} selected: {', '.join(parts)}"


def _listing(
    data: Data, table: pd.DataFrame, listed: Rows, found: Mapping[str, Clustered]
) -> pd.DataFrame:
    clusters = {
        maps.cluster_column(run): np.array(one.labels)[listed] for run, one in found.items()
    }
    return pd.DataFrame(
        {
            "domain": table["domain"],
            "opening": [opening(text, FIRST_WORDS) for text in table["text"]],
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


def _export(
    data: Data,
    name: str,
    shown: str,
    tables: Mapping[str, export.Table],
    charts: Mapping[str, str] | None = None,
) -> None:
    """What a part below the maps shows, and the maps."""
    export.offer(
        f"document {name}",
        data.runs,
        charts={"Maps": f"{routes.CLUSTER_SELECTION}_maps", **(charts or {})},
        tables=tables,
        shown=f"{data.size} · {shown}",
    )


def _members(data: Data, found: Mapping[str, Clustered]) -> pd.DataFrame:
    """The cluster of every document in each run."""
    clusters = {maps.cluster_column(run): one.clustering.labels for run, one in found.items()}
    return data.documents[["id", "domain"]].assign(**clusters)


_COLUMNS = {
    "domain": st.column_config.TextColumn("Domain", width=130),
    "opening": st.column_config.TextColumn("First words", width=250),
    "tokens": st.column_config.NumberColumn("Tokens", width=60),
    "id": st.column_config.TextColumn("Id", width="small"),
}
_CLUSTER_COLUMNS = {
    "cluster": st.column_config.TextColumn("Cluster", width=200),
    "documents": st.column_config.NumberColumn("Documents", width=80),
    "purity": st.column_config.ProgressColumn(
        "Purity",
        format="%.0f %%",
        min_value=0,
        max_value=100,
        width=100,
        help="Share of the cluster's largest domain",
    ),
    "top_domains": st.column_config.TextColumn("Largest domains", width=250),
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
