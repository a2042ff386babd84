"""Routing difference page: one token's experts in both runs, layer by layer."""

from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from emo_viz.analysis.difference import Pair, RoutedDocument, TokenDifference, token_difference
from emo_viz.ui.difference.page import Found
from emo_viz.ui.difference.sources import Words
from emo_viz.ui.parts.together import in_each
from emo_viz.ui.shell.words import escape_markdown


def of_token(found: Found, pair: Pair, words: Words, token: int) -> None:
    """What both chose for a token (a position), in every layer."""
    label = escape_markdown(words.labels[token - 1])
    at = np.flatnonzero(pair.places == token - 1)
    with st.container(border=True):
        st.markdown(f"**Token {token} of {len(words.pieces):,}: “{label}”**")
        if not len(at):
            st.caption("This token is not compared: one of the runs has not recorded it.")
            return
        place = int(at[0])
        if pair.first.loss is not None and pair.second.loss is not None:
            losses = dict(zip(found.runs.ids, (pair.first.loss, pair.second.loss), strict=True))
            said = in_each(found.runs, lambda run: f"**{losses[run][place]:.4f}**")
            st.caption(f"Loss of this token in nats: {said}.")
        st.dataframe(
            _table(found, pair, token_difference(pair), place),
            hide_index=True,
            key="difference_token_table",
            column_config=_columns(found),
            alt=f"The experts of token {token} in both runs, layer by layer.",
        )
        st.caption("In brackets the gate weight, where it is known.")


def _table(found: Found, pair: Pair, difference: TokenDifference, place: int) -> pd.DataFrame:
    first, second = found.runs
    rows = []
    for layer, number in enumerate(found.names):
        one, other = (_chosen(side, place, layer) for side in (pair.first, pair.second))
        both = [expert for expert in one if expert in other]
        row: dict[str, object] = {
            "Layer": number,
            "Overlap": round(float(difference.overlap[place, layer]), 3),
        }
        if difference.weight is not None:
            row["Weight moved"] = f"{100 * difference.weight[place, layer]:.2f} %"
        row |= {
            "In both": ", ".join(map(str, sorted(both))),
            f"Only {first.label}": _words(one, both),
            f"Only {second.label}": _words(other, both),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def _columns(found: Found) -> dict[str, Any]:
    """So narrow that all are in sight: what room is left is shared among them."""
    column = st.column_config.Column
    alone = {f"Only {run.label}": column(width=200) for run in found.runs}
    return {
        "Layer": column(width=55),
        "Overlap": column(width=70, help="Jaccard, in this layer"),
        "Weight moved": column("Moved", width=75, help="Share of the token's gate weight"),
        "In both": column(width=110),
        **alone,
    }


def _chosen(side: RoutedDocument, place: int, layer: int) -> dict[int, float | None]:
    """A token's experts and their gate weights, by falling weight."""
    ids = side.expert_ids[place, layer].tolist()
    weights = (
        [None] * len(ids) if side.gate_weights is None else side.gate_weights[place, layer].tolist()
    )
    return {expert: gate for expert, gate in zip(ids, weights, strict=True) if expert >= 0}


def _words(chosen: dict[int, float | None], both: list[int]) -> str:
    """ "62 (0.031), 7 (0.020)": the experts that the other run has not chosen."""
    return ", ".join(
        str(expert) if gate is None else f"{expert} ({gate:.3f})"
        for expert, gate in chosen.items()
        if expert not in both
    )
