"""Token routing page: the panel beside the text, of the chosen token or of the whole text."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from emo_viz.figures import routing as figures
from emo_viz.figures.theme import chart_config
from emo_viz.server.assets import MODEL_LABELS
from emo_viz.ui.parts.reading import Reading
from emo_viz.ui.parts.token_text import vocabulary_label
from emo_viz.ui.shell.words import count, escape_markdown, share


def of_token(reading: Reading, token: int) -> None:
    """A token's experts and gate weights in every layer, its loss and what could follow it."""
    label = reading.labels[token]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(
            f"**Token {token} of {reading.num_tokens:,}: “{escape_markdown(label)}”**",
            width="stretch",
        )
        _experts_as_table(reading, token)
    losses = ", ".join(
        f"{MODEL_LABELS[name]} **{one.loss[token]:.2f} nats** "
        f"({share(float(np.exp(-one.loss[token])))})"
        for name, one in reading.recordings.items()
    )
    st.caption(
        f"Loss (probability) of this token: {losses}. The shared expert, {_shared(reading)}, "
        "has weight 1 in every layer."
    )
    st.plotly_chart(
        figures.token_experts(
            {
                name: figures.TokenExperts(
                    one.expert_ids[:, token], one.gate_weights[:, token], one.entropy[:, token]
                )
                for name, one in reading.recordings.items()
            }
        ),
        key="routing_token_experts",
        config=chart_config("routing token experts"),
        alt=f"Gate weights of the routed experts of token {token}, a bar of EMO and one of the "
        f"standard MoE for each of {count(reading.num_layers, 'layer')}.",
    )
    st.dataframe(
        _next_tokens(reading, token),
        hide_index=True,
        key="routing_next",
        column_config={
            name: st.column_config.NumberColumn("Probability", format="%.1f %%", width="small")
            for name in MODEL_LABELS
        },
        alt=f"The five likeliest tokens after token {token} in EMO and in the standard MoE.",
    )


def _shared(reading: Reading) -> str:
    """Which expert is the shared one."""
    even = len(set(reading.routed)) == 1
    return str(reading.num_routed) if even else "a layer's last"


def _experts_as_table(reading: Reading, token: int) -> None:
    """All ids and weights: the narrow pieces of the bars have no room for theirs."""
    with st.popover("Table", icon=":material/table:", help="Its experts and gate weights"):
        st.dataframe(
            _chosen_experts(reading, token),
            hide_index=True,
            key="routing_token_table",
            alt=f"The routed experts of token {token} in every layer by falling gate weight.",
        )


def _chosen_experts(reading: Reading, token: int) -> pd.DataFrame:
    """One row a layer and choice: the expert and its gate weight in each model."""
    layers, choices = np.indices(reading.recordings["emo"].expert_ids[:, token].shape)
    columns = {"Layer": layers.ravel(), "Choice": choices.ravel() + 1}
    for name, one in reading.recordings.items():
        label = MODEL_LABELS[name]
        columns[f"{label} expert"] = one.expert_ids[:, token].ravel()
        columns[f"{label} gate weight"] = one.gate_weights[:, token].ravel().round(4)
    used = reading.recordings["emo"].expert_ids[:, token].ravel() >= 0
    return pd.DataFrame(columns)[used]


def _next_tokens(reading: Reading, token: int) -> pd.DataFrame:
    columns: dict[str, Any] = {}
    for name, one in reading.recordings.items():
        texts = [vocabulary_label(reading.tokenizer, int(i)) for i in one.next_ids[token]]
        columns[f"Next in {MODEL_LABELS[name]}"] = texts
        columns[name] = 100 * one.next_probs[token]
    return pd.DataFrame(columns)


def of_text(reading: Reading) -> None:
    """What stands where a token would: the whole text, layer by layer."""
    st.markdown("**The whole text, layer by layer**")
    st.caption(
        ":material/touch_app: Choose a token, in the text or in a map below, to see its experts "
        "here."
    )
    st.plotly_chart(
        figures.by_layer(
            {name: one.half for name, one in reading.routing.items()},
            "Experts that carry half of the routing",
            "routed experts",
            np.array(reading.routed) / 2,
        ),
        key="routing_half",
        config=chart_config("routing half"),
        alt="The fewest routed experts that carry half of the expert choices in each layer, EMO "
        "and standard MoE.",
    )
    st.dataframe(
        _layer_table(reading), key="routing_layers", alt="More numbers of each layer, as a table."
    )
    st.caption(
        f"1 document, {count(reading.num_tokens, 'token')}; EMO / standard MoE. Distinct: routed "
        "experts that any token uses. Shared: those that both halves of the text use, of those "
        "that either uses. Entropy: mean router entropy in nats. Even use: every expert alike."
    )


def _layer_table(reading: Reading) -> pd.DataFrame:
    emo, standard = (reading.routing[name] for name in ("emo", "standard"))

    columns = {
        "Distinct": _pairs(emo.distinct, standard.distinct, "{:d}".format),
        "Shared": _pairs(emo.overlap, standard.overlap, share),
        "Entropy": _pairs(emo.entropy, standard.entropy, "{:.2f}".format),
    }
    return pd.DataFrame(columns).rename_axis("Layer")


def _pairs(emo: NDArray[Any], standard: NDArray[Any], form: Callable[[Any], str]) -> list[str]:
    """ "EMO / standard MoE" of each layer; a dash for what a text of one token does not have."""

    def shown(value: Any) -> str:
        return "–" if np.isnan(value) else form(value)

    return [f"{shown(a)} / {shown(b)}" for a, b in zip(emo, standard, strict=True)]
