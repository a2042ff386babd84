"""Figures of the kernels: what a GPU measured, their roofline, and what fewer experts save."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from emo_viz.figures.kept import kept
from emo_viz.figures.theme import (
    REFERENCE_COLOUR,
    SELECTION_COLOUR,
    SEQUENTIAL,
    legend_below,
    style,
)

SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross")
DASHES = ("solid", "dash", "dashdot", "dot", "longdash")
INTENSITY_RANGE = (0.3, 2000.0)
LABEL_PIXELS = 17


@kept
def roofline(
    rows: Sequence[Mapping[str, Any]], machine: Mapping[str, Any], tokens: int
) -> go.Figure:
    """Each kernel on the roof of one machine: FLOP a byte against TFLOP/s that it can reach.

    rows: rows of the report with flops and bytes. machine: name, flops (a second) and
    bytes_per_second. The points lie on the roof by construction: nothing was timed.
    """
    ridge = machine["flops"] / machine["bytes_per_second"]
    low, high = INTENSITY_RANGE
    roof = [(x, attainable(x, machine) / 1e12) for x in (low, ridge, high)]
    fig = go.Figure()
    fig.add_trace(
        go.Scatter(
            x=[x for x, _ in roof],
            y=[y for _, y in roof],
            mode="lines",
            line={"color": REFERENCE_COLOUR, "width": 2},
            hovertemplate="%{x:.0f} FLOP a byte: at most %{y:.0f} TFLOP/s<extra></extra>",
        )
    )
    fig.add_trace(_points(rows, machine))
    _name_points(fig, rows, machine)
    style(fig, f"Roofline of {machine['name']} at {tokens:,} tokens: nothing here was timed")
    axes: dict[str, Any] = {"type": "log", "dtick": 1}
    fig.update_xaxes(**axes, range=np.log10(INTENSITY_RANGE))
    fig.update_xaxes(title_text="Arithmetic intensity (FLOP a byte of memory)")
    low, high = min(fig.data[1].y), roof[-1][1]
    fig.update_yaxes(**axes, range=np.log10([low / 5, high * 2]))
    fig.update_yaxes(title_text="Attainable rate (TFLOP/s)")
    fig.update_layout(height=420, showlegend=False)
    return fig


def attainable(intensity: float, machine: Mapping[str, Any]) -> float:
    """FLOP/s that a machine allows at an intensity in FLOP a byte."""
    return float(min(machine["flops"], intensity * machine["bytes_per_second"]))


def _points(rows: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]) -> go.Scatter:
    intensities = [row["flops"] / row["bytes"] for row in rows]
    figures = [
        (row["kernel"], row["flops"] / 1e9, row["bytes"] / 1e6, row["roofline_seconds"] * 1e6)
        for row in rows
    ]
    return go.Scatter(
        x=intensities,
        y=[attainable(x, machine) / 1e12 for x in intensities],
        customdata=figures,
        mode="markers",
        marker={"size": 10, "color": SELECTION_COLOUR},
        hovertemplate=(
            "%{customdata[0]}<br>%{customdata[1]:,.0f} GFLOP, %{customdata[2]:,.0f} MB"
            "<br>%{x:.0f} FLOP a byte<br>at least %{customdata[3]:,.0f} µs<extra></extra>"
        ),
    )


def _name_points(
    fig: go.Figure, rows: Sequence[Mapping[str, Any]], machine: Mapping[str, Any]
) -> None:
    """Names under the roof, each on a lower line than its close neighbour to the right: so none
    covers another, however narrow the page."""
    last, line = np.inf, 0
    for row in sorted(rows, key=lambda row: row["flops"] / row["bytes"], reverse=True):
        intensity = row["flops"] / row["bytes"]
        line = line + 1 if last < 3 * intensity else 1
        last = intensity
        fig.add_annotation(
            x=np.log10(intensity),
            y=np.log10(attainable(intensity, machine) / 1e12),
            ax=0,
            ay=LABEL_PIXELS * line,
            text=row["kernel"],
            xanchor="left",
            yanchor="top",
            font={"size": 11},
            arrowhead=0,
            arrowwidth=1,
            arrowcolor=REFERENCE_COLOUR,
        )


ROUTINGS = {"even": "even", "skewed": "skewed", "kept": "16 experts live"}


def speedups(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How many times as fast as torch's grouped_mm our forward pass was: tokens, routing, times.

    rows: of the check, with name, sizes, routing and forward_ms. Layers of which only one of the
    two was timed are left out.
    """

    def of(name: str) -> dict[tuple[Any, ...], float]:
        mine = [row for row in rows if row["name"] == name and row.get("forward_ms")]
        return {(*row["sizes"], row.get("routing")): row["forward_ms"] for row in mine}

    ours, theirs = of("triton"), of("grouped_mm")
    return [
        {"tokens": key[0], "routing": key[-1], "times": theirs[key] / ours[key], "ms": ours[key]}
        for key in sorted(ours.keys() & theirs.keys(), key=str)
    ]


