"""Training page: how the load of a layer's experts changed over the steps of a run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.training_history import History
from emo_viz.figures import training as figures
from emo_viz.figures.theme import CHART_CONFIG
from emo_viz.server import histories, training
from emo_viz.server.training import TrainingRun
from emo_viz.ui.parts import export
from emo_viz.ui.shell import links, routes
from emo_viz.ui.shell.words import count, escape_markdown
from emo_viz.ui.training.chosen import choose
from model.train.steps import LOADS

NARROWEST = 420
LOADED, PROBABLE = "load", "router probability"


@dataclass(frozen=True, eq=False)
class Use:
    """How much a run uses its experts: shares [S, L, E] at steps [S], in the words of `what`."""

    id: str
    label: str
    steps: NDArray[np.int64]
    shares: NDArray[np.float32]
    what: str = LOADED


def show() -> None:
    """The view."""
    chosen = choose()
    if chosen is None:
        return
    found = {run: training.loads(run) for run in chosen.runs}
    lacking = [run for run, loads in found.items() if loads is None]
    if lacking:
        _lacks(lacking)
    uses = [
        Use(run.id, run.label, loads.steps, loads.shares)
        for run, loads in found.items()
        if loads is not None
    ]
    uses = uses or _of_histories(lacking)
    if uses:
        _side_by_side(uses, chosen.runs)


def _lacks(runs: Sequence[TrainingRun]) -> None:
    names = escape_markdown(" and ".join(run.label for run in runs))
    have, its = ("have", "their") if len(runs) > 1 else ("has", "its")
    st.info(
        f"**{names}** {have} no {LOADS} beside {its} metrics. `python -m model.train` writes the "
        "load of every expert there; older versions did not.",
        icon=":material/visibility_off:",
    )


def _of_histories(runs: Sequence[TrainingRun]) -> list[Use]:
    """What measured checkpoints of these runs say instead: mean router probabilities."""
    uses, told = list[Use](), list[str]()
    for path, each in _measured(runs):
        shares = np.stack([moment.usage.mean(axis=0) for moment in each.moments])
        steps = np.array(each.steps, np.int64)
        again = any(use.label == each.run for use in uses)
        label = f"{each.run} ({path.stem})" if again else each.run
        uses.append(Use(str(path), label, steps, shares, PROBABLE))
        about = f" ({escape_markdown(each.about)})" if each.about else ""
        documents = count(len(each.documents.ids), "held-out document")
        told.append(f"{escape_markdown(label)}{about} over {documents}")
    if uses:
        st.markdown(
            "Instead, the mean router probability of every expert at the checkpoints that were "
            f"measured: {'; '.join(told)}."
        )
    return uses


def _measured(runs: Sequence[TrainingRun]) -> Iterator[tuple[Path, History]]:
    """The histories that are of one of these runs, by what each says it is of."""
    for path in histories.paths():
        try:
            each = histories.read(path)
        except ValueError:  # the view of checkpoints says why
            continue
        # The bundled ones are of the library's runs, of no folder that happens to have such a name.
        own = [run for run in runs if run.run or not histories.is_bundled(path)]
        if any(each.run in (run.label, run.folder.name) for run in own):
            yield path, each


def _side_by_side(uses: Sequence[Use], runs: Sequence[TrainingRun]) -> None:
    row = st.container(horizontal=True, vertical_alignment="bottom", gap="medium")
    names = [str(layer) for layer in sorted({each for use in uses for each in routed_layers(use)})]
    if not names:
        st.info("No layer of these runs has experts.", icon=":material/visibility_off:")
        return
    layer = int(links.choice(row, "Layer", names, routes.TRAINING_LAYER))
    times = {
        use.id: times_even(use.shares[:, layer]) for use in uses if layer in routed_layers(use)
    }
    highest = figures.colour_end(list(times.values()))
    _offer(row, uses, layer, runs)
    cells = st.grid(min(2, len(times)), min_column_width=NARROWEST)
    drawn = [use for use in uses if use.id in times]
    for place, use in enumerate(drawn):
        with cells.cell():
            _draw(use, times[use.id], layer, highest, chart_key(place))


def chart_key(place: int) -> str:
    """By place: the export finds a chart by a key in which Streamlit leaves no path as it is."""
    return f"training_load_{place}"


def _offer(
    row: st.delta_generator.DeltaGenerator,
    uses: Sequence[Use],
    layer: int,
    runs: Sequence[TrainingRun],
) -> None:
    labels = [use.label for use in uses if layer in routed_layers(use)]
    export.offer(
        "expert load in training",
        runs,
        charts={label: chart_key(place) for place, label in enumerate(labels)},
        tables={"Every step, layer and expert": lambda: table(uses)},
        shown="" if uses[0].what == LOADED else f"{PROBABLE} at measured checkpoints",
        place=row,
    )


def table(uses: Sequence[Use]) -> pd.DataFrame:
    """A row for each step, layer and expert of each run; an expert that a layer lacks has none."""
    frames = []
    for use in uses:
        places = np.argwhere(np.isfinite(use.shares))
        step, layer, expert = places.T
        columns = {"run": use.label, "measure": use.what, "step": use.steps[step]}
        columns |= {"layer": layer, "expert": expert, "share": use.shares[step, layer, expert]}
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def routed_layers(use: Use) -> list[int]:
    """The layers that have experts: a dense one has no share."""
    there = np.isfinite(use.shares).any(axis=(0, 2))
    return [int(layer) for layer in np.flatnonzero(there)]


def times_even(shares: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shares of a layer's experts [S, E] as multiples of even use among those it has."""
    times: NDArray[np.float32] = shares * np.isfinite(shares).any(axis=0).sum()
    return times


def _draw(use: Use, times: NDArray[np.float32], layer: int, highest: float, key: str) -> None:
    st.plotly_chart(
        figures.loads(use.steps, times, use.label, layer, use.what, highest),
        key=key,
        config=CHART_CONFIG,
        alt=f"A map of steps by experts: the {use.what} of each expert of layer {layer}.",
    )
    last = times[-1]
    idle = int((last == 0).sum())
    none = f"{count(idle, 'expert')} none" if idle else "none is idle"
    st.caption(
        f"{count(len(use.steps), 'column')}, the last at step {use.steps[-1]:,}: the most used "
        f"expert has {np.nanmax(last):.1f} times even use, {none}. 1 is even use; a column may be "
        "the mean of neighbouring steps."
    )
