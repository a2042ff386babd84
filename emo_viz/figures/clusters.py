"""Figures of clusters of documents or tokens: the maps, and where each group of them lies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from emo_viz.analysis.runs import Comparison
from emo_viz.figures.theme import (
    GROUP_COLOURS,
    OTHER_COLOUR,
    SELECTION_COLOUR,
    SEQUENTIAL,
    chart_config,
    coloured,
    style,
)

# A colour never stands alone: every group has a marker of its own, and its sign in the legend.
SYMBOLS: Final = {
    "circle": "●",
    "square": "■",
    "diamond": "◆",
    "triangle-up": "▲",
    "triangle-down": "▼",
    "cross": "✚",
    "x": "✖",
    "star": "★",
    "circle-open": "○",
    "square-open": "□",
}
SHIFT: Final = 3
OTHER_SYMBOL: Final = "diamond-open"
OTHER_SIGN: Final = "◇"
MARKER_SIZE: Final = 7
MAP_HEIGHT: Final = 460
ROW_HEIGHT: Final = 19
HEATMAP_TOP: Final = 72
HEATMAP_BOTTOM: Final = 116
DIMMED: Final = 0.1
OTHER_OPACITY: Final = 0.4
LABEL_SHIFT: Final = 10  # pixels above the place that it is given


@dataclass(frozen=True)
class Group:
    """The rows of one group and how they are drawn; `sign` is the marker as a character."""

    name: str
    rows: NDArray[np.int64]
    colour: str
    symbol: str
    sign: str


def map_config(name: str) -> dict[str, Any]:
    """Chart settings of a map, which is zoomed by the wheel and selected on by lasso or box."""
    buttons = {"modeBarButtonsToRemove": ["sendDataToCloud", "autoScale2d"]}
    return chart_config(name) | buttons | {"scrollZoom": True}


def colour_groups(
    names: Sequence[str], first: Sequence[str] = (), most: int = len(GROUP_COLOURS)
) -> list[Group]:
    """The `most` largest groups of rows, each with a look of its own, and the rest as one.

    names: the group of each row. first: groups that come first whatever their size. Up to ten
    groups differ in colour and marker; of more than ten, those of one colour differ in marker.
    """
    groups, inverse, sizes = np.unique(names, return_inverse=True, return_counts=True)
    claim = {name: place for place, name in enumerate(first)}
    order = sorted(
        range(len(groups)),
        key=lambda i: (claim.get(str(groups[i]), len(claim)), -sizes[i], groups[i]),
    )
    own = order[:most]
    drawn = [
        Group(str(groups[i]), np.flatnonzero(inverse == i), *_look(place))
        for place, i in enumerate(own)
    ]
    if len(order) > len(own):
        rest = np.flatnonzero(~np.isin(inverse, own))
        left = len(order) - len(own)
        name = f"{left:,} others" if left > 1 else str(groups[order[-1]])
        drawn.append(Group(name, rest, OTHER_COLOUR, OTHER_SYMBOL, OTHER_SIGN))
    return drawn


def _look(place: int) -> tuple[str, str, str]:
    """Colour, marker and sign of the group at `place`; every turn of the colours shifts markers."""
    turn, colour = divmod(place, len(GROUP_COLOURS))
    symbol, sign = list(SYMBOLS.items())[(colour + SHIFT * turn) % len(SYMBOLS)]
    return GROUP_COLOURS[colour], symbol, sign


def point_map(
    points: NDArray[np.float32],
    groups: Sequence[Group],
    hover: Sequence[str],
    title: str,
    axis: str,
    labels: Sequence[tuple[str, float, float]] = (),
    highlighted: NDArray[np.bool_] | None = None,
    selected: NDArray[np.int64] | None = None,
    marker_size: int = MARKER_SIZE,
) -> go.Figure:
    """Documents or tokens as points [D, 2] by group, with the hover text (HTML) of each.

    axis: name of the axes. labels: texts (HTML) with their place. highlighted [D]: the rest
    recedes. selected: rows drawn as selected. marker_size in pixels. Lasso is the default gesture;
    a point carries its row as customdata.
    """
    fig = go.Figure()
    for group in sorted(groups, key=lambda group: group.colour != OTHER_COLOUR):  # others below
        trace = _points(points, group, hover, highlighted, selected)
        fig.add_trace(trace.update(marker_size=marker_size))
    style(fig, title)
    fig.update_layout(
        height=MAP_HEIGHT,
        margin={"l": 28, "r": 8, "t": 40, "b": 28},
        showlegend=False,
        dragmode="lasso",
        hovermode="closest",
        uirevision="map",
        newselection={"line": {"color": SELECTION_COLOUR, "width": 2}},
    )
    low, high = points.min(axis=0), points.max(axis=0)
    for update, number in ((fig.update_xaxes, 0), (fig.update_yaxes, 1)):
        update(
            title_text=f"{axis} {number + 1} (no unit)",
            title_standoff=4,
            range=_padded(low[number], high[number]),
            showticklabels=False,
            showgrid=False,
        )
    fig.update_yaxes(scaleanchor="x")
    for text, x, y in labels:
        fig.add_annotation(
            text=text,
            x=x,
            y=y,
            yshift=LABEL_SHIFT,
            showarrow=False,
            font={"size": 11, "shadow": "auto"},  # legible over points of another group
        )
    return fig


@dataclass(frozen=True)
class Shown:
    """What a heatmap's rows and cells are: each `row` ("domain") has `items` ("documents").

    matched: equal numbers are matching clusters, so that all panels keep one order of them.
    """

    row: str
    items: str
    matched: bool


def share_heatmap(
    runs: Comparison, tables: dict[str, pd.DataFrame], title: str, shown: Shown
) -> go.Figure:
    """Share of each row's items in each cluster: one panel a run, one colour scale.

    tables: by run id, counts, groups (rows, the same in all) by clusters (columns). The order
    brings large shares to the diagonal: that of the rows in the table whose rows are most
    concentrated, that of the clusters there too or, unless matched, in each panel.
    """
    fig = make_subplots(
        cols=len(tables),
        shared_yaxes=True,
        horizontal_spacing=0.02,
        subplot_titles=[coloured(run) for run in runs],
    )
    first = max(tables.values(), key=concentration)
    rows = _diagonal_rows(_shares(first))
    for column, table in enumerate((tables[run.id] for run in runs), start=1):
        ordered = (first if shown.matched else table).iloc[rows]
        clusters = _diagonal_rows(_shares(ordered.T))
        fig.add_trace(_share_heatmap(table.iloc[rows, clusters], shown), row=1, col=column)
    style(fig, title)
    cells = ROW_HEIGHT * len(first)
    bar = _below(cells, f"% of the {shown.row}'s {shown.items}")
    fig.update_layout(
        height=cells + HEATMAP_TOP + HEATMAP_BOTTOM,
        margin={"t": HEATMAP_TOP, "b": HEATMAP_BOTTOM},
        coloraxis={"colorscale": SEQUENTIAL, "cmin": 0, "cmax": 100, "colorbar": bar},
    )
    fig.update_xaxes(title_text="Cluster", type="category")
    fig.update_xaxes(showgrid=False, tickangle=0)
    fig.update_yaxes(autorange="reversed", showgrid=False)
    return fig


def concentration(table: pd.DataFrame) -> float:
    """Share of a row's items in its largest cluster, mean over the rows."""
    return float(_shares(table).max(axis=1).mean())


