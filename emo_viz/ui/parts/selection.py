"""Which points are selected on the maps, kept in the address so that a link shows the same.

A selection is a region drawn on one of the maps, or a point clicked there. The points of a
region are found here, not in the browser, and are drawn as selected on the other map. Plotly drops
a selection when its figure changes, so the map that was drawn on keeps the figure it has: the
session remembers which selection each map was last told of, and how often it was made anew.
"""

import base64
import binascii
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from emo_viz.ui.shell import links
from emo_viz.ui.shell.address import Kind, checked

MOST_IDS = 20  # more of them go into the address as a bit for each
EMPTY_REGION = "none"
BITS = "bits-"

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Selection:
    """The points selected on the maps of one run or two; param: where the address keeps them."""

    param: str

    def follow_address(
        self, content: str, ids: Sequence[str], items: str, runs: Sequence[str]
    ) -> None:
        """Take up a selection that the address asks for; call once a run, before `drawn`.

        content: changes when the maps themselves do; then both show the selection as it is now.
        items: what the ids are of ("documents"). runs: the ids of those that have a map.
        """
        before = self.current()
        links.value(self.param, self._kind(ids, items), "")
        state = self._state()
        shown: dict[str, tuple[str, int]] = state["drawn"]
        if set(runs) != set(shown):
            state["drawn"] = {run: shown.get(run, ("", 0)) for run in runs}
            state["content"] = ""
        if self.current() != before or state["content"] != content:
            state["content"] = content
            for run in runs:
                self._show(run, self.current())

    def _kind(self, ids: Sequence[str], items: str) -> Kind[str]:
        def parse(code: str) -> str:
            if decode(code, ids) is None:
                raise ValueError
            return code

        return replace(
            checked(f"The link selects {items} that are not here; nothing is selected.", parse),
            fits=lambda code: decode(code, ids) is not None,
        )

    def current(self) -> str:
        """The selection as the address has it; "" for none."""
        code: str = st.session_state.get(self.param) or ""
        return code

    def rows(self, ids: Sequence[str], code: str | None = None) -> Rows | None:
        """The rows selected now, or by `code`; None if they are not of these ids."""
        return decode(self.current() if code is None else code, ids)

    def drawn(self, run: str) -> tuple[str, int]:
        """The selection that the map of a run shows, and how often it was made anew."""
        code, generation = self._state()["drawn"].get(run, ("", 0))
        return code, generation

    def clear(self) -> None:
        """Select nothing."""
        self._set("", by=None)

    def take(self, run: str, key: str, points: NDArray[np.float32], ids: Sequence[str]) -> Rows:
        """Take over what was drawn or clicked on the map of a run (widget `key`, points [P, 2]);
        returns the rows of it."""
        selection = st.session_state[key]["selection"]
        region = bool(selection["box"] or selection["lasso"])
        rows = rows_inside(selection, points) if region else _clicked(selection)
        self._set(encode(rows, ids) or (EMPTY_REGION if region else ""), by=run)
        return rows

    def _set(self, code: str, by: str | None) -> None:
        """A new selection: every map but the one it was drawn on has to be told."""
        st.session_state[self.param] = code
        for run in list(self._state()["drawn"]):
            if run != by:
                self._show(run, code)

    def _show(self, run: str, code: str) -> None:
        """Have the map made anew with a selection."""
        drawn = self._state()["drawn"]
        drawn[run] = (code, drawn.get(run, ("", 0))[1] + 1)

    def _state(self) -> dict[str, Any]:
        fresh: dict[str, Any] = {"content": "", "drawn": {}}
        state: dict[str, Any] = st.session_state.setdefault(f"{self.param}_drawn", fresh)
        return state


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
    """Rows as their ids if they are few, else as a bit for each id; "" for no rows."""
    names = [ids[row] for row in rows]
    if len(names) <= MOST_IDS and not any("," in name for name in names):
        return ",".join(names)
    bits = np.zeros(len(ids), np.uint8)
    bits[rows] = 1
    packed = zlib.compress(np.packbits(bits).tobytes(), 9)
    return f"{BITS}{_checksum(ids)}-{base64.urlsafe_b64encode(packed).decode().rstrip('=')}"


def decode(code: str, ids: Sequence[str]) -> Rows | None:
    """The rows that `encode` was given; None if they are not of these ids."""
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


def _clicked(selection: Mapping[str, Any]) -> Rows:
    """Rows of the points clicked: each carries its own, because an index is one of its group."""
    rows = [np.ravel(point["customdata"])[0] for point in selection["points"]]
    return np.array(rows, np.int64)


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
