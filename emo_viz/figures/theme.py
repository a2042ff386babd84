"""Colours, fonts and the chart settings that every figure shares.

Every colour keeps a contrast of at least 3 against the light and the dark page, so a figure need
not know which of the two it stands on. The sequential and diverging scales fade into the page
instead of into white: a low value recedes in both.
"""

import html
import itertools
from typing import Any, Final

import plotly.graph_objects as go

from emo_viz.analysis.runs import Run

TEAL: Final = "#0c8a7f"
AMBER: Final = "#c96a04"
NEUTRAL_COLOUR: Final = "#7a7f87"  # of what belongs to both runs
RUN_COLOURS: Final = (TEAL, AMBER)  # by slot
RUN_COLOUR_NAMES: Final = ("teal", "amber")
RUN_SYMBOLS: Final = ("circle", "diamond")
MARKS = ("●", "◆")  # the same as signs of a text
SELECTION_COLOUR: Final = "#d6336c"
GRID_COLOUR: Final = "rgba(128, 132, 140, 0.22)"
REFERENCE_COLOUR: Final = "rgba(128, 132, 140, 0.9)"

# Plotly colour scales: pairs of position and colour.
SEQUENTIAL: Final = [
    [0.0, "rgba(118, 96, 234, 0.08)"],
    [0.25, "rgba(118, 96, 234, 0.32)"],
    [0.5, "rgba(118, 96, 234, 0.56)"],
    [0.75, "rgba(118, 96, 234, 0.8)"],
    [1.0, "rgba(104, 78, 230, 1.0)"],
]
# Better and worse, never which model: chosen by search, as far from teal and amber as these two
# can be for every kind of colour vision (tests/figures/test_theme.py). Colour alone says nothing
# to some: a line above or below goes with it.
WORSE, BETTER = "#a92ab3", "#1f98ed"
WORSE_NAME, BETTER_NAME = "magenta", "blue"
# Nats by which the loss of a token changes: beyond what rounding could do, and from where on a line
# below the token goes with its colour.
LEAST_CHANGE: Final = 0.1
MARKED_CHANGE: Final = 1.0
DIVERGING: Final = [  # from worse to better
    [0.0, "rgba(169, 42, 179, 1.0)"],
    [0.25, "rgba(169, 42, 179, 0.5)"],
    [0.5, "rgba(128, 132, 140, 0.1)"],
    [0.75, "rgba(31, 152, 237, 0.5)"],
    [1.0, "rgba(31, 152, 237, 1.0)"],
]
# Chosen by search: the smallest distance in OKLab between any two, and to OTHER_COLOUR, under
# normal, protan, deutan and tritan vision is 0.10. Never without a second mark all the same.
GROUP_COLOURS: Final = (
    "#4a6cd7",
    "#ba5d1b",
    "#2c605d",
    "#c09519",
    "#9b6b96",
    "#3cd0ee",
    "#992708",
    "#b1cc4e",
    "#6c399a",
    "#569ffe",
)
OTHER_COLOUR: Final = "#9aa0a6"

# Plotly's own picture would lack the legend and the line that says of what it is.
CHART_CONFIG: Final[dict[str, Any]] = {
    "displaylogo": False,
    "modeBarButtonsToRemove": [
        "sendDataToCloud",
        "select2d",
        "lasso2d",
        "autoScale2d",
        "toImage",
    ],
}


def style(fig: go.Figure, title: str) -> go.Figure:
    """Give `fig` the shared look and `title`; returns the same figure.

    Room is left above the plot for the titles of subplots, where there are any.

    The background is left to the page's theme, so that an exported image is readable too.
    """
    fig.update_layout(
        title={
            "text": title,
            "x": 0,
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 12},
            "font": {"size": 15},
        },
        margin={"l": 56, "r": 16, "t": 76 if fig.layout.annotations else 48, "b": 48},
        hoverlabel={"align": "left"},
        legend={"orientation": "h", "y": -0.2, "x": 0},
    )
    fig.update_xaxes(gridcolor=GRID_COLOUR, zeroline=False, automargin=True)
    fig.update_yaxes(gridcolor=GRID_COLOUR, zeroline=False, automargin=True)
    return fig


def legend_below(fig: go.Figure, rows: int = 1) -> go.Figure:
    """Put the legend, of up to `rows` lines, at the lower edge of `fig`; returns the same figure.

    It is held by the figure, not by the plot: a legend below the plot slides over the axis when
    the page becomes narrower.
    """
    fig.update_layout(
        legend={"y": 0.01, "yref": "container", "yanchor": "bottom"}, margin_b=64 + 20 * rows
    )
    return fig


def colour_of(run: Run) -> str:
    """The colour of a run: that of its slot."""
    return RUN_COLOURS[run.slot]


def colour_name_of(run: Run) -> str:
    """What the colour of a run is called."""
    return RUN_COLOUR_NAMES[run.slot]


def symbol_of(run: Run) -> str:
    """The marker of a run: that of its slot."""
    return RUN_SYMBOLS[run.slot]


def mark_of(run: Run) -> str:
    """The same as a sign of a text."""
    return MARKS[run.slot]


def label_of(run: Run) -> str:
    """The name of a run as Plotly's own small HTML shows it as it is."""
    return html.escape(run.label, quote=False)


def coloured(run: Run) -> str:
    """The name of a run in bold and in its colour, as HTML for Plotly."""
    return f'<b style="color:{colour_of(run)}">{label_of(run)}</b>'


def sentence_case(text: str) -> str:
    """Words as a title, such as a unit: "routed experts" becomes "Routed experts"."""
    return text[:1].upper() + text[1:]


def with_alpha(colour: str, alpha: float) -> str:
    """`#rrggbb` as an rgba() string, for bands and faint lines."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {alpha})"


def shades_of(colour: str) -> list[list[Any]]:
    """A sequential scale of `#rrggbb`, that fades into the page."""
    places = (0.0, 0.25, 0.5, 0.75, 1.0)
    return [[place, with_alpha(colour, round(0.08 + 0.92 * place, 2))] for place in places]


def between(first: Run, second: Run) -> list[list[Any]]:
    """A diverging scale of which of two runs: from the second's colour to the first's."""
    low, high = colour_of(second), colour_of(first)
    return [
        [0.0, with_alpha(low, 1.0)],
        [0.25, with_alpha(low, 0.5)],
        DIVERGING[2],
        [0.75, with_alpha(high, 0.5)],
        [1.0, with_alpha(high, 1.0)],
    ]


def colour_at(scale: list[list[Any]], place: float) -> str:
    """The colour of a scale of rgba() strings at `place` in 0..1, as an rgba() string."""
    place = min(max(place, 0.0), 1.0)
    for (low, below), (high, above) in itertools.pairwise(scale):
        if place <= high:
            weight = (place - low) / (high - low)
            pairs = zip(_channels(below), _channels(above), strict=True)
            mixed = [a + (b - a) * weight for a, b in pairs]
            return "rgba({:.0f}, {:.0f}, {:.0f}, {:.3f})".format(*mixed)
    raise AssertionError("a colour scale ends at 1")


def _channels(colour: str) -> list[float]:
    return [float(part) for part in colour[len("rgba(") : -1].split(",")]
