"""A training run as it tells of itself: its metrics, its loads, its plan.

Lines are fed as they are appended, so that a run in progress is never read twice. A line that is
not whole yet waits for its end; one that is no JSON object with a step is left out and counted.

Shapes: S lines, P points of a curve, L layers, E experts.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.files import read_json
from model.train.steps import newest_first

LOSS, HELDOUT, GRADIENT = "loss", "heldout_loss", "grad_norm"
BALANCE, DEAD, SPEED = "load_max_over_mean", "dead_experts", "tokens_per_second"
SKIPPED = "skipped"  # how the name of the trainer's own count begins
RECENT, RECENT_PART = 20, 5  # "now" is the mean of so many lines, or of a fifth of the fewer
BEFORE = 50  # lines whose median a spike is measured from
MOST_LOADS = 400  # columns of the heatmap of loads: more would not be seen
NOT_FINITE_NAMED = 3

Array = NDArray[np.float64]


class Lines:
    """The whole lines of a growing file as JSON objects with a step; `broken` counts the others."""

    def __init__(self) -> None:
        self.rest, self.broken = b"", 0

    def feed(self, more: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
        """The lines that `more`, what was appended, makes whole."""
        *whole, self.rest = (self.rest + more).split(b"\n")
        for line in whole:
            if not line.strip():
                continue
            found = _object(line)
            if found is None:
                self.broken += 1
            else:
                yield found


def _object(line: bytes) -> tuple[int, dict[str, Any]] | None:
    try:
        found = json.loads(line)
        step = found["step"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    whole = isinstance(step, int) and not isinstance(step, bool) and 0 <= step < 2**53
    return (step, found) if whole else None


@dataclass(frozen=True)
class Metrics:
    """steps [S], rising; values: by name [S], NaN where a line lacks it. not_finite: which numbers
    were NaN or infinite, and at which step. broken: lines that could not be read."""

    steps: NDArray[np.int64]
    values: Mapping[str, Array]
    not_finite: tuple[tuple[int, str], ...] = ()
    broken: int = 0

    def curve(self, name: str) -> tuple[NDArray[np.int64], Array]:
        """The steps that have this value, and the values."""
        there = np.isfinite(self.values[name])
        return self.steps[there], self.values[name][there]

    def last(self, name: str) -> float | None:
        """The newest value, or None."""
        found = self.curve(name)[1] if name in self.values else np.empty(0)
        return float(found[-1]) if len(found) else None

    def recent(self, name: str) -> float | None:
        """Mean of the newest values, of as many as `recent_lines` says, or None."""
        found = self.curve(name)[1] if name in self.values else np.empty(0)
        return float(found[-self.recent_lines(name) :].mean()) if len(found) else None

    def recent_lines(self, name: str) -> int:
        """How many lines "now" is the mean of: at most a fifth of those with this value, so that a
        short run is not told by its beginning."""
        there = len(self.curve(name)[1]) if name in self.values else 0
        return max(1, min(RECENT, there // RECENT_PART))


class MetricsLog:
    """Gathers metrics.jsonl; of a step that stands there twice (a resumed run) the last counts."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._steps: list[int] = []
        self._values: dict[str, list[float]] = {}
        self._not_finite: list[tuple[int, str]] = []

    def feed(self, more: bytes) -> None:
        """Take in what was appended to the file."""
        for step, found in self._lines.feed(more):
            for name, value in found.items():
                if (
                    name != "step"
                    and isinstance(value, int | float)
                    and not isinstance(value, bool)
                ):
                    self._add(step, name, float(value))
            self._steps.append(step)

    def _add(self, step: int, name: str, value: float) -> None:
        column = self._values.setdefault(name, [])
        column += [math.nan] * (len(self._steps) - len(column))
        column.append(value if math.isfinite(value) else math.nan)
        if not math.isfinite(value):
            self._not_finite.append((step, name))

    def metrics(self) -> Metrics:
        """What has been gathered so far."""
        steps = np.array(self._steps, np.int64)
        # The last place of each step: the first of the reversed.
        kept = len(steps) - 1 - np.unique(steps[::-1], return_index=True)[1]
        values = {}
        for name, column in self._values.items():
            padded = np.full(len(steps), np.nan)
            padded[: len(column)] = column
            values[name] = padded[kept]
        return Metrics(steps[kept], values, tuple(self._not_finite), self._lines.broken)


@dataclass(frozen=True)
class Loads:
    """How the choices of a step fall on the experts: steps [S], shares [S, L, E] (each layer sums
    to 1; NaN where a layer has fewer experts)."""

    steps: NDArray[np.int64]
    shares: NDArray[np.float32]


