"""Token routing page: the panel beside the text, of the chosen token or of the whole text."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.runs import Run
from emo_viz.figures import routing as figures
from emo_viz.figures.theme import CHART_CONFIG, colour_of
from emo_viz.ui.parts.heatmap import Follow
from emo_viz.ui.parts.reading import Reading, Recorded
from emo_viz.ui.parts.together import name
from emo_viz.ui.parts.token_text import vocabulary_label
from emo_viz.ui.routing.card import Bar, Part, token_card
from emo_viz.ui.shell.words import by_hand, count, share

PIXELS = 378
MOST_ROWS = 40  # of a table that is shown without a scroll bar over its numbers


def draw(reading: Reading, token: int | None, on_follow: Callable[[Follow], None]) -> None:
    """The chosen token's panel, or the whole text's; of one height either way."""
    with st.container(border=True, height=PIXELS):
        if token is None:
            of_text(reading)
        else:
            of_token(reading, token, on_follow)


def of_token(reading: Reading, token: int, on_follow: Callable[[Follow], None]) -> None:
    """A token's experts and gate weights in every layer, its loss and what could follow it."""
    token_card(
        f"Token {token} of {reading.num_tokens:,}: “{reading.labels[token]}”",
        [_part(reading, run, token) for run in reading.runs],
        key="routing_card",
        on_follow=on_follow,
    )


def _part(reading: Reading, run: Run, token: int) -> Part:
    one, loss = reading.recordings[run.id], float(reading.recordings[run.id].loss[token])
    return Part(
        run.id,
        run.label,
        colour_of(run),
        [_bar(reading, run, number, token) for number in reading.numbers],
        f"{loss:.2f} nats ({share(float(np.exp(-loss)))})" if reading.knows_losses else "",
        _next_tokens(reading, one, token),
    )


def _bar(reading: Reading, run: Run, number: int, token: int) -> Bar:
    one, layer = reading.recordings[run.id], reading.place(number)
    ids, entropy = one.expert_ids[layer, token], float(one.entropy[layer, token])
    weights = [] if run.id in reading.unweighed else one.gate_weights[layer, token][ids >= 0]
    return Bar(
        number,
        ids[ids >= 0].tolist(),
        [round(float(weight), 4) for weight in weights],
        None if np.isnan(entropy) else round(entropy, 3),
    )


def table(reading: Reading, token: int) -> None:
    """All ids and weights: the narrow pieces of the bars have no room for theirs."""
    found = _chosen_experts(reading, token)
    st.dataframe(
        found,
        hide_index=True,
        height="content" if len(found) <= MOST_ROWS else "auto",
        key="routing_token_table",
        column_config=_columns(reading),
        alt=f"The routed experts of token {token} in every layer by falling gate weight.",
    )
    letters = ", ".join(f"{letter} is {name(run)}" for letter, run in _lettered(reading))
    if said := (f"{letters}." if letters else "") + _shared(reading):
        st.caption(said.strip())


def _lettered(reading: Reading) -> list[tuple[str, Run]]:
    """Two runs by their letters of the side bar: a column has no room for their names."""
    return list(zip("AB", reading.runs, strict=True)) if len(reading.runs) > 1 else []


def _columns(reading: Reading) -> dict[str, Any]:
    """So narrow that both runs are in sight; a weight stands beside its expert."""
    column, weight = st.column_config.Column, st.column_config.NumberColumn
    found = {"Layer": column(width=45), "Choice": column("No.", width=42)}
    for letter, run in _lettered(reading) or [("", reading.runs.first)]:
        head = f"{letter}: id" if letter else "Expert"
        expert = column(head, width=56, help=f"Routed expert of {run.label}")
        gate = weight("Weight", width=62, format="%.3f", help=f"Gate weight in {run.label}")
        found |= {f"{run.label} expert": expert, f"{run.label} gate weight": gate}
    return found


def _shared(reading: Reading) -> str:
    """Which expert is the shared one, where there is one, as a sentence."""
    if set(reading.shared.values()) != {1}:
        return ""
    even = reading.even_routed
    which = str(even[0]) if even and len(set(even)) == 1 else "a layer's last"
    return f" The shared expert, {which}, has weight 1 in every layer."


