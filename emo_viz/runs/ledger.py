"""Work that is done once: what was made of what, by content, in a small file beside the results.

A step reads files and writes others. Its entry holds digests of both and its options; while all of
these are as they were, there is nothing to do. A step that was killed has no entry and is done
again.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emo_viz.runs.progress import Report
from model.files import file_digest, file_state, read_json, write_json

FORMAT = "emo-viz-made"


@dataclass(frozen=True)
class Step:
    """Something to make.

    name: of the step, one of its kind in a ledger. inputs, outputs: files, or folders that count
    with all that is in them. options: what decides the outputs besides. passes: how many documents
    a model reads for it, and seconds: what it takes besides, both for an estimate alone.
    """

    name: str
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    work: Callable[[Report], object]
    options: Mapping[str, Any] = field(default_factory=dict)
    passes: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Ledger:
    """What was made below a folder, in the file `path`."""

    path: Path

    @property
    def exists(self) -> bool:
        return bool(self._read())

    def begin(self) -> None:
        """Write the file if there is none, which marks the folder as one of ours."""
        if not self.exists:
            self._write({})

    def done(self, step: Step) -> bool:
        """Whether the step was made of what is there now, and its outputs are as it left them."""
        entry = self._read().get("made", {}).get(step.name)
        return entry is not None and entry == _entry(step)

    def pending(self, steps: Iterable[Step]) -> Iterator[Step]:
        """The steps, given in an order in which they can be made, that are not done: those too
        that read what another of them will write anew."""
        written: set[Path] = set()
        for step in steps:
            if written.isdisjoint(step.inputs) and self.done(step):
                continue
            written.update(step.outputs)
            yield step

    def make(self, step: Step, report: Report) -> bool:
        """Do the step unless it is done; returns whether there was something to do."""
        if self.done(step):
            return False
        step.work(report)
        self._write(self._read().get("made", {}) | {step.name: _entry(step)})
        return True

    def _read(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        with suppress(ValueError):
            found = read_json(self.path)
        if found.get("format") != FORMAT or not isinstance(found.get("made"), dict):
            return {}
        return found

    def _write(self, made: Mapping[str, Any]) -> None:
        write_json(self.path, {"format": FORMAT, "made": made})


def _entry(step: Step) -> dict[str, Any]:
    of = [[content(path) for path in step.inputs], dict(step.options)]
    digest = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()
    return {"of": digest, "outputs": [content(path) for path in step.outputs]}


def content(path: Path) -> str:
    """A digest of a file, or of the names and contents of a folder's; "" where there is nothing."""
    try:
        if not path.is_dir():
            return file_digest(file_state(path))
        files = sorted(file for file in path.rglob("*") if file.is_file())
        names = "".join(
            f"{file.relative_to(path)}\n{file_digest(file_state(file))}\n" for file in files
        )
    except OSError:
        return ""
    return hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()
