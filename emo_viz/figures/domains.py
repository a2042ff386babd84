"""Pictures of domains and of how experts are used together; both runs side by side on one scale."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from emo_viz.analysis.domains import Coverage
from emo_viz.analysis.flow import OTHER, Stream
from emo_viz.analysis.runs import Comparison, Run
from emo_viz.figures.theme import (
    DIVERGING,
    NEUTRAL_COLOUR,
    REFERENCE_COLOUR,
    SEQUENTIAL,
    colour_of,
    coloured,
    label_of,
    legend_below,
    style,
    symbol_of,
    with_alpha,
)

Floats = NDArray[np.float64]
HEIGHT, SQUARE_HEIGHT = 450, 530
FLOW_HEIGHT, FLOW_TOP, FLOW_BOTTOM = 380, 60, 36
FLOW_GAP, FLOW_NODE = 18, 14  # between nodes, for the id of each; and their width
STRONG = 2.0  # times independence
BOXES = (
    "Box: the middle half of the experts, and their median; whiskers: 5th to 95th percentile;<br>"
    "\u00d7: the least and the most used expert"
)
BOX_GAPS = {"boxgap": 0.3, "boxgroupgap": 0.3, "bargap": 0.3, "bargroupgap": 0.3}
MOST_IDS = 32  # of experts beside an axis; a hover has the others
MOST_DOUBLINGS = 3.0  # the ends of the co-activation scale: 8 times, and an eighth
DOUBLINGS = {
    "tickvals": [-3, -2, -1, 0, 1, 2, 3],
    "ticktext": ["\u2264 1/8", "1/4", "1/2", "1", "2", "4", "\u2265 8"],
}


def matrices(
    runs: Comparison,
    found: Mapping[str, Floats],
    names: Sequence[str],
    title: str,
    what: str,
) -> go.Figure:
    """A square a run, rows and columns in the same order, on one scale from 0 to 1.

    found: [G, G] by run id, in the order of `names`. what: a cell's value in words.
    """
    fig = _side_by_side(runs)
    for column, run in enumerate(runs, start=1):
        cell = f"{label_of(run)}<br>%{{y}} and %{{x}}<br>%{{z:.3f}} {what}<extra></extra>"
        _square(fig, column, found[run.id].astype(np.float32), names, hovertemplate=cell)
    style(fig, title)
    _colours(fig, what, colorscale=SEQUENTIAL, cmin=0, cmax=1)
    fig.update_layout(margin={"l": 8, "b": 8})
    fig.update_xaxes(tickangle=-90)
    fig.update_yaxes(autorange="reversed")
    _bare_axes(fig, dtick=1)
    return fig


def _side_by_side(runs: Comparison) -> go.Figure:
    return make_subplots(
        cols=len(runs),
        shared_yaxes=True,
        horizontal_spacing=0.05,
        subplot_titles=[coloured(run) for run in runs],
    )


def _square(
    fig: go.Figure, column: int, values: NDArray[Any], names: Sequence[str], **how: Any
) -> None:
    """One run's: rows and columns have the same names."""
    both = list(names)
    fig.add_heatmap(z=values, x=both, y=both, coloraxis="coloraxis", row=1, col=column, **how)


def _colours(fig: go.Figure, what: str, bar: Mapping[str, Any] | None = None, **scale: Any) -> None:
    """One scale of colours for all squares, of which `what` says the values."""
    named = {"title": {"text": what, "side": "right"}, **(bar or {}), "thickness": 12, "len": 0.9}
    fig.update_layout(height=SQUARE_HEIGHT, coloraxis={**scale, "colorbar": named})


def _bare_axes(fig: go.Figure, **ticks: Any) -> None:
    for update in (fig.update_xaxes, fig.update_yaxes):
        update(showgrid=False, ticks="", tickfont={"size": 10}, **ticks)


def coverage(
    runs: Comparison, found: Mapping[str, Coverage], names: Sequence[str], places: Sequence[int]
) -> go.Figure:
    """For each domain, in the order of `places`, the experts that carry half of its routing, and
    the entropy of its routing; dotted: of all documents together."""
    fig = make_subplots(
        cols=2,
        shared_yaxes=True,
        horizontal_spacing=0.04,
        subplot_titles=("Experts that carry half of it", "Entropy of its routing"),
    )
    for run in runs:
        _spread(fig, run, found[run.id], names, list(places))
    style(fig, "How widely each domain is spread (dotted: all documents together)")
    fig.update_annotations(font_size=12)
    fig.update_layout(height=HEIGHT, margin={"l": 8})
    legend_below(fig)
    fig.update_xaxes(rangemode="tozero")
    fig.update_xaxes(title_text="routed experts of a layer, mean over layers", col=1)
    fig.update_xaxes(title_text="nats, mean over layers", col=2)
    fig.update_yaxes(autorange="reversed", tickfont={"size": 10}, dtick=1)
    return fig


