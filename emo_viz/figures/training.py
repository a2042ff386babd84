"""Figures of training runs: their curves one below the other, and the load of experts over steps.

Shapes: P points, S steps, E experts.
"""

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from emo_viz.figures.kept import Arguments, Shelf, kept
from emo_viz.figures.theme import (
    AMBER,
    GROUP_COLOURS,
    SEQUENTIAL,
    TEAL,
    style,
    with_alpha,
)

ROW_PIXELS, FIRST_PIXELS, EDGE_PIXELS = 190, 330, 150
EXTRA_COLOURS: Final = tuple(c for c in GROUP_COLOURS if c not in ("#2c605d", "#ba5d1b"))
DASHES: Final = ("solid", "solid", "dash", "dot", "dashdot", "longdash")
MOST_TIMES = 2.0  # even use: where the colours of the heatmap end at least
# A run in progress is another figure at each look: such figures push out only their like.
_SHELF = Shelf(8 << 20)


def _kept(make: Callable[Arguments, go.Figure]) -> Callable[Arguments, go.Figure]:
    return kept(make, _SHELF)


@dataclass(frozen=True)
class Metric:
    """A value of metrics.jsonl as it is drawn: its title with the unit, and how it is written.
    zero: whether its axis begins there; it then has no logarithmic one."""

    name: str
    title: str
    form: str = ".3f"
    zero: bool = False


METRICS: Final = (
    Metric("loss", "Training loss, nats a token"),
    Metric("load_balancing_loss", "Load-balancing loss (1 is even)"),
    Metric("router_z_loss", "Router z-loss"),
    Metric("grad_norm", "Gradient norm before clipping"),
    Metric("lr", "Learning rate", ".2e"),
    Metric("router_entropy", "Router entropy, nats"),
    Metric("dead_experts", "Dead experts, all layers", ".0f", zero=True),
    Metric("skipped_steps", "Skipped steps so far", ".0f", zero=True),
    Metric("load_max_over_mean", "Load, max / mean"),
    Metric("tokens_per_second", "Tokens a second", ",.0f"),
)
LOSS, HELDOUT = "loss", "heldout_loss"


@dataclass(frozen=True, eq=False)
class Line:
    """One run's curve of one value: x, y [P], what was measured (raw) and its smoothed form."""

    x: NDArray[Any]
    raw: NDArray[np.floating]
    smooth: NDArray[np.floating] | None = None
    smooth_x: NDArray[Any] | None = None


@dataclass(frozen=True)
class RunLook:
    """What a run is called and how its lines look. under: drawn first, so wider than the others,
    which may lie on it for all of their length."""

    label: str
    colour: str
    dash: str
    under: bool = False

    @property
    def width(self) -> float:
        return 3.5 if self.under else 1.5

    @property
    def marker(self) -> dict[str, Any]:
        """Of single measurements: a ring around those of the other runs."""
        ring = {"size": 12, "symbol": "diamond-open", "line": {"width": 2}}
        return {"color": self.colour, **(ring if self.under else {"size": 6, "symbol": "diamond"})}


def looks(labels: Sequence[str], slots: Sequence[int | None]) -> list[RunLook]:
    """A look for each run: those in a slot have its colour; where none is, the first two have them.

    No two share both colour and dash, up to several dozen runs.
    """
    free = (TEAL, AMBER) if all(slot is None for slot in slots) else ()
    rest = iter(
        [(colour, "solid") for colour in free]
        + [(colour, dash) for dash in DASHES[2:] for colour in EXTRA_COLOURS]
    )
    found = []
    for place, (label, slot) in enumerate(zip(labels, slots, strict=True)):
        colour, dash = next(rest) if slot is None else ((TEAL, AMBER)[slot], "solid")
        found.append(RunLook(label, colour, dash, under=place == 0 and len(labels) > 1))
    return found


def metric_of(name: str) -> Metric:
    """A value that the page does not know is drawn under its own name."""
    known = {metric.name: metric for metric in METRICS}
    return known.get(name) or Metric(name, html.escape(name[:40], quote=False), ".4~g")


