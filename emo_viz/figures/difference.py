"""Figures of two runs that routed the same tokens: where they agree and part, what it costs.

How much two runs differ is neither run's own: it is drawn in one colour, that of the sequential
scale. Shapes: T tokens, L layers, D documents.
"""

import html
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from emo_viz.analysis.bootstrap import Interval
from emo_viz.analysis.difference import LayerDifference, LossBin
from emo_viz.analysis.runs import Comparison
from emo_viz.figures.kept import kept
from emo_viz.figures.theme import (
    NEUTRAL_COLOUR,
    REFERENCE_COLOUR,
    colour_of,
    label_of,
    legend_below,
    style,
    symbol_of,
)

DIFFERENCE_COLOUR = "#7660ea"  # the sequential scale's, opaque
PANEL_PIXELS = 300
MOST_WHOLE = 8  # positions: of so few, Plotly would name halves
SMALLEST_LOSS = 1e-5  # nats: the lower end of a logarithmic axis


@kept
def agreement(layers: Sequence[LayerDifference], names: Sequence[int]) -> go.Figure:
    """By layer: the share of a token's experts that both runs chose, the share of tokens with
    exactly the same ones, both with 95 % intervals over documents, and the former by chance."""
    fig = go.Figure(
        [
            _line([one.shared for one in layers], names, "Experts in common", "circle", "solid"),
            _line([one.same for one in layers], names, "All experts alike", "square", "dash"),
            go.Scatter(
                x=_places(names),
                text=_texts(names),
                y=[one.chance_shared for one in layers],
                mode="lines",
                name="In common by chance",
                line={"color": REFERENCE_COLOUR, "width": 1.5, "dash": "dot"},
                hovertemplate="layer %{text}: %{y:.1%} by chance<extra></extra>",
            ),
        ]
    )
    style(fig, "Agreement of the chosen experts by layer")
    _layer_axis(fig, names)
    top = max(max(_top(one.shared), _top(one.same), one.chance_shared) for one in layers)
    fig.update_yaxes(title_text="Share", tickformat=".0~%", range=[0, min(1.04, 1.25 * top)])
    return legend_below(fig, rows=2).update_layout(height=PANEL_PIXELS)


@kept
def weight(layers: Sequence[LayerDifference], names: Sequence[int]) -> go.Figure:
    """By layer: how much of a token's gate weight went to other experts, or from one to another."""
    moved = [one.weight for one in layers if one.weight is not None]
    fig = go.Figure(_line(moved, names, "Gate weight moved", "circle", "solid"))
    style(fig, "Gate weight that moved, by layer")
    _layer_axis(fig, names)
    fig.update_yaxes(title_text="Share of a token's weight", tickformat=".3~p", rangemode="tozero")
    return fig.update_layout(height=PANEL_PIXELS, showlegend=False)


@kept
def divergence(
    first_layer: NDArray[np.floating], parts_at: NDArray[np.integer], names: Sequence[int]
) -> go.Figure:
    """Where routing first parts: tokens by layer [L + 1, the last never], documents by position.

    parts_at [D]: the place of each document's first token that is routed otherwise, -1 for none.
    A single document has no such distribution, and its panel is left out.
    """
    several = len(parts_at) > 1
    titles = ["Tokens, by the layer", "Documents, by the token"]
    fig = make_subplots(
        cols=2 if several else 1,
        horizontal_spacing=0.14,
        subplot_titles=titles if several else titles[:1],
    )
    labels = [*_texts(names), "never"]
    hover = [*(f"part first in layer {name}" for name in names), "never part"]
    bars = go.Bar(
        x=_places(labels),
        y=first_layer,
        marker_color=[DIFFERENCE_COLOUR] * len(names) + [NEUTRAL_COLOUR],
        text=hover,
        textposition="none",
        hovertemplate="%{y:.1%} of the tokens %{text}<extra></extra>",
        showlegend=False,
    )
    fig.add_trace(bars, row=1, col=1)
    if several:
        fig.add_trace(_parted(parts_at), row=1, col=2)
        few = int(parts_at.max()) < MOST_WHOLE
        ticks = {"dtick": 1} if few else {}
        fig.update_xaxes(title_text="Up to position", rangemode="tozero", **ticks, row=1, col=2)
    fig.update_annotations(font_size=12)
    style(fig, "Where the runs first differ")
    fig.update_xaxes(title_text="Layer", row=1, col=1, **_ticks(labels))
    fig.update_yaxes(tickformat=".0%", range=[0, 1.04])
    fig.update_yaxes(title_text="Share", row=1, col=1)
    return fig.update_layout(height=PANEL_PIXELS)


