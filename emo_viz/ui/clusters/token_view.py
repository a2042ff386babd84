"""Clusters page, tokens: their maps, those selected, and what lies below."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from emo_viz.analysis.alignment import contingency
from emo_viz.analysis.runs import Comparison, Run
from emo_viz.analysis.tokens import Headline
from emo_viz.figures.clusters import (
    Group,
    Shown,
    colour_groups,
    concentration,
    scale_groups,
    share_heatmap,
)
from emo_viz.figures.theme import CHART_CONFIG, colour_of
from emo_viz.server import commands
from emo_viz.ui.clusters import quality, ranked, sampled, tokens
from emo_viz.ui.clusters.data import FIRST_WORDS, Data
from emo_viz.ui.clusters.documents import CLUSTER, DOMAIN, ENTROPY, EXPERT, SOURCE, SPREAD, UMAP
from emo_viz.ui.clusters.documents import COLOURED_BY as OF_DOCUMENTS
from emo_viz.ui.clusters.tokens import TOKEN, Tokens, View
from emo_viz.ui.parts import export, maps, reader, rows_to_open
from emo_viz.ui.parts.lazy_tabs import Tab, lazy_tabs
from emo_viz.ui.parts.point_maps import Fact, Panel, payload
from emo_viz.ui.parts.selection import Rows, Selection
from emo_viz.ui.parts.together import in_each, name
from emo_viz.ui.shell import missing, routes
from emo_viz.ui.shell.words import (
    by_hand,
    count,
    escape_markdown,
    escape_plotly,
    on_one_line,
    opening,
    share,
    visible,
)

SELECTION = Selection(routes.CLUSTER_TOKENS)
MARKER_SIZE = 5
ABOVE = "32rem"  # what stands above and below the maps' plots on the first screen
TABLE_HEIGHT = 320
MOST_ROWS = 24  # of the tokens' heatmap
MOST_LISTED = 300  # tokens in the table; the rest are on the maps
HOVER_CONTEXT = 28  # characters before and after a token
COLOURED_BY = OF_DOCUMENTS | {TOKEN: "token", SOURCE: "the source of its document"}


def show(data: Data, said: Headline | None) -> None:
    """The whole view, from its controls down. said: what was measured of the token clusters."""
    found = tokens.load(data) if said else None
    documents = data.documents["id"].tolist()
    listed, view = documents, None
    if found and said:
        row = st.container(horizontal=True, vertical_alignment="bottom", gap="medium")
        view = _possible(found, tokens.controls(row, found))
        whole, found = found, sampled.seen(found, view)
        ids = found.table["id"].tolist()
        SELECTION.follow_address(ids, "tokens")
        rows = SELECTION.rows(ids)
        chosen = found.table if rows is None else found.table.iloc[rows]
        listed = list(dict.fromkeys(chosen["document"]))
        maps.summary(SELECTION, rows, "token", _selected(found, rows), partial(_read, found, rows))
        _maps(data, found, view, rows)
        if len(set(data.domains)) > 1:
            sampled.answer(whole, view, said)
        _below(data, found, whole, view, rows, said)
    _explanation(data, said, found, view)
    reader.drawer(data.runs, data.documents, listed or documents)


def _possible(found: Tokens, view: View) -> View:
    """The view with no more clusters than there are ways to be routed, and a sentence if fewer."""
    if sampled.is_stored(found, view) or view.k <= (most := sampled.most(found, view.layer)):
        return view
    where = sampled.where(view)
    st.info(f"The routing of {where} tells apart {most} groups of the sampled tokens at most.")
    return replace(view, k=most)


def _maps(data: Data, found: Tokens, view: View, rows: Rows | None) -> None:
    """The maps with their legends."""
    maps.draw(
        maps.Shown(
            found.table["id"].tolist(),
            f"{found.version} {view.colour} {view.layer}",
            partial(_sent, data, found, view),
            found.highlighted(view),
            SELECTION,
            _shown(view, rows),
        )
    )


def _shown(view: View, rows: Rows | None = None) -> str:
    """What is shown, for who takes it home. rows: the selected ones, where they count."""
    return maps.restricted(view.layer, view.k, [*view.domains, *view.tokens], rows, "token")


def _sent(data: Data, found: Tokens, view: View) -> dict[str, Any]:
    """What the browser is sent of the maps."""
    table = found.table
    names, codes = np.unique(table["domain"].to_numpy(str), return_inverse=True)
    one_legend = view.colour in (DOMAIN, TOKEN, SOURCE)
    return payload(
        maps.channel(SELECTION),
        [_panel(data, found, view, run) for run in found.runs],
        [Fact("Domain", codes, [str(each) for each in names])],
        [
            on_one_line(f"{before[-HOVER_CONTEXT:]}[{text}]{after[:HOVER_CONTEXT]}")
            for before, text, after in zip(
                table["before"], table["text"], table["after"], strict=True
            )
        ],
        [
            f"{document}, token {position}"
            for document, position in zip(table["document"], table["position"], strict=True)
        ],
        "tokens",
        UMAP,
        MARKER_SIZE,
        one_legend,
        ABOVE if one_legend else f"calc({ABOVE} + 1rem)",
        f"{data.provenance} · {found.size} · coloured by {COLOURED_BY[view.colour]}",
    )


def _panel(data: Data, found: Tokens, view: View, run: Run) -> Panel:
    points, own = found.token_map.places[run.id], found.table[maps.cluster_column(run.id)].tolist()
    domains = found.table["domain"].tolist()
    labels, codes = np.unique(own, return_inverse=True)
    named = own if view.colour == CLUSTER else domains
    return Panel(
        run=run.id,
        name=run.label,
        colour=colour_of(run),
        alt=f"{UMAP} map of {found.size}, coloured by {COLOURED_BY[view.colour]}, in {run.label}",
        points=points,
        groups=_groups(data, found, view, run.id),
        names=maps.names_of(
            points, named, view.colour in (CLUSTER, DOMAIN), view.colour == CLUSTER
        ),
        own=Fact("Cluster", codes, [str(label) for label in labels]),
    )


def _groups(data: Data, found: Tokens, view: View, run: str) -> list[Group]:
    """What the tokens of a run are coloured by."""
    if view.colour in (ENTROPY, SPREAD):
        look = (".2f", "nats") if view.colour == ENTROPY else (".1f", "experts")
        values = {each: sampled.number_of(found, each, view) for each in found.runs.ids}
        return scale_groups(values[run], np.concatenate(list(values.values())), *look)
    if view.colour == EXPERT:
        return colour_groups(sampled.experts_of(found, run, view))
    names = tokens.colour_names(found, view, run)
    if view.colour == TOKEN:
        return colour_groups(names)
    return data.groups(names, found.table["domain"].tolist())


def _read(found: Tokens, rows: Rows | None) -> None:
    if rows is not None and len(rows):
        _open(found, int(rows[0]))


def _open(found: Tokens, row: int) -> None:
    one = found.table.iloc[row]
    reader.open_document(one["document"], int(one["position"]))


def _below(
    data: Data, found: Tokens, whole: Tokens, view: View, rows: Rows | None, said: Headline
) -> None:
    """What lies below the maps, each part made only while it is looked at. whole: with the stored
    clusters."""
    domains = sorted(set(found.table["domain"]))
    frequent = found.frequent[:MOST_ROWS]
    lazy_tabs(
        routes.CLUSTER_PART,
        [
            Tab("Tokens", lambda: _table(found, view, rows)),
            Tab("Documents", lambda: _ranked(data, found, view, rows)),
            Tab("Clusters", lambda: _clusters(found, view)),
            Tab("Quality", lambda: _quality(whole, view, said)),
            Tab("Domains", lambda: _where(found, view, "domain", domains)),
            Tab("Frequent tokens", lambda: _where(found, view, "token", frequent)),
            *quality.confusion_tab(found.runs, lambda: _confusion(found)),
        ],
        "part",
    )


def _quality(whole: Tokens, view: View, said: Headline) -> None:
    quality.of_tokens(whole.runs, said)
    with st.spinner("Measuring the clusters of the sampled tokens, again with other seeds …"):
        made = sampled.measured(whole, view)
    if made:
        quality.of_sample(whole.runs, made, f"{whole.size}, routing of {sampled.where(view)}")
        return
    st.caption(f"Silhouette and stability of the sample: {_lacks_routing(whole.runs)}")


def _lacks_routing(runs: Comparison) -> str:
    """Why there is no choice of clusters and layers, and what makes it."""
    if why_not := runs.why_not("layers"):
        return f"{escape_markdown(why_not)} Show one run alone."
    way = missing.in_words(commands.token_map(runs.ids))
    return f"the file of the maps, of an earlier version, lacks the tokens' routing; make it: {way}"


def _ranked(data: Data, found: Tokens, view: View, rows: Rows | None) -> None:
    """The documents of the selected tokens, by the share of their sampled tokens selected."""
    documents = data.documents.set_index("id")["text"]
    held = found.table["document"].iloc[[] if rows is None else rows].unique()
    shown = f"{found.size} · {_shown(view, rows)}"
    ranked.show(found, rows, documents[held].map(lambda text: opening(text, FIRST_WORDS)), shown)


def _clusters(found: Tokens, view: View) -> None:
    """What each cluster holds, as a table for each run; a cluster is named by what is enriched."""
    _export(
        found,
        "Clusters",
        _shown(view),
        {run.label: partial(clusters_table, found, run.id) for run in found.runs},
    )
    tabs = st.tabs([escape_markdown(run.label) for run in found.runs])
    for tab, run in zip(tabs, found.runs, strict=True):
        table = clusters_table(found, run.id)
        tab.dataframe(
            table,
            hide_index=True,
            column_order=[str(each) for each in table if each not in ("cluster", "domains")],
            column_config=_CLUSTER_COLUMNS | {"share": _share_column(found)},
            alt=f"Clusters of {run.label} with their share of the tokens, domains and tokens",
        )


def _share_column(found: Tokens) -> Any:
    what = "% of the sampled tokens" if found.of_sample else "% of all tokens"
    return st.column_config.NumberColumn(what, format="%.1f")


def clusters_table(found: Tokens, run: str) -> pd.DataFrame:
    """The clusters of a run that hold sampled tokens, largest share of all tokens first."""
    rows = []
    for label, own in found.table.groupby(maps.cluster_column(run)):
        number, _, named = str(label).partition(": ")
        domains, _, tokens_of = named.partition(maps.NAME_ENDS)
        rows.append(
            {
                "cluster": int(number),
                "name": maps.short_name(str(label)),
                "tokens": tokens_of,
                "domains": domains,
                "share": 100 * float(found.shares[run][int(number)]),
                "sampled": len(own),
                "documents": own["document"].nunique(),
            }
        )
    table = pd.DataFrame(rows)
    return table.sort_values("share", ascending=False, kind="stable", ignore_index=True)


def _confusion(found: Tokens) -> None:
    labels = [found.token_map.clusters[run.id] for run in found.runs]
    names = [_short_names(found, run.id) for run in found.runs]
    quality.confusion(found.runs, labels, names, "token", found.table["document"].tolist())


def _short_names(found: Tokens, run: str) -> dict[int, str]:
    """What each cluster of a run is called on its map."""
    full = found.table[maps.cluster_column(run)].unique()
    return {int(name.split(":")[0]): maps.short_name(name) for name in full}


def _explanation(
    data: Data, said: Headline | None, found: Tokens | None, view: View | None
) -> None:
    """How what is shown was measured and laid out."""
    if said is None:
        return
    with st.expander("How it was measured"):
        tokens.details(data.runs, said, found, len(set(data.domains)))
        if found and view:
            sampled.details(found, view)
            _map_caption(found, view)
            if not found.layers:
                st.caption(f"Clusters of one layer or another number: {_lacks_routing(data.runs)}")


def _map_caption(found: Tokens, view: View) -> None:
    named = " and ".join(
        escape_markdown(", ".join(each)) for each in (view.domains, view.tokens) if each
    )
    highlight = f" All but {named} recede." if named else ""
    several = len(found.runs) > 1 and view.colour == CLUSTER
    own = " Numbers are each model's own." if several else ""
    st.caption(
        f"{found.size}, drawn at random; a point is a token, its place its router probabilities of "
        f"{sampled.where(view)}.{maps.turned(found.runs, 'token')} A name stands where most of its "
        f"tokens lie together. UMAP distances far apart mean little.{own}{highlight}"
    )


def _table(found: Tokens, view: View, rows: Rows | None) -> None:
    """The selected tokens, or the first of all; choosing one opens it."""
    every = np.arange(len(found.table)) if rows is None else rows
    if len(every) == 0:
        st.caption(by_hand("Draw around tokens on a map, or clear the selection."))
        return
    listed = every[:MOST_LISTED]
    first = f"The first {len(listed):,} of" if len(every) > len(listed) else "All"
    what = found.size if rows is None else count(len(every), "selected token")
    to_read = by_hand("; press Open in a row to read it in its document")
    st.caption(f"{first} {what}{to_read}.")
    key = f"cluster_token_rows_{SELECTION.current()}_{len(listed)}"
    rows_to_open.table(
        _listing(found.runs, found.table.iloc[listed]),
        key,
        lambda row: _open(found, int(listed[row])),
        _columns(found.runs),
        height=TABLE_HEIGHT,
        alt="Tokens in their context with their domain and clusters",
    )
    chosen = found.table.iloc[every]
    tables = {"Tokens": lambda: export.by_label(_listing(found.runs, chosen), found.runs)}
    _export(found, "listing", _shown(view, rows), tables)


def _selected(found: Tokens, rows: Rows | None) -> str:
    """ "57 tokens selected: 63 % chess, most frequent token “␣the” (9 %), 80 % in one cluster of
    EMO, ..." """
    if rows is None or len(rows) == 0:
        return ""
    chosen = found.table.iloc[rows]
    if len(rows) == 1:
        token, domain = (escape_markdown(chosen[each].iloc[0]) for each in ("token", "domain"))
        own = {run: chosen[maps.cluster_column(run)].iloc[0] for run in found.runs.ids}
        clusters = in_each(found.runs, lambda run: f"cluster {escape_markdown(own[run])}")
        return f"1 token selected: “{token}” in {domain}; {clusters}"
    domains, tokens = (chosen[each].value_counts(normalize=True) for each in ("domain", "token"))
    frequent = escape_markdown(str(tokens.index[0]))
    parts = [f"{share(domains.iloc[0])} {escape_markdown(str(domains.index[0]))}"]
    parts.append(f"most frequent token “{frequent}” ({share(tokens.iloc[0])})")
    for run in found.runs:
        most = chosen[maps.cluster_column(run.id)].value_counts(normalize=True).iloc[0]
        parts.append(f"{share(most)} in one cluster of {name(run)}")
    return f"{count(len(rows), 'token')} selected: {', '.join(parts)}"


