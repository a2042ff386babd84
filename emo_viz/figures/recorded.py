"""The figure of a trace without a model: which experts of every layer are used how much.

Shapes: L layers, R routed experts of the largest layer.
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from emo_viz.figures.kept import kept
from emo_viz.figures.theme import SEQUENTIAL, style

PIXELS_A_LAYER, FRAME_PIXELS, MOST_PIXELS = 22, 150, 900


@kept
def expert_use(
    used: NDArray[np.floating],
    routed: Sequence[int],
    layers: Sequence[int],
    of: str,
) -> go.Figure:
    """How much each expert is used [L, R], layers down, experts across.

    routed: experts of each layer; what a layer lacks is left blank. layers: the model's own numbers
    of them. of: what the shares are of, "tokens" or "choices".
    """
    values = np.array(used, np.float32)
    values[np.arange(values.shape[1]) >= np.array(routed)[:, None]] = np.nan
    fig = go.Figure(
        go.Heatmap(
            z=values,
            coloraxis="coloraxis",
            customdata=np.broadcast_to(np.array(layers)[:, None], values.shape),
            hovertemplate=f"Layer %{{customdata}}, expert %{{x}}<br>%{{z:.1%}} of {of}"
            "<extra></extra>",
        )
    )
    style(fig, f"Share of {of} (colour) that each expert has in each layer")
    height = min(FRAME_PIXELS + PIXELS_A_LAYER * len(layers), MOST_PIXELS)
    axis = {"colorscale": SEQUENTIAL, "cmin": 0, "colorbar": {"tickformat": ".0%"}}
    fig.update_layout(height=height, coloraxis=axis)
    fig.update_xaxes(title_text="Expert", showgrid=False)
    fig.update_yaxes(title_text="Layer", autorange="reversed", showgrid=False)
    fig.update_yaxes(tickvals=list(range(len(layers))), ticktext=[str(layer) for layer in layers])
    return fig
