"""Token routing page: the panel beside the text, of the chosen token or of the whole text."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.runs import Run
from emo_viz.figures import routing as figures
from emo_viz.figures.theme import chart_config
from emo_viz.ui.parts.reading import Reading
from emo_viz.ui.parts.together import in_each, name
from emo_viz.ui.parts.token_text import vocabulary_label
from emo_viz.ui.shell.words import count, escape_markdown, share

if TYPE_CHECKING:
    from model.run.inference import Recording


def of_token(reading: Reading, token: int) -> None:
    """A token's experts and gate weights in every layer, its loss and what could follow it."""
    label = reading.labels[token]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(
            f"**Token {token} of {reading.num_tokens:,}: “{escape_markdown(label)}”**",
            width="stretch",
        )
        _experts_as_table(reading, token)
    loss = {run: float(one.loss[token]) for run, one in reading.recordings.items()}
    losses = in_each(
        reading.runs, lambda run: f"**{loss[run]:.2f} nats** ({share(float(np.exp(-loss[run])))})"
    )
    if reading.knows_losses:
        st.caption(f"Loss (probability) of this token: {losses}.{_shared(reading)}")
    st.plotly_chart(
        figures.token_experts(
            reading.runs,
            {
                run: figures.TokenExperts(
                    one.expert_ids[:, token], one.gate_weights[:, token], one.entropy[:, token]
                )
                for run, one in reading.recordings.items()
            },
        ),
        key="routing_token_experts",
        config=chart_config("routing token experts"),
        alt=f"Gate weights of the routed experts of token {token}, a bar of {reading.runs.names} "
        f"for each of {count(reading.num_layers, 'layer')}.",
    )
    if not reading.knows_losses:
        return
    st.dataframe(
        _next_tokens(reading, token),
        hide_index=True,
        key="routing_next",
        column_config={
            run: st.column_config.NumberColumn("Probability", format="%.1f %%", width="small")
            for run in reading.runs.ids
        },
        alt=f"The five likeliest tokens after token {token} in {reading.runs.names}.",
    )


def _shared(reading: Reading) -> str:
    """Which expert is the shared one, where there is one, as a sentence."""
    if set(reading.shared.values()) != {1}:
        return ""
    even = reading.even_routed
    which = str(even[0]) if even and len(set(even)) == 1 else "a layer's last"
    return f" The shared expert, {which}, has weight 1 in every layer."


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
    """One row a layer and choice: the expert and its gate weight in each run."""
    tables = [_experts_of(run, reading.recordings[run.id], token) for run in reading.runs]
    joined = pd.concat(tables, axis=1).dropna(how="all").sort_index()
    return joined.rename_axis(["Layer", "Choice"]).reset_index()


def _experts_of(run: Run, one: "Recording", token: int) -> pd.DataFrame:
    """By layer and choice; empty where a layer has fewer experts than a token could use."""
    ids = one.expert_ids[:, token]
    layers, choices = np.indices(ids.shape)
    index = pd.MultiIndex.from_arrays([layers.ravel(), choices.ravel() + 1])
    weights = one.gate_weights[:, token].ravel().round(4)
    table = pd.DataFrame(
        {
            f"{run.label} expert": pd.array(ids.ravel(), "Int64"),
            f"{run.label} gate weight": weights,
        },
        index,
    )
    return table[ids.ravel() >= 0]


def _next_tokens(reading: Reading, token: int) -> pd.DataFrame:
    columns: dict[str, Any] = {}
    for run in reading.runs:
        one = reading.recordings[run.id]
        texts = [vocabulary_label(reading.tokenizer, int(i)) for i in one.next_ids[token]]
        columns[f"Next in {run.label}"] = texts
        columns[run.id] = 100 * one.next_probs[token]
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
            reading.runs,
            {run: one.half for run, one in reading.routing.items()},
            "Experts that carry half of the routing",
            "routed experts",
            np.array(reading.even_routed) / 2 if reading.even_routed else None,
        ),
        key="routing_half",
        config=chart_config("routing half"),
        alt="The fewest routed experts that carry half of the expert choices in each layer, "
        f"{reading.runs.names}.",
    )
    st.dataframe(
        _layer_table(reading), key="routing_layers", alt="More numbers of each layer, as a table."
    )
    st.caption(
        f"1 document, {count(reading.num_tokens, 'token')}; "
        f"{' / '.join(map(name, reading.runs))}. Distinct: routed "
        "experts that any token uses. Shared: those that both halves of the text use, of those "
        "that either uses. Entropy: mean router entropy in nats. Even use: every expert alike."
    )


def _layer_table(reading: Reading) -> pd.DataFrame:
    own = [reading.routing[run.id] for run in reading.runs]
    columns = {
        "Distinct": _together([one.distinct for one in own], "{:d}".format),
        "Shared": _together([one.overlap for one in own], share),
        "Entropy": _together([one.entropy for one in own], "{:.2f}".format),
    }
    return pd.DataFrame(columns).rename_axis("Layer")


def _together(values: Sequence[NDArray[Any]], form: Callable[[Any], str]) -> list[str]:
    """ "EMO / Standard MoE" of each layer; a dash for what a text of one token does not have."""

    def shown(value: Any) -> str:
        return "–" if np.isnan(value) else form(value)

    return [" / ".join(map(shown, layer)) for layer in zip(*values, strict=True)]
