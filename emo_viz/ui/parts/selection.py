"""Which points are selected on the maps, kept in the address so that a link shows the same.

The browser says which points a gesture holds; what is selected stands in the address alone, so that
a step back undoes one gesture, on all maps at once.
"""

import base64
import binascii
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from emo_viz.ui.parts.point_maps import Event
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

    def follow_address(self, ids: Sequence[str], items: str) -> None:
        """Take up a selection that the address asks for; call once a run, before `rows`.

        items: what the ids are of ("documents").
        """
        links.value(self.param, self._kind(ids, items), "")

    def _kind(self, ids: Sequence[str], items: str) -> Kind[str]:
        def parse(code: str) -> str:
            if decode(code, ids) is None:
                raise ValueError
            return code

        ask = f"The link selects {items} {{asked}}, which are not here; nothing is selected."
        return replace(
            checked(ask, parse),  # no `what`: a reader cannot use the code
            fits=lambda code: decode(code, ids) is not None,
        )

    def current(self) -> str:
        """The selection as the address has it; "" for none."""
        code: str = st.session_state.get(self.param) or ""
        return code

    def rows(self, ids: Sequence[str]) -> Rows | None:
        """The rows selected now, none of them for an empty region; None for no selection."""
        return decode(self.current(), ids) if self.current() else None

    @property
    def gesture(self) -> int:
        """How many gestures of the visitor have been taken."""
        taken: int = st.session_state.get(f"{self.param}_gesture", 0)
        return taken

    def clear(self) -> None:
        """Select nothing."""
        st.session_state[self.param] = ""

    def take(self, event: Event, ids: Sequence[str]) -> None:
        """Take over what was drawn or clicked on one of the maps."""
        st.session_state[f"{self.param}_gesture"] = event.gesture
        nothing = EMPTY_REGION if event.region else ""
        st.session_state[self.param] = encode(event.rows, ids) or nothing


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


def _checksum(ids: Sequence[str]) -> str:
    return f"{zlib.crc32(chr(10).join(ids).encode()):08x}"
