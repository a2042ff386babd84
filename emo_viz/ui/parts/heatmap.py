"""Tokens by experts, or by layers, as pictures that the browser draws: one run or two, one layer
or all of them.

A Streamlit component without an iframe. Hover, walking, zoom and scroll need no server; a click or
Enter picks. What is picked travels in a message of its own, so that a pick sends no picture again.
Tokens reach the page as data and are written as text, never as markup.

Shapes: P tokens (position 1 is the first, the opening token is left out), R routed experts of a
layer, S experts a token; the id -1 stands for none.
"""

import base64
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.routing import Gated, expert_order
from emo_viz.figures.theme import SELECTION_COLOUR, shades_of
from emo_viz.ui.parts import look
from emo_viz.ui.parts.heard import hear
from emo_viz.ui.parts.scripts import scripts
from emo_viz.ui.shell.component import HEARD_CSS, component

_HERE = Path(__file__)
_HTML = '<div class="heatmap"></div>'
_COMPONENT = component(
    "emo_viz_heatmap",
    html=_HTML,
    css=HEARD_CSS + _HERE.with_suffix(".css").read_text(encoding="utf-8"),
    js=scripts("larger", "leaves", "make", "decode", "heatmap_draw", "heatmap"),
)

EXPERTS = "expert"  # what the columns of a picture are, unless it says otherwise
TINY = 1e-6
LEVELS = 255  # of a weight: level 0 is an empty place


@dataclass(frozen=True)
class Layer:
    """One layer of one run over a text.

    number: what the layer is called. expert_ids and values [P, S]; a value is 0..1, or -1..1 in a
    picture of differences. order [R]: the expert of each column. names [R]: what each expert is
    called, if not by its id; axis: what these are.
    """

    number: int
    expert_ids: NDArray[np.integer]
    values: NDArray[np.floating]
    order: NDArray[np.integer]
    names: Sequence[str] = ()
    axis: str = "Routed expert (id)"


@dataclass(frozen=True)
class Side:
    """One run, or the difference of two, as one picture a layer.

    scale: the colours of its values, if they are not shades of its own colour.
    """

    id: str
    label: str
    colour: str
    layers: Sequence[Layer]
    scale: list[list[Any]] | None = None


@dataclass(frozen=True)
class Follow:
    """A run's expert in the layer of that number: the same id elsewhere is another expert."""

    run: str
    layer: int
    expert: int


@dataclass(frozen=True)
class Pick:
    """What was picked: a token's position, and the expert under the pointer if a token uses it.

    back: a pick is taken back, and this is what was chosen before it, no expert included.
    """

    token: int | None
    follow: Follow | None = None
    back: bool = False


def layer_of(recorded: Gated, layer: int, number: int, routed: int, by_use: bool) -> Layer:
    """A layer of a recording, its `routed` experts in the order of use in the text, or by id.

    layer: its place in the recording; number: what it is called.
    """
    order = expert_order(recorded, layer, routed) if by_use else np.arange(routed)
    return Layer(
        number, recorded.expert_ids[layer, 1:], recorded.gate_weights[layer, 1:], np.asarray(order)
    )


def heatmap(
    sides: Sequence[Side],
    tokens: Sequence[str],
    *,
    key: str,
    on_pick: Callable[[Pick], None],
    group: str,
    pixels: int = 560,
    what: str = "gate weight",
    differences: bool = False,
    columns: str = EXPERTS,
    same_ids: bool = False,
    span: tuple[float, float] | None = None,
    whole: bool = False,
    rows: str = "",
) -> None:
    """Draw the sides beside each other (one layer), or a line of layers for each (several).

    tokens [P]: labels. pixels: the height of all at most. what: the value in words, for key and
    hover ("" where every value is 1: an expert is used or not). differences: values are from -1 to
    1 on a scale with two ends. group: pictures and texts of one group show each other's hover and
    what the page tells them (`tell`). columns: what a column is, an "expert" or a "layer"; the
    experts of a `Layer` are then its columns, a value of 0 is clear, and a pick follows none.
    same_ids: whether one id is one expert in both sides. span: the values at the ends of an even
    scale, what lies beyond being drawn as its end; without it the scale begins at 0 and is a square
    root. whole: all rows at first, however low each is. rows: as what a saved picture says which
    rows it shows, a control's name. A picture whose foot the window cuts off is lower.
    """

    low, top = span or (None, _furthest(sides))
    picture = {
        "group": group,
        "tokens": list(tokens),
        "sides": [_side(side, top, differences, low) for side in sides],
        "pixels": pixels,
        "what": what,
        "top": top,
        "low": low,
        "beyond": [False, False] if low is None else _beyond(sides, low, top),
        "differences": differences,
        "columns": columns,
        "sameIds": same_ids,
        "whole": whole,
        "rows": rows,
        "mark": SELECTION_COLOUR,
    }
    with st.container(gap=None):
        _COMPONENT(key=key, data=picture, on_picked_change=partial(_picked, key, group, on_pick))