def _listing(runs: Comparison, table: pd.DataFrame) -> pd.DataFrame:
    context = zip(table["before"], table["text"], table["after"], strict=True)
    return pd.DataFrame(
        {
            "token": table["token"],
            "context": [visible(f"{before}[{text}]{after}") for before, text, after in context],
            "domain": table["domain"],
            **{own: table[own] for own in map(maps.cluster_column, runs.ids)},
            "document": table["document"],
        }
    )


def _where(found: Tokens, view: View, column: str, names: Sequence[str]) -> None:
    """In which clusters the tokens of each domain, or each frequent token, lie in every run."""
    chosen = found.table[found.table[column].isin(names)]
    if chosen.empty:
        return
    tables = {run: _counts(chosen, column, run) for run in found.runs.ids}
    held = in_each(found.runs, lambda run: share(concentration(tables[run])))
    what = "each domain's tokens lie" if column == "domain" else "each frequent token lies"
    said = f"in the largest cluster of a {column} lie {held} of its tokens, mean over the rows"
    st.plotly_chart(
        share_heatmap(
            found.runs,
            tables,
            f"Where {what} ({count(len(chosen), 'token')})",
            Shown(column, "tokens", matched=False),
        ),
        config=CHART_CONFIG,
        width="stretch",
        key=f"cluster_{column}_heatmap",
        alt=f"Share of the tokens of each {column} in each cluster; {said}",
    )
    st.caption(
        f"A row sums to 100 %; {said}. The tokens are those of the maps. The order of the clusters "
        "brings large shares to the diagonal; their numbers are each model's own."
    )
    named = {run.label: partial(_plain, chosen, column, run.id) for run in found.runs}
    charts = {f"Where {what}": f"cluster_{column}_heatmap"}
    _export(found, f"{column}s", _shown(view), named, charts)


