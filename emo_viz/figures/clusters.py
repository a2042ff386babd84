"""Figures of clusters of documents or tokens: the maps, and where each group of them lies."""

from collections.abc import Mapping, Sequence
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
    SEQUENTIAL,
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
ROW_HEIGHT: Final = 19
HEATMAP_TOP: Final = 72
HEATMAP_BOTTOM: Final = 116
# Six hues that are none of the runs' two, for families of groups. Their shades have one of these
# luminances, at which the contrast is 3 or more against the light and the dark page.
FAMILY_COLOURS: Final = ("#3f66d4", "#4f9a32", "#c8323c", "#8b4fc6", "#8f8310", "#1f8fc9")
SHADES: Final = (0.19, 0.27, 0.135)
# From low to high: darker and from cyan to crimson, steps as wide as the same contrast allows.
SCALE: Final = ("#0ea2c0", "#0b88ee", "#795ffd", "#b807dd", "#c00079")
STEPS: Final = len(SCALE)


@dataclass(frozen=True)
class Group:
    """The rows of one group and how they are drawn; `sign` is the marker as a character."""

    name: str
    rows: NDArray[np.int64]
    colour: str
    symbol: str
    sign: str


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


def family_groups(names: Sequence[str], families: Mapping[str, int]) -> list[Group]:
    """Groups by name: the colour says the family, shade and marker which of its members.

    names: the group of each row; families: the family of every one of them, from 0. Groups come by
    family, then by name. How a group looks depends on nothing but all the names.
    """
    found, inverse, _ = np.unique(names, return_inverse=True, return_counts=True)
    place = {str(name): i for i, name in enumerate(found)}
    members: dict[int, int] = {}
    drawn = []
    for name in sorted(place, key=lambda name: (families[name], name)):
        family = families[name]
        member = members[family] = members.get(family, -1) + 1
        rows = np.flatnonzero(inverse == place[name])
        drawn.append(Group(name, rows, *_family_look(family, member)))
    return drawn


def scale_groups(
    values: NDArray[np.floating], every: NDArray[np.floating], form: str, unit: str
) -> list[Group]:
    """Rows by their value [N], in up to `STEPS` groups, lowest first.

    every: the values of all maps that are compared. The groups divide these into parts of about as
    many, so that a colour means the same on each map. form: how a value is written (".2f").
    """
    limits = np.unique(np.quantile(every, np.linspace(0, 1, STEPS + 1)[1:-1]))
    bins, of_all = (np.searchsorted(limits, each, side="right") for each in (values, every))
    drawn = []
    found = np.unique(of_all)
    for place, each in enumerate(found):
        low, high = every[of_all == each].min(), every[of_all == each].max()
        ends = dict.fromkeys(f"{end:{form}}" for end in (low, high))
        colour = SCALE[round(place * (len(SCALE) - 1) / max(len(found) - 1, 1))]
        rows, name = np.flatnonzero(bins == each), f"{' to '.join(ends)} {unit}"
        drawn.append(Group(name, rows, colour, "circle", SYMBOLS["circle"]))
    return [group for group in drawn if len(group.rows)]


def _family_look(family: int, member: int) -> tuple[str, str, str]:
    """Colour, marker and sign of a member of a family; 30 of one family differ."""
    colour = FAMILY_COLOURS[family % len(FAMILY_COLOURS)]
    symbol, sign = list(SYMBOLS.items())[member % len(SYMBOLS)]
    return _shade(colour, SHADES[member % len(SHADES)]), symbol, sign


def _shade(colour: str, luminance: float) -> str:
    """A colour of the same hue and of another relative luminance (WCAG 2)."""
    linear = np.array([_linear(int(colour[i : i + 2], 16) / 255) for i in (1, 3, 5)])
    own = float(linear @ [0.2126, 0.7152, 0.0722])
    white = (luminance - own) / (1 - own)
    mixed = linear * luminance / own if white < 0 else linear + (1 - linear) * white
    channels = np.where(mixed <= 0.0031308, 12.92 * mixed, 1.055 * mixed ** (1 / 2.4) - 0.055)
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in channels.clip(0, 1))


def _linear(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4


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


def confusion_heatmap(runs: Comparison, table: pd.DataFrame, title: str, item: str) -> go.Figure:
    """Share of the items of each cluster of the first run (rows) in each of the second (columns).

    table: counts by the clusters' names. The order of the columns brings large shares to the
    diagonal.
    """
    first, second = runs
    rows = _diagonal_rows(_shares(table))
    ordered = table.iloc[rows]
    ordered = ordered.iloc[:, _diagonal_rows(_shares(ordered.T))]
    fig = go.Figure(_share_heatmap(ordered, Shown("cluster", f"{item}s", matched=False)))
    style(fig, title)
    cells = ROW_HEIGHT * len(ordered)
    bar = {"title": {"text": f"% of the row's {item}s", "side": "right"}, "thickness": 12}
    fig.update_layout(
        height=cells + HEATMAP_TOP + HEATMAP_BOTTOM,
        margin={"t": HEATMAP_TOP, "b": HEATMAP_BOTTOM},
        coloraxis={"colorscale": SEQUENTIAL, "cmin": 0, "cmax": 100, "colorbar": bar},
    )
    fig.update_xaxes(title_text=f"Cluster of {coloured(second)}", type="category", showgrid=False)
    fig.update_yaxes(title_text=f"Cluster of {coloured(first)}", type="category", showgrid=False)
    fig.update_xaxes(tickangle=-60, dtick=1, tickfont={"size": 11})
    fig.update_yaxes(autorange="reversed", dtick=1, tickfont={"size": 11})
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
