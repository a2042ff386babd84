"""Clusters page, tokens: the documents of the selected tokens, by the share that is selected."""

import zlib

import pandas as pd
import streamlit as st

from emo_viz.ui.clusters.tokens import Tokens
from emo_viz.ui.parts import export, reader, rows_to_open
from emo_viz.ui.parts.selection import Rows
from emo_viz.ui.shell.words import by_hand, count

TABLE_HEIGHT = 320


def show(found: Tokens, rows: Rows | None, openings: pd.Series, said: str) -> None:
    """The table; opening a row reads it. openings: first words by document id. said: what is
    shown, for who takes it home."""
    if rows is None or len(rows) == 0:
        st.caption(
            by_hand(
                "Select tokens, such as a cluster by its name in the legend: the documents that "
                "hold them are ranked here by the share of their tokens."
            )
        )
        return
    ranked = ranking(found.table, rows, openings)
    key = f"cluster_ranked_{zlib.crc32(rows.tobytes()):08x}"
    st.caption(
        f"{count(len(ranked), 'document')}, by the share of their sampled tokens selected"
        f"{by_hand('; press Open in a row to read it')}. {found.size} are sampled."
    )
    rows_to_open.table(
        ranked,
        key,
        lambda row: reader.open_document(str(ranked["document"].iloc[row])),
        _COLUMNS,
        height=TABLE_HEIGHT,
        alt="Documents by the share of their sampled tokens that are selected",
    )
    export.offer("token documents", found.runs, tables={"Documents": lambda: ranked}, shown=said)


def ranking(table: pd.DataFrame, rows: Rows, openings: pd.Series) -> pd.DataFrame:
    """Documents of the selected rows of a table of tokens: domain, opening, selected, sampled,
    share in % and document (its id), largest share first, then most selected."""
    sampled = table["document"].value_counts()
    chosen = table.iloc[rows].groupby("document", sort=False)["domain"].agg(["first", "size"])
    ranked = pd.DataFrame(
        {
            "domain": chosen["first"].to_numpy(),
            "opening": openings[chosen.index].to_numpy(),
            "selected": chosen["size"].to_numpy(),
            "sampled": sampled[chosen.index].to_numpy(),
        }
    )
    ranked["share"] = 100 * ranked["selected"] / ranked["sampled"]
    ranked["document"] = chosen.index
    by = ["share", "selected"]
    return ranked.sort_values(by, ascending=False, kind="stable", ignore_index=True)


_COLUMNS = {
    "domain": st.column_config.TextColumn("Domain", width=130),
    "opening": st.column_config.TextColumn("First words", width=330),
    "selected": st.column_config.NumberColumn("Selected tokens"),
    "sampled": st.column_config.NumberColumn("Sampled tokens"),
    "share": st.column_config.ProgressColumn(
        "Share selected", format="%.0f %%", min_value=0, max_value=100
    ),
    "document": st.column_config.TextColumn("Id", width="small"),
}