def _picked(key: str, group: str, on_pick: Callable[[Pick], None]) -> None:
    event = st.session_state[key]["picked"]
    if event is not None:
        hear(group, event)
        on_pick(_pick(event))


def _pick(event: dict[str, Any]) -> Pick:
    follow = event.get("follow")
    followed = None if follow is None else Follow(**follow)
    return Pick(event["token"], followed, bool(event.get("back")))


def tell(group: str, selected: int | None, followed: Follow | None, key: str) -> None:
    """Let the pictures and texts of a group show this token and this expert."""
    look.tell(group, selected, None if followed is None else asdict(followed), key=key)


def _beyond(sides: Sequence[Side], low: float, top: float) -> list[bool]:
    """Whether values lie below a span, and above it, by more than rounding."""
    values = [one.values[one.expert_ids >= 0] for side in sides for one in side.layers]
    every = np.concatenate(values)
    return [bool((every < low - TINY).any()), bool((every > top + TINY).any())]


def _furthest(sides: Sequence[Side]) -> float:
    """The largest value of all pictures; 1 where there is none."""
    return max((_reach(layer) for side in sides for layer in side.layers), default=0.0) or 1.0


def _reach(layer: Layer) -> float:
    used = np.abs(layer.values[layer.expert_ids >= 0])
    return float(used.max(initial=0.0))


def _side(side: Side, reach: float, differences: bool, low: float | None) -> dict[str, Any]:
    return {
        "id": side.id,
        "label": side.label,
        "colour": side.colour,
        "scale": [str(colour) for _, colour in side.scale or shades_of(side.colour)],
        "layers": [_layer(layer, reach, differences, low) for layer in side.layers],
    }


def _layer(
    layer: Layer, reach: float, differences: bool, low: float | None = None
) -> dict[str, Any]:
    """As the browser reads it: ids in one or two bytes, values in one."""
    ids = layer.expert_ids
    width = "<u1" if len(layer.order) <= 256 else "<u2"
    return {
        "number": layer.number,
        "slots": ids.shape[1],
        "wide": width == "<u2",
        "ids": _packed(np.maximum(ids, 0).astype(width)),
        "levels": _packed(_levels(layer, reach, differences, low).astype("<u1")),
        "order": _packed(layer.order.astype("<u2")),
        "names": list(layer.names),
        "axis": layer.axis,
    }


def _levels(
    layer: Layer, reach: float, differences: bool, low: float | None
) -> NDArray[np.floating]:
    """1..255 on a square-root scale (most weights are small beside the largest), with differences
    1..127 below zero, 128 zero, and up to 255 above; or 1..255 in even steps from `low` to `reach`.
    """
    if low is None:
        scaled = np.sign(layer.values) * np.sqrt(np.abs(layer.values) / reach)
    else:
        scaled = (layer.values - low) / (reach - low)
    with np.errstate(invalid="ignore"):
        level = np.rint(128 + 127 * scaled) if differences else np.ceil(LEVELS * scaled)
    return np.where(layer.expert_ids < 0, 0, np.clip(np.nan_to_num(level, nan=1), 1, LEVELS))


def _packed(values: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
