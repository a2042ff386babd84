"""Guards: a step whose loss or gradient is far out of line changes no weight.

A batch of garbage can undo what thousands of steps learnt. What is in line is judged by the latest
steps, those that were skipped among them: a level that has really changed is soon taken for what it
is. All processes see the same numbers and decide alike.
"""

import math
import statistics
from collections import deque
from typing import Any

from model.train.presets import Preset

WINDOW = 128
LEAST = 32  # steps that must be known before one can be out of line
MOST_IN_A_ROW = 8


class Guard:
    """Judges every step by the steps before it; its state is part of a checkpoint."""

    def __init__(self, preset: Preset) -> None:
        self.sigmas, self.times = preset.guard_sigmas, preset.guard_norms
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.norms: deque[float] = deque(maxlen=WINDOW)
        self.skipped = self.in_a_row = 0

    def judge(self, loss: float, grad_norm: float) -> str | None:
        """Why the step should change nothing, in words, or None; both numbers are finite."""
        why = self._out_of_line(loss, grad_norm) if len(self.losses) >= LEAST else None
        if why and self.in_a_row == MOST_IN_A_ROW:
            why = None
        self.losses.append(loss)
        self.norms.append(grad_norm)
        self.skipped += why is not None
        self.in_a_row = self.in_a_row + 1 if why else 0
        return why

    def _out_of_line(self, loss: float, grad_norm: float) -> str | None:
        mean, sigma = statistics.fmean(self.losses), statistics.pstdev(self.losses)
        limit = mean + self.sigmas * sigma if self.sigmas else math.inf
        if loss > limit:
            return (
                f"its loss of {loss:.3f} is over {limit:.3f}, {self.sigmas:g} standard deviations "
                f"above the mean of the last {len(self.losses)} steps"
            )
        usual = statistics.median(self.norms)
        if self.times and grad_norm > self.times * usual:
            return (
                f"its gradient's norm of {grad_norm:.3g} is over {self.times:g} times the median "
                f"{usual:.3g} of the last {len(self.norms)} steps"
            )
        return None

    def state(self) -> dict[str, Any]:
        """What decides about the next step, as JSON keeps it to the bit."""
        return {
            "losses": list(self.losses),
            "norms": list(self.norms),
            "skipped": self.skipped,
            "in_a_row": self.in_a_row,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from `state()`; a checkpoint of a run without guards has none."""
        try:
            losses, norms = ([float(n) for n in state[name]] for name in ("losses", "norms"))
            skipped, in_a_row = int(state["skipped"]), int(state["in_a_row"])
        except (KeyError, TypeError, ValueError):
            return
        self.losses.extend(losses)
        self.norms.extend(norms)
        self.skipped, self.in_a_row = skipped, in_a_row
