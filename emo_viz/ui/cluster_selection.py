"""Which documents are selected on the maps, kept in the address so that a link shows the same.

A selection is a region drawn on one of the two maps. Its documents are found here, not in the
browser, and are drawn as selected on the other map. Plotly drops a selection when its figure
changes, so the map that was drawn on keeps the figure it has: the session remembers which
selection each map was last told of, and how often it was made anew.
"""

import base64
import binascii
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from emo_viz.ui import links

PARAM = "cluster_selection"
DRAWN = "cluster_drawn"
MODELS = ("emo", "standard")
MOST_IDS = 20  # more documents go into the address as a bit for each document
EMPTY_REGION = "none"
BITS = "bits-"

Rows = NDArray[np.int64]


def follow_address(content: str) -> None:
    """Take up a selection that the address asks for; call once a run, before `drawn`.

    content: changes when the maps themselves do; then both show the selection as it is now.
    """
    before = current()
    links.follow(PARAM, PARAM)
    state = _state()
    if current() != before or state["content"] != content:
        state["content"] = content
        for name in MODELS:
            _show(name, current())
    links.write(PARAM, current() or None)


def current() -> str:
    """The selection as the address has it; "" for none."""
    code: str = st.session_state.get(PARAM) or ""
    return code


def drawn(name: str) -> tuple[str, int]:
    """The selection that the map of model `name` shows, and how often it was made anew."""
    code, generation = _state()[name]
    return code, generation


def clear() -> None:
    """Select nothing."""
    _set("", by=None)


def select(name: str, key: str, points: NDArray[np.float32], ids: Sequence[str]) -> None:
    """Take over the region drawn on the map of model `name` (widget `key`, points [D, 2])."""
    selection = st.session_state[key]["selection"]
    if not selection["box"] and not selection["lasso"]:
        _set("", by=name)
        return
    _set(encode(rows_inside(selection, points), ids) or EMPTY_REGION, by=name)


def rows_inside(selection: Mapping[str, Any], points: NDArray[np.float32]) -> Rows:
    """Rows of points [D, 2] inside any of the boxes and lassos of a Plotly selection."""
    inside = np.zeros(len(points), bool)
    for box in selection["box"]:
        low, high = np.sort([box["x"], box["y"]], axis=1).T
        inside |= ((points >= low) & (points <= high)).all(axis=1)
    for lasso in selection["lasso"]:
        inside |= _in_polygon(points, np.column_stack([lasso["x"], lasso["y"]]))
    return np.flatnonzero(inside)


def encode(rows: Rows, ids: Sequence[str]) -> str:
    """Rows as their ids if they are few, else as a bit for each document; "" for no rows."""
    names = [ids[row] for row in rows]
    if len(names) <= MOST_IDS and not any("," in name for name in names):
        return ",".join(names)
    bits = np.zeros(len(ids), np.uint8)
    bits[rows] = 1
    packed = zlib.compress(np.packbits(bits).tobytes(), 9)
    return f"{BITS}{_checksum(ids)}-{base64.urlsafe_b64encode(packed).decode().rstrip('=')}"


def decode(code: str, ids: Sequence[str]) -> Rows | None:
    """The rows that `encode` was given; None if they are not of these documents."""
    if code in ("", EMPTY_REGION):
        return np.empty(0, np.int64)
    if not code.startswith(BITS):
        row_of = {name: row for row, name in enumerate(ids)}
        rows = [row_of.get(name) for name in code.split(",")]
        return None if None in rows else np.array(sorted(set(rows)), np.int64)  # type: ignore[type-var]
    try:
        checksum, text = code.removeprefix(BITS).split("-", 1)
        packed = zlib.decompressobj().decompress(
            base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), len(ids)
        )
    except (ValueError, binascii.Error, zlib.error):
        return None
    if checksum != _checksum(ids) or len(packed) != -(-len(ids) // 8):
        return None
    return np.flatnonzero(np.unpackbits(np.frombuffer(packed, np.uint8))[: len(ids)])


def _set(code: str, by: str | None) -> None:
    """A new selection: every map but the one it was drawn on has to be told."""
    st.session_state[PARAM] = code
    for name in MODELS:
        if name != by:
            _show(name, code)


def _show(name: str, code: str) -> None:
    """Have the map made anew with a selection."""
    _state()[name] = (code, _state()[name][1] + 1)


def _state() -> dict[str, Any]:
    fresh = {"content": "", **{name: ("", 0) for name in MODELS}}
    state: dict[str, Any] = st.session_state.setdefault(DRAWN, fresh)
    return state


def _checksum(ids: Sequence[str]) -> str:
    return f"{zlib.crc32(chr(10).join(ids).encode()):08x}"


def _in_polygon(points: NDArray[np.float32], corners: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether each of points [D, 2] lies inside the closed polygon of corners [C, 2]: an odd
    number of its edges crosses the ray from the point to the right."""
    x, y = points[:, :1].astype(np.float64), points[:, 1:].astype(np.float64)
    ends = np.roll(corners, -1, axis=0)
    spans = (corners[:, 1] > y) != (ends[:, 1] > y)
    rise = np.where(ends[:, 1] == corners[:, 1], 1.0, ends[:, 1] - corners[:, 1])
    crossing = corners[:, 0] + (y - corners[:, 1]) / rise * (ends[:, 0] - corners[:, 0])
    odd: NDArray[np.bool_] = (spans & (x < crossing)).sum(axis=1) % 2 == 1
    return odd
