"""Training page: how the load of a layer's experts changed over the steps of a run."""

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.training import LOAD, Loads
from emo_viz.figures import training as figures
from emo_viz.figures.theme import chart_config
from emo_viz.server import training
from emo_viz.server.training import TrainingRun
from emo_viz.ui.shell import links, routes
from emo_viz.ui.shell.words import count, escape_markdown
from emo_viz.ui.training.chosen import choose

NARROWEST = 420


def show() -> None:
    """The view."""
    chosen = choose()
    if chosen is None:
        return
    found = {run: training.loads(run) for run in chosen.runs}
    there = {run: loads for run, loads in found.items() if loads is not None}
    for run, loads in found.items():
        if loads is None:
            _lacks(run)
    if not there:
        return
    layers = max(loads.shares.shape[1] for loads in there.values())
    row = st.container(horizontal=True, vertical_alignment="bottom", gap="medium")
    names = [str(layer) for layer in range(layers)]
    layer = int(links.choice(row, "Layer", names, routes.TRAINING_LAYER))
    times = {
        run: times_even(loads, layer)
        for run, loads in there.items()
        if layer < loads.shares.shape[1]
    }
    highest = figures.colour_end(list(times.values()))
    cells = st.grid(min(2, len(times)), min_column_width=NARROWEST)
    for run, each in times.items():
        with cells.cell():
            _draw(run, there[run], each, layer, highest)


def _lacks(run: TrainingRun) -> None:
    st.info(
        f"**{escape_markdown(run.label)}** has no {LOAD} beside its metrics: it was trained before "
        "the trainer wrote the load of every expert. A run of `python -m model.train` writes it.",
        icon=":material/visibility_off:",
    )


def times_even(loads: Loads, layer: int) -> NDArray[np.float32]:
    """Loads of a layer [S, E] as multiples of even use among the experts it has."""
    shares = loads.shares[:, layer]
    times: NDArray[np.float32] = shares * np.isfinite(shares).any(axis=0).sum()
    return times


def _draw(
    run: TrainingRun, loads: Loads, times: NDArray[np.float32], layer: int, highest: float
) -> None:
    st.plotly_chart(
        figures.loads(loads.steps, times, run.label, layer, "step", highest),
        key=f"training_load_{run.id}",
        config=chart_config(f"expert load {run.label}"),
        alt=f"A map of steps by experts: how often each expert of layer {layer} was chosen.",
    )
    last = times[-1]
    idle = int((last == 0).sum())
    st.caption(
        f"{count(len(loads.steps), 'column')}, the last at step {loads.steps[-1]:,}: the most used "
        f"expert has {np.nanmax(last):.1f} times even use, {count(idle, 'expert')} none. 1 is even "
        "use; of many lines a column is the mean of neighbours."
    )