def _plain(table: pd.DataFrame, column: str, run: str) -> pd.DataFrame:
    """The same counts with the names as they are."""
    clusters = [each.split(":")[0] for each in table[maps.cluster_column(run)]]
    rows, columns, counts = contingency(table[column].to_numpy(str), clusters)
    return pd.DataFrame(counts, rows, columns).rename_axis(column).reset_index()


def _export(
    found: Tokens,
    name: str,
    shown: str,
    tables: Mapping[str, export.Table],
    charts: Mapping[str, str] | None = None,
) -> None:
    """What a part below the maps shows, and the maps."""
    export.offer(
        f"token {name}",
        found.runs,
        charts={"Maps": f"{routes.CLUSTER_TOKENS}_maps", **(charts or {})},
        tables=tables,
        shown=f"{found.size} · {shown}",
    )


def _counts(table: pd.DataFrame, column: str, run: str) -> pd.DataFrame:
    """Tokens by what they are in `column` and by their cluster in a run."""
    plain = _plain(table, column, run).set_index(column)
    return plain.set_axis([escape_plotly(str(row)) for row in plain.index])


def _columns(runs: Comparison) -> dict[str, Any]:
    """How the listing's columns look."""
    clusters = {
        maps.cluster_column(run.id): st.column_config.TextColumn(f"{run.label} cluster", width=190)
        for run in runs
    }
    return _COLUMNS | clusters


_COLUMNS = {
    "token": st.column_config.TextColumn("Token", width=90),
    "context": st.column_config.TextColumn("In its context", width=420),
    "domain": st.column_config.TextColumn("Domain", width=110),
    "document": st.column_config.TextColumn("Document", width="small"),
}
_CLUSTER_COLUMNS = {
    "name": st.column_config.TextColumn("Cluster", width=320),
    "tokens": st.column_config.TextColumn("Enriched tokens", width=260),
    "sampled": st.column_config.NumberColumn("Tokens on the map"),
    "documents": st.column_config.NumberColumn("Their documents"),
}
