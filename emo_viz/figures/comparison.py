"""One number of each model with its interval, and the level of chance: the home page's charts."""

from dataclasses import dataclass

import plotly.graph_objects as go

from emo_viz.analysis.bootstrap import Interval
from emo_viz.figures.theme import (
    MODEL_COLOURS,
    MODEL_SYMBOLS,
    REFERENCE_COLOUR,
    sentence_case,
    style,
)


@dataclass(frozen=True)
class Compared:
    """The number of each model, what it counts, and the level of chance, if known."""

    emo: Interval
    standard: Interval
    unit: str
    chance: float | None = None
    chance_label: str = ""


def two_models(compared: Compared, title: str) -> go.Figure:
    """EMO above, standard MoE below: a point with its 95 % interval, on one axis from 0."""
    rows = (
        ("EMO", compared.emo, MODEL_COLOURS["emo"], MODEL_SYMBOLS["emo"]),
        ("Standard MoE", compared.standard, MODEL_COLOURS["standard"], MODEL_SYMBOLS["standard"]),
    )
    fig = go.Figure([_point(*row, unit=compared.unit) for row in rows])
    if compared.chance is not None:
        fig.add_vline(
            x=compared.chance,
            line={"dash": "dot", "color": REFERENCE_COLOUR, "width": 1.5},
            annotation={"text": compared.chance_label, "font_size": 11},
            annotation_position="top",
        )
    style(fig, title)
    fig.update_layout(height=210, showlegend=False, margin_t=66)
    fig.update_xaxes(title_text=sentence_case(compared.unit), rangemode="tozero")
    fig.update_yaxes(range=[1.7, -0.5], showgrid=False)
    return fig


def _point(name: str, value: Interval, colour: str, symbol: str, unit: str) -> go.Scatter:
    return go.Scatter(
        x=[value.mean],
        y=[name],
        mode="markers+text",
        text=[f"  {value.mean:.3g}"],
        textposition="bottom center",
        cliponaxis=False,
        marker={"size": 11, "color": colour, "symbol": symbol},
        error_x={
            "symmetric": False,
            "array": [value.high - value.mean],
            "arrayminus": [value.mean - value.low],
            "thickness": 3,
            "width": 0,
            "color": colour,
        },
        hovertemplate=f"{name}: {value.mean:.3g} {unit}<br>95 % interval {value.low:.3g} to "
        f"{value.high:.3g}<extra></extra>",
    )
