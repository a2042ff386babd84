"""The training runs of this machine, read as they grow; one reading serves all visitors.

A file is read on from where it was left; it is read anew where it was replaced or became shorter
(a run that is resumed writes it again, without the lines past its checkpoint).
"""

import math
import os
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

from emo_viz.analysis.runs import BUNDLED, label_of
from emo_viz.analysis.training import LoadLog, Loads, Metrics, MetricsLog, Plan
from emo_viz.analysis.training import read_plan as plan_of
from emo_viz.server import assets, home
from model.train.steps import LOADS, METRICS

Log = TypeVar("Log", MetricsLog, LoadLog)
Made = TypeVar("Made")
RUNS, OWN = "runs", "training"  # of the working directory, and of the user's folder
MOST_RUNS = 300
MOST_READ = 64  # files whose lines are held
MOST_BYTES = 512 << 20
DEEPEST = 2  # folders below a place that are looked into
MOST_FOLDERS = 1000  # of a place: a link may name the root of a disk
MOST_INSIDE = 10_000  # names that are read of one folder
NOT_RUNS = ("step-", "damaged-", ".")


@dataclass(frozen=True)
class TrainingRun:
    """A folder with a metrics.jsonl. id: what an address calls it. run: of the library, "" if it
    is none of its runs."""

    id: str
    label: str
    folder: Path
    run: str = ""


@dataclass(frozen=True)
class Reading:
    """What a run says of itself now. silent_seconds: since a line was written. problem: a sentence
    if its file cannot be read; `metrics` is then None."""

    run: TrainingRun
    metrics: Metrics | None
    plan: Plan
    silent_seconds: float = 0.0
    problem: str = ""


def runs(given: str = "") -> list[TrainingRun]:
    """The training runs that are here: the library's, those of `runs`, of the user's folder, and of
    the folder `given`. Raises ValueError if there is no such folder."""
    found = {one.folder.resolve(): one for one in _of_library()}
    for base in _places():
        for folder in _below(base):
            name = str(folder.relative_to(base.parent))
            found.setdefault(folder.resolve(), TrainingRun(name, name, folder))
    found = dict(islice(found.items(), MOST_RUNS))  # of those that nobody asked for
    if given.strip():
        base = home.given_path(given)
        if not os.path.isdir(base):
            raise ValueError(f"There is no folder {base}; check the path.")
        there = _below(base)
        if not there:
            raise ValueError(
                f"There is no {METRICS} in {base} nor up to two folders below it, of which "
                f"{MOST_FOLDERS:,} are looked at."
            )
        for folder in there:
            found.setdefault(folder.resolve(), TrainingRun(str(folder), _short(folder), folder))
    return _told_apart(list(found.values()))


def _short(folder: Path) -> str:
    """The last two parts of a path: "pair/emo"."""
    return "/".join(folder.parts[-2:])


def _told_apart(found: list[TrainingRun]) -> list[TrainingRun]:
    labels = Counter(one.label for one in found)
    return [
        one if labels[one.label] == 1 else replace(one, label=f"{one.label} ({one.id})")
        for one in found
    ]


def _of_library() -> Iterator[TrainingRun]:
    order = {each.id: place for place, each in enumerate(BUNDLED)}
    there = [run for run in assets.runs() if run.checkpoint is not None]
    for run in sorted(there, key=lambda run: order.get(run.id, len(order))):
        folder = run.checkpoint
        if folder is not None and os.path.isfile(folder / METRICS):
            yield TrainingRun(run.id, label_of(run.id), folder, run.id)


def _places() -> list[Path]:
    places = [Path(RUNS).absolute()]
    with suppress(ValueError):  # there may be no place for what is the user's own
        places.append(home.folder() / OWN)
    return [place for place in places if os.path.isdir(place)]


def _below(base: Path) -> list[Path]:
    """The run folders at `base` and below, by name; nothing inside a run is another run.

    The nearest are looked at first, MOST_FOLDERS in all.
    """
    found, level, left = list[Path](), [base], MOST_FOLDERS
    for deep in range(DEEPEST + 1):
        inside = list[Path]()
        left -= len(level)
        for folder in level:
            # Not Path.is_file: of a folder that may not be entered it raises PermissionError.
            if os.path.isfile(folder / METRICS):
                found.append(folder)
            elif deep < DEEPEST and len(inside) < left:
                inside += _inside(folder)[:MOST_RUNS]
        level = inside[:left]
    return sorted(found)


def _inside(folder: Path) -> list[Path]:
    """The folders in a folder that may hold runs, by name; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            names = [
                entry.name
                for entry in islice(entries, MOST_INSIDE)
                if not entry.name.startswith(NOT_RUNS) and entry.is_dir()
            ]
    except OSError:
        return []
    return [folder / name for name in sorted(names)]


def silent_seconds(run: TrainingRun) -> float:
    """Since a run's file was last written, without reading it; infinite if there is none."""
    try:
        return _silence(os.stat(run.folder / METRICS))
    except OSError:
        return math.inf


def _silence(state: os.stat_result) -> float:
    return max(0.0, time.time() - state.st_mtime)


def read(run: TrainingRun) -> Reading:
    """What a run says of itself now; only what was appended since the last time is read."""
    plan = plan_of(run.folder)
    path = run.folder / METRICS
    try:
        metrics = _METRICS.read(path, lambda log: log.metrics())
        silent = _silence(path.stat())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return Reading(run, None, plan, problem=f"{path} cannot be read ({reason}).")
    if not len(metrics.steps):
        said = f"{path} holds no step yet."
        if metrics.broken:
            said = f"{path} holds no line of a training step; it is of another kind, or damaged."
        return Reading(run, None, plan, silent, said)
    return Reading(run, metrics, plan, silent)


def loads(run: TrainingRun) -> Loads | None:
    """The loads that a run has written; None if it has none, or none that can be read."""
    try:
        return _LOADS.read(run.folder / LOADS, lambda log: log.loads())
    except (OSError, ValueError):
        return None


@dataclass
class _Held(Generic[Log]):
    """A file that has been read up to `offset`."""

    log: Log
    inode: tuple[int, int]
    offset: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Files(Generic[Log]):
    """The files that were read last, each with what was gathered of it."""

    def __init__(self, make: Callable[[], Log]) -> None:
        self._make: Callable[[], Log] = make
        self._lock = threading.Lock()
        self._held: OrderedDict[Path, _Held[Log]] = OrderedDict()

    def read(self, path: Path, made: Callable[[Log], Made]) -> Made:
        """What `made` makes of all that stands in a file now.

        Raises OSError if it cannot be read, ValueError if it is too large.
        """
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            if state.st_size > MOST_BYTES:
                raise ValueError(f"it has more than {MOST_BYTES >> 20} MB")
            held = self._find(path, (state.st_dev, state.st_ino), state.st_size)
            with held.lock:
                file.seek(held.offset)
                more = file.read()
                held.log.feed(more)
                held.offset += len(more)
                return made(held.log)

    def _find(self, path: Path, inode: tuple[int, int], size: int) -> _Held[Log]:
        with self._lock:
            held = self._held.get(path)
            if held is None or held.inode != inode or size < held.offset:
                held = self._held[path] = _Held(self._make(), inode)
            self._held.move_to_end(path)
            while len(self._held) > MOST_READ:
                self._held.popitem(last=False)
            return held


_METRICS: _Files[MetricsLog] = _Files(MetricsLog)
_LOADS: _Files[LoadLog] = _Files(LoadLog)
