"""What goes wrong with a training run, each by a threshold that is said with it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from emo_viz.analysis.training import (
    BALANCE,
    BEFORE,
    DEAD,
    GRADIENT,
    LOSS,
    NOT_FINITE_NAMED,
    SPEED,
    Metrics,
    Plan,
    above_median,
    skipped,
)

SPIKE_NATS = 0.5
GRADIENT_TIMES = 4.0
DEAD_EXPERTS = 1.0
MAX_OVER_MEAN = 4.0
STALL_MINUTES = 10.0
STALL_STEPS = 20  # a run of slow steps is given so many of them


@dataclass(frozen=True)
class Alarm:
    """One thing that is watched. rings: whether it is so now, or has been. said: a sentence on what
    was found, or "" if nothing was. limit: the threshold in words. known: whether the run writes
    what it takes to tell."""

    name: str
    limit: str
    said: str = ""
    known: bool = True

    @property
    def rings(self) -> bool:
        return bool(self.said)


def alarms(metrics: Metrics, plan: Plan, silent_seconds: float) -> list[Alarm]:
    """All that is watched of a run. silent_seconds: since its file was last written."""
    watched: list[Callable[[], Alarm]] = [
        lambda: _stalled(metrics, plan, silent_seconds),
        lambda: _not_finite(metrics),
        lambda: _spike(metrics),
        lambda: _gradient(metrics),
        lambda: _dead(metrics),
        lambda: _imbalance(metrics),
        lambda: _skipped(metrics),
    ]
    return [alarm() for alarm in watched]


def is_finished(metrics: Metrics, plan: Plan) -> bool:
    """Whether the last step of the plan is done; False where the plan is not known."""
    return plan.steps is not None and int(metrics.steps[-1]) + 1 >= plan.steps


def stall_minutes(metrics: Metrics, plan: Plan) -> float:
    """How long no line may come before a run counts as stalled."""
    pace = metrics.recent(SPEED)
    if not pace or plan.tokens_per_step is None:
        return STALL_MINUTES
    return max(STALL_MINUTES, STALL_STEPS * plan.tokens_per_step / pace / 60)


def _stalled(metrics: Metrics, plan: Plan, silent_seconds: float) -> Alarm:
    most = stall_minutes(metrics, plan)
    alarm = Alarm("Stalled", f"no line for {most:.0f} minutes before the last step")
    if is_finished(metrics, plan) or silent_seconds < 60 * most:
        return alarm
    if plan.steps is None:  # it may have ended: nobody knows
        return Alarm(alarm.name, alarm.limit, known=False)
    left = plan.steps - int(metrics.steps[-1]) - 1
    said = f"no line for {_since(silent_seconds)}, with {left:,} of {plan.steps:,} steps to go"
    return Alarm(alarm.name, alarm.limit, said)


def _since(seconds: float) -> str:
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def _not_finite(metrics: Metrics) -> Alarm:
    limit = "any number that is NaN or infinite"
    found = metrics.not_finite
    if not found:
        return Alarm("Not finite", limit)
    named = ", ".join(f"{name} at step {step:,}" for step, name in found[:NOT_FINITE_NAMED])
    more = f" and {len(found) - NOT_FINITE_NAMED:,} more" if len(found) > NOT_FINITE_NAMED else ""
    return Alarm("Not finite", limit, f"NaN or infinite: {named}{more}")


def _spike(metrics: Metrics) -> Alarm:
    limit = f"a step {SPIKE_NATS} nats above the median of the {BEFORE} before it"
    if LOSS not in metrics.values:
        return Alarm("Loss spike", limit, known=False)
    steps, losses = metrics.curve(LOSS)
    above = losses - above_median(losses)
    high = np.flatnonzero(np.nan_to_num(above) > SPIKE_NATS)
    if not len(high):
        return Alarm("Loss spike", limit)
    worst, last = high[above[high].argmax()], high[-1]
    said = (
        f"{len(high):,} {'step' if len(high) == 1 else 'steps'}, the largest {above[worst]:.2f} "
        f"nats at step {steps[worst]:,}, the last at step {steps[last]:,}"
    )
    return Alarm("Loss spike", limit, said)


def _gradient(metrics: Metrics) -> Alarm:
    limit = f"a norm {GRADIENT_TIMES:.0f} times the median of the {BEFORE} before it"
    if GRADIENT not in metrics.values:
        return Alarm("Gradient norm", limit, known=False)
    steps, norms = metrics.curve(GRADIENT)
    usual = above_median(norms)
    times = np.divide(norms, usual, out=np.zeros(len(norms)), where=usual > 0)
    high = np.flatnonzero(times > GRADIENT_TIMES)
    if not len(high):
        return Alarm("Gradient norm", limit)
    worst = high[times[high].argmax()]
    said = (
        f"{len(high):,} {'step' if len(high) == 1 else 'steps'}, the largest {norms[worst]:.2f}, "
        f"{times[worst]:.1f} times as much, at step {steps[worst]:,}"
    )
    return Alarm("Gradient norm", limit, said)


def _dead(metrics: Metrics) -> Alarm:
    limit = f"{DEAD_EXPERTS:.0f} expert or more that no token chose{_mean_of(metrics, DEAD)}"
    now = metrics.recent(DEAD)
    if now is None:
        return Alarm("Dead experts", limit, known=False)
    said = f"{now:.1f} experts, of all layers, are chosen by no token of a step"
    return Alarm("Dead experts", limit, said if now >= DEAD_EXPERTS else "")


def _imbalance(metrics: Metrics) -> Alarm:
    most = f"the most used expert above {MAX_OVER_MEAN:.0f} times the mean"
    limit = f"{most}{_mean_of(metrics, BALANCE)}"
    now = metrics.recent(BALANCE)
    if now is None:
        return Alarm("Load imbalance", limit, known=False)
    said = f"the most used expert of a layer has {now:.1f} times the mean load"
    return Alarm("Load imbalance", limit, said if now > MAX_OVER_MEAN else "")


def _mean_of(metrics: Metrics, name: str) -> str:
    lines = metrics.recent_lines(name)
    return f", mean of the last {lines} lines" if lines > 1 else ", in the last line"


def _skipped(metrics: Metrics) -> Alarm:
    limit = "any step that the trainer's own guards left out"
    number = skipped(metrics)
    said = f"the trainer left out {number:,} {'step' if number == 1 else 'steps'}" if number else ""
    return Alarm("Skipped steps", limit, said)
