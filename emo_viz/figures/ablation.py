"""Figures of expert subsets: which experts one keeps; the axes of the loss against keep-k."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from emo_viz.analysis.curves import FULL
from emo_viz.analysis.runs import Comparison, Run
from emo_viz.analysis.widths import in_words
from emo_viz.figures.theme import (
    GRID_COLOUR,
    REFERENCE_COLOUR,
    colour_of,
    coloured,
    label_of,
    legend_below,
    style,
    symbol_of,
)

Measure = Literal["increase", "loss"]

AXIS_TITLES: dict[str, str] = {
    "increase": "Loss increase over all experts (nats a token)",
    "loss": "Held-out loss (nats a token)",
}
MOST_TICKS = 6


@dataclass(frozen=True)
class Experts:
    """How many experts the layers of each run have, shared ones counted; runs that differ in the
    most a layer has stand on an axis of shares."""

    of_run: Mapping[str, Sequence[int]]

    @property
    def as_shares(self) -> bool:
        return len({max(counts) for counts in self.of_run.values()}) > 1

    def places(self, run: str, keep_k: Any) -> Any:
        """Where keep-k, one or many, stands on the axis: as it is, or in percent."""
        return 100 * keep_k / max(self.of_run[run]) if self.as_shares else keep_k

    def title(self) -> str:
        """Of the axis."""
        if self.as_shares:
            return "Share of the experts kept in every layer (log scale)"
        most = in_words([count for counts in self.of_run.values() for count in counts])
        return f"Experts kept in every layer, of {most} (keep-k, log scale)"


def line_of(own: pd.DataFrame, method: str) -> pd.DataFrame:
    """The points of one method and, at its right end, the full model.

    own: rows of the table of `analysis.curves.Measured` of one run.
    """
    found = own[own["method"] == method]
    full = own[own["method"] == FULL]
    return pd.concat([found, full]).sort_values("keep_k") if len(found) else found


def axis_ticks(values: Sequence[float]) -> tuple[float, float, list[tuple[float, str]]]:
    """Least and greatest place of a linear axis that holds the values, and its ticks in words."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = max(high - low, 1e-3) * 0.06
    low, high = low - room, high + room
    rough = (high - low) / MOST_TICKS
    unit = 10.0 ** np.floor(np.log10(rough))
    step = next(unit * n for n in (1, 2, 5, 10) if unit * n >= rough)
    digits = max(0, -int(np.floor(np.log10(step))))
    first = int(np.ceil(low / step))
    places = [step * n for n in range(first, int(np.floor(high / step)) + 1)]
    ticks = [(float(place), f"{place:.{digits}f}".replace("-", "\u2212")) for place in places]
    return float(low), float(high), ticks


def kept_map(
    runs: Comparison,
    kept: Mapping[str, Sequence[Sequence[int]]],
    experts: Mapping[str, Sequence[int]],
    shared: bool = True,
    numbers: Mapping[str, Sequence[int]] | None = None,
) -> go.Figure:
    """Which experts of every layer are kept: layers (down) by expert ids (across), a panel a run.

    kept: by run, the kept ids of each layer, shared experts included. experts: by run, how many
    each layer has; where that is fewer than another has, the row ends there. shared: whether there
    is a shared expert. numbers: by run, what its layers are called, if not 0, 1, 2, ...
    """
    fig = make_subplots(
        rows=len(runs),
        shared_xaxes=True,
        vertical_spacing=0.16,
        subplot_titles=[coloured(run) for run in runs],
    )
    widest = max(max(experts[run.id]) for run in runs)
    for row, run in enumerate(runs, start=1):
        cells = _kept_cells(run, kept[run.id], experts[run.id], widest)
        names = range(len(kept[run.id])) if numbers is None else numbers[run.id]
        fig.add_trace(cells.update(y=list(map(str, names))), row=row, col=1)
    style(fig, "Kept experts (filled) of every layer")
    fig.update_yaxes(title_text="Layer", type="category", autorange="reversed", showgrid=False)
    fig.update_xaxes(showgrid=False, dtick=16)
    even = all(len(set(experts[run.id])) == 1 for run in runs)
    last = "the last" if even else "each layer's last"
    said = f" ({last} is the shared one)" if shared else ""
    fig.update_xaxes(title_text=f"Expert id{said}", row=len(runs), col=1)
    num_layers = max(map(len, kept.values()))
    fig.update_layout(height=130 + len(runs) * (34 + 22 * num_layers), margin_t=72)
    return fig


def _kept_cells(
    run: Run, layers: Sequence[Sequence[int]], experts: Sequence[int], widest: int
) -> go.Heatmap:
    kept_LE = np.zeros((len(layers), widest), np.uint8)
    for layer, own in enumerate(layers):
        kept_LE[layer, list(own)] = 1
    absent_LE = np.arange(widest) >= np.array(experts)[:, None]
    return go.Heatmap(
        z=np.where(absent_LE, np.nan, kept_LE) if absent_LE.any() else kept_LE,
        hoverongaps=False if absent_LE.any() else None,
        zmin=0,
        zmax=1,
        colorscale=[[0, GRID_COLOUR], [1, colour_of(run)]],
        showscale=False,
        xgap=1,
        ygap=2,
        customdata=np.where(kept_LE, "kept", "cut"),
        hovertemplate=f"{label_of(run)}, layer %{{y}}, expert %{{x}}: %{{customdata}}"
        "<extra></extra>",
    )


def overlap_bars(runs: Comparison, shares: pd.DataFrame, chance: float) -> go.Figure:
    """Share of kept routed experts that other domains' subsets keep too, mean over layers.

    shares: one row a domain, a column a run (share of one). chance: that of random subsets.
    """
    fig = go.Figure([_overlap_points(shares, run) for run in runs])
    fig.add_vline(
        x=100 * chance,
        line={"color": REFERENCE_COLOUR, "width": 1.5, "dash": "dot"},
        annotation={"text": "by chance", "font_size": 11},
        annotation_position="top",
    )
    style(fig, "Kept experts shared with the other domains' subsets")
    fig.update_xaxes(title_text="% of the kept routed experts, mean over layers", range=[0, 102])
    fig.update_yaxes(autorange="reversed", showgrid=True)
    legend_below(fig).update_layout(height=150 + 20 * len(shares), margin_t=64)
    return fig


def _overlap_points(shares: pd.DataFrame, run: Run) -> go.Scatter:
    marker: dict[str, Any] = {"color": colour_of(run), "symbol": symbol_of(run), "size": 9}
    label = label_of(run)
    return go.Scatter(
        x=100 * shares[run.id],
        y=shares.index,
        name=label,
        mode="markers",
        marker=marker,
        hovertemplate=f"<b>{label}</b><br>%{{y}}: %{{x:.0f}} %<extra></extra>",
    )