@_kept
def curves(
    runs: Sequence[RunLook],
    lines: Mapping[str, Sequence[Line | None]],
    along: str,
    log: bool,
) -> go.Figure:
    """Every value of some runs: the losses on top, the others in two columns below.

    lines: by name of the value, one for each run, None where it lacks. along: "Steps" or "Tokens".
    log: a logarithmic vertical axis, where no value is 0.
    """
    rest = [name for name in lines if name not in (LOSS, HELDOUT)]
    rows = 1 + -(-len(rest) // 2)
    fig = _panels(rows, [metric_of(name).title for name in rest])
    for run, look in enumerate(runs):
        for name in (LOSS, HELDOUT):
            if name in lines and (line := lines[name][run]) is not None:
                _draw(fig, look, line, metric_of(name), 1, 1, heldout=name == HELDOUT)
        for place, name in enumerate(rest):
            if (line := lines[name][run]) is not None:
                _draw(fig, look, line, metric_of(name), 2 + place // 2, 1 + place % 2)
    _axes(fig, [LOSS, *rest], lines, rows, along, log)
    style(fig, "Loss, nats a token (thick: smoothed; markers: held-out documents)")
    height = FIRST_PIXELS + ROW_PIXELS * (rows - 1) + EDGE_PIXELS
    fig.update_layout(
        height=height,
        margin={"t": 76, "b": 50},
        legend={"orientation": "h", "y": 1, "yref": "paper", "yanchor": "bottom", "x": 0},
        hovermode="x",
        uirevision="training",
    )
    return fig


def _panels(rows: int, titles: Sequence[str]) -> go.Figure:
    heights = [FIRST_PIXELS, *[ROW_PIXELS] * (rows - 1)]
    specs: list[list[dict[str, int] | None]] = [[{"colspan": 2}, None]]
    specs += [[{}, {}] for _ in range(rows - 1)]
    total = sum(heights)
    return make_subplots(
        rows,
        2,
        specs=specs,
        row_heights=[height / total for height in heights],
        subplot_titles=["", *titles],
        vertical_spacing=min(0.055, 62 / total),
        horizontal_spacing=0.09,
    ).update_annotations(font_size=13)


def _draw(
    fig: go.Figure,
    look: RunLook,
    line: Line,
    metric: Metric,
    row: int,
    column: int,
    heldout: bool = False,
) -> None:
    name = html.escape(look.label, quote=False)
    told = "held out " if heldout else ""
    hover = f"{name}: {told}%{{y:{metric.form}}}<extra></extra>"
    first = row == 1 and not heldout
    group = {"legendgroup": look.label, "showlegend": False}
    if heldout:
        trace = go.Scatter(
            x=line.x,
            y=line.raw,
            mode="markers+lines",
            marker=look.marker,
            line={"color": look.colour, "width": 1, "dash": "dot"},
            hovertemplate=hover,
            name=f"{name}, held out",
        )
        fig.add_trace(trace.update(group), row, column)
        return
    if line.smooth is not None:
        faint = go.Scatter(
            x=line.x,
            y=line.raw,
            mode="lines",
            line={"color": with_alpha(look.colour, 0.25), "width": 1},
            hoverinfo="skip",
        )
        fig.add_trace(faint.update(group), row, column)
    thick = go.Scatter(
        x=line.x if line.smooth_x is None else line.smooth_x,
        y=line.raw if line.smooth is None else line.smooth,
        mode="lines" if len(line.x) > 1 else "markers",
        line={"color": look.colour, "width": look.width, "dash": look.dash},
        hovertemplate=hover,
        name=name,
    )
    fig.add_trace(thick.update(group | {"showlegend": first}), row, column)


def _axes(
    fig: go.Figure,
    names: Sequence[str],
    lines: Mapping[str, Sequence[Line | None]],
    rows: int,
    along: str,
    log: bool,
) -> None:
    matches = {"matches": "x", "tickformat": "~s" if along == "Tokens" else ",d"}
    fig.update_xaxes(**matches, nticks=7)
    for place, name in enumerate(names):
        row, column = (1, 1) if place == 0 else (2 + (place - 1) // 2, 1 + (place - 1) % 2)
        last = row == rows or place + 2 >= len(names) and place > 0
        fig.update_xaxes(title_text=along if last else None, row=row, col=column)
        metric = metric_of(name)
        if metric.zero:
            fig.update_yaxes(rangemode="tozero", row=row, col=column)
        elif log and _all_positive(lines.get(name, ())):
            fig.update_yaxes(type="log", row=row, col=column)
        if name == "lr":
            fig.update_yaxes(tickformat=".0e", row=row, col=column)
        if name == "tokens_per_second":
            fig.update_yaxes(rangemode="tozero", tickformat="~s", row=row, col=column)


def _all_positive(lines: Sequence[Line | None]) -> bool:
    there = [line for line in lines if line is not None and len(line.raw)]
    return bool(there) and all(float(line.raw.min()) > 0 for line in there)


@_kept
def loads(
    steps: NDArray[np.integer],
    times: NDArray[np.floating],
    label: str,
    layer: int,
    what: str,
    highest: float,
) -> go.Figure:
    """How much every expert of a layer is used over steps: times [S, E], of even use.

    what: "load" or another measure of use. highest: where the colours end, the same for all runs
    that stand side by side. An expert that a layer lacks is NaN.
    """
    routed = np.isfinite(times).any(axis=0)
    ordered = times[:, routed].T
    fig = go.Figure(
        go.Heatmap(
            x=[f"{step:,}" for step in steps.tolist()],
            y=np.arange(len(ordered)),
            z=ordered.astype(np.float32),
            zmin=0,
            zmax=highest,
            colorscale=SEQUENTIAL,
            colorbar={"title": {"text": "Times even use"}, "thickness": 12},
            customdata=np.flatnonzero(routed)[:, None].repeat(len(steps), 1),
            hovertemplate="step %{x}, expert %{customdata}: %{z:.2f} times even use<extra></extra>",
        )
    )
    style(fig, f"{html.escape(label, quote=False)}: {what} of layer {layer}'s experts")
    fig.update_xaxes(title_text="Step", type="category", nticks=10, showgrid=False)
    fig.update_yaxes(title_text="Expert", autorange="reversed", showgrid=False)
    return fig.update_layout(height=420)


def colour_end(times: Sequence[NDArray[np.floating]]) -> float:
    """Where the colours of heatmaps that stand side by side end: nearly all cells are below."""
    ends = [float(np.nanquantile(each, 0.995)) for each in times if np.isfinite(each).any()]
    return max([MOST_TIMES, *ends])
