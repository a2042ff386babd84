"""Figure of two pins: how far a model routes them alike, by layer."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from emo_viz.analysis.alike import Alike
from emo_viz.analysis.runs import Comparison
from emo_viz.figures.theme import colour_of, label_of, legend_below, style, symbol_of


def by_layer(
    runs: Comparison,
    alike: Mapping[str, Alike],
    numbers: Mapping[str, Sequence[int]],
    title: str,
    reference: str,
) -> go.Figure:
    """Overlap [L] of each run as a line, and dotted what it is to be held against.

    numbers: the model's own number of each layer. reference: what the dotted line is.
    """
    fig = go.Figure()
    for run in runs:
        one, layers = alike[run.id], list(numbers[run.id])
        line = {"color": colour_of(run), "width": 3}
        fig.add_scatter(
            x=layers,
            y=one.overlap,
            mode="lines+markers",
            name=label_of(run),
            line=line,
            cliponaxis=False,
            marker={"symbol": symbol_of(run), "size": 10},
            hovertemplate="layer %{x}: %{y:.0%}",
        )
        if one.reference is not None:
            fig.add_scatter(
                x=layers,
                y=one.reference,
                mode="lines",
                name=f"{label_of(run)}, {reference}",
                line=line | {"dash": "dot", "width": 2},
                hovertemplate="layer %{x}: %{y:.0%}",
            )
    style(fig, title)
    legend_below(fig, rows=2).update_layout(height=330)
    fig.update_xaxes(title_text="Layer", dtick=1 if len(max(numbers.values(), key=len)) < 20 else 5)
    fig.update_yaxes(title_text="Experts in common", tickformat=".0%", range=[-0.03, 1.03])
    return fig
