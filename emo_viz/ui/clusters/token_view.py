"""Document clusters page, tokens: their maps, those selected, where domains and tokens lie."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from emo_viz.analysis.alignment import contingency
from emo_viz.figures.clusters import Shown, colour_groups, concentration, share_heatmap
from emo_viz.figures.theme import chart_config
from emo_viz.ui.clusters import tokens
from emo_viz.ui.clusters.page import UMAP, Data
from emo_viz.ui.clusters.tokens import CLUSTER, DOMAIN, LABELS, TOKEN, Tokens, View
from emo_viz.ui.parts import maps, reader
from emo_viz.ui.parts.maps import MOST_DOMAINS, MOST_GROUPS
from emo_viz.ui.parts.selection import Rows, Selection
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
        said = tokens.measured()
        found = tokens.load(data) if said else None
        if said:
            tokens.answer(said, found, len(set(data.domains)))
    listed = data.documents["id"].tolist()
    if found:
        rows = _maps(found, tokens.controls(row, found))
        listed = _table(found, rows)
    reading = st.container(border=True)
    if found:
        _where(found, "domain", sorted(set(found.table["domain"])))
        _where(found, "token", found.frequent[:MOST_ROWS])
    with reading:  # last: the only part that needs the models
        reader.reader(data.documents, listed)


def _maps(found: Tokens, view: View) -> Rows | None:
    """Both maps with their legends; returns the rows selected on them, None for no selection."""
    names = tokens.colour_names(found, view)
    first = {DOMAIN: view.domains, TOKEN: view.tokens}.get(view.colour, ())
    most = MOST_DOMAINS if view.colour == DOMAIN else MOST_GROUPS
    ids = found.table["id"].tolist()
    maps.draw(
        maps.Pair(
            {
                name: maps.Map(
                    found.token_map.places[name],
                    colour_groups(names[name], first, most),
                    _hover(found.version, name, found),
                )
                for name in LABELS
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
    own = " Numbers and colours are each model's own." if view.colour == CLUSTER else ""
    st.caption(
        f"{found.size}, drawn at random; a point is a token, its place its router probabilities of "
        "all layers. The standard model's map is turned and resized onto EMO's. A name stands "
        f"where the tokens of a domain lie together. UMAP distances far apart mean little.{own}"
        f"{highlight}"
    )


def _table(found: Tokens, rows: Rows | None) -> list[str]:
    """The selected tokens, or all of them; choosing one opens it. Returns their documents."""
    listed = np.arange(len(found.table)) if rows is None else rows
    if rows is None:
        st.markdown(f"##### All {found.size}")
        st.caption(f"Draw around tokens on either map to list and read them. {maps.CLICK}")
    else:
        maps.summary(SELECTION, rows, "token", _selected(found, rows))
        if len(rows) == 0:
            st.caption("Draw around tokens on either map, or clear the selection.")
            return []
    key = f"cluster_token_rows_{SELECTION.current()}_{len(listed)}"
    st.dataframe(
        _listing(found.table.iloc[listed]),
        hide_index=True,
        height=TABLE_HEIGHT,
        key=key,
        on_select=lambda: _open_row(found, key, listed),
        selection_mode="single-row",
        column_config=_COLUMNS,
        alt="Tokens in their context with their domain and clusters",
    )
    return list(dict.fromkeys(found.table["document"].iloc[listed]))


def _selected(found: Tokens, rows: Rows) -> str:
    """ "57 tokens selected: 63 % chess, 9 % ␣the, 80 % in one cluster of EMO, ..." """
    if len(rows) == 0:
        return ""
    chosen = found.table.iloc[rows]
    if len(rows) == 1:
        parts = [escape_markdown(chosen[each].iloc[0]) for each in ("token", "domain", *LABELS)]
        return "1 token selected: {} in {}; cluster {} (EMO) and {} (standard MoE)".format(*parts)
    parts = []
    for column in ("domain", "token"):
        largest = chosen[column].value_counts(normalize=True)
        parts.append(f"{share(largest.iloc[0])} {escape_markdown(str(largest.index[0]))}")
    for name, label in LABELS.items():
        most = chosen[name].value_counts(normalize=True).iloc[0]
        parts.append(f"{share(most)} in one cluster of {label}")
    return f"{count(len(rows), 'token')} selected: {', '.join(parts)}"


def _open_row(found: Tokens, key: str, listed: Rows) -> None:
    picked = st.session_state[key]["selection"]["rows"]
    if picked:
        _open(found, int(listed[picked[0]]))


def _listing(table: pd.DataFrame) -> pd.DataFrame:
    context = zip(table["before"], table["text"], table["after"], strict=True)
    return pd.DataFrame(
        {
            "token": table["token"],
            "context": [visible(f"{before}[{text}]{after}") for before, text, after in context],
            "domain": table["domain"],
            "emo": table["emo"],
            "standard": table["standard"],
            "document": table["document"],
        }
    )


def _where(found: Tokens, column: str, names: Sequence[str]) -> None:
    """In which clusters the tokens of each domain, or each frequent token, lie in both models."""
    chosen = found.table[found.table[column].isin(names)]
    if chosen.empty:
        return
    tables = {name: _counts(chosen, column, name) for name in LABELS}
    emo, standard = (concentration(table) for table in tables.values())
    what = "each domain's tokens lie" if column == "domain" else "each frequent token lies"
    said = (
        f"the largest cluster of a {column} holds {share(emo)} of its tokens in EMO and "
        f"{share(standard)} in the standard MoE, mean over the rows"
    )
    st.plotly_chart(
        share_heatmap(
            tables,
            LABELS,
            f"Where {what} ({count(len(chosen), 'token')})",
            Shown(column, "tokens", matched=False),
        ),
        config=chart_config(f"{column} heatmap"),
        width="stretch",
        key=f"cluster_{column}_heatmap",
        alt=f"Share of the tokens of each {column} in each cluster; {said}",
    )
    st.caption(
        f"A row sums to 100 %; {said}. The tokens are those of the maps. Clusters are each model's "
        "own, in an order that brings large shares to the diagonal."
    )


def _counts(table: pd.DataFrame, column: str, name: str) -> pd.DataFrame:
    """Tokens by what they are in `column` and by their cluster in model `name`."""
    clusters = [each.split(":")[0] for each in table[name]]
    rows, columns, counts = contingency(table[column].to_numpy(str), clusters)
    return pd.DataFrame(counts, index=[escape_plotly(str(row)) for row in rows], columns=columns)


@st.cache_resource(max_entries=4, show_spinner=False)
def _hover(key: str, name: str, _found: Tokens) -> list[str]:
    """Domain, token in its context, cluster and place of every token, as HTML for Plotly."""
    table = _found.table
    columns = ("domain", "before", "text", "after", name, "document", "position")
    return [
        f"<b>{escape_plotly(domain)}</b><br>{escape_plotly(before)}<b>[{escape_plotly(text)}]</b>"
        f"{escape_plotly(after)}<br>Cluster {escape_plotly(cluster)}<br>"
        f"{escape_plotly(document)}, token {position}"
        for domain, before, text, after, cluster, document, position in zip(
            *(table[column] for column in columns), strict=True
        )
    ]


_COLUMNS = {
    "token": st.column_config.TextColumn("Token", width=90),
    "context": st.column_config.TextColumn("In its context", width=420),
    "domain": st.column_config.TextColumn("Domain", width=110),
    "emo": st.column_config.TextColumn("EMO cluster", width=190),
    "standard": st.column_config.TextColumn("Standard MoE cluster", width=190),
    "document": st.column_config.TextColumn("Document", width="small"),
}
