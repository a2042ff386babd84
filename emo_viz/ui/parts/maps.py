"""A map of each run, of documents or of tokens, on which points are selected, and what they say."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.profiles import label
from emo_viz.analysis.projection import place_labels
from emo_viz.analysis.runs import Comparison
from emo_viz.ui.parts import point_maps
from emo_viz.ui.parts.point_maps import PlacedName
from emo_viz.ui.parts.selection import EMPTY_REGION, Rows, Selection
from emo_viz.ui.shell.words import by_hand, count, escape_markdown

MIXED = label([], [])  # the name of a cluster without a large domain
NAME_ENDS = " · "  # of a cluster: its domains; then come its words
SPACES = "spaces"
# The sentence has two lines beside the buttons before it makes room for itself.
_TWO_LINES = """LINE { flex-wrap: nowrap; } LINE > :first-child { flex: 1 1 0; min-width: 0; }
LINE > :first-child p { font-size: 0.9rem; line-height: 1.35; }"""
HOW = by_hand(
    "Click a point, draw around several, or click a name in the legend to select its group."
)


@dataclass(frozen=True, eq=False)
class Shown:
    """The maps of the same items as they are shown now.

    content: another one for any other content of `build`, which makes what the browser is sent
    (`point_maps.payload`). highlighted [N]: the rest recedes. restricted: to what the maps are, in
    words; it goes with an image.
    """

    ids: Sequence[str]
    content: str
    build: Callable[[], dict[str, Any]]
    highlighted: NDArray[np.bool_] | None
    selection: Selection
    restricted: str


def draw(shown: Shown) -> None:
    """The maps with their legends, and what is selected on them."""
    selection, ids = shown.selection, shown.ids
    with st.container(gap=None):
        point_maps.draw(
            _payload(shown.content, shown.build),
            f"{selection.param}_maps",
            lambda event: selection.take(event, ids),
        )
        point_maps.tell(
            channel(selection),
            len(ids),
            selection.gesture,
            None if selection.current() == EMPTY_REGION else selection.rows(ids),
            shown.highlighted,
            shown.restricted,
        )


def restricted(
    layer: int | None, k: int, highlighted: Sequence[str], rows: Rows | None, item: str
) -> str:
    """ "layer 2 · 24 clusters · highlighted: chess · 57 documents selected": what is shown, for
    who takes it home."""
    parts = ["all layers" if layer is None else f"layer {layer}", count(k, "cluster")]
    if highlighted:
        parts.append(f"highlighted: {', '.join(highlighted)}")
    if rows is not None:
        parts.append(f"{count(len(rows), item)} selected")
    return " · ".join(parts)


def channel(selection: Selection) -> str:
    """The name under which the two halves of the maps find each other."""
    return f"{selection.param}_maps"


@st.cache_resource(max_entries=24, show_spinner=False)
def _payload(content: str, _build: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    return _build()


def names_of(
    points: NDArray[np.float32], groups: Sequence[str], are_groups: bool, every: bool = False
) -> list[PlacedName]:
    """The names of groups [N] where they lie on a map; are_groups: they are those of the map.

    every: a cluster is named wherever it lies; a domain only where it has a place of its own.
    """
    return [
        PlacedName(_ever_shorter(one.text), one.x, one.y, one.text, are_groups)
        for one in place_labels(points, groups, every)
    ]


def _ever_shorter(name: str) -> list[str]:
    """A cluster as `short_name` has it, by its number and first word, and by its number."""
    short = short_name(name)
    number, colon, words = short.partition(": ")
    return [short, f"{number}: {words.split(' ')[0]}", number] if colon else [short]


def short_name(name: str) -> str:
    """A cluster by its number and domains ("3: chess 97 %"), or by its words if it has no large
    domain; any other name as it is."""
    domains, _, words = name.partition(NAME_ENDS)
    number, _, domain = domains.partition(": ")
    return f"{number}: {words}" if domain == MIXED and words else domains


def with_quotes(name: str) -> str:
    """A cluster's name whose tokens are in quotes, as signs could be part of the text around them;
    for those of several spaces it has the word."""
    domains, ends, tokens = name.partition(NAME_ENDS)
    spelt = (
        SPACES if set(token) == {"␣"} and len(token) > 1 else f"“{token}”"
        for token in tokens.split(" ")
        if token
    )
    return f"{domains}{ends}{' '.join(dict.fromkeys(spelt))}"


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


def summary(
    selection: Selection, rows: Rows | None, item: str, text: str, read: Callable[[], None]
) -> None:
    """What is selected, in `text`, with the buttons that read and clear it; else how to select.

    The line is there in any case, as high as its buttons, so that nothing moves when something is
    selected.
    """
    key = f"{selection.param}_summary"
    st.html(f"<style>{_TWO_LINES.replace('LINE', f'div.st-key-{key}')}</style>")
    line = st.container(horizontal=True, vertical_alignment="center", gap="small", key=key)
    if rows is None:
        line.markdown(f"{HOW}", width="stretch")
    elif len(rows) == 0:
        line.markdown(f"**No {item} lies in this region.**", width="stretch")
    else:
        line.markdown(f"**{text}**", width="stretch")
    line.button(
        "Read",
        icon=":material/menu_book:",
        help=f"Read the selected {item}s in their text, in both models side by side",
        disabled=rows is None or len(rows) == 0,
        on_click=read,
        key=f"{selection.param}_read",
    )
    line.button(
        "Clear",
        icon=":material/close:",
        help="Select nothing; or press Escape",
        disabled=rows is None,
        on_click=selection.clear,
        key=f"{selection.param}_clear",
    )
