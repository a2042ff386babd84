"""Pictures of experts: all of them by load and specialisation, and one by domain."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from emo_viz.analysis.runs import Comparison, Run
from emo_viz.figures.theme import (
    NEUTRAL_COLOUR,
    REFERENCE_COLOUR,
    colour_of,
    label_of,
    legend_below,
    style,
    symbol_of,
    with_alpha,
)

OVERVIEW_HEIGHT = 270
ROW_HEIGHT, AROUND = 16, 92
WORSE, BETTER = "#d65d2e", "#2f6fd6"  # the ends of the diverging scale


@dataclass(frozen=True)
class Points:
    """Experts of one run, one an entry: the layer's own number, the id, the domains it serves (the
    exponential of an entropy), and its load over that of even use."""

    layers: NDArray[np.int64]
    experts: NDArray[np.int64]
    domains: NDArray[np.float64]
    load: NDArray[np.float64]


def overview(
    runs: Comparison, points: Mapping[str, Points], domains: int, chance: Mapping[str, float]
) -> go.Figure:
    """Every expert by how many domains it serves and how much it is used.

    chance: by run id the domains that its median expert would serve if documents had been dealt to
    the domains at random. customdata: place of the run, layer, expert.
    """
    fig = go.Figure()
    for place, run in enumerate(runs):
        if run.id in points:
            fig.add_scatter(**_dots(place, run, points[run.id]))
    for run in runs:
        if run.id in chance:
            line = {"dash": "dot", "color": colour_of(run), "width": 1.5}
            fig.add_vline(x=chance[run.id], line=line)
    if chance:
        text = "by chance" if len(chance) == 1 else "dotted lines: by chance"
        fig.add_annotation(
            x=min(chance.values()), y=1, yref="paper", xanchor="right", yanchor="top", xshift=-4,
            text=text, showarrow=False, font={"size": 11},
        )  # fmt: skip
    fig.add_hline(y=1, line={"dash": "dot", "color": REFERENCE_COLOUR, "width": 1})
    style(fig, "Each point is an expert")
    fig.update_layout(height=OVERVIEW_HEIGHT, clickmode="event+select", dragmode="zoom")
    fig.update_layout(uirevision="experts", margin={"l": 56, "r": 12, "t": 34, "b": 44})
    fig.update_layout(legend={"x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom"})
    fig.update_xaxes(
        title_text=f"Domains it serves, of {domains} (exponential of the entropy)",
        range=[0, domains + 1],
    )
    fig.update_yaxes(title_text="Load (1 = even)", rangemode="tozero")
    return fig


def _dots(place: int, run: Run, points: Points) -> dict[str, Any]:
    custom = np.stack([np.full(len(points.layers), place), points.layers, points.experts], axis=1)
    return {
        "x": points.domains.astype(np.float32),
        "y": points.load.astype(np.float32),
        "mode": "markers",
        "cliponaxis": False,  # an expert that nothing chose is seen whole
        "name": label_of(run),
        "customdata": custom.astype(np.int32),
        "marker": {
            "color": with_alpha(colour_of(run), 0.55),
            "symbol": symbol_of(run),
            "size": 7,
            "line": {"width": 0},
        },
        "hovertemplate": f"{label_of(run)}, layer %{{customdata[1]}}, expert %{{customdata[2]}}"
        "<br>serves %{x:.1f} domains<br>load %{y:.2f} of even use<extra></extra>",
    }


@dataclass(frozen=True)
class Profile:
    """One expert by domain [G], in the order in which the rows are drawn.

    affinity: share of the domain's choices in the layer. null: the 95 % range of it [2, G] where
    documents are dealt to domains at random. even: what even use would give. effect, effect_low,
    effect_high: loss without the expert less the loss with it, nats a token, and its 95 % interval;
    None where it was not measured.
    """

    domains: Sequence[str]
    affinity: NDArray[np.float64]
    null: NDArray[np.float64]
    even: float
    effect: NDArray[np.float64] | None = None
    effect_low: NDArray[np.float64] | None = None
    effect_high: NDArray[np.float64] | None = None


def domains(run: Run, profile: Profile) -> go.Figure:
    """A bar a domain over the range that chance gives; beside it, in the same row, what leaving the
    expert out costs, where that was measured."""
    both = profile.effect is not None
    titles = ["Share of the domain's routing", "Loss without it"] if both else None
    fig = make_subplots(
        cols=2 if both else 1, shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=titles
    )
    _affinity(fig, run, profile)
    style(fig, "Affinity beside measured effect" if both else "Share of each domain's routing")
    if both:
        _effect(fig, profile)
        fig.update_xaxes(title_text="nats a token", col=2)
    fig.update_annotations(font_size=12)
    _rows(fig, len(profile.domains))
    fig.update_layout(barmode="overlay")
    fig.update_xaxes(title_text="% of its choices in this layer", rangemode="tozero", col=1)
    return fig


def _affinity(fig: go.Figure, run: Run, profile: Profile) -> None:
    low, high = 100 * profile.null
    fig.add_bar(
        y=list(profile.domains),
        x=high - low,
        base=low,
        orientation="h",
        width=0.95,
        marker={"color": with_alpha(NEUTRAL_COLOUR, 0.3), "line": {"width": 0}},
        name="95 % of shuffles",
        hoverinfo="skip",
    )
    fig.add_bar(
        y=list(profile.domains),
        x=100 * profile.affinity,
        orientation="h",
        width=0.55,
        marker={"color": colour_of(run), "line": {"width": 0}},
        name=label_of(run),
        customdata=np.stack([low, high], axis=1),
        hovertemplate="%{y}: %{x:.2f} % of its routing in this layer"
        "<br>by chance %{customdata[0]:.2f} to %{customdata[1]:.2f} %<extra></extra>",
    )
    even = {"dash": "dot", "color": REFERENCE_COLOUR}
    fig.add_vline(x=100 * profile.even, line=even, row=1, col=1)


def _effect(fig: go.Figure, profile: Profile) -> None:
    mean, low, high = profile.effect, profile.effect_low, profile.effect_high
    assert mean is not None and low is not None and high is not None
    for sign, name, colour, shape in ((1, "worse", WORSE, ""), (-1, "better", BETTER, "/")):
        fig.add_bar(
            y=list(profile.domains),
            x=np.where(sign * mean > 0, mean, np.nan),
            orientation="h",
            width=0.55,
            marker={
                "color": colour,
                "pattern": {"shape": shape, "solidity": 0.4},
                "line": {"width": 0},
            },
            error_x={
                "symmetric": False,
                "array": np.nan_to_num(high - mean),
                "arrayminus": np.nan_to_num(mean - low),
                "thickness": 1.2,
                "width": 0,
                "color": REFERENCE_COLOUR,
            },
            name=f"{name} without it",
            hovertemplate="%{y}: %{x:+.4f} nats a token without this expert<extra></extra>",
            row=1,
            col=2,
        )
    fig.add_vline(x=0, line={"color": REFERENCE_COLOUR, "width": 1}, row=1, col=2)


def _rows(fig: go.Figure, rows: int) -> None:
    fig.update_layout(height=AROUND + 40 + ROW_HEIGHT * rows, margin={"l": 8, "r": 12, "t": 54})
    legend_below(fig)
    fig.update_yaxes(autorange="reversed", showgrid=False, tickfont={"size": 11}, dtick=1)


def two_profiles(
    names: tuple[str, str],
    colours: tuple[str, str],
    domains: Sequence[str],
    values: tuple[NDArray[np.float64], NDArray[np.float64]],
) -> go.Figure:
    """How two experts divide over the domains: a pair of bars a domain, in per cent."""
    fig = go.Figure()
    for place, (name, colour, own) in enumerate(zip(names, colours, values, strict=True)):
        fig.add_bar(
            y=list(domains),
            x=100 * own,
            orientation="h",
            name=name,
            marker={
                "color": colour,
                "pattern": {"shape": "" if place == 0 else "/", "solidity": 0.4},
                "line": {"width": 0},
            },
            hovertemplate="%{y}: %{x:.1f} %<extra></extra>",
        )
    style(fig, "Where the tokens of both come from")
    _rows(fig, len(domains))
    fig.update_xaxes(title_text="% of the expert's choices, domains weighed the same")
    fig.update_layout(bargap=0.25)
    return fig