@kept
def measured_speedups(speeds: Sequence[Mapping[str, Any]], device: str) -> go.Figure:
    """`speedups` as measured on one GPU, a line for each way of routing."""
    fig = go.Figure()
    for number, (routing, words) in enumerate(ROUTINGS.items()):
        line = sorted((s for s in speeds if s["routing"] == routing), key=lambda s: s["tokens"])
        fig.add_trace(
            go.Scatter(
                x=[s["tokens"] for s in line],
                y=[s["times"] for s in line],
                customdata=[s["ms"] for s in line],
                name=f"{words} routing" if routing != "kept" else words,
                **_marks(number, alone=len(line) == 1),
                hovertemplate=(
                    f"{words}, %{{x:,}} tokens: %{{y:.2f}} times as fast, %{{customdata:.3f}} ms"
                    "<extra></extra>"
                ),
            )
        )
    style(fig, f"Forward pass of one layer against torch's grouped_mm, on {escape(device)}")
    _axes_of_speeds(fig, speeds, "Times as fast")
    legend_below(fig, rows=1).update_layout(height=360)
    return fig


def _marks(number: int, alone: bool) -> dict[str, Any]:
    """How a line looks. alone: it has one point, a ring that leaves others in sight."""
    colour, symbol = SEQUENTIAL[-1][1], SYMBOLS[number]
    ring = {"symbol": f"{symbol}-open", "size": 15, "color": colour, "line": {"width": 2}}
    if alone:
        return {"mode": "markers", "marker": ring}
    return {
        "mode": "lines+markers",
        "line": {"color": colour, "dash": DASHES[number]},
        "marker": {"symbol": symbol, "size": 8},
    }


@kept
def mask_savings(savings: Sequence[Mapping[str, Any]], num_experts: int, name: str) -> go.Figure:
    """How many times less roofline time a forward pass takes with fewer experts.

    savings: rows with tokens, kept and times, of one machine. One line a keep-k.
    """
    fig = go.Figure()
    kept = sorted({row["kept"] for row in savings if row["kept"] < num_experts})
    for number, keep_k in enumerate(kept):
        line = [row for row in savings if row["kept"] == keep_k]
        fig.add_trace(
            go.Scatter(
                x=[row["tokens"] for row in line],
                y=[row["times"] for row in line],
                name=f"{keep_k} of {num_experts} experts",
                mode="lines+markers",
                # One hue: these are neither models nor groups, but more and more of one thing.
                line={"color": SEQUENTIAL[-1][1], "dash": DASHES[number]},
                marker={"symbol": SYMBOLS[number], "size": 8},
                hovertemplate=(
                    f"{keep_k} experts, %{{x:,}} tokens: %{{y:.1f}} times as fast<extra></extra>"
                ),
            )
        )
    style(fig, f"Forward pass of one layer with fewer experts on {name}, by the roofline")
    _axes_of_speeds(fig, savings, "Speed-up over all experts (times)")
    legend_below(fig, rows=2).update_layout(height=400)
    return fig


def _axes_of_speeds(fig: go.Figure, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Numbers of tokens along, times as fast upward, and a line where nothing is gained."""
    fig.add_hline(y=1, line={"color": REFERENCE_COLOUR, "dash": "dot", "width": 1})
    ticks = sorted({row["tokens"] for row in rows})
    fig.update_xaxes(
        type="log", tickvals=ticks, ticktext=[f"{t:,}" for t in ticks], title_text="Tokens at once"
    )
    fig.update_yaxes(title_text=title, rangemode="tozero")
