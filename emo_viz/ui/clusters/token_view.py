"""Document clusters page, tokens: their maps, those selected, where domains and tokens lie."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from emo_viz.analysis.alignment import contingency
from emo_viz.analysis.runs import Comparison
from emo_viz.figures.clusters import Shown, colour_groups, concentration, share_heatmap
from emo_viz.figures.theme import chart_config
from emo_viz.ui.clusters import tokens
from emo_viz.ui.clusters.page import UMAP, Data
from emo_viz.ui.clusters.tokens import CLUSTER, DOMAIN, TOKEN, Tokens, View
from emo_viz.ui.parts import maps, reader
from emo_viz.ui.parts.maps import MOST_DOMAINS, MOST_GROUPS
from emo_viz.ui.parts.selection import Rows, Selection
from emo_viz.ui.parts.together import in_each, name
from emo_viz.ui.shell import routes
from emo_viz.ui.shell.words import count, escape_markdown, escape_plotly, share, visible

SELECTION = Selection(routes.CLUSTER_TOKENS)
MARKER_SIZE = 5
TABLE_HEIGHT = 248
MOST_ROWS = 24  # of the tokens' heatmap
COLOURED_BY = {DOMAIN: "domain", CLUSTER: "its own clusters", TOKEN: "token"}


def show(data: Data, headline: DeltaGenerator, row: DeltaGenerator) -> None:
    """The whole view: the answer into `headline`, the controls into `row`, the rest below."""
    with headline:
        said = tokens.measured(data)
        found = tokens.load(data) if said else None
        if said:
            tokens.answer(data.runs, said, found, len(set(data.domains)))
    listed = data.documents["id"].tolist()
    if found:
        rows = _maps(found, tokens.controls(row, found))
        listed = _table(found, rows)
    reading = st.container(border=True)
    if found:
        _where(found, "domain", sorted(set(found.table["domain"])))
        _where(found, "token", found.frequent[:MOST_ROWS])
    with reading:  # last: the only part that needs the models
        reader.reader(data.runs, data.documents, listed)


def _maps(found: Tokens, view: View) -> Rows | None:
    """The maps with their legends; returns the rows selected on them, None for no selection."""
    names = tokens.colour_names(found, view)
    first = {DOMAIN: view.domains, TOKEN: view.tokens}.get(view.colour, ())
    most = MOST_DOMAINS if view.colour == DOMAIN else MOST_GROUPS
    ids = found.table["id"].tolist()
    maps.draw(
        maps.Maps(
            found.runs,
            {
                run: maps.Map(
                    found.token_map.places[run],
                    colour_groups(names[run], first, most),
                    _hover(found.version, run, found),
                )
                for run in found.runs.ids
            },
            ids,
            "tokens",
            content=f"{found.version} {view}",
            method=UMAP,
            drawn=f"{found.size}, coloured by {COLOURED_BY[view.colour]},",
            domains=found.table["domain"].tolist(),
            only=view.domains,
            highlighted=found.highlighted(view),
            one_legend=view.colour != CLUSTER,
            marker_size=MARKER_SIZE,
            selection=SELECTION,
            opened=lambda rows: _opened(found, rows),
        )
    )
    _map_caption(found, view)
    return maps.selected_rows(SELECTION, ids)


def _opened(found: Tokens, rows: Rows) -> None:
    """The reader goes to the first token selected, unless it is at one of them."""
    if len(rows) == 0:
        return
    now = f"{st.session_state.get(reader.DOCUMENT)}:{st.session_state.get(reader.TOKEN)}"
    if now not in set(found.table["id"].iloc[rows]):
        _open(found, int(rows[0]))


def _open(found: Tokens, row: int) -> None:
    one = found.table.iloc[row]
    reader.open_document(one["document"], int(one["position"]))


def _map_caption(found: Tokens, view: View) -> None:
    named = " and ".join(
        escape_markdown(", ".join(each)) for each in (view.domains, view.tokens) if each
    )
    highlight = f" All but {named} recede." if named else ""
    several = len(found.runs) > 1 and view.colour == CLUSTER
    own = " Numbers and colours are each model's own." if several else ""
    st.caption(
        f"{found.size}, drawn at random; a point is a token, its place its router probabilities of "
        f"all layers.{maps.turned(found.runs, 'token')} A name stands where the "
        f"tokens of a domain lie together. UMAP distances far apart mean little.{own}"
        f"{highlight}"
    )


def _table(found: Tokens, rows: Rows | None) -> list[str]:
    """The selected tokens, or all of them; choosing one opens it. Returns their documents."""
    listed = np.arange(len(found.table)) if rows is None else rows
    if rows is None:
        st.markdown(f"##### All {found.size}")
        st.caption(f"Draw around tokens on a map to list and read them. {maps.CLICK}")
    else:
        maps.summary(SELECTION, rows, "token", _selected(found, rows))
        if len(rows) == 0:
            st.caption("Draw around tokens on a map, or clear the selection.")
            return []
    key = f"cluster_token_rows_{SELECTION.current()}_{len(listed)}"
    st.dataframe(
        _listing(found.runs, found.table.iloc[listed]),
        hide_index=True,
        height=TABLE_HEIGHT,
        key=key,
        on_select=lambda: _open_row(found, key, listed),
        selection_mode="single-row",
        column_config=_columns(found.runs),
        alt="Tokens in their context with their domain and clusters",
    )
    return list(dict.fromkeys(found.table["document"].iloc[listed]))


def _selected(found: Tokens, rows: Rows) -> str:
    """ "57 tokens selected: 63 % chess, 9 % ␣the, 80 % in one cluster of EMO, ..." """
    if len(rows) == 0:
        return ""
    chosen = found.table.iloc[rows]
    if len(rows) == 1:
        token, domain = (escape_markdown(chosen[each].iloc[0]) for each in ("token", "domain"))
        own = {run: chosen[maps.cluster_column(run)].iloc[0] for run in found.runs.ids}
        clusters = in_each(found.runs, lambda run: f"cluster {escape_markdown(own[run])}")
        return f"1 token selected: {token} in {domain}; {clusters}"
    parts = []
    for column in ("domain", "token"):
        largest = chosen[column].value_counts(normalize=True)
        parts.append(f"{share(largest.iloc[0])} {escape_markdown(str(largest.index[0]))}")
    for run in found.runs:
        most = chosen[maps.cluster_column(run.id)].value_counts(normalize=True).iloc[0]
        parts.append(f"{share(most)} in one cluster of {name(run)}")
    return f"{count(len(rows), 'token')} selected: {', '.join(parts)}"


def _open_row(found: Tokens, key: str, listed: Rows) -> None:
    picked = st.session_state[key]["selection"]["rows"]
    if picked:
        _open(found, int(listed[picked[0]]))


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


def _where(found: Tokens, column: str, names: Sequence[str]) -> None:
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
        config=chart_config(f"{column} heatmap"),
        width="stretch",
        key=f"cluster_{column}_heatmap",
        alt=f"Share of the tokens of each {column} in each cluster; {said}",
    )
    st.caption(
        f"A row sums to 100 %; {said}. The tokens are those of the maps. The order of the clusters "
        "brings large shares to the diagonal; their numbers are each model's own."
    )


def _counts(table: pd.DataFrame, column: str, run: str) -> pd.DataFrame:
    """Tokens by what they are in `column` and by their cluster in a run."""
    clusters = [each.split(":")[0] for each in table[maps.cluster_column(run)]]
    rows, columns, counts = contingency(table[column].to_numpy(str), clusters)
    return pd.DataFrame(counts, index=[escape_plotly(str(row)) for row in rows], columns=columns)


@st.cache_resource(max_entries=4, show_spinner=False)
def _hover(key: str, run: str, _found: Tokens) -> list[str]:
    """Domain, token in its context, cluster and place of every token, as HTML for Plotly."""
    table = _found.table
    own = maps.cluster_column(run)
    columns = ("domain", "before", "text", "after", own, "document", "position")
    return [
        f"<b>{escape_plotly(domain)}</b><br>{escape_plotly(before)}<b>[{escape_plotly(text)}]</b>"
        f"{escape_plotly(after)}<br>Cluster {escape_plotly(cluster)}<br>"
        f"{escape_plotly(document)}, token {position}"
        for domain, before, text, after, cluster, document, position in zip(
            *(table[column] for column in columns), strict=True
        )
    ]


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
