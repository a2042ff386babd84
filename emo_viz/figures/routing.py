"""Figures of one text's routing: tokens by experts, along the text, by layer, one token.

A Plotly heatmap reports no clicks, so every map here is a heatmap under invisible markers whose
customdata is (position, expert or layer, number of the run). The first run of a comparison stands
on the left or on top; the runs share every axis and every colour scale.

Shapes: P tokens shown (position 1 is the first, EOS is left out), L layers, R routed experts,
S routed experts a token.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from emo_viz.analysis.runs import Comparison, Run
from emo_viz.figures.theme import (
    REFERENCE_COLOUR,
    SELECTION_COLOUR,
    SEQUENTIAL,
    colour_of,
    coloured,
    label_of,
    legend_below,
    sentence_case,
    style,
    symbol_of,
    with_alpha,
)

# Bytes instead of float32 spare the browser a quarter of a megabyte a figure: 0 is "not used",
# 1-255 the square root of the gate weight.
LEVELS = 255
CLEAR_BELOW_FIRST_LEVEL = [
    [0.0, "rgba(0, 0, 0, 0)"],
    [0.5 / LEVELS, "rgba(0, 0, 0, 0)"],
    [0.5 / LEVELS, "rgba(118, 96, 234, 0.4)"],
    SEQUENTIAL[-1],
]
FEW_TOKENS = 48


@dataclass(frozen=True)
class ExpertMap:
    """One layer of one run: gates [P, R], 0 where unused, and the expert at each column [R]."""

    gates: NDArray[np.float32]
    order: NDArray[np.int64]


@dataclass(frozen=True)
class TokenExperts:
    """One token in one run: expert_ids and gate_weights [L, S], entropy [L] in nats.

    The id -1 with weight 0 stands for no expert, in a layer that has fewer than S.
    """

    expert_ids: NDArray[np.int16]
    gate_weights: NDArray[np.float32]
    entropy: NDArray[np.float32]


def expert_map(
    runs: Comparison,
    maps: Mapping[str, ExpertMap],
    tokens: Sequence[str],
    layer: int,
    selected: int | None,
    followed: tuple[str, int] | None = None,
) -> go.Figure:
    """Tokens (down) by routed experts (across) of one layer, the runs side by side.

    tokens: [P] labels. selected: position of a token, or None. followed: run and expert id.
    """
    tokens = _escaped(tokens)
    fig = make_subplots(
        cols=len(runs),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=[coloured(run) for run in runs],
    )
    top = max(float(one.gates.max(initial=0)) for one in maps.values()) or 1.0
    for column, run in enumerate(runs, start=1):
        one = maps[run.id]
        fig.add_trace(_gate_heatmap(one, top), row=1, col=column)
        fig.add_trace(_gate_targets(one, tokens, column - 1), row=1, col=column)
    style(fig, f"Gate weight (colour) of the experts that each token uses, layer {layer}")
    _map_axes(fig, [maps[run.id] for run in runs], tokens)
    height = _map_height(len(tokens))
    fig.update_layout(coloraxis=_gate_axis(top), height=height, margin_b=110)
    _mark_row(fig, selected, len(runs))
    if followed is not None:
        _mark_expert(fig, maps[followed[0]], runs.ids.index(followed[0]) + 1, followed[1])
    return fig


def along_text(
    runs: Comparison,
    entropy: Mapping[str, NDArray[np.float32]],
    loss: Mapping[str, NDArray[np.float32]],
    tokens: Sequence[str],
    selected: int | None,
) -> go.Figure:
    """Router entropy [L, P] of every layer and loss [P] at every token, the runs on one scale."""
    tokens, panels = _escaped(tokens), len(runs)
    fig = make_subplots(
        rows=panels + 1,
        shared_xaxes=True,
        vertical_spacing=0.08,
        row_heights=[0.3] * panels + [0.4],
    )
    for row, run in enumerate(runs, start=1):
        fig.add_trace(_entropy_heatmap(entropy[run.id]), row=row, col=1)
        fig.add_trace(_entropy_targets(entropy[run.id], tokens, row - 1), row=row, col=1)
        fig.add_trace(_loss_line(loss[run.id], tokens, run, row - 1), row=panels + 1, col=1)
        title = f"{coloured(run)}<br>layer"
        fig.update_yaxes(title_text=title, dtick=1, autorange="reversed", row=row, col=1)
    style(fig, "Router entropy (nats, colour) and loss along the text")
    every = np.concatenate([entropy[run.id].ravel() for run in runs])
    axis = _entropy_axis(float(np.nanmin(every)), float(np.nanmax(every)))
    fig.update_layout(coloraxis=axis, height=230 + 120 * panels)
    legend_below(fig)
    fig.update_yaxes(title_text="Loss<br>nats a token", rangemode="tozero", row=panels + 1, col=1)
    fig.update_xaxes(range=[0.5, len(tokens) + 0.5])
    fig.update_xaxes(title_text="Position in the text (tokens)", row=panels + 1, col=1)
    _mark_column(fig, selected, panels + 1)
    return fig


def by_layer(
    runs: Comparison,
    values: Mapping[str, NDArray[Any]],
    title: str,
    unit: str,
    even_use: NDArray[np.float64] | None = None,
) -> go.Figure:
    """One number by layer [L] for each run; a dotted line where even use [L] would lie."""
    fig = go.Figure([_layer_line(values[run.id], run, unit) for run in runs])
    if even_use is not None:
        fig.add_trace(_even_line(even_use, unit))
    style(fig, title)
    legend_below(fig).update_layout(height=270)
    fig.update_xaxes(title_text="Layer", dtick=1)
    fig.update_yaxes(title_text=sentence_case(unit), rangemode="tozero")
    return fig


def token_experts(runs: Comparison, chosen: Mapping[str, TokenExperts]) -> go.Figure:
    """One token's routed experts in every layer as bars of gate weight, one bar a run.

    Each piece carries its expert id; the rest up to 1 belongs to experts not used.
    """
    fig = go.Figure()
    offsets = (-0.2, 0.2) if len(runs) > 1 else (0.0,)
    for run, offset in zip(runs, offsets, strict=True):
        one = chosen[run.id]
        places = np.arange(len(one.entropy)) + offset
        for rank in range(one.expert_ids.shape[1]):
            fig.add_trace(_rank_bar(places, one, rank, run))
        fig.add_trace(_entropy_labels(places, one))
    style(fig, "Gate weight of its routed experts, and router entropy")
    layers = max(len(one.entropy) for one in chosen.values())
    reach = max(float(one.gate_weights.sum(axis=1).max()) for one in chosen.values())
    legend_below(fig).update_layout(barmode="stack", height=136 + (12 + 20 * len(runs)) * layers)
    fig.update_layout(uniformtext={"minsize": 9, "mode": "hide"})
    fig.update_xaxes(title_text="Gate weight", range=[0, 1.25 * reach])
    fig.update_yaxes(
        tickvals=np.arange(layers),
        ticktext=[f"Layer {layer}" for layer in range(layers)],
        autorange="reversed",
        showgrid=False,
    )
    return fig


def _gate_heatmap(one: ExpertMap, top: float) -> go.Heatmap:
    levels = np.ceil(np.sqrt(one.gates[:, one.order] / top) * LEVELS).astype(np.uint8)
    return go.Heatmap(z=levels, y=_positions(len(levels)), coloraxis="coloraxis", hoverinfo="skip")


def _gate_targets(one: ExpertMap, tokens: Sequence[str], model: int) -> go.Scattergl:
    """Invisible markers over the used cells: hover and click."""
    rows, columns = np.nonzero(one.gates[:, one.order])
    experts = one.order[columns]
    return _targets(
        x=columns,
        y=rows + 1,
        customdata=[rows + 1, experts, np.full(len(rows), model), one.gates[rows, experts]],
        text=[tokens[row] for row in rows.tolist()],
        what="expert %{customdata[1]}, gate weight %{customdata[3]:.3f}",
    )


def _entropy_heatmap(entropy: NDArray[np.float32]) -> go.Heatmap:
    return go.Heatmap(
        z=entropy.astype(np.float32),
        x=_positions(entropy.shape[1]),
        coloraxis="coloraxis",
        hoverinfo="skip",
    )


def _entropy_targets(
    entropy: NDArray[np.float32], tokens: Sequence[str], model: int
) -> go.Scattergl:
    layers, columns = np.indices(entropy.shape).reshape(2, -1)
    return _targets(
        x=columns + 1,
        y=layers,
        customdata=[columns + 1, layers, np.full(len(layers), model), entropy.ravel()],
        text=[tokens[column] for column in columns],
        what="layer %{customdata[1]}, entropy %{customdata[3]:.2f} nats",
    )


def _targets(
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    customdata: list[NDArray[Any]],
    text: list[str],
    what: str,
) -> go.Scattergl:
    unseen = {"marker": {"opacity": 0}}
    return go.Scattergl(
        x=x.astype(np.float32),
        y=y.astype(np.float32),
        mode="markers",
        marker={"size": 6, "opacity": 0},
        selected=unseen,
        unselected=unseen,
        customdata=np.stack(customdata, axis=1).astype(np.float32),
        text=text,
        hovertemplate=f"<b>%{{text}}</b> (token %{{customdata[0]}})<br>{what}<extra></extra>",
        showlegend=False,
    )


def _loss_line(
    loss: NDArray[np.float32], tokens: Sequence[str], run: Run, index: int
) -> go.Scatter:
    positions = _positions(len(loss))
    ids = np.stack([positions, np.full(len(loss), -1), np.full(len(loss), index)], axis=1)
    return go.Scatter(
        x=positions,
        y=loss.astype(np.float32),
        mode="lines+markers",
        name=label_of(run),
        line={"color": colour_of(run), "width": 1.5},
        marker={"size": 4, "color": colour_of(run), "symbol": symbol_of(run)},
        selected={"marker": {"opacity": 1}},
        unselected={"marker": {"opacity": 1}},
        customdata=ids.astype(np.int32),
        text=list(tokens),
        hovertemplate="<b>%{text}</b> (token %{x})<br>loss %{y:.2f} nats"
        f"<extra>{label_of(run)}</extra>",
    )


def _layer_line(values: NDArray[Any], run: Run, unit: str) -> go.Scatter:
    return go.Scatter(
        x=np.arange(len(values)),
        y=values,
        mode="lines+markers",
        name=label_of(run),
        line={"color": colour_of(run), "width": 2},
        marker={"size": 8, "symbol": symbol_of(run)},
        hovertemplate=f"layer %{{x}}: %{{y:.3~g}} {unit}<extra>{label_of(run)}</extra>",
    )


def _even_line(levels: NDArray[np.float64], unit: str) -> go.Scatter:
    return go.Scatter(
        x=np.arange(len(levels)),
        y=levels,
        mode="lines",
        name="Even use",
        line={"color": REFERENCE_COLOUR, "width": 1.5, "dash": "dot"},
        hovertemplate=f"%{{y:.1f}} {unit}<extra>Even use</extra>",
    )


def _rank_bar(places: NDArray[np.floating], one: TokenExperts, rank: int, run: Run) -> go.Bar:
    experts, weights = one.expert_ids[:, rank], one.gate_weights[:, rank]
    if (experts < 0).any():  # a layer with fewer experts than a token could use
        weights = np.where(experts < 0, np.float32(np.nan), weights)
    return go.Bar(
        y=places,
        x=weights,
        width=0.36,
        orientation="h",
        name=label_of(run),
        legendgroup=run.id,
        showlegend=rank == 0,
        # Opaque, so that the ids can be read on the light and on the dark page alike.
        marker={
            "color": colour_of(run),
            "line": {"color": "rgba(255, 255, 255, 0.7)", "width": 1},
        },
        insidetextfont={"color": "white"},
        text=[str(expert) if expert >= 0 else "" for expert in experts],
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        hovertemplate=f"choice {rank + 1}: expert %{{text}}, gate weight %{{x:.3f}}"
        f"<extra>{label_of(run)}</extra>",
    )


def _entropy_labels(places: NDArray[np.floating], one: TokenExperts) -> go.Scatter:
    """The router entropy in words at the end of each bar."""
    return go.Scatter(
        x=one.gate_weights.sum(axis=1),
        y=places,
        mode="text",
        text=["" if np.isnan(value) else f" {value:.2f} nats" for value in one.entropy],
        textposition="middle right",
        textfont={"size": 10},
        hoverinfo="skip",
        showlegend=False,
    )


def _map_axes(fig: go.Figure, maps: Sequence[ExpertMap], tokens: Sequence[str]) -> None:
    for column, one in enumerate(maps, start=1):
        order = one.order
        places = np.arange(0, len(order), 16)
        fig.update_xaxes(
            title_text="Routed expert (id)",
            range=[-0.5, len(order) - 0.5],
            tickvals=places,
            ticktext=[str(expert) for expert in order[places]],
            showgrid=False,
            row=1,
            col=column,
        )
    fig.update_yaxes(range=[len(tokens) + 0.5, 0.5], showgrid=False)
    fig.update_yaxes(title_text="Position in the text (tokens)", row=1, col=1)
    if len(tokens) <= FEW_TOKENS:
        fig.update_yaxes(tickvals=_positions(len(tokens)), ticktext=list(tokens), title_text="")


def _gate_axis(top: float) -> dict[str, Any]:
    """A square-root scale: most gate weights are small beside the largest."""
    places = np.linspace(0, 1, 5)
    return {
        "colorscale": CLEAR_BELOW_FIRST_LEVEL,
        "cmin": 0,
        "cmax": LEVELS,
        "colorbar": _BAR_BELOW
        | {
            "tickvals": places * LEVELS,
            "ticktext": [f"{gate:.2g}" for gate in top * places**2],
        },
    }


def _entropy_axis(lowest: float, highest: float) -> dict[str, Any]:
    return {
        "colorscale": SEQUENTIAL,
        "cmin": lowest,
        "cmax": highest,
        "colorbar": _BAR_BELOW | {"ticksuffix": " nats", "nticks": 5},
    }


def _mark_row(fig: go.Figure, selected: int | None, columns: int) -> None:
    if selected is not None:
        for column in range(1, columns + 1):
            fig.add_hrect(y0=selected - 0.5, y1=selected + 0.5, row=1, col=column, **_ROW_MARK)


def _mark_expert(fig: go.Figure, one: ExpertMap, column: int, expert: int) -> None:
    place = int(np.flatnonzero(one.order == expert)[0])
    fig.add_vrect(x0=place - 0.5, x1=place + 0.5, row=1, col=column, **_COLUMN_MARK)


def _mark_column(fig: go.Figure, selected: int | None, rows: int) -> None:
    if selected is not None:
        for row in range(1, rows + 1):
            fig.add_vrect(x0=selected - 0.5, x1=selected + 0.5, row=row, col=1, **_COLUMN_MARK)


def _escaped(tokens: Sequence[str]) -> list[str]:
    """Labels that Plotly's own small HTML shows as they are."""
    return [html.escape(token, quote=False) for token in tokens]


def _map_height(tokens: int) -> int:
    """Pixels: legible rows for a short text, the whole of a long one on a screen."""
    return 190 + (18 * tokens if tokens <= FEW_TOKENS else max(18 * FEW_TOKENS // 2, 2 * tokens))


def _positions(tokens: int) -> NDArray[np.int32]:
    return np.arange(1, tokens + 1, dtype=np.int32)


# Under the figure, where it takes no width from the maps; the figure's title names the quantity.
_BAR_BELOW: dict[str, Any] = {
    "orientation": "h",
    "thickness": 10,
    "len": 0.45,
    "x": 1,
    "xanchor": "right",
    "yref": "container",
    "y": 0.005,
    "yanchor": "bottom",
}
_ROW_MARK: dict[str, Any] = {
    "line": {"color": SELECTION_COLOUR, "width": 1},
    "fillcolor": with_alpha(SELECTION_COLOUR, 0.3),
    "layer": "below",  # the cells of the row stay visible
}
_COLUMN_MARK: dict[str, Any] = {"line": {"color": SELECTION_COLOUR, "width": 1.5}}