def _spread(
    fig: go.Figure, run: Run, own: Coverage, names: Sequence[str], places: list[int]
) -> None:
    """One run's points of both subplots, and its dotted lines."""
    both = ((own.half, own.all_half, "experts"), (own.entropy, own.all_entropy, "nats"))
    for column, (values, whole, unit) in enumerate(both, start=1):
        fig.add_scatter(
            x=values[places],
            y=[names[place] for place in places],
            mode="markers",
            name=label_of(run),
            legendgroup=run.id,
            showlegend=column == 1,
            marker={"color": colour_of(run), "symbol": symbol_of(run), "size": 8},
            hovertemplate=f"{label_of(run)}, %{{y}}: %{{x:.2f}} {unit}<extra></extra>",
            row=1,
            col=column,
        )
        line = {"dash": "dot", "color": colour_of(run), "width": 1.5}
        fig.add_vline(x=whole, line=line, row=1, col=column)


def together(runs: Comparison, times: Mapping[str, Floats], orders: Mapping[str, Any]) -> go.Figure:
    """How much more often than by independent choices two experts of a layer serve one token.

    times: [R, R] by run id, NaN on the diagonal; orders: the ids in the order of rows and columns.
    """
    fig = _side_by_side(runs)
    for column, run in enumerate(runs, start=1):
        if run.id in times:
            _pairs(fig, column, run, times[run.id], np.asarray(orders[run.id]))
    style(fig, "Pairs of experts in one layer, beside independent choices")
    ends = {"cmin": -MOST_DOUBLINGS, "cmax": MOST_DOUBLINGS}
    _colours(fig, "times independence", DOUBLINGS, colorscale=DIVERGING, **ends)
    fig.update_layout(margin={"l": 8, "b": 40})
    fig.update_xaxes(type="category", title_text="Expert, alike ones together", tickangle=-90)
    fig.update_yaxes(type="category", autorange="reversed", matches=None, showticklabels=True)
    _bare_axes(fig, tickmode="auto", nticks=MOST_IDS)
    fig.update_layout(yaxis_title_text="Expert")
    return fig


def _pairs(
    fig: go.Figure, column: int, run: Run, times: Floats, order: NDArray[np.integer]
) -> None:
    with np.errstate(divide="ignore"):
        doublings = np.log2(times[np.ix_(order, order)])
    limited = np.clip(doublings, -MOST_DOUBLINGS, MOST_DOUBLINGS)
    _square(
        fig,
        column,
        np.round(limited, 2).astype(np.float16).astype(np.float32),
        [f"{expert}" for expert in order],
        hoverongaps=False,  # an expert beside itself
        hovertemplate=f"{label_of(run)}<br>experts %{{y}} and %{{x}}: 2^%{{z:.1f}} times "
        "independence<extra></extra>",
    )


@dataclass(frozen=True, eq=False)
class _Ends:
    """Where each stream begins and ends: running numbers of nodes, in the order of the links."""

    source: NDArray[np.int64]
    target: NDArray[np.int64]

    @classmethod
    def of(cls, stream: Stream) -> "_Ends":
        starts = np.cumsum([0, *map(len, stream.nodes)])
        at = stream.links["layer"].to_numpy(int)
        return cls(
            starts[at] + stream.links["source"].to_numpy(int),
            starts[at + 1] + stream.links["target"].to_numpy(int),
        )


def flow(run: Run, stream: Stream, numbers: Sequence[int], labels: Mapping[int, str]) -> go.Figure:
    """Where the tokens of some experts go from layer to layer; grey: from or to all other experts.

    What goes from others to others is not drawn. Strong: streams of at least STRONG times what
    independence gives. numbers: the layers' own. labels: by a node's running number, what its
    expert is for.
    """
    stream = _of_shown(stream)
    height = FLOW_HEIGHT + FLOW_GAP * max(map(len, stream.nodes))
    ends, colour = _Ends.of(stream), colour_of(run)
    places = _places(stream, ends, FLOW_GAP / (height - FLOW_TOP - FLOW_BOTTOM))
    middles = {"x": places["x"], "y": (places["top"] + places["bottom"]) / 2}
    sankey = go.Sankey(
        arrangement="fixed",
        node=_nodes(stream, labels, colour) | middles,
        link=_links(stream, ends, colour),
    )
    fig = style(go.Figure(sankey), f"{label_of(run)}: layer {' to '.join(map(str, numbers))}")
    fig.update_layout(height=height, margin={"l": 8, "r": 8, "t": FLOW_TOP, "b": FLOW_BOTTOM})
    _write_ids(fig, places)
    return _explain_streams(fig, colour)


