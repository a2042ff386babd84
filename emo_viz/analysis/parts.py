"""The finished parts of a measurement of curves, in a folder beside the file of the curves.

The command and the page keep them in the same place and name them by all they depend on, so each
goes on where the other was stopped. Whoever has written the curves clears the folder.
"""

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from emo_viz.analysis.ablation import Part, Task

MODEL_LETTERS = 12  # of its digest: they tell whose part a file is


@dataclass(frozen=True)
class Parts:
    """The parts in `folder`; `model` is always the digest of a model's weights."""

    folder: Path

    @classmethod
    def of(cls, curves: Path) -> "Parts":
        """The parts of the curves that go to the file `curves`."""
        return cls(curves.with_suffix(".parts"))

    def read(self, model: str, task: Task) -> Part | None:
        """The part of one model on one domain; None if it is not there or cannot be read."""
        try:
            return Part(**json.loads(self._path(model, task).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, model: str, task: Task, part: Part) -> None:
        """Keep a part, all or nothing."""
        path = self._path(model, task)
        self.folder.mkdir(parents=True, exist_ok=True)
        # Two processes may measure the same part at once: each has a temporary file of its own.
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(asdict(part)), encoding="utf-8")
        temporary.replace(path)

    def count(self, models: Iterable[str]) -> int:
        """How many parts of these models are kept."""
        return sum(
            len(list(self.folder.glob(f"{model[:MODEL_LETTERS]}-*.json"))) for model in models
        )

    def clear(self) -> None:
        """Keep nothing more."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, model: str, task: Task) -> Path:
        return self.folder / f"{model[:MODEL_LETTERS]}-{task.fingerprint(model)}.json"