def _below(cells: int, title: str) -> dict[str, Any]:
    """A colour bar under the panels, whose cells are that many pixels high: the width is theirs."""
    return {
        # Above the bar: beside it, the title would take the bar's own width.
        "title": {"text": title, "side": "top", "font": {"size": 12}},
        "orientation": "h",
        "thickness": 10,
        "len": 0.45,
        "x": 0,
        "xanchor": "left",
        "y": -56 / cells,
        "yanchor": "top",
    }


def _points(
    points: NDArray[np.float32],
    group: Group,
    hover: Sequence[str],
    highlighted: NDArray[np.bool_] | None,
    selected: NDArray[np.int64] | None,
) -> go.Scattergl:
    rows = group.rows
    usual = OTHER_OPACITY if group.colour == OTHER_COLOUR else 0.85
    opacity = usual if highlighted is None else np.where(highlighted[rows], 0.95, DIMMED)
    chosen = None if selected is None else np.flatnonzero(np.isin(rows, selected))
    return go.Scattergl(
        x=points[rows, 0],
        y=points[rows, 1],
        mode="markers",
        name=group.name,
        marker={
            "color": group.colour,
            "symbol": group.symbol,
            "opacity": opacity,
        },
        selected={"marker": {"opacity": 1}},
        unselected={"marker": {"opacity": DIMMED}},
        selectedpoints=chosen,
        customdata=rows,
        hovertext=[hover[row] for row in rows],
        hovertemplate="%{hovertext}<extra></extra>",
    )


def _padded(low: float, high: float) -> list[float]:
    """A range with room for whole markers at its ends."""
    room = 0.04 * (high - low) or 1.0
    return [float(low - room), float(high + room)]


def _shares(table: pd.DataFrame) -> NDArray[np.float64]:
    """Rows of counts as shares that sum to 1."""
    counts = table.to_numpy(np.float64)
    shares: NDArray[np.float64] = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return shares


def _diagonal_rows(shares: NDArray[np.float64]) -> list[int]:
    """Order of the rows: by the column with their largest share, then by that share."""
    best = shares.argmax(axis=1)
    return sorted(range(len(shares)), key=lambda i: (best[i], -shares[i, best[i]]))


def _share_heatmap(table: pd.DataFrame, shown: Shown) -> go.Heatmap:
    return go.Heatmap(
        z=(100 * _shares(table)).astype(np.float32),
        x=[str(cluster) for cluster in table.columns],
        y=list(table.index),
        customdata=table.to_numpy(np.int32),
        coloraxis="coloraxis",
        xgap=1,
        ygap=1,
        hovertemplate=(
            f"%{{y}}, cluster %{{x}}<br>%{{z:.0f}} % of the {shown.row}'s {shown.items} "
            "(%{customdata})<extra></extra>"
        ),
    )
