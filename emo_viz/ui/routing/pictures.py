"""Token routing page: the pictures of tokens by experts, of a layer, of all, or of a difference."""

from collections.abc import Callable

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.routing import gate_matrix
from emo_viz.analysis.runs import Comparison
from emo_viz.figures.theme import colour_of
from emo_viz.ui.parts.heatmap import Layer, Pick, Side, heatmap, layer_of
from emo_viz.ui.parts.reading import Reading
from emo_viz.ui.parts.together import in_each, less
from emo_viz.ui.shell.words import count, escape_markdown, isolated

ONE, ALL, DIFFERENCE = "One layer", "All layers", "Difference"
GROUP = "routing"
PIXELS = 530
NEUTRAL = "#7a7f87"


def draw(
    reading: Reading, picture: str, layer: int, by_use: bool, on_pick: Callable[[Pick], None]
) -> None:
    """The picture and a line on what it shows. layer: the chosen one."""
    reason = why_no_difference(reading.runs) if picture == DIFFERENCE else ""
    if reason:
        st.info(escape_markdown(reason), icon=":material/compare_arrows:")
    differences = picture == DIFFERENCE and not reason
    layers = range(reading.num_layers) if picture == ALL else [layer]
    if differences:
        sides = [_less(reading, layer, by_use)]
    else:
        sides = [
            Side(
                run.id,
                run.label,
                colour_of(run),
                [
                    layer_of(
                        reading.recordings[run.id],
                        place,
                        place,
                        reading.routed[run.id][place],
                        by_use,
                    )
                    for place in layers
                ],
            )
            for run in reading.runs
        ]
    heatmap(
        sides,
        [isolated(label) for label in reading.labels[1:]],
        key="routing_map",
        on_pick=on_pick,
        pixels=PIXELS,
        what=f"more gate weight in {reading.runs.first.label}" if differences else "gate weight",
        differences=differences,
        group=GROUP,
    )
    st.caption(_said(reading, layer, by_use, differences))


def _said(reading: Reading, layer: int, by_use: bool, differences: bool) -> str:
    used = in_each(reading.runs, lambda run: f"{reading.routing[run].distinct[layer]}")
    order = "by use in this text, the most used on the left" if by_use else "by id"
    said = (
        f"1 document, {count(reading.num_tokens, 'token')}. Different routed experts used in layer "
        f"{layer}: {used}. Experts {order}."
    )
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
    first, second = (
        gate_matrix(reading.recordings[run.id], layer, reading.routed[run.id][layer])
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