class LoadLog:
    """Gathers load.jsonl with bounded memory: of many lines, means of neighbours are kept."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._kept: list[tuple[int, NDArray[np.float32], int]] = []
        self._each = 1  # lines that one kept entry stands for

    def feed(self, more: bytes) -> None:
        """Take in what was appended to the file."""
        for step, found in self._lines.feed(more):
            share = _share(found.get("load"))
            if share is None:
                self._lines.broken += 1
            else:
                self._add(step, share)

    def _add(self, step: int, share: NDArray[np.float32]) -> None:
        if self._kept and self._kept[-1][1].shape != share.shape:
            self._lines.broken += 1
            return
        last = self._kept[-1] if self._kept else None
        if last is not None and last[2] < self._each:
            self._kept[-1] = _merged(last, (step, share, 1))
            return
        if len(self._kept) == 2 * MOST_LOADS:
            pairs = zip(self._kept[::2], self._kept[1::2], strict=True)
            self._kept = [_merged(one, other) for one, other in pairs]
            self._each *= 2
        self._kept.append((step, share, 1))

    def loads(self) -> Loads | None:
        """What has been gathered; None if nothing has."""
        if not self._kept:
            return None
        steps, shares, _ = zip(*self._kept, strict=True)
        return Loads(np.array(steps, np.int64), np.stack(shares))


_Entry = tuple[int, NDArray[np.float32], int]


def _merged(one: _Entry, other: _Entry) -> _Entry:
    """The mean of two entries, under the first one's step."""
    count = one[2] + other[2]
    return one[0], (one[1] * one[2] + other[1] * other[2]) / np.float32(count), count


def _share(load: object) -> NDArray[np.float32] | None:
    """Loads [L, E] of a line as shares of their layer; None for what is no table of numbers."""
    if not isinstance(load, list) or not load or not all(isinstance(row, list) for row in load):
        return None
    width = max(map(len, load))
    try:
        rows = np.array([[*row, *[math.nan] * (width - len(row))] for row in load], np.float32)
    except (ValueError, TypeError, OverflowError):
        return None
    if not width or np.isinf(rows).any() or (np.nan_to_num(rows) < 0).any():
        return None
    sums = np.nansum(rows, axis=1, keepdims=True)
    return np.divide(rows, np.where(sums > 0, sums, 1))


@dataclass(frozen=True)
class Plan:
    """What a run set out to do, as far as it says: steps in all, tokens a step, its objective."""

    steps: int | None = None
    tokens_per_step: int | None = None
    objective: str = ""


def read_plan(folder: Path) -> Plan:
    """The plan of a run's folder: from an export, or from the preset of its newest checkpoint."""
    saved = [step / "run.json" for step in newest_first(folder)]
    newest = [path for path in saved if path.exists()][:1]
    for path in (folder / "training.json", folder / "export" / "training.json", *newest):
        try:
            said = read_json(path)
        except ValueError:
            continue
        preset = said.get("preset", said)
        if isinstance(preset, dict):
            return _plan(preset)
    return Plan()


def _plan(preset: Mapping[str, Any]) -> Plan:
    def number(name: str) -> int | None:
        value = preset.get(name)
        return (
            value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
        )

    rows, context = number("rows"), number("context")
    objective = preset.get("objective")
    return Plan(
        steps=number("steps"),
        tokens_per_step=rows * context if rows and context else None,
        objective=objective if isinstance(objective, str) else "",
    )


def seconds_left(metrics: Metrics, plan: Plan) -> float | None:
    """How long the rest of the plan takes at the median pace of the newest lines, or None."""
    if plan.steps is None or plan.tokens_per_step is None or SPEED not in metrics.values:
        return None
    paces = metrics.curve(SPEED)[1][-BEFORE:]
    paces = paces[paces > 0]
    if not len(paces):
        return None
    left = max(0, plan.steps - int(metrics.steps[-1]) - 1)
    return float(left * plan.tokens_per_step / np.median(paces))


def smooth(values: Array, weight: float) -> Array:
    """Exponential moving average of values [P]: each is `weight` parts of what came before.

    Corrected for its start, as TensorBoard does: the first value is itself. weight in [0, 1).
    """
    if weight <= 0:
        return values
    return pd.Series(values).ewm(alpha=1 - weight).mean().to_numpy(np.float64)


def thin(x: NDArray[Any], y: Array, most: int) -> tuple[NDArray[Any], Array]:
    """At most about `most` points: of each stretch the lowest and the highest, so spikes stay."""
    if len(x) <= most:
        return x, y
    edges = np.linspace(0, len(x), most // 2 + 1).astype(int)
    places = {0, len(x) - 1}
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        places |= {low + int(y[low:high].argmin()), low + int(y[low:high].argmax())}
    kept = np.array(sorted(places))
    return x[kept], y[kept]


def above_median(values: Array, window: int = BEFORE) -> Array:
    """The median of the `window` values before each one [P]; NaN where there are fewer."""
    found = np.full(len(values), np.nan)
    if len(values) > window:
        before = np.lib.stride_tricks.sliding_window_view(values[:-1], window)
        found[window:] = np.median(before, axis=1)
    return found


def skipped(metrics: Metrics) -> int:
    """Steps that the trainer left out (0 where it does not say): a count that only grows, or a
    number at each step."""
    found = [metrics.curve(name)[1] for name in metrics.values if name.startswith(SKIPPED)]
    return max((_total(values) for values in found if len(values)), default=0)


def _total(values: Array) -> int:
    grows = bool((np.diff(values) >= 0).all())
    return round(float(values[-1] if grows else values.sum()))


def known_names(logs: Sequence[Metrics]) -> list[str]:
    """The names of all values of some runs, in the order in which they first stand in them."""
    return list(dict.fromkeys(name for log in logs for name in log.values))
