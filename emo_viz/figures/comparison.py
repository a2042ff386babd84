"""One number of each run with its interval, and the level of chance: the home page's charts."""

from collections.abc import Mapping
from dataclasses import dataclass

import plotly.graph_objects as go

from emo_viz.analysis.bootstrap import Interval
from emo_viz.analysis.runs import Comparison, Run
from emo_viz.figures.kept import kept
from emo_viz.figures.theme import (
    REFERENCE_COLOUR,
    colour_of,
    label_of,
    sentence_case,
    style,
    symbol_of,
)

ROW_HEIGHT = 40
AROUND = 130  # title and axis
NEAR = 0.12  # of the axis: half of a number below its point, in a chart a third of a page wide


@dataclass(frozen=True)
class Compared:
    """The number of each run by its id, what it counts, and the level of chance, if known.

    form: how the number is written, as in the words beside the chart.
    """

    values: Mapping[str, Interval]
    unit: str
    chance: float | None = None
    chance_label: str = ""
    form: str = ".3g"


@kept
def by_run(runs: Comparison, compared: Compared, title: str) -> go.Figure:
    """A row a run, the first one above: a point with its 95 % interval, on one axis from 0."""
    fig = go.Figure([_point(run, compared, _room(compared)) for run in runs])
    if compared.chance is not None:
        fig.add_vline(
            x=compared.chance,
            line={"dash": "dot", "color": REFERENCE_COLOUR, "width": 1.5},
            annotation={"text": compared.chance_label, "font_size": 11},
            annotation_position="top",
        )
    style(fig, title)
    fig.update_layout(height=AROUND + ROW_HEIGHT * len(runs), showlegend=False, margin_t=66)
    fig.update_xaxes(title_text=sentence_case(compared.unit), rangemode="tozero")
    fig.update_yaxes(range=[len(runs) - 0.3, -0.5], showgrid=False)
    return fig


def _room(compared: Compared) -> float:
    """How near the line of chance may be to a number below its point without striking it."""
    known = [value.high for value in compared.values.values()]
    return NEAR * max(known + [compared.chance or 0])


def _point(run: Run, compared: Compared, room: float) -> go.Scatter:
    name, value, unit = label_of(run), compared.values[run.id], compared.unit
    mean, low, high = (f"{each:{compared.form}}" for each in (value.mean, value.low, value.high))
    beside = compared.chance is not None and abs(value.mean - compared.chance) < room
    side = "right" if beside and value.mean >= (compared.chance or 0) else "left"
    return go.Scatter(
        x=[value.mean],
        y=[name],
        mode="markers+text",
        text=[f"  {mean}  "],
        textposition=f"bottom {side}" if beside else "bottom center",
        cliponaxis=False,
        marker={"size": 11, "color": colour_of(run), "symbol": symbol_of(run)},
        error_x={
            "symmetric": False,
            "array": [value.high - value.mean],
            "arrayminus": [value.mean - value.low],
            "thickness": 3,
            "width": 0,
            "color": colour_of(run),
        },
        hovertemplate=f"{name}: {mean} {unit}<br>95 % interval {low} to {high}<extra></extra>",
    )
