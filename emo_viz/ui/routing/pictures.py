"""Token routing page: the pictures of tokens by experts, of a layer, of all, or of a difference."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.routing import Gated, gate_matrix
from emo_viz.analysis.runs import Comparison, Run
from emo_viz.figures.theme import colour_of
from emo_viz.ui.parts.heatmap import Layer, Pick, Side, heatmap, layer_of
from emo_viz.ui.parts.reading import Reading
from emo_viz.ui.parts.together import in_each, less, name
from emo_viz.ui.shell.words import count, escape_markdown, isolated

ONE, ALL, DIFFERENCE = "One layer", "All layers", "Difference"
GROUP = "routing"
PIXELS = 530
NEUTRAL = "#7a7f87"


def draw(
    reading: Reading, picture: str, layer: int, by_use: bool, on_pick: Callable[[Pick], None]
) -> None:
    """The picture and a line on what it shows. layer: the number of the chosen one."""
    reason = why_no_difference(reading.runs) if picture == DIFFERENCE else ""
    if reason:
        st.info(escape_markdown(reason), icon=":material/compare_arrows:")
    differences = picture == DIFFERENCE and not reason
    layers = reading.numbers if picture == ALL else [layer]
    if differences:
        sides = [_less(reading, layer, by_use)]
    else:
        sides = [_side(reading, run, layers, by_use) for run in reading.runs]
    heatmap(
        sides,
        [isolated(label) for label in reading.labels[1:]],
        key="routing_map",
        on_pick=on_pick,
        pixels=PIXELS,
        what=_what(reading, differences),
        differences=differences,
        group=GROUP,
    )
    st.caption(_said(reading, layer, by_use, differences))


def _side(reading: Reading, run: Run, layers: Sequence[int], by_use: bool) -> Side:
    """A run's picture of each of these layers, by number."""
    one, routed = _weights(reading, run), reading.routed[run.id]
    places = zip(map(reading.place, layers), layers, strict=True)
    return Side(
        run.id,
        run.label,
        colour_of(run),
        [layer_of(one, place, number, routed[place], by_use) for place, number in places],
    )


def _weights(reading: Reading, run: Run) -> Gated:
    """A run's recording; its weights are 1 where one of the runs has none, as one scale is for
    all of them."""
    one = reading.recordings[run.id]
    return _Used(one.expert_ids) if reading.unweighed else one


@dataclass(frozen=True, eq=False)
class _Used:
    """Which experts are used, whatever their weights."""

    expert_ids: NDArray[np.integer]

    @property
    def gate_weights(self) -> NDArray[np.floating]:
        return (self.expert_ids >= 0).astype(np.float32)


def _what(reading: Reading, differences: bool) -> str:
    """What a colour is, in words."""
    first = reading.runs.first.label
    if reading.unweighed:
        return f"used by {first} alone" if differences else ""
    return f"more gate weight in {first}" if differences else "gate weight"


def _said(reading: Reading, layer: int, by_use: bool, differences: bool) -> str:
    place = reading.place(layer)
    used = in_each(reading.runs, lambda run: f"{reading.routing[run].distinct[place]}")
    order = "by use in this text, the most used on the left" if by_use else "by id"
    said = (
        f"1 document, {count(reading.num_tokens, 'token')}. Different routed experts used in layer "
        f"{layer}: {used}. Experts {order}."
    )
    if reading.unweighed:
        without = " and ".join(name(run) for run in reading.runs if run.id in reading.unweighed)
        said += f" A cell says that the expert is used: there are no gate weights of {without}."
    if differences:
        said += (
            f" Gate weights of {less(reading.runs)}, expert by expert of the same id; a cell with "
            "a slit is below zero. Models that were trained apart may number their experts "
            "otherwise."
        )
    return said


def why_no_difference(runs: Comparison) -> str:
    """A sentence where there is nothing to subtract; "" where there is."""
    if len(runs) < 2:
        return "A difference is of two runs: choose a second one in the side bar."
    return runs.why_not("experts")


def _less(reading: Reading, layer: int, by_use: bool) -> Side:
    """The gate weights of the first run less those of the second."""
    place = reading.place(layer)
    first, second = (
        gate_matrix(_weights(reading, run), place, reading.routed[run.id][place])
        for run in reading.runs
    )
    ids, values = sparse(first - second)
    mass = np.abs(first).sum(axis=0) + np.abs(second).sum(axis=0)
    order = np.argsort(-mass, kind="stable") if by_use else np.arange(len(mass))
    label = " less ".join(run.label for run in reading.runs)
    return Side("difference", label, NEUTRAL, [Layer(layer, ids, values, order)])


def sparse(dense: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Of values [P, R] the ids [P, S] that are not 0, -1 beyond them, and their values [P, S]."""
    slots = max(1, int((dense != 0).sum(axis=1).max(initial=0)))
    ids = np.argsort(-np.abs(dense), axis=1, kind="stable")[:, :slots]
    values = np.take_along_axis(dense, ids, axis=1)
    return np.where(values != 0, ids, -1), values
