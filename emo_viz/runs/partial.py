"""An unfinished recording: windows of documents that are whole, kept beside the goal.

`.NAME.partial/` beside the trace NAME holds `state.json`, which says of what the recording is, and
a file `00000.npz` for each window of documents, in their order. A recording that was killed goes on
after the last of them; one of anything else begins anew.
"""

import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from emo_viz.trace.schema import Level
from model.files import new_file, read_json, write_json

if TYPE_CHECKING:
    from model.run.recording import Routing

FORMAT = "emo-viz-partial-recording"
STATE = "state.json"
LOCK = "lock"
OURS = (STATE, "*.npz", ".*.tmp")
# As in a trace. Values of a token, one document after another.
BY_TOKEN = {
    "token_ids": np.int64,
    "expert_ids": np.int16,
    "gate_weights": np.float16,
    "entropy": np.float16,
    "loss": np.float32,
}


# All that a trace of documents needs of them.
WITHOUT_TOKENS = ("expert_ids", "loss")


class Recorded(NamedTuple):
    """One document: its row, the texts of its tokens, and what the model did with it."""

    row: Mapping[str, Any]
    texts: Sequence[str] | None
    routing: "Routing"


@dataclass
class Partial:
    """A folder of finished windows. A context manager: one process at a time.

    of: what decides the bytes of the recording, each with a word for it. documents: those in the
    windows that are there, the first of all.
    """

    folder: Path
    level: Level
    of: Mapping[str, Any]
    documents: int = 0
    windows: int = 0
    _lock: int = -1
    _ours: bool = False

    @classmethod
    def beside(cls, out: Path, level: Level, of: Mapping[str, Any]) -> Self:
        """The place of an unfinished recording of the trace `out`."""
        name = f".{out.absolute().name[:100]}.partial"
        return cls(out.absolute().parent / name, level, json.loads(json.dumps(of)))

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self.folder)
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

        Raises ValueError if the folder holds what no recording wrote.
        """
        state = self._state()
        self._ours = True
        if state is not None and state.get("of") == self.of:
            while self._take(self.windows):
                pass
            if self.documents:
                tell(f"The unfinished recording goes on after {self.documents:,} documents.")
            return
        if state is not None:
            tell(f"The unfinished recording is {_difference(state, self.of)}; it begins anew.")
        self.clear()
        write_json(self.folder / STATE, {"format": FORMAT, "of": self.of})

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
        if others and state.get("format") != FORMAT:
            raise ValueError(
                f"{self.folder} is not an unfinished recording; move it away, or choose another "
                "place for the trace."
            )
        return state if others else None

    def _take(self, number: int) -> bool:
        """Count a window, if it is there and whole: the disk may have lost it with the power."""
        try:
            with np.load(self._path(number), allow_pickle=False) as arrays:
                documents = [len(arrays[name]) for name in arrays.files].pop(0)  # reads them all
        except (OSError, ValueError, EOFError, IndexError, zipfile.BadZipFile):
            return False
        self.windows, self.documents = self.windows + 1, self.documents + documents
        return True

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:05d}.npz"

    def write(self, window: Sequence[Recorded]) -> None:
        """Keep a window. Raises ValueError if it cannot be written."""
        with new_file(self._path(self.windows)) as path, path.open("wb") as file:
            arrays: Any = _packed(window, self.level)
            np.savez(file, **arrays)
        self.windows, self.documents = self.windows + 1, self.documents + len(window)

    def read(self) -> Iterator[Recorded]:
        """All documents in their order, one window in memory at a time."""
        for number in range(self.windows):
            with np.load(self._path(number), allow_pickle=False) as arrays:
                window = {name: arrays[name] for name in arrays.files}
            yield from _unpacked(window)

    def clear(self) -> None:
        """Forget what a recording has written there."""
        for pattern in OURS:
            for path in self.folder.glob(pattern):
                path.unlink()
        self.documents = self.windows = 0


def _locked(folder: Path) -> int:
    """A file of the folder that no other process holds; the system lets go of it with ours.

    Raises ValueError if one does.
    """
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # a system without such locks
        return handle
    except OSError as error:
        os.close(handle)
        raise ValueError(
            f"Another process is recording to the same place ({folder}); wait for it, or choose "
            "another place for the trace."
        ) from error
    return handle


def _difference(state: Mapping[str, Any], of: Mapping[str, Any]) -> str:
    """In what two recordings differ, in words."""
    other = state.get("of")
    other = other if isinstance(other, dict) else {}
    names = [name for name in of if of[name] != other.get(name)]
    return f"of another {' and another '.join(names)}"


def _packed(window: Sequence[Recorded], level: Level) -> dict[str, np.ndarray]:
    """Arrays of all documents, tokens along the first axis; what is None is left out."""
    routings = [recorded.routing for recorded in window]
    with_tokens = level == "tokens"
    words = json.dumps([[r.row, r.texts if with_tokens else None] for r in window])
    arrays = {
        "lengths": np.array([len(routing.token_ids) for routing in routings]),
        "words": np.frombuffer(words.encode(), np.uint8),
        "opened": np.array([routings[0].opened]),
    }
    for name in BY_TOKEN if with_tokens else WITHOUT_TOKENS:
        values = [getattr(routing, name) for routing in routings]
        if values[0] is not None:
            first = [v if v.ndim == 1 else np.moveaxis(v, 1, 0) for v in values]
            arrays[name] = np.concatenate(first).astype(BY_TOKEN[name])
    if routings[0].usage is not None:
        arrays["usage"] = np.array([routing.usage for routing in routings])
    return arrays


def _unpacked(arrays: Mapping[str, np.ndarray]) -> Iterator[Recorded]:
    from model.run.recording import Routing

    words = json.loads(arrays["words"].tobytes().decode())
    ends = np.cumsum(arrays["lengths"])
    for number, ((row, texts), end) in enumerate(zip(words, ends, strict=True)):
        own = slice(end - arrays["lengths"][number], end)
        values: dict[str, Any] = dict.fromkeys(BY_TOKEN)
        for name in BY_TOKEN:
            if name in arrays:
                value = arrays[name][own]
                values[name] = value if value.ndim == 1 else np.moveaxis(value, 0, 1)
        usage = arrays["usage"][number] if "usage" in arrays else None
        routing = Routing(**values, usage=usage, opened=bool(arrays["opened"][0]))
        yield Recorded(row, texts, routing)