def _chosen_experts(reading: Reading, token: int) -> pd.DataFrame:
    """One row a layer and choice: the expert and its gate weight in each run."""
    tables = [_experts_of(reading, run, token) for run in reading.runs]
    joined = pd.concat(tables, axis=1).dropna(how="all").sort_index()
    return joined.rename_axis(["Layer", "Choice"]).reset_index()


def _experts_of(reading: Reading, run: Run, token: int) -> pd.DataFrame:
    """By layer and choice; empty where a layer has fewer experts than a token could use."""
    one = reading.recordings[run.id]
    ids = one.expert_ids[:, token]
    layers, choices = np.indices(ids.shape)
    numbers = np.array(reading.numbers)[layers.ravel()]
    index = pd.MultiIndex.from_arrays([numbers, choices.ravel() + 1])
    table = pd.DataFrame({f"{run.label} expert": pd.array(ids.ravel(), "Int64")}, index)
    if run.id not in reading.unweighed:
        table[f"{run.label} gate weight"] = one.gate_weights[:, token].ravel().round(4)
    return table[ids.ravel() >= 0]


def _next_tokens(reading: Reading, one: Recorded, token: int) -> list[tuple[str, float]]:
    if reading.tokenizer is None or not reading.knows_losses:
        return []
    shares = [round(float(each), 4) for each in one.next_probs[token]]
    texts = [vocabulary_label(reading.tokenizer, int(each)) for each in one.next_ids[token]]
    return list(zip(texts, shares, strict=True))


def of_text(reading: Reading) -> None:
    """What stands where a token would: the whole text, layer by layer."""
    st.markdown("**The whole text, layer by layer**")
    st.caption(
        by_hand(
            ":material/touch_app: Choose a token, in the text or in a picture, to see its experts "
            "here."
        )
    )
    st.plotly_chart(
        figures.by_layer(
            reading.runs,
            {run: one.half for run, one in reading.routing.items()},
            reading.numbers,
            "Experts that carry half of the routing",
            "routed experts",
            np.array(reading.even_routed) / 2 if reading.even_routed else None,
        ),
        key="routing_half",
        config=CHART_CONFIG,
        alt="The fewest routed experts that carry half of the expert choices in each layer, "
        f"{reading.runs.names}.",
    )
    st.dataframe(
        layer_table(reading), key="routing_layers", alt="More numbers of each layer, as a table."
    )
    st.caption(
        f"1 document, {count(reading.num_tokens, 'token')}; "
        f"{' / '.join(map(name, reading.runs))}. Distinct: routed "
        "experts that any token uses. Shared: those that both halves of the text use, of those "
        "that either uses. Entropy: mean router entropy in nats. Even use: every expert alike."
    )


def layers_of_runs(reading: Reading) -> pd.DataFrame:
    """The same to take home, as numbers: a column for each run, with half of the routing too."""
    columns: dict[str, Any] = {"Layer": reading.numbers}
    for run in reading.runs:
        own = reading.routing[run.id]
        columns |= {
            f"Experts for half, {run.label}": own.half,
            f"Distinct experts, {run.label}": own.distinct,
            f"Experts shared by both halves (share), {run.label}": own.overlap,
            f"Entropy (nats), {run.label}": own.entropy,
        }
    return pd.DataFrame(columns)


def layer_table(reading: Reading) -> pd.DataFrame:
    """What each layer of every run does with the whole text, as the page shows it."""
    own = [reading.routing[run.id] for run in reading.runs]
    columns = {
        "Distinct": _together([one.distinct for one in own], "{:d}".format),
        "Shared": _together([one.overlap for one in own], share),
        "Entropy": _together([one.entropy for one in own], "{:.2f}".format),
    }
    return pd.DataFrame(columns, pd.Index(reading.numbers, name="Layer"))


def _together(values: Sequence[NDArray[Any]], form: Callable[[Any], str]) -> list[str]:
    """ "EMO / Standard MoE" of each layer; a dash for what a text of one token does not have."""

    def shown(value: Any) -> str:
        return "–" if np.isnan(value) else form(value)

    return [" / ".join(map(shown, layer)) for layer in zip(*values, strict=True)]
