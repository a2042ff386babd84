"""Two maps side by side, of documents or of tokens, on which a region or a point is selected."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.projection import place_labels
from emo_viz.figures.clusters import Group, map_config, point_map
from emo_viz.server import assets
from emo_viz.ui.parts.selection import EMPTY_REGION, Rows, Selection
from emo_viz.ui.shell.words import escape_html, escape_plotly, shorten

NARROWEST_MAP = 340
# Streamlit takes clicks only while the mouse does not draw.
CLICK = "To click on a single one, choose Pan in the map's toolbar."
MOST_GROUPS, MOST_DOMAINS = 10, 30  # domains are few and named on the map: none is left grey


@dataclass(frozen=True, eq=False)
class Map:
    """One model's map: places [N, 2], their groups, the hover text (HTML) of each."""

    points: NDArray[np.float32]
    groups: Sequence[Group]
    hover: Sequence[str]


@dataclass(frozen=True, eq=False)
class Pair:
    """The maps of both models, of the same items.

    ids [N]: what a selection names, of `items` ("documents"); must not change unless `content`
    does. domains [N] name the places, all or `only` some of them. drawn: what the alternative text
    says of the maps. highlighted [N]: the rest recedes. one_legend: both maps have the same
    groups. opened: called with the rows that were just selected.
    """

    maps: Mapping[str, Map]
    ids: Sequence[str]
    items: str
    content: str
    method: str
    drawn: str
    domains: Sequence[str]
    only: Sequence[str]
    highlighted: NDArray[np.bool_] | None
    one_legend: bool
    marker_size: int
    selection: Selection
    opened: Callable[[Rows], None]


def draw(pair: Pair) -> None:
    """Both maps with their legends."""
    pair.selection.follow_address(pair.content, pair.ids, pair.items)
    side_by_side = st.grid(2, min_column_width=NARROWEST_MAP)
    for name, one in pair.maps.items():
        with side_by_side.cell():
            _map(pair, name, one)
            if not pair.one_legend:
                _legend(one.groups, pair.highlighted)
    if pair.one_legend:
        _legend(next(iter(pair.maps.values())).groups, pair.highlighted)


def selected_rows(selection: Selection, ids: Sequence[str]) -> Rows | None:
    """The rows selected on the maps, None for no selection."""
    return selection.rows(ids) if selection.current() else None


def summary(selection: Selection, rows: Rows, item: str, text: str) -> None:
    """What is selected, `text` if there is anything, and the button that clears it."""
    line = st.container(horizontal=True, vertical_alignment="center")
    if len(rows) == 0:
        empty = selection.current() == EMPTY_REGION
        text = f"No {item} lies in this region" if empty else "Nothing is selected"
    line.markdown(f"##### {text}")
    line.button(
        "Clear selection",
        icon=":material/close:",
        help="Or press Escape",
        on_click=selection.clear,
        key=f"{selection.param}_clear",
    )


def _map(pair: Pair, name: str, one: Map) -> None:
    code, generation = pair.selection.drawn(name)
    labels = [
        (escape_plotly(label.text), label.x, label.y)
        for label in place_labels(one.points, pair.domains)
        if not pair.only or label.text in pair.only
    ]
    key = f"{pair.selection.param}_chart_{name}_{generation}"
    label = assets.MODEL_LABELS[name]
    st.plotly_chart(
        point_map(
            one.points,
            one.groups,
            one.hover,
            f"{label}: {pair.method} of routing",
            pair.method,
            labels,
            pair.highlighted,
            pair.selection.rows(pair.ids, code) if code else None,
            pair.marker_size,
        ),
        config=map_config(f"{pair.method} {name}"),
        width="stretch",
        key=key,
        on_select=lambda: pair.opened(pair.selection.take(name, key, one.points, pair.ids)),
        selection_mode=("points", "box", "lasso"),
        alt=f"{pair.method} map of {pair.drawn} in {label}",
    )


def _legend(groups: Sequence[Group], highlighted: NDArray[np.bool_] | None) -> None:
    """Marker, name and number of points of every group."""
    items = []
    for group in groups:
        faded = highlighted is not None and not highlighted[group.rows].any()
        items.append(
            f'<span style="white-space:nowrap;opacity:{0.4 if faded else 1}">'
            f'<span aria-hidden="true" style="color:{group.colour}">{group.sign}</span> '
            f"{escape_html(shorten(group.name, 60))} "
            f'<span style="opacity:.65">({len(group.rows):,})</span></span>'
        )
    st.html(
        '<div style="display:flex;flex-wrap:wrap;gap:.1rem 1rem;font-size:.82rem;'
        f'line-height:1.5">{"".join(items)}</div>'
    )
