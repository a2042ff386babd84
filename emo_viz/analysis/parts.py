"""The finished parts of a measurement of curves, in a folder beside the file of the curves.

The command and the page keep them in the same place and name them by all they depend on, so each
goes on where the other was stopped. Whoever has written the curves clears the folder.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from emo_viz.analysis.ablation import Part, Task
from model.files import read_json, write_json

MODEL_LETTERS = 12  # of its digest: they tell whose part a file is
PART = re.compile(rf"[0-9a-f]{{{MODEL_LETTERS}}}-[0-9a-f]{{64}}\.json|\..*\.tmp")


@dataclass(frozen=True)
class Parts:
    """The parts in `folder`; `model` is always the digest of a model's weights."""

    folder: Path

    @classmethod
    def of(cls, curves: Path) -> "Parts":
        """The parts of the curves that go to the file `curves`."""
        return cls(curves.with_suffix(".parts"))

    def read(self, model: str, task: Task) -> Part | None:
        """The part of one model on one domain; None if it is not there or is not of this task."""
        try:
            part = Part(**read_json(self._path(model, task)))
            part.check(task)
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        return part

    def write(self, model: str, task: Task, part: Part) -> None:
        """Keep a part, all or nothing. Raises ValueError if it cannot be written."""
        write_json(self._path(model, task), asdict(part), indent=None)

    def count(self, models: Iterable[str]) -> int:
        """How many parts of these models are kept."""
        return sum(
            len(list(self.folder.glob(f"{model[:MODEL_LETTERS]}-*.json"))) for model in models
        )

    def clear(self) -> None:
        """Keep nothing more. What is not a part stays, and the folder with it."""
        if not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            if PART.fullmatch(path.name):
                path.unlink(missing_ok=True)
        with suppress(OSError):  # it is not empty, or another process was faster
            self.folder.rmdir()

    def _path(self, model: str, task: Task) -> Path:
        return self.folder / f"{model[:MODEL_LETTERS]}-{task.fingerprint(model)}.json"
