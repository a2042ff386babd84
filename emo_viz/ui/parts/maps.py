"""A map of each run, of documents or of tokens, on which a region or a point is selected."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.projection import place_labels
from emo_viz.analysis.runs import Comparison, Run
from emo_viz.figures.clusters import Group, map_config, point_map
from emo_viz.ui.parts.selection import EMPTY_REGION, Rows, Selection
from emo_viz.ui.shell.words import escape_html, escape_markdown, escape_plotly, shorten

NARROWEST_MAP = 340
# Streamlit takes clicks only while the mouse does not draw.
CLICK = "To click on a single one, choose Pan in the map's toolbar."
MOST_GROUPS, MOST_DOMAINS = 10, 30  # domains are few and named on the map: none is left grey


@dataclass(frozen=True, eq=False)
class Map:
    """One run's map: places [N, 2], their groups, the hover text (HTML) of each."""

    points: NDArray[np.float32]
    groups: Sequence[Group]
    hover: Sequence[str]


@dataclass(frozen=True, eq=False)
class Maps:
    """The maps of the runs, by run id, of the same items.

    ids [N]: what a selection names, of `items` ("documents"); must not change unless `content`
    does. domains [N] name the places, all or `only` some of them. drawn: what the alternative text
    says of the maps. highlighted [N]: the rest recedes. one_legend: all maps have the same
    groups. opened: called with the rows that were just selected.
    """

    runs: Comparison
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


def draw(maps: Maps) -> None:
    """The maps with their legends."""
    maps.selection.follow_address(maps.content, maps.ids, maps.items, maps.runs.ids)
    side_by_side = st.grid(len(maps.runs), min_column_width=NARROWEST_MAP)
    for run in maps.runs:
        with side_by_side.cell():
            _map(maps, run)
            if not maps.one_legend:
                _legend(maps.maps[run.id].groups, maps.highlighted)
    if maps.one_legend:
        _legend(maps.maps[maps.runs.first.id].groups, maps.highlighted)


def turned(runs: Comparison, item: str) -> str:
    """How two maps stand to each other, as a sentence after another; "" for one alone."""
    if runs.second is None:
        return ""
    first, second = (escape_markdown(run.label) for run in runs)
    return (
        f" The map of {second} is turned and resized onto that of {first}, so that the same {item} "
        "lies near the same place where the models agree."
    )


def cluster_column(run: str) -> str:
    """The column of a table with an item's cluster in a run."""
    return f"cluster_{run}"


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


def _map(maps: Maps, run: Run) -> None:
    one, selection = maps.maps[run.id], maps.selection
    code, generation = selection.drawn(run.id)
    labels = [
        (escape_plotly(label.text), label.x, label.y)
        for label in place_labels(one.points, maps.domains)
        if not maps.only or label.text in maps.only
    ]
    key = f"{selection.param}_chart_{run.id}_{generation}"
    st.plotly_chart(
        point_map(
            one.points,
            one.groups,
            one.hover,
            f"{escape_plotly(run.label)}: {maps.method} of routing",
            maps.method,
            labels,
            maps.highlighted,
            selection.rows(maps.ids, code) if code else None,
            maps.marker_size,
        ),
        config=map_config(f"{maps.method} {run.id}"),
        width="stretch",
        key=key,
        on_select=lambda: maps.opened(selection.take(run.id, key, one.points, maps.ids)),
        selection_mode=("points", "box", "lasso"),
        alt=f"{maps.method} map of {maps.drawn} in {run.label}",
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
