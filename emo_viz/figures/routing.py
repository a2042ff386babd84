"""Figures of one text's routing: along the text, and by layer.

A Plotly heatmap reports no clicks, so the map here is a heatmap under invisible markers whose
customdata is (position, layer, number of the run). The first run of a comparison stands on top;
the runs share every axis and every colour scale.

Shapes: P tokens shown (position 1 is the first, EOS is left out), L layers.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from emo_viz.analysis.runs import Comparison, Run
from emo_viz.figures.kept import kept
from emo_viz.figures.theme import (
    REFERENCE_COLOUR,
    SELECTION_COLOUR,
    SEQUENTIAL,
    colour_of,
    coloured,
    label_of,
    legend_below,
    sentence_case,
    style,
    symbol_of,
)

MOST_TICKS = 12


def along_text(
    runs: Comparison,
    entropy: Mapping[str, NDArray[np.float32]],
    loss: Mapping[str, NDArray[np.float32]],
    numbers: Sequence[int],
    tokens: Sequence[str],
    selected: int | None,
) -> go.Figure:
    """Router entropy [L, P] of every layer and loss [P] at every token, the runs on one scale.

    numbers [L]: what the layers are called. Clicks give a layer's place.
    """
    tokens, panels = _escaped(tokens), len(runs)
    fig = make_subplots(
        rows=panels + 1,
        shared_xaxes=True,
        vertical_spacing=0.08,
        row_heights=[0.3] * panels + [0.4],
    )
    for row, run in enumerate(runs, start=1):
        fig.add_trace(_entropy_heatmap(entropy[run.id]), row=row, col=1)
        targets = _entropy_targets(entropy[run.id], numbers, tokens, row - 1)
        fig.add_trace(targets, row=row, col=1)
        fig.add_trace(_loss_line(loss[run.id], tokens, run, row - 1), row=panels + 1, col=1)
        title = f"{coloured(run)}<br>layer"
        ticks = {"tickvals": list(range(len(numbers))), "ticktext": list(map(str, numbers))}
        fig.update_yaxes(title_text=title, **ticks, autorange="reversed", row=row, col=1)
    style(fig, "Router entropy (nats) and loss along the text")
    every = np.concatenate([entropy[run.id].ravel() for run in runs])
    axis = _entropy_axis(float(np.nanmin(every)), float(np.nanmax(every)))
    # The same revision for as long as the text is the same: another token keeps the zoom.
    fig.update_layout(
        coloraxis=axis, height=230 + 120 * panels, uirevision=f"{hash(tuple(tokens))}"
    )
    # The legend leaves the key of colours its half, the toolbar the title its line.
    legend_below(fig).update_layout(
        legend={"x": 0, "xref": "container"}, modebar={"orientation": "v"}
    )
    fig.update_yaxes(title_text="Loss<br>nats a token", rangemode="tozero", row=panels + 1, col=1)
    fig.update_xaxes(range=[0.5, len(tokens) + 0.5])
    fig.update_xaxes(title_text="Position in the text (tokens)", row=panels + 1, col=1)
    _mark_column(fig, selected, panels + 1)
    return fig


@kept
def by_layer(
    runs: Comparison,
    values: Mapping[str, NDArray[Any]],
    numbers: Sequence[int],
    title: str,
    unit: str,
    even_use: NDArray[np.float64] | None = None,
) -> go.Figure:
    """One number by layer [L] for each run; a dotted line, named at it, where even use [L] lies.

    numbers [L]: what the layers are called.
    """
    fig = go.Figure([_layer_line(values[run.id], numbers, run, unit) for run in runs])
    style(fig, title)
    legend_below(fig).update_layout(height=270)
    if even_use is not None:
        fig.add_trace(_even_line(even_use, numbers, unit))
        fig.add_annotation(_named_at(numbers[-1], float(even_use[-1]), "even use"))
    fig.update_xaxes(title_text="Layer", dtick=max(1, -(-len(numbers) // MOST_TICKS)))
    fig.update_yaxes(title_text=sentence_case(unit), rangemode="tozero")
    return fig


def _entropy_heatmap(entropy: NDArray[np.float32]) -> go.Heatmap:
    return go.Heatmap(
        z=entropy.astype(np.float32),
        x=_positions(entropy.shape[1]),
        coloraxis="coloraxis",
        hoverinfo="skip",
    )


def _entropy_targets(
    entropy: NDArray[np.float32], numbers: Sequence[int], tokens: Sequence[str], model: int
) -> go.Scattergl:
    layers, columns = np.indices(entropy.shape).reshape(2, -1)
    return _targets(
        x=columns + 1,
        y=layers,
        customdata=[
            columns + 1,
            layers,
            np.full(len(layers), model),
            entropy.ravel(),
            np.array(numbers)[layers],
        ],
        text=[tokens[column] for column in columns],
        what="layer %{customdata[4]}, entropy %{customdata[3]:.2f} nats",
    )


def _targets(
    x: NDArray[np.int64],
    y: NDArray[np.int64],
    customdata: list[NDArray[Any]],
    text: list[str],
    what: str,
) -> go.Scattergl:
    unseen = {"marker": {"opacity": 0}}
    return go.Scattergl(
        x=x.astype(np.float32),
        y=y.astype(np.float32),
        mode="markers",
        marker={"size": 6, "opacity": 0},
        selected=unseen,
        unselected=unseen,
        customdata=np.stack(customdata, axis=1).astype(np.float32),
        text=text,
        hovertemplate=f"<b>%{{text}}</b> (token %{{customdata[0]}})<br>{what}<extra></extra>",
        showlegend=False,
    )


def _loss_line(
    loss: NDArray[np.float32], tokens: Sequence[str], run: Run, index: int
) -> go.Scatter:
    positions = _positions(len(loss))
    ids = np.stack([positions, np.full(len(loss), -1), np.full(len(loss), index)], axis=1)
    return go.Scatter(
        x=positions,
        y=loss.astype(np.float32),
        mode="lines+markers",
        name=label_of(run),
        line={"color": colour_of(run), "width": 1.5},
        marker={"size": 4, "color": colour_of(run), "symbol": symbol_of(run)},
        selected={"marker": {"opacity": 1}},
        unselected={"marker": {"opacity": 1}},
        customdata=ids.astype(np.int32),
        text=list(tokens),
        hovertemplate="<b>%{text}</b> (token %{x})<br>loss %{y:.2f} nats"
        f"<extra>{label_of(run)}</extra>",
    )


def _layer_line(values: NDArray[Any], numbers: Sequence[int], run: Run, unit: str) -> go.Scatter:
    return go.Scatter(
        x=np.array(numbers),
        y=values,
        mode="lines+markers",
        name=label_of(run),
        line={"color": colour_of(run), "width": 2},
        marker={"size": 8, "symbol": symbol_of(run)},
        hovertemplate=f"layer %{{x}}: %{{y:.3~g}} {unit}<extra>{label_of(run)}</extra>",
    )


def _even_line(levels: NDArray[np.float64], numbers: Sequence[int], unit: str) -> go.Scatter:
    return go.Scatter(
        x=np.array(numbers),
        y=levels,
        mode="lines",
        name="Even use",
        showlegend=False,
        line={"color": REFERENCE_COLOUR, "width": 1.5, "dash": "dot"},
        hovertemplate=f"%{{y:.1f}} {unit}<extra>Even use</extra>",
    )


def _named_at(x: float, y: float, name: str) -> dict[str, Any]:
    """The name of a line above its right end: more rows of a legend would take its plot's room."""
    return {
        "x": x,
        "y": y,
        "text": name,
        "showarrow": False,
        "xanchor": "right",
        "yanchor": "bottom",
        "font": {"size": 11},
    }


