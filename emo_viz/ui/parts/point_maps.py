"""Maps of points drawn in the browser: a click, a lasso or a legend entry selects, without a rerun
of the drawing.

A Streamlit component without an iframe, in two halves. The maps themselves (places, groups, what is
told of a point) are sent once; which points are selected or highlighted is a few bytes of its own.
Texts reach the page as data and are written with textContent.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from emo_viz.figures.clusters import Group
from emo_viz.figures.theme import OTHER_COLOUR, SELECTION_COLOUR
from emo_viz.ui.parts.scripts import scripts
from emo_viz.ui.shell.component import HEARD_CSS, component
from emo_viz.ui.shell.words import isolated, shorten, visible

KEYS = (
    "Arrow keys go from point to point, Enter selects the one shown, plus, minus and zero zoom, "
    "Escape clears the selection"
)
LABEL_LETTERS = 28
STEPS = 65_535  # a place is a 16-bit number: a hundredth of a pixel on a screen

_HTML = '<div class="maps"></div>'


_MAPS = component(
    "emo_viz_point_maps",
    html=_HTML,
    css=HEARD_CSS + Path(__file__).with_suffix(".css").read_text(encoding="utf-8"),
    js=scripts(
        "larger",
        "leaves",
        "make",
        "decode",
        "point_maps_draw",
        "point_maps_labels",
        "point_maps",
    ),
)
_STATE = component("emo_viz_point_maps_state", js=scripts("point_maps_state"))


@dataclass(frozen=True, eq=False)
class Fact:
    """Something known of every point, such as its domain: codes [N] into names."""

    name: str
    codes: NDArray[np.integer]
    names: Sequence[str]


@dataclass(frozen=True)
class PlacedName:
    """A name on a map and its place. texts: how it is written, from the whole to the least that
    still tells it. name: of its points, in the map's groups (is_group) or in its first fact."""

    texts: Sequence[str]
    x: float
    y: float
    name: str
    is_group: bool


@dataclass(frozen=True, eq=False)
class Panel:
    """One map: points [N, 2], groups that hold every row once, names, what is known here alone."""

    run: str
    name: str
    colour: str
    alt: str
    points: NDArray[np.float32]
    groups: Sequence[Group]
    names: Sequence[PlacedName]
    own: Fact | None = None


@dataclass(frozen=True)
class Event:
    """What a visitor did: the rows it selects now, how many gestures there were, and whether it
    was a region (or a whole group) rather than a point."""

    rows: NDArray[np.int64]
    gesture: int
    region: bool


def payload(
    channel: str,
    panels: Sequence[Panel],
    facts: Sequence[Fact],
    texts: Sequence[str],
    ids: Sequence[str],
    items: str,
    method: str,
    size: int,
    one_legend: bool,
    above: str,
    provenance: str,
) -> dict[str, Any]:
    """What the browser is sent of the maps of the same N points.

    texts, ids [N]: what is told of a point. size: of a marker, in pixels. above: how much of the
    window's height stands above the maps and below them, as CSS. provenance: a line for the image.
    """
    data: dict[str, Any] = {
        "channel": channel,
        "count": len(ids),
        "panels": [_panel(panel) for panel in panels],
        "facts": [_fact(fact) for fact in facts],
        "texts": packed(json.dumps({"texts": list(texts), "ids": list(ids)}, ensure_ascii=False)),
        "items": items,
        "method": method,
        "size": size,
        "one_legend": one_legend,
        "above": above,
        "keys": KEYS,
        "selection_colour": SELECTION_COLOUR,
        "provenance": provenance,
        "file": f"{'-'.join([method, *(panel.run for panel in panels)]).lower()}.png",
    }
    data["places"] = _digest([(panel["x"], panel["y"]) for panel in data["panels"]])
    return data | {"digest": _digest(data)}


def draw(data: dict[str, Any], key: str, on_select: Callable[[Event], None]) -> None:
    """The maps; `on_select` is called with what a visitor selects on them."""

    def selected() -> None:
        event = st.session_state[key]["selected"]
        if event is not None:
            on_select(read_event(event, data["count"]))

    _MAPS(key=key, data=data, on_selected_change=selected)


def tell(
    channel: str,
    count: int,
    gesture: int,
    selected: NDArray[np.int64] | None,
    highlighted: NDArray[np.bool_] | None,
    said: str = "",
) -> None:
    """Which rows the maps of a channel show as selected (None: no selection) and which [count] as
    highlighted (None: all), as the answer to the visitor's last gesture; `said` goes with an image.
    """
    chosen = None
    if selected is not None:
        chosen = np.zeros(count, bool)
        chosen[selected] = True
    data = {
        "channel": channel,
        "count": count,
        "n": gesture,
        "selected": None if chosen is None else _bits(chosen),
        "highlight": None if highlighted is None else _bits(highlighted),
        "said": said,
    }
    _STATE(key=f"{channel}_state", data=data)


def read_event(event: dict[str, Any], count: int) -> Event:
    """An event as the browser sent it. Raises ValueError if it is not of so many points."""
    flags = np.unpackbits(np.frombuffer(base64.b64decode(event["rows"]), np.uint8))
    if not count <= len(flags) < count + 8:
        raise ValueError(f"a selection of {len(flags)} points does not fit maps of {count}")
    return Event(np.flatnonzero(flags[:count]), int(event["n"]), bool(event["region"]))


def packed(text: str) -> str:
    """A text compressed, as JSON can hold it."""
    return _base64(zlib.compress(text.encode("utf-8", "replace"), 9))


def _panel(panel: Panel) -> dict[str, Any]:
    low = panel.points.min(axis=0).astype(float)
    unit = float((panel.points.max(axis=0) - low).max()) / STEPS or 1.0
    steps = np.round((panel.points - low) / unit).astype("<u2")
    member = np.zeros(len(panel.points), "<u2")
    for place, group in enumerate(panel.groups):
        member[group.rows] = place
    return {
        "run": panel.run,
        "name": panel.name,
        "colour": panel.colour,
        "alt": panel.alt,
        "low": low.tolist(),
        "unit": unit,
        "x": _base64(steps[:, 0].tobytes()),
        "y": _base64(steps[:, 1].tobytes()),
        "group": _base64(member.tobytes()),
        "groups": [_group(group) for group in panel.groups],
        "labels": [_name(name) for name in panel.names],
        "own": None if panel.own is None else _fact(panel.own),
    }


def _group(group: Group) -> dict[str, Any]:
    return {
        "name": _told(group.name),
        "colour": group.colour,
        "symbol": group.symbol,
        "sign": group.sign,
        "size": len(group.rows),
        "other": group.colour == OTHER_COLOUR,
    }


def _fact(fact: Fact) -> dict[str, Any]:
    codes = np.asarray(fact.codes).astype("<u2").tobytes()
    return {"name": fact.name, "codes": _base64(codes), "names": list(map(_told, fact.names))}


def _name(name: PlacedName) -> dict[str, Any]:
    texts = dict.fromkeys(_told(shorten(text, LABEL_LETTERS)) for text in name.texts)
    place = {"x": name.x, "y": name.y}
    return {"texts": list(texts), "name": _told(name.name), "is_group": name.is_group} | place


def _told(text: str) -> str:
    """A name as it can stand among others, whatever it is written in."""
    return isolated(visible(text))


def _bits(flags: NDArray[np.bool_]) -> str:
    return _base64(np.packbits(flags).tobytes())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
