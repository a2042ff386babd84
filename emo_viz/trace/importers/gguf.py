"""The part of GGUF that an importance matrix needs: its float32 tensors, by name.

Every length in the header is checked against the bytes that are left before it is used.
"""

import mmap
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from emo_viz.trace.importers.reading import bad

MAGIC = b"GGUF"
STRING, ARRAY, F32 = 8, 9, 0
# Bytes of a value by its type: (u)int8, (u)int16, (u)int32, float32, bool, then 64 bit.
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
SMALLEST_TENSOR, SMALLEST_FIELD = 24, 13
MAX_DIMS = 4
UINT32 = 4


def read_tensors(path: Path, wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """The float32 tensors whose names are wanted, axes in numpy's order (outermost first).

    Raises ValueError if the file is no GGUF of version 2 or 3, or is cut short.
    """
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise bad(path, "is not a GGUF file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Cursor(path, content).tensors(wanted)


class _Cursor:
    """A place in the file that never leaves it."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self.path, self.content = path, content
        self.at, self.size = len(MAGIC), len(content)

    def tensors(self, wanted: Callable[[str], bool]) -> dict[str, np.ndarray]:
        """Header, fields and the table of tensors, then the data of the wanted ones."""
        version = self.number("<I")
        if version not in (2, 3):
            raise bad(self.path, f"is a GGUF file of version {version}", "2 and 3 are read")
        tensors = self.count(SMALLEST_TENSOR)
        fields = self.count(SMALLEST_FIELD)
        alignment = self.fields(fields)
        table = [self.tensor_info() for _ in range(tensors)]
        start = -(-self.at // alignment) * alignment
        return {
            name: self.data(name, shape, kind, start + offset)
            for name, shape, kind, offset in table
            if wanted(name)
        }

    def fields(self, count: int) -> int:
        """Skip the fields; the alignment is the only one that matters."""
        alignment = 32
        for _ in range(count):
            key, kind = self.string(), self.number("<I")
            if key == "general.alignment" and kind == UINT32:
                alignment = self.number("<I")
            else:
                self.skip_value(kind)
        if not 0 < alignment <= 1 << 20:
            raise bad(self.path, f"has an alignment of {alignment} bytes")
        return alignment

    def tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, type and place of one tensor."""
        name, dims = self.string(), self.number("<I")
        if dims > MAX_DIMS:
            raise bad(self.path, f"has a tensor of {dims} axes")
        shape = tuple(self.number("<Q") for _ in range(dims))[::-1]
        return name, shape, self.number("<I"), self.number("<Q")

    def data(self, name: str, shape: tuple[int, ...], kind: int, start: int) -> np.ndarray:
        """A copy of one tensor."""
        if kind != F32:
            raise bad(self.path, f"holds {name[:80]!r} in another type than float32")
        length = 4
        for size in shape:
            length *= size
        self.check(start, length)
        return np.frombuffer(self.content[start : start + length], "<f4").reshape(shape)

    def skip_value(self, kind: int) -> None:
        """Step over one value; arrays hold plain values or strings, not arrays."""
        if kind == STRING:
            self.string()
        elif kind == ARRAY:
            inner, count = self.number("<I"), self.number("<Q")
            if inner == STRING:
                self.check(self.at, 8 * count)
                for _ in range(count):
                    self.step(self.number("<Q"))
            else:
                self.step(self.width(inner) * count)
        else:
            self.step(self.width(kind))

    def width(self, kind: int) -> int:
        """Bytes of a plain value."""
        if kind not in SIZES:
            raise bad(self.path, f"has a field of the unknown type {kind}")
        return SIZES[kind]

    def string(self) -> str:
        """A name: its length, then UTF-8."""
        length = self.number("<Q")
        start = self.step(length)
        return self.content[start : start + length].decode("utf-8", "replace")

    def count(self, smallest: int) -> int:
        """How many things follow, each of them at least `smallest` bytes long."""
        count = self.number("<Q")
        self.check(self.at, smallest * count)
        return count

    def number(self, form: str) -> int:
        """An unsigned number of 4 or 8 bytes."""
        start = self.step(struct.calcsize(form))
        value: int = struct.unpack_from(form, self.content, start)[0]
        return value

    def step(self, length: int) -> int:
        """Go on by `length` bytes; returns the place before."""
        self.check(self.at, length)
        start, self.at = self.at, self.at + length
        return start

    def check(self, start: int, length: int) -> None:
        """Refuse to look beyond the end."""
        if start + length > self.size:
            raise bad(
                self.path, "claims more than its bytes hold: it is cut short", "copy it again"
            )