def _entropy_axis(lowest: float, highest: float) -> dict[str, Any]:
    return {
        "colorscale": SEQUENTIAL,
        "cmin": lowest,
        "cmax": highest,
        "colorbar": _BAR_BELOW | {"nticks": 4, "tickangle": 0},
    }


def _mark_column(fig: go.Figure, selected: int | None, rows: int) -> None:
    if selected is not None:
        for row in range(1, rows + 1):
            fig.add_vrect(x0=selected - 0.5, x1=selected + 0.5, row=row, col=1, **_COLUMN_MARK)


def _escaped(tokens: Sequence[str]) -> list[str]:
    """Labels that Plotly's own small HTML shows as they are."""
    return [html.escape(token, quote=False) for token in tokens]


def _positions(tokens: int) -> NDArray[np.int32]:
    return np.arange(1, tokens + 1, dtype=np.int32)


# Under the figure, where it takes no width from the maps; the figure's title names the quantity.
_BAR_BELOW: dict[str, Any] = {
    "orientation": "h",
    "thickness": 10,
    "len": 0.45,
    "x": 1,
    "xanchor": "right",
    "yref": "container",
    "y": 0.005,
    "yanchor": "bottom",
}
_COLUMN_MARK: dict[str, Any] = {"line": {"color": SELECTION_COLOUR, "width": 1.5}}