def _of_shown(stream: Stream) -> Stream:
    """Without what goes from others to others, beside which all else would be thin."""
    ids, ends = np.array(_ids(stream)), _Ends.of(stream)
    drawn = (ids[ends.source] >= 0) | (ids[ends.target] >= 0)
    return replace(stream, links=stream.links[drawn]) if drawn.any() else stream


def _nodes(stream: Stream, labels: Mapping[int, str], colour: str) -> dict[str, Any]:
    """The experts; an id below 0 is all others together."""
    ids = _ids(stream)
    return {
        "color": [with_alpha(NEUTRAL_COLOUR if e < 0 else colour, 0.8) for e in ids],
        "pad": FLOW_GAP,
        "thickness": FLOW_NODE,
        "line": {"width": 0},
        "customdata": [labels.get(number, "") for number in range(len(ids))],
        "hovertemplate": "%{customdata}<br>%{value:.2%} of all gate weight drawn<extra></extra>",
    }


def _ids(stream: Stream) -> list[int]:
    return [expert for own in stream.nodes for expert in own]


def _links(stream: Stream, ends: _Ends, colour: str) -> dict[str, Any]:
    ids, times = _ids(stream), stream.links["times"].to_numpy(float)
    from_to = zip(ends.source, ends.target, times, strict=True)
    return {
        "source": ends.source,
        "target": ends.target,
        "value": stream.links["share"].to_numpy(float),
        "customdata": [[_name(ids[a]), _name(ids[b]), much] for a, b, much in from_to],
        "color": _link_colours(ids, ends, times, colour),
        "hovertemplate": "%{customdata[0]} to %{customdata[1]}: %{value:.2%} of all gate weight, "
        "%{customdata[2]:.1f} times independence<extra></extra>",
    }


def _name(expert: int) -> str:
    return OTHER if expert < 0 else f"{expert}"


def _link_colours(ids: list[int], ends: _Ends, times: Floats, colour: str) -> list[str]:
    strong, weak, grey = _stream_colours(colour)
    others = [ids[a] < 0 or ids[b] < 0 for a, b in zip(ends.source, ends.target, strict=True)]
    return [
        grey if rest else strong if much >= STRONG else weak
        for rest, much in zip(others, times, strict=True)
    ]


def _stream_colours(colour: str) -> tuple[str, str, str]:
    """Of streams far above independence, of the others, of those from or to others."""
    return with_alpha(colour, 0.6), with_alpha(colour, 0.2), with_alpha(NEUTRAL_COLOUR, 0.2)


def _places(stream: Stream, ends: _Ends, gap: float) -> pd.DataFrame:
    """Of the nodes that have streams, as Plotly counts them: id, x, top and bottom.

    One column a layer, one node below the other; gap: between two of them, of the height.
    """
    layers = np.repeat(range(len(stream.nodes)), [*map(len, stream.nodes)])
    nodes = pd.DataFrame({"id": _ids(stream), "layer": layers, "size": _sizes(stream, ends)})
    nodes = nodes[nodes["size"] > 0].reset_index(drop=True)
    columns = nodes.groupby("layer")["size"]
    scale = ((1 - gap * (columns.count() - 1)) / columns.sum()).min()
    nodes["x"] = 0.001 + 0.998 * nodes["layer"] / max(1, len(stream.nodes) - 1)
    nodes["bottom"] = columns.cumsum() * scale + columns.cumcount() * gap
    nodes["top"] = nodes["bottom"] - nodes["size"] * scale
    return nodes


def _sizes(stream: Stream, ends: _Ends) -> Floats:
    """Of a node: what comes in or goes out, whichever is more."""
    shares, total = stream.links["share"].to_numpy(float), sum(map(len, stream.nodes))
    into, out_of = (np.bincount(end, shares, total) for end in (ends.target, ends.source))
    return np.maximum(out_of, into)


