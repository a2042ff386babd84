"""Subset ablation page: every expert of the document shown, how much it is used and is worth."""

import pandas as pd
import streamlit as st

from emo_viz.server.library import LoadedModel
from emo_viz.ui.ablation import live as running
from emo_viz.ui.ablation import worth
from emo_viz.ui.ablation.live import Live
from emo_viz.ui.ablation.page import Study
from emo_viz.ui.parts import export
from emo_viz.ui.shell.words import count, escape_markdown

IMPORTANCE = "Importance (nats a token)"
MEANING = (
    "Importance is a first-order estimate from one backward pass: the gate weights of an expert "
    "times the gradient of the loss in them, with the sign turned, summed over the tokens that "
    "chose it. It is by how much the loss a token would rise without what the expert adds; what "
    "its tokens would choose instead is no part of it. Below 0, the loss would fall."
)


def offer(study: Study, live: Live) -> None:
    """A table of all routed experts; nothing is computed before it is opened."""
    place = st.expander(
        "Every expert on this document: use and importance",
        icon=":material/leaderboard:",
        key="subset_importance",
        on_change="rerun",
    )
    if not place.open:
        return
    with place:
        try:
            table = pd.concat([_table(study, live, one) for one in study.models])
        except ValueError as error:
            st.info(escape_markdown(str(error)))
            return
        ranked = table.sort_values(IMPORTANCE, ascending=False, ignore_index=True)
        alt = "Every expert by how much the loss rises without it"
        st.dataframe(ranked, hide_index=True, height=320, key="subset_importance_table", alt=alt)
        st.caption(f"{MEANING} Of {count(live.num_tokens, 'token')} of one document.")
        export.offer(
            "importance",
            study.runs,
            tables={"Importance": lambda: ranked},
            shown=f"{live.shown.title}, {count(live.num_tokens, 'token')}, keep-k {live.keep_k}",
        )


def _table(study: Study, live: Live, loaded: LoadedModel) -> pd.DataFrame:
    worth_LR = worth.of(loaded, [live.token_ids])
    use_LR = running.expert_scores(loaded, loaded.key, live.token_ids)
    kept = [set(layer) for layer in live.subsets[loaded.run].experts]
    rows = [
        {
            "Run": study.runs[loaded.run].label,
            "Layer": loaded.live.own_layers[layer],
            "Expert": expert,
            IMPORTANCE: round(float(worth_LR[layer, expert]), 5),
            "Mean router probability": round(float(use_LR[layer, expert]), 5),
            "Kept": expert in kept[layer],
        }
        for layer, number in enumerate(loaded.routed)
        for expert in range(number)
    ]
    return pd.DataFrame(rows)
