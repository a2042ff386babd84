"""Figures of expert subsets: the loss against keep-k, and which experts a subset keeps."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from emo_viz.analysis.curves import FULL, RANDOM
from emo_viz.figures.theme import (
    DENSE_COLOUR,
    GRID_COLOUR,
    MODEL_COLOURS,
    MODEL_SYMBOLS,
    REFERENCE_COLOUR,
    SELECTION_COLOUR,
    coloured,
    legend_below,
    style,
    with_alpha,
)

Measure = Literal["increase", "loss"]

MODELS = ("emo", "standard")
LABELS = {"emo": "EMO", "standard": "Standard MoE"}
AXIS_TITLES = {
    "increase": "Loss increase over all experts<br>(nats a token)",
    "loss": "Held-out loss (nats a token)",
}
TITLES = {
    "increase": "Loss increase by the number of experts kept",
    "loss": "Loss by the number of experts kept",
}
LIVE_SIZE = 13


def curve(
    points: pd.DataFrame,
    measure: Measure,
    method: str,
    keep_k: int,
    live: Mapping[str, float],
    evaluated: str,
    experts: str = "",
) -> go.Figure:
    """Loss or its increase against keep-k for both models, with random subsets as a baseline.

    points: the table of `analysis.curves.Measured`. keep_k: where the vertical marker stands.
    live: the value of the document that is shown, by model, drawn at keep_k. evaluated: on what the
    loss was measured, experts: how many a layer has, in words ("" for the largest keep-k).
    """
    fig = go.Figure()
    for model in MODELS:
        of_model = points[points["model"] == model]
        if method != RANDOM:
            _random_lines(fig, _line(of_model, RANDOM), model, measure)
        _method_lines(fig, _line(of_model, method), model, measure)
    for model, value in live.items():
        fig.add_trace(_live_marker(model, keep_k, value))
    _legend_entries(fig, method != RANDOM and bool((points["method"] == RANDOM).any()), bool(live))
    _mark_keep_k(fig, keep_k)
    style(fig, TITLES[measure])
    fig.update_layout(title_subtitle={"text": evaluated, "font": {"size": 12}}, margin_t=84)
    _keep_k_axis(fig, points, experts)
    fig.update_yaxes(title_text=AXIS_TITLES[measure])
    legend_below(fig, rows=2).update_layout(height=400, hovermode="closest")
    return fig


def _line(of_model: pd.DataFrame, method: str) -> pd.DataFrame:
    """The points of one method and, at its right end, the full model."""
    found = of_model[of_model["method"] == method]
    full = of_model[of_model["method"] == FULL]
    return pd.concat([found, full]).sort_values("keep_k") if len(found) else found


def _method_lines(fig: go.Figure, line: pd.DataFrame, model: str, measure: Measure) -> None:
    colour = MODEL_COLOURS[model]
    fig.add_trace(_band(line, f"{measure}_low", f"{measure}_high", with_alpha(colour, 0.22)))
    fig.add_trace(
        go.Scatter(
            x=line["keep_k"],
            y=line[measure],
            customdata=line[[f"{measure}_low", f"{measure}_high"]],
            name=LABELS[model],
            mode="lines+markers",
            line={"color": colour, "width": 2.5},
            marker={"symbol": MODEL_SYMBOLS[model], "size": 8},
            hovertemplate=f"<b>{LABELS[model]}</b>, %{{x}} experts<br>%{{y:.3f}} nats a token"
            "<br>95 % interval %{customdata[0]:.3f} to %{customdata[1]:.3f}<extra></extra>",
        )
    )


def _random_lines(fig: go.Figure, line: pd.DataFrame, model: str, measure: Measure) -> None:
    """The range of the random subsets as a grey band, their mean as a dashed line."""
    if line.empty:
        return
    fig.add_trace(_band(line, f"{measure}_min", f"{measure}_max", with_alpha("#80848c", 0.18)))
    fig.add_trace(
        go.Scatter(
            x=line["keep_k"],
            y=line[measure],
            customdata=line[[f"{measure}_min", f"{measure}_max", "seeds"]],
            name=f"{LABELS[model]}, random subsets",
            showlegend=False,
            mode="lines",
            line={"color": with_alpha(MODEL_COLOURS[model], 0.75), "width": 1.5, "dash": "dash"},
            hovertemplate=f"<b>{LABELS[model]}, random</b>, %{{x}} experts<br>%{{y:.3f}} nats a "
            "token<br>%{customdata[0]:.3f} to %{customdata[1]:.3f} over %{customdata[2]} subsets"
            "<extra></extra>",
        )
    )


def _band(line: pd.DataFrame, low: str, high: str, colour: str) -> go.Scatter:
    return go.Scatter(
        x=np.concatenate([line["keep_k"], line["keep_k"][::-1]]),
        y=np.concatenate([line[high], line[low][::-1]]),
        mode="lines",
        fill="toself",
        fillcolor=colour,
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
    )


def _live_marker(model: str, keep_k: int, value: float) -> go.Scatter:
    return go.Scatter(
        x=[keep_k],
        y=[value],
        name=f"{LABELS[model]}, the document shown",
        showlegend=False,
        mode="markers",
        marker={
            "symbol": f"{MODEL_SYMBOLS[model]}-open",
            "size": LIVE_SIZE,
            "color": MODEL_COLOURS[model],
            "line": {"width": 2.5},
        },
        hovertemplate=f"<b>{LABELS[model]}</b>, the document shown, %{{x}} experts<br>"
        "%{y:.3f} nats a token<extra></extra>",
    )


def _legend_entries(fig: go.Figure, random: bool, live: bool) -> None:
    """One entry for what both models have in their own colours: it would not fit twice."""
    if random:
        line = {"color": DENSE_COLOUR, "width": 1.5, "dash": "dash"}
        name = "Random subsets"
        fig.add_trace(go.Scatter(x=[None], y=[None], name=name, mode="lines", line=line))
    if live:
        marker = {"symbol": "circle-open", "size": LIVE_SIZE, "color": DENSE_COLOUR}
        name = "The document shown"
        fig.add_trace(go.Scatter(x=[None], y=[None], name=name, mode="markers", marker=marker))


def _mark_keep_k(fig: go.Figure, keep_k: int) -> None:
    fig.add_vline(x=keep_k, line={"color": SELECTION_COLOUR, "width": 1.5, "dash": "dot"})
    fig.add_annotation(
        # Unlike shapes and data, annotations want the logarithm on a log axis.
        x=np.log10(keep_k),
        y=1,
        yref="paper",
        yanchor="bottom",
        text=f"keep-k {keep_k}",
        font={"color": SELECTION_COLOUR, "size": 12},
        showarrow=False,
    )


def _keep_k_axis(fig: go.Figure, points: pd.DataFrame, experts: str) -> None:
    """A log2 axis from the smallest to the largest measured keep-k, a tick at each doubling."""
    low, high = int(points["keep_k"].min()), int(points["keep_k"].max())
    ticks = [2**power for power in range(low.bit_length() - 1, high.bit_length())]
    fig.update_xaxes(
        type="log",
        range=[np.log10(low * 0.93), np.log10(high * 1.12)],
        tickvals=[tick for tick in ticks if low <= tick <= high],
        title_text=f"Experts kept in every layer, of {experts or high} (keep-k, log scale)",
    )


def kept_map(kept: Mapping[str, Sequence[Sequence[int]]], experts: Sequence[int]) -> go.Figure:
    """Which experts of every layer are kept: layers (down) by expert ids (across), both models.

    kept: by model, the kept ids of each layer, shared experts included. experts: how many each
    layer has; where that is fewer than another has, the row ends there.
    """
    fig = make_subplots(
        rows=len(kept),
        shared_xaxes=True,
        vertical_spacing=0.16,
        subplot_titles=[coloured(model, LABELS[model]) for model in kept],
    )
    for row, (model, layers) in enumerate(kept.items(), start=1):
        fig.add_trace(_kept_cells(model, layers, experts), row=row, col=1)
    style(fig, "Kept experts (filled) of every layer")
    fig.update_yaxes(title_text="Layer", dtick=1, autorange="reversed", showgrid=False)
    fig.update_xaxes(showgrid=False, dtick=16)
    last = "the last" if len(set(experts)) == 1 else "each layer's last"
    fig.update_xaxes(title_text=f"Expert id ({last} is the shared one)", row=len(kept), col=1)
    num_layers = max(map(len, kept.values()))
    fig.update_layout(height=130 + len(kept) * (34 + 22 * num_layers), margin_t=72)
    return fig


def _kept_cells(model: str, layers: Sequence[Sequence[int]], experts: Sequence[int]) -> go.Heatmap:
    kept_LE = np.zeros((len(layers), max(experts)), np.uint8)
    for layer, own in enumerate(layers):
        kept_LE[layer, list(own)] = 1
    absent_LE = np.arange(max(experts)) >= np.array(experts)[:, None]
    return go.Heatmap(
        z=np.where(absent_LE, np.nan, kept_LE) if absent_LE.any() else kept_LE,
        hoverongaps=False if absent_LE.any() else None,
        zmin=0,
        zmax=1,
        colorscale=[[0, GRID_COLOUR], [1, MODEL_COLOURS[model]]],
        showscale=False,
        xgap=1,
        ygap=2,
        customdata=np.where(kept_LE, "kept", "cut"),
        hovertemplate=f"{LABELS[model]}, layer %{{y}}, expert %{{x}}: %{{customdata}}"
        "<extra></extra>",
    )


def overlap_bars(shares: pd.DataFrame, chance: float) -> go.Figure:
    """Share of kept routed experts that other domains' subsets keep too, mean over layers.

    shares: one row a domain, a column a model (share of one). chance: that of random subsets.
    """
    fig = go.Figure()
    for model in MODELS:
        fig.add_trace(_overlap_points(shares, model))
    fig.add_vline(
        x=100 * chance,
        line={"color": REFERENCE_COLOUR, "width": 1.5, "dash": "dot"},
        annotation={"text": "by chance", "font_size": 11},
        annotation_position="top",
    )
    style(fig, "Kept experts shared with the other domains' subsets")
    fig.update_xaxes(title_text="% of the kept routed experts, mean over layers", range=[0, 102])
    fig.update_yaxes(autorange="reversed", showgrid=True)
    legend_below(fig).update_layout(height=150 + 20 * len(shares), margin_t=64)
    return fig


def _overlap_points(shares: pd.DataFrame, model: str) -> go.Scatter:
    marker: dict[str, Any] = {
        "color": MODEL_COLOURS[model],
        "symbol": MODEL_SYMBOLS[model],
        "size": 9,
    }
    return go.Scatter(
        x=100 * shares[model],
        y=shares.index,
        name=LABELS[model],
        mode="markers",
        marker=marker,
        hovertemplate=f"<b>{LABELS[model]}</b><br>%{{y}}: %{{x:.0f}} %<extra></extra>",
    )