@kept
def loss(
    runs: Comparison,
    bins: Sequence[LossBin],
    overlap: NDArray[np.floating],
    change: NDArray[np.floating],
    tokens: Sequence[str],
) -> go.Figure:
    """The size of the loss difference against the mean overlap: bins of all tokens with intervals
    over documents, and behind them single tokens.

    overlap, change [T] (second less first, nats), tokens (their names): a token has the colour of
    the run that predicts it better.
    """
    first, second = runs
    fig = go.Figure()
    escaped = np.array([html.escape(token, quote=False) for token in tokens], dtype=object)
    for run, better in ((first, change > 0), (second, change < 0)):
        fig.add_trace(
            go.Scatter(
                x=overlap[better],
                y=np.maximum(np.abs(change[better]), SMALLEST_LOSS),
                mode="markers",
                name=f"{label_of(run)} predicts better",
                marker={"color": colour_of(run), "symbol": symbol_of(run), "size": 6},
                opacity=0.55,
                customdata=change[better],
                text=escaped[better],
                hovertemplate="<b>%{text}</b><br>overlap %{x:.2f}, loss difference "
                "%{customdata:+.4f} nats<extra></extra>",
            )
        )
    fig.add_trace(_loss_bins(bins))
    style(fig, "Size of the loss difference against the agreement")
    fig.update_xaxes(title_text="Mean overlap (Jaccard) over the layers")
    fig.update_yaxes(title_text="Nats a token", type="log", tickformat="~g")
    return legend_below(fig, rows=3).update_layout(height=PANEL_PIXELS + 60)


def _loss_bins(bins: Sequence[LossBin]) -> go.Scatter:
    means = [max(one.size.mean, SMALLEST_LOSS) for one in bins]
    return go.Scatter(
        x=[one.overlap for one in bins],
        y=means,
        error_y=_bars([one.size for one in bins]),
        mode="lines+markers",
        name="Mean over all tokens",
        line={"color": DIFFERENCE_COLOUR, "width": 2},
        marker={"size": 8},
        customdata=[[one.low, one.high, one.tokens] for one in bins],
        hovertemplate="overlap %{customdata[0]:.2f} to %{customdata[1]:.2f}: %{y:.4f} nats<br>"
        "%{customdata[2]:,} tokens<extra></extra>",
    )


def _parted(parts_at: NDArray[np.integer]) -> go.Scatter:
    """The share of documents whose routing has parted up to each position."""
    parted = np.sort(parts_at[parts_at >= 0]) + 1
    shares = np.arange(1, len(parted) + 1) / len(parts_at)
    return go.Scatter(
        x=[0, *parted.tolist()],
        y=[0, *shares.tolist()],
        mode="lines+markers",
        line={"color": DIFFERENCE_COLOUR, "width": 2, "shape": "hv"},
        marker={"size": 4},
        hovertemplate="up to token %{x}: %{y:.0%} of the documents<extra></extra>",
        showlegend=False,
    )


def _line(
    values: Sequence[Interval], names: Sequence[int], name: str, symbol: str, dash: str
) -> go.Scatter:
    return go.Scatter(
        x=_places(names),
        text=_texts(names),
        y=[one.mean for one in values],
        error_y=_bars(values),
        mode="lines+markers",
        name=name,
        line={"color": DIFFERENCE_COLOUR, "width": 2, "dash": dash},
        marker={"size": 7, "symbol": symbol},
        customdata=[_words(one) for one in values],
        hovertemplate=f"layer %{{text}}: %{{customdata}}<extra>{name}</extra>",
    )


def _words(one: Interval) -> str:
    return f"{one.mean:.2%}" + ("" if one.n == 1 else f" [{one.low:.2%}, {one.high:.2%}]")


def _bars(values: Sequence[Interval]) -> dict[str, Any]:
    """The intervals, where there are several documents."""

    def reach(of: Callable[[Interval], float]) -> list[float]:
        return [0.0 if one.n == 1 else max(0.0, of(one)) for one in values]

    return {
        "type": "data",
        "array": reach(lambda one: one.high - one.mean),
        "arrayminus": reach(lambda one: one.mean - one.low),
        "thickness": 1.5,
        "width": 3,
    }


def _top(one: Interval) -> float:
    """Where what is drawn of it ends."""
    return one.mean if one.n == 1 else max(one.mean, one.high)


def _places(names: Sequence[object]) -> list[int]:
    return list(range(len(names)))


def _texts(names: Sequence[int]) -> list[str]:
    return [str(name) for name in names]


def _ticks(labels: Sequence[str]) -> dict[str, Any]:
    """Every label where there is room, else some, and always the last."""
    step = -(-len(labels) // 12)
    shown = sorted({*range(0, len(labels), step), len(labels) - 1})
    return {"tickvals": shown, "ticktext": [labels[place] for place in shown]}


def _layer_axis(fig: go.Figure, names: Sequence[int]) -> None:
    fig.update_xaxes(title_text="Layer", **_ticks(_texts(names)))
