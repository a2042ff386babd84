"""Unfinished work: windows of results that are whole, kept beside the goal.

`.NAME.partial/` beside the goal NAME holds `state.json`, which says of what the work is, and a file
`00000.npz` for each window of results, in their order. Work that was killed goes on after the last
of them; work on anything else begins anew.
"""

import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from model.files import locked, new_file, read_json, write_json

STATE = "state.json"
LOCK = "lock"
OURS = (STATE, "*.npz", ".*.tmp")


@dataclass
class Unfinished:
    """A folder of finished windows. A context manager: one process at a time.

    of: what decides the bytes of the goal, each with a word for it. done: results in the windows
    that are there, the first of all. A kind of work says what it is called, what it makes and what
    its results are; each window's first array has a row for each of its results.
    """

    folder: Path
    of: Mapping[str, Any]
    done: int = 0
    windows: int = 0
    _lock: int = -1
    _ours: bool = False

    format: ClassVar[str]
    work: ClassVar[str]
    working: ClassVar[str]
    goal: ClassVar[str]
    results: ClassVar[str]

    @classmethod
    def place(cls, out: Path, of: Mapping[str, Any]) -> Self:
        """The place of the unfinished work on `out`."""
        name = f".{out.absolute().name[:100]}.partial"
        return cls(out.absolute().parent / name, json.loads(json.dumps(of)))

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = locked(
            self.folder / LOCK,
            f"Another process is {self.working} to the same place ({self.folder}); wait for "
            f"it, or choose another place for the {self.goal}.",
        )
        return self

    def __exit__(self, *unused: object) -> None:
        """Lets go of the folder, and takes it away if there is no window to go on with."""
        if not self.windows:
            if self._ours:
                self.clear()
            with suppress(OSError):
                (self.folder / LOCK).unlink()
                self.folder.rmdir()  # fails where there is something else
        os.close(self._lock)

    def resume(self, tell: Callable[[str], None]) -> None:
        """Take up what is there, or begin anew and say so, if it is of something else.

        Raises ValueError if the folder holds what no work of this kind wrote.
        """
        state = self._state()
        self._ours = True
        if state is not None and state.get("of") == self.of:
            while self._take(self.windows):
                pass
            if self.done:
                tell(f"The unfinished {self.work} goes on after {self.done:,} {self.results}.")
            return
        if state is not None:
            other = _difference(state, self.of)
            tell(f"The unfinished {self.work} is {other}; it begins anew.")
        self.clear()
        write_json(self.folder / STATE, {"format": self.format, "of": self.of})

    def write(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Keep a window. Raises ValueError if it cannot be written."""
        with new_file(self._path(self.windows)) as path, path.open("wb") as file:
            kept: Any = dict(arrays)
            np.savez(file, **kept)
        self.windows += 1
        self.done += len(next(iter(arrays.values())))

    def read(self) -> Iterator[dict[str, NDArray[Any]]]:
        """All windows in their order, one in memory at a time."""
        for number in range(self.windows):
            with np.load(self._path(number), allow_pickle=False) as arrays:
                yield {name: arrays[name] for name in arrays.files}

    def clear(self) -> None:
        """Forget what such work has written there."""
        for pattern in OURS:
            for path in self.folder.glob(pattern):
                path.unlink()
        self.done = self.windows = 0

    def _state(self) -> dict[str, Any] | None:
        """None where there is nothing yet."""
        others = [
            path
            for path in self.folder.iterdir()
            if path.name != LOCK and path.suffix != ".tmp"  # what was being written
        ]
        state: dict[str, Any] = {}
        with suppress(ValueError):
            state = read_json(self.folder / STATE)
        if others and state.get("format") != self.format:
            raise ValueError(
                f"{self.folder} is not an unfinished {self.work}; move it away, or choose another "
                f"place for the {self.goal}."
            )
        return state if others else None

    def _take(self, number: int) -> bool:
        """Count a window, if it is there and whole: the disk may have lost it with the power."""
        try:
            with np.load(self._path(number), allow_pickle=False) as arrays:
                results = [len(arrays[name]) for name in arrays.files].pop(0)  # reads them all
        except (OSError, ValueError, EOFError, IndexError, zipfile.BadZipFile):
            return False
        self.windows, self.done = self.windows + 1, self.done + results
        return True

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.npz"


def _difference(state: Mapping[str, Any], of: Mapping[str, Any]) -> str:
    """In what two pieces of work differ, in words."""
    other = state.get("of")
    other = other if isinstance(other, dict) else {}
    names = [name for name in of if of[name] != other.get(name)]
    return f"of another {' and another '.join(names)}"
