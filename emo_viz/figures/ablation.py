"""Figures of expert subsets: the loss against keep-k, and which experts a subset keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from emo_viz.analysis.curves import FULL, RANDOM
from emo_viz.analysis.runs import Comparison, Run
from emo_viz.analysis.widths import in_words
from emo_viz.figures.theme import (
    GRID_COLOUR,
    NEUTRAL_COLOUR,
    REFERENCE_COLOUR,
    SELECTION_COLOUR,
    colour_of,
    coloured,
    label_of,
    legend_below,
    style,
    symbol_of,
    with_alpha,
)

Measure = Literal["increase", "loss"]

AXIS_TITLES = {
    "increase": "Loss increase over all experts<br>(nats a token)",
    "loss": "Held-out loss (nats a token)",
}
TITLES = {
    "increase": "Loss increase by the number of experts kept",
    "loss": "Loss by the number of experts kept",
}
LIVE_SIZE = 13


@dataclass(frozen=True)
class Experts:
    """How many experts the layers of each run have, shared ones counted; runs that differ in the
    most a layer has stand on an axis of shares."""

    of_run: Mapping[str, Sequence[int]]

    @property
    def as_shares(self) -> bool:
        return len({max(counts) for counts in self.of_run.values()}) > 1

    def places(self, run: str, keep_k: Any) -> Any:
        """Where keep-k, one or many, stands on the axis: as it is, or in percent."""
        return 100 * keep_k / max(self.of_run[run]) if self.as_shares else keep_k

    def in_words(self) -> str:
        """Of how many, where that is one number: "128", or "12 to 16"."""
        return in_words([count for counts in self.of_run.values() for count in counts])


def curve(
    runs: Comparison,
    points: pd.DataFrame,
    measure: Measure,
    method: str,
    keep_k: int,
    live: Mapping[str, float],
    evaluated: str,
    experts: Mapping[str, Sequence[int]],
) -> go.Figure:
    """Loss or its increase against keep-k for each run, with random subsets as a baseline.

    points: the table of `analysis.curves.Measured`. keep_k: where the vertical marker stands, in
    experts of the first run. live: the value of the document that is shown, by run, drawn there.
    evaluated: on what the loss was measured. experts: of every layer, by run; where the runs have
    different numbers the axis is the share of them.
    """
    fig, axis = go.Figure(), Experts({run.id: experts[run.id] for run in runs})
    for run in runs:
        own = points[points["model"] == run.id]
        own = own.assign(place=axis.places(run.id, own["keep_k"]))
        if method != RANDOM:
            _random_lines(fig, _line(own, RANDOM), run, measure)
        _method_lines(fig, _line(own, method), run, measure)
    place = axis.places(runs.first.id, keep_k)
    for run in runs:
        if run.id in live:
            fig.add_trace(_live_marker(run, place, live[run.id]))
    _legend_entries(fig, method != RANDOM and bool((points["method"] == RANDOM).any()), bool(live))
    _mark_keep_k(fig, place, keep_k)
    style(fig, TITLES[measure])
    fig.update_layout(title_subtitle={"text": evaluated, "font": {"size": 12}}, margin_t=84)
    _keep_k_axis(fig, points[points["model"].isin(runs.ids)], axis)
    fig.update_yaxes(title_text=AXIS_TITLES[measure])
    legend_below(fig, rows=2).update_layout(height=400, hovermode="closest")
    return fig


def _line(own: pd.DataFrame, method: str) -> pd.DataFrame:
    """The points of one method and, at its right end, the full model."""
    found = own[own["method"] == method]
    full = own[own["method"] == FULL]
    return pd.concat([found, full]).sort_values("keep_k") if len(found) else found


def _method_lines(fig: go.Figure, line: pd.DataFrame, run: Run, measure: Measure) -> None:
    colour, label = colour_of(run), label_of(run)
    fig.add_trace(_band(line, f"{measure}_low", f"{measure}_high", with_alpha(colour, 0.22)))
    fig.add_trace(
        go.Scatter(
            x=line["place"],
            y=line[measure],
            customdata=line[[f"{measure}_low", f"{measure}_high", "keep_k"]],
            name=label,
            mode="lines+markers",
            line={"color": colour, "width": 2.5},
            marker={"symbol": symbol_of(run), "size": 8},
            hovertemplate=f"<b>{label}</b>, %{{customdata[2]}} experts<br>%{{y:.3f}} nats a token"
            "<br>95 % interval %{customdata[0]:.3f} to %{customdata[1]:.3f}<extra></extra>",
        )
    )


def _random_lines(fig: go.Figure, line: pd.DataFrame, run: Run, measure: Measure) -> None:
    """The range of the random subsets as a grey band, their mean as a dashed line."""
    if line.empty:
        return
    label = label_of(run)
    fig.add_trace(_band(line, f"{measure}_min", f"{measure}_max", with_alpha("#80848c", 0.18)))
    fig.add_trace(
        go.Scatter(
            x=line["place"],
            y=line[measure],
            customdata=line[[f"{measure}_min", f"{measure}_max", "seeds", "keep_k"]],
            name=f"{label}, random subsets",
            showlegend=False,
            mode="lines",
            line={"color": with_alpha(colour_of(run), 0.75), "width": 1.5, "dash": "dash"},
            hovertemplate=f"<b>{label}, random</b>, %{{customdata[3]}} experts<br>%{{y:.3f}} nats "
            "a token<br>%{customdata[0]:.3f} to %{customdata[1]:.3f} over %{customdata[2]} subsets"
            "<extra></extra>",
        )
    )


def _band(line: pd.DataFrame, low: str, high: str, colour: str) -> go.Scatter:
    return go.Scatter(
        x=np.concatenate([line["place"], line["place"][::-1]]),
        y=np.concatenate([line[high], line[low][::-1]]),
        mode="lines",
        fill="toself",
        fillcolor=colour,
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
    )


def _live_marker(run: Run, place: float, value: float) -> go.Scatter:
    label = label_of(run)
    return go.Scatter(
        x=[place],
        y=[value],
        name=f"{label}, the document shown",
        showlegend=False,
        mode="markers",
        marker={
            "symbol": f"{symbol_of(run)}-open",
            "size": LIVE_SIZE,
            "color": colour_of(run),
            "line": {"width": 2.5},
        },
        hovertemplate=f"<b>{label}</b>, the document shown<br>%{{y:.3f}} nats a token"
        "<extra></extra>",
    )


def _legend_entries(fig: go.Figure, random: bool, live: bool) -> None:
    """One entry for what both models have in their own colours: it would not fit twice."""
    if random:
        line = {"color": NEUTRAL_COLOUR, "width": 1.5, "dash": "dash"}
        name = "Random subsets"
        fig.add_trace(go.Scatter(x=[None], y=[None], name=name, mode="lines", line=line))
    if live:
        marker = {"symbol": "circle-open", "size": LIVE_SIZE, "color": NEUTRAL_COLOUR}
        name = "The document shown"
        fig.add_trace(go.Scatter(x=[None], y=[None], name=name, mode="markers", marker=marker))


def _mark_keep_k(fig: go.Figure, place: float, keep_k: int) -> None:
    fig.add_vline(x=place, line={"color": SELECTION_COLOUR, "width": 1.5, "dash": "dot"})
    fig.add_annotation(
        # Unlike shapes and data, annotations want the logarithm on a log axis.
        x=np.log10(place),
        y=1,
        yref="paper",
        yanchor="bottom",
        text=f"keep-k {keep_k}",
        font={"color": SELECTION_COLOUR, "size": 12},
        showarrow=False,
    )


def _keep_k_axis(fig: go.Figure, points: pd.DataFrame, experts: Experts) -> None:
    """A log2 axis from the smallest to the largest measured keep-k, a tick at each doubling."""
    pairs = zip(points["model"].astype(str), points["keep_k"], strict=True)
    places = [float(experts.places(model, keep_k)) for model, keep_k in pairs]
    low, high = min(places), max(places)
    if experts.as_shares:
        ticks = [100 / 2**power for power in range(12)]
        title = "Share of the experts kept in every layer (log scale)"
    else:
        ticks = [float(2**power) for power in range(int(high).bit_length())]
        title = f"Experts kept in every layer, of {experts.in_words()} (keep-k, log scale)"
    fig.update_xaxes(
        type="log",
        range=[np.log10(low * 0.93), np.log10(high * 1.12)],
        tickvals=[tick for tick in ticks if low <= tick <= high],
        ticksuffix=" %" if experts.as_shares else "",
        title_text=title,
    )


def kept_map(
    runs: Comparison,
    kept: Mapping[str, Sequence[Sequence[int]]],
    experts: Mapping[str, Sequence[int]],
    shared: bool = True,
) -> go.Figure:
    """Which experts of every layer are kept: layers (down) by expert ids (across), a panel a run.

    kept: by run, the kept ids of each layer, shared experts included. experts: by run, how many
    each layer has; where that is fewer than another has, the row ends there. shared: whether there
    is a shared expert.
    """
    fig = make_subplots(
        rows=len(runs),
        shared_xaxes=True,
        vertical_spacing=0.16,
        subplot_titles=[coloured(run) for run in runs],
    )
    widest = max(max(experts[run.id]) for run in runs)
    for row, run in enumerate(runs, start=1):
        cells = _kept_cells(run, kept[run.id], experts[run.id], widest)
        fig.add_trace(cells, row=row, col=1)
    style(fig, "Kept experts (filled) of every layer")
    fig.update_yaxes(title_text="Layer", dtick=1, autorange="reversed", showgrid=False)
    fig.update_xaxes(showgrid=False, dtick=16)
    even = all(len(set(experts[run.id])) == 1 for run in runs)
    last = "the last" if even else "each layer's last"
    said = f" ({last} is the shared one)" if shared else ""
    fig.update_xaxes(title_text=f"Expert id{said}", row=len(runs), col=1)
    num_layers = max(map(len, kept.values()))
    fig.update_layout(height=130 + len(runs) * (34 + 22 * num_layers), margin_t=72)
    return fig


def _kept_cells(
    run: Run, layers: Sequence[Sequence[int]], experts: Sequence[int], widest: int
) -> go.Heatmap:
    kept_LE = np.zeros((len(layers), widest), np.uint8)
    for layer, own in enumerate(layers):
        kept_LE[layer, list(own)] = 1
    absent_LE = np.arange(widest) >= np.array(experts)[:, None]
    return go.Heatmap(
        z=np.where(absent_LE, np.nan, kept_LE) if absent_LE.any() else kept_LE,
        hoverongaps=False if absent_LE.any() else None,
        zmin=0,
        zmax=1,
        colorscale=[[0, GRID_COLOUR], [1, colour_of(run)]],
        showscale=False,
        xgap=1,
        ygap=2,
        customdata=np.where(kept_LE, "kept", "cut"),
        hovertemplate=f"{label_of(run)}, layer %{{y}}, expert %{{x}}: %{{customdata}}"
        "<extra></extra>",
    )


def overlap_bars(runs: Comparison, shares: pd.DataFrame, chance: float) -> go.Figure:
    """Share of kept routed experts that other domains' subsets keep too, mean over layers.

    shares: one row a domain, a column a run (share of one). chance: that of random subsets.
    """
    fig = go.Figure([_overlap_points(shares, run) for run in runs])
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


def _overlap_points(shares: pd.DataFrame, run: Run) -> go.Scatter:
    marker: dict[str, Any] = {"color": colour_of(run), "symbol": symbol_of(run), "size": 9}
    label = label_of(run)
    return go.Scatter(
        x=100 * shares[run.id],
        y=shares.index,
        name=label,
        mode="markers",
        marker=marker,
        hovertemplate=f"<b>{label}</b><br>%{{y}}: %{{x:.0f}} %<extra></extra>",
    )
