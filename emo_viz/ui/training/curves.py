"""Training page: alarms, progress and curves of the chosen runs, looked at again while they go on.

What is redrawn is a fragment: the controls stay as they are, and only what was appended to a
metrics.jsonl is read.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import streamlit as st

from emo_viz.analysis.training import known_names, seconds_left, smooth, thin
from emo_viz.analysis.training_alarms import Alarm, alarms, is_finished
from emo_viz.figures import training as figures
from emo_viz.figures.theme import CHART_CONFIG
from emo_viz.server import training
from emo_viz.server.training import Reading
from emo_viz.ui.parts import export
from emo_viz.ui.shell import links, routes
from emo_viz.ui.shell.words import compact, count, escape_markdown
from emo_viz.ui.training.chosen import Chosen, choose, in_progress, is_watched

EVERY_SECONDS = 5.0
MOST_POINTS = 900  # of a loss curve: about as many as it has pixels
FEWER_POINTS = 300  # of every other: Plotly draws 40 of them, and waits for each of their points
MOST_CURVES = 20
STEPS, TOKENS = "Steps", "Tokens"
LINEAR, LOG = "Linear", "Logarithmic"
SMOOTHING = 90


def show() -> None:
    """The view."""
    chosen = choose()
    if chosen is None:
        return
    row = st.container(horizontal=True, vertical_alignment="bottom", gap="medium")
    readings = [training.read(run) for run in chosen.runs]
    along = links.choice(
        row, "Along", [STEPS, TOKENS], routes.TRAINING_ALONG, what="horizontal axis"
    )
    axis = links.choice(row, "Vertical axis", [LINEAR, LOG], routes.TRAINING_AXIS)
    weight = links.slider(
        row,
        "Smoothing, %",
        0,
        99,
        SMOOTHING,
        routes.TRAINING_SMOOTH,
        help="Exponential moving average: how much of each point is what came before it.",
        width=220,
    )
    export.offer(
        "training curves",
        chosen.runs,
        charts={"Curves": "training_curves"},
        tables={"Every step": lambda: table(chosen)},
        place=row,
    )
    every = EVERY_SECONDS if any(map(is_watched, readings)) else None
    st.fragment(_draw, run_every=every)(chosen, along, axis == LOG, weight / 100, every is not None)


def _draw(chosen: Chosen, along: str, log: bool, weight: float, watched: bool) -> None:
    with links.fragment():
        readings = [training.read(run) for run in chosen.runs]
        # The chart stays in its place, with its zoom, whatever comes to stand above it.
        above, drawn = st.container(), st.container()
        with above:
            _say_all(readings)
        told = [each for each in readings if each.metrics is not None]
        if told:
            with drawn:
                _chart(chosen, readings, along, log, weight)
            _source(told, weight, watched)
        if watched and not any(map(is_watched, readings)):
            st.rerun()


def _say_all(readings: Sequence[Reading]) -> None:
    """Their losses in one line, then where each is, how long it takes and what rings."""
    told = [each for each in readings if each.metrics is not None]
    if told:
        st.markdown(_answer(told))
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        for each in told:
            st.caption(_where(each), width="content")
            _thresholds(each, _alarms(each))
    for each in readings:
        _say(each)


def _answer(readings: Sequence[Reading]) -> str:
    """Of all runs the same loss: on held-out documents, where each has one."""
    metrics = [each.metrics for each in readings if each.metrics is not None]
    ways = {
        "on held-out documents": [each.last("heldout_loss") for each in metrics],
        "in training": [each.recent("loss") for each in metrics],
    }
    for words, losses in ways.items():
        known = [loss for loss in losses if loss is not None]
        if len(known) == len(readings):
            labels = [escape_markdown(each.run.label) for each in readings]
            said = (f"**{loss:.3f}** in {own}" for loss, own in zip(known, labels, strict=True))
            return f"## Loss {words}, nats a token: {', '.join(said)}."
    return f"## {count(len(readings), 'training run')}, not each with a loss."


def _alarms(reading: Reading) -> list[Alarm]:
    assert reading.metrics is not None
    return alarms(reading.metrics, reading.plan, reading.silent_seconds)


def _say(reading: Reading) -> None:
    """What does not go well with a run, and what is left of it."""
    if reading.metrics is None:
        st.warning(escape_markdown(reading.problem), icon=":material/heart_broken:")
        return
    _progress(reading)
    if ringing := [alarm for alarm in _alarms(reading) if alarm.rings]:
        said = [
            f"- **{each.name}**: {escape_markdown(each.said)} (limit: {each.limit})."
            for each in ringing
        ]
        st.warning("\n".join(said), icon=":material/notifications_active:")


def _where(reading: Reading) -> str:
    """Where a run is, and its loss in training."""
    metrics, plan = reading.metrics, reading.plan
    assert metrics is not None
    done, name = int(metrics.steps[-1]) + 1, escape_markdown(reading.run.label)
    verb = "ended at" if is_finished(metrics, plan) else "is at"
    of = f" of {plan.steps:,}" if plan.steps and plan.steps != done else ""
    tokens = f", {compact(done * plan.tokens_per_step)} tokens" if plan.tokens_per_step else ""
    loss, lines = metrics.recent("loss"), metrics.recent_lines("loss")
    mean = f" (mean of the last {lines} lines)" if lines > 1 else ""
    training_loss = f", training loss **{loss:.3f}**{mean}" if loss is not None else ""
    return f"**{name}** {verb} step **{done:,}**{of}{tokens}{training_loss}."


def _progress(reading: Reading) -> None:
    metrics, plan = reading.metrics, reading.plan
    assert metrics is not None
    if plan.steps is None or is_finished(metrics, plan):
        return
    done = min(plan.steps, int(metrics.steps[-1]) + 1)
    left = seconds_left(metrics, plan) if in_progress(reading) else None
    rest = f", about {_duration(left)} left at the pace of the last lines" if left else ""
    said = f"{escape_markdown(reading.run.label)}: {done:,} of {plan.steps:,} steps{rest}"
    st.progress(done / plan.steps, said)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _thresholds(reading: Reading, found: Sequence[Alarm]) -> None:
    """In a word whether alarms ring, and all thresholds on request."""
    ringing = sum(alarm.rings for alarm in found)
    unknown = [alarm.name.lower() for alarm in found if not alarm.known]
    label = f"{count(ringing, 'alarm')}" if ringing else "No alarm"
    icon = ":material/notifications_active:" if ringing else ":material/notifications:"
    with st.popover(label, icon=icon, key=f"alarms_{reading.run.id}"):
        st.markdown("What is watched, and when it rings:")
        marks = {True: " (rings)", False: ""}
        st.markdown(
            "\n".join(f"- **{each.name}**{marks[each.rings]}: {each.limit}" for each in found)
        )
        if unknown:
            st.caption(f"This run does not write what it takes to tell: {', '.join(unknown)}.")


def _names(readings: Sequence[Reading]) -> list[str]:
    """What is drawn: first what the page knows, then whatever else the runs write."""
    there = known_names([each.metrics for each in readings if each.metrics is not None])
    known = [figures.HELDOUT, *(metric.name for metric in figures.METRICS)]
    ordered = [name for name in known if name in there]
    return (ordered + [name for name in there if name not in known])[:MOST_CURVES]


def _chart(
    chosen: Chosen, readings: Sequence[Reading], along: str, log: bool, weight: float
) -> None:
    shown = list(range(len(readings)))
    if along == TOKENS:
        lacking = [each.run.label for each in readings if not each.plan.tokens_per_step]
        if lacking:
            st.info(
                f"How many tokens a step of {escape_markdown(', '.join(lacking))} has is not known "
                "(no preset beside it), so it is not drawn along tokens.",
                icon=":material/visibility_off:",
            )
        shown = [place for place in shown if readings[place].plan.tokens_per_step]
    if not shown:
        return
    names = _names(readings)
    lines = {
        name: [_line(readings[place], name, along, weight) for place in shown] for name in names
    }
    st.plotly_chart(
        figures.curves([chosen.looks[place] for place in shown], lines, along, log),
        key="training_curves",
        config=CHART_CONFIG,
        alt="Curves of the training runs: losses on top, below them the auxiliary losses, "
        "gradient norm, learning rate, router entropy, dead experts, load and speed. Export has "
        "the numbers.",
    )


def _line(reading: Reading, name: str, along: str, weight: float) -> figures.Line | None:
    metrics = reading.metrics
    if metrics is None or name not in metrics.values:
        return None
    steps, values = metrics.curve(name)
    if not len(steps):
        return None
    x = steps + 1
    if along == TOKENS:
        x = x * (reading.plan.tokens_per_step or 1)
    most = MOST_POINTS if name in (figures.LOSS, figures.HELDOUT) else FEWER_POINTS
    raw_x, raw = thin(x, values, most)
    if name in (figures.HELDOUT, "lr") or not weight:
        return figures.Line(raw_x, raw.astype(np.float32))
    smooth_x, smoothed = thin(x, smooth(values, weight), most)
    return figures.Line(raw_x, raw.astype(np.float32), smoothed.astype(np.float32), smooth_x)


def _source(readings: Sequence[Reading], weight: float, watched: bool) -> None:
    lines = sum(len(each.metrics.steps) for each in readings if each.metrics is not None)
    broken = sum(each.metrics.broken for each in readings if each.metrics is not None)
    said = [
        f"{count(lines, 'line')} of {count(len(readings), 'metrics.jsonl file')}; the training "
        "loss of the first line is the mean of the last 20"
    ]
    if weight:
        said.append(f"thick lines: exponential moving average of weight {weight:.2f}, faint: as is")
    if broken:
        said.append(
            f"{count(broken, 'line')} could not be read and {'is' if broken == 1 else 'are'}"
            " left out"
        )
    if watched:
        said.append(f"read again every {EVERY_SECONDS:.0f} seconds while a run goes on")
    with st.expander("How it was measured"):
        st.markdown("; ".join(said) + ".")


def table(chosen: Chosen) -> pd.DataFrame:
    """Every line of the chosen runs, as they were written."""
    frames = []
    for run in chosen.runs:
        metrics = training.read(run).metrics
        if metrics is not None:
            columns = {"run": run.label, "step": metrics.steps, **metrics.values}
            frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