def _write_ids(fig: go.Figure, places: pd.DataFrame) -> None:
    """Above the nodes: Plotly's own labels stand on the streams."""
    first, last = places["layer"].min(), places["layer"].max()
    for node in places.to_dict("records"):
        layer = node["layer"]
        anchor = "left" if layer == first else "right" if layer == last else "center"
        fig.add_annotation(
            text=f"<b>{_name(node['id'])}</b>",
            xref="paper",
            yref="paper",
            x=node["x"],
            y=1 - node["top"],
            xanchor=anchor,
            xshift={"left": -FLOW_NODE / 2, "right": FLOW_NODE / 2, "center": 0}[anchor],
            yanchor="bottom",
            borderpad=0,
            showarrow=False,
            font={"size": 12},
        )


def _explain_streams(fig: go.Figure, colour: str) -> go.Figure:
    """The colours, below the picture: a Sankey diagram has no legend of its own."""
    said = (f"at least {STRONG:.0f} times independence", "less", "from or to other experts")
    signs = zip(_stream_colours(colour), said, strict=True)
    sign = '<span style="color:{};font-size:17px">\u25a0</span> {}'
    text = "   ".join(sign.format(ink, words) for ink, words in signs)
    below = {"x": 0, "y": 0, "xanchor": "left", "yanchor": "top", "yshift": -8}
    return fig.add_annotation(
        text=text, xref="paper", yref="paper", showarrow=False, font={"size": 12}, **below
    )


def balance(runs: Comparison, tables: Mapping[str, pd.DataFrame]) -> go.Figure:
    """The spread of the loads of each layer's experts: boxes of the middle half, whiskers from the
    5th to the 95th percentile, crosses at the least and most used."""
    fig = go.Figure()
    for run in runs:
        _boxes(fig, run, tables[run.id])
        _box_labels(fig, run, tables[run.id])
        _extremes(fig, run, tables[run.id])
    fig.add_hline(y=1, line={"dash": "dot", "color": REFERENCE_COLOUR})
    style(fig, "Load of the experts of each layer (1 = even)")
    fig.update_layout(height=350, boxmode="group", scattermode="group", **BOX_GAPS)
    legend_below(fig, rows=2)
    fig.update_xaxes(title_text=BOXES)
    fig.update_yaxes(title_text="Load over that of even use", rangemode="tozero")
    return fig


def _boxes(fig: go.Figure, run: Run, rows: pd.DataFrame) -> None:
    quantiles = {"lowerfence": "p5", "q1": "p25", "median": "p50", "q3": "p75", "upperfence": "p95"}
    fig.add_box(
        x=_layers(rows),
        **{part: rows[name] for part, name in quantiles.items()},
        name=label_of(run),
        offsetgroup=run.id,
        line={"color": colour_of(run), "width": 1.5},
        fillcolor=with_alpha(colour_of(run), 0.25),
        hoverinfo="skip",  # Plotly takes the ends of the whiskers for the least and the most
    )


def _box_labels(fig: go.Figure, run: Run, rows: pd.DataFrame) -> None:
    """What a box says, on unseen bars as high as its whiskers."""
    fig.add_bar(
        x=_layers(rows),
        base=rows["p5"],
        y=rows["p95"] - rows["p5"],
        name=f"{label_of(run)}, percentiles",
        offsetgroup=run.id,
        showlegend=False,
        marker={"color": "rgba(0, 0, 0, 0)", "line": {"width": 0}},
        customdata=rows[["p5", "p25", "p50", "p75", "p95"]],
        hovertemplate=f"{label_of(run)}, %{{x}}: median %{{customdata[2]:.2f}} of even use<br>"
        "middle half %{customdata[1]:.2f} to %{customdata[3]:.2f}<br>"
        "5th to 95th percentile %{customdata[0]:.2f} to %{customdata[4]:.2f}<extra></extra>",
    )


def _extremes(fig: go.Figure, run: Run, rows: pd.DataFrame) -> None:
    for extreme in ("min", "max"):
        fig.add_scatter(
            x=_layers(rows),
            y=rows[extreme],
            mode="markers",
            name=f"{label_of(run)}, {extreme}",
            offsetgroup=run.id,
            showlegend=False,
            cliponaxis=False,
            marker={"symbol": "x-thin-open", "color": colour_of(run), "size": 8},
            hovertemplate=f"{label_of(run)}, %{{x}}: {extreme} %{{y:.2f}} of even use"
            "<extra></extra>",
        )


def _layers(rows: pd.DataFrame) -> list[str]:
    return [f"layer {number}" for number in rows["layer"]]
