"""Token routing page: the pictures of tokens by experts, of a layer, of all, or of a difference."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.routing import Gated, gate_matrix
from emo_viz.analysis.runs import Comparison, Run
from emo_viz.figures.theme import NEUTRAL_COLOUR, between, colour_of
from emo_viz.ui.parts.heatmap import Layer, Pick, Side, heatmap, layer_of
from emo_viz.ui.parts.reading import Reading
from emo_viz.ui.parts.together import in_each, less, name
from emo_viz.ui.routing.matching import Matching
from emo_viz.ui.shell import routes
from emo_viz.ui.shell.words import count, escape_markdown, isolated, share

ONE, ALL, DIFFERENCE = "One layer", routes.ALL_LAYERS, "Difference"
GROUP = "routing"
PIXELS = 530
AXIS = "Routed expert (id)"


def options(reading: Reading) -> list[str]:
    """The pictures that there are: one run has no difference."""
    return [ONE, ALL, DIFFERENCE][: 3 if len(reading.runs) > 1 else 2]


def draw(
    reading: Reading,
    picture: str,
    layer: int,
    by_use: bool,
    match: Callable[[int], Matching | None] | None,
    on_pick: Callable[[Pick], None],
    same_ids: bool,
    whole: bool,
) -> None:
    """The picture and a line on what it shows. layer: the number of the chosen one. match: finds
    the experts of a layer that are the same in a difference; None: those of one id. same_ids: an
    id is one expert in both runs. whole: all rows at first."""
    with st.container():  # what is said here moves no picture from its place: its zoom stays
        differences, same = _compared(reading, picture, layer, match)
        sides = _sides(reading, picture, layer, by_use, differences, same)
    heatmap(
        sides,
        [isolated(label) for label in reading.labels[1:]],
        key="routing_map",
        on_pick=on_pick,
        pixels=PIXELS,
        what=_what(reading, differences),
        differences=differences,
        group=GROUP,
        same_ids=same_ids,
        whole=whole,
        rows=routes.ROUTING_ROWS,
    )
    st.caption(_said(reading, layer, by_use, differences, same))


def _compared(
    reading: Reading, picture: str, layer: int, match: Callable[[int], Matching | None] | None
) -> tuple[bool, Matching | None]:
    """Whether a difference is drawn, and how experts are matched; says why there is none."""
    if picture != DIFFERENCE:
        return False, None
    reason = _why_no_difference(reading.runs, match is None)
    same = match(reading.place(layer)) if match and not reason else None
    if match and not (reason or same):
        reason = "No other document says which experts of the two runs are the same."
    if reason:
        st.info(escape_markdown(reason), icon=":material/compare_arrows:")
    return not reason, same


def _sides(
    reading: Reading,
    picture: str,
    layer: int,
    by_use: bool,
    differences: bool,
    same: Matching | None,
) -> list[Side]:
    """What is drawn beside each other: a run each, or one difference."""
    if not differences:
        layers = reading.numbers if picture == ALL else [layer]
        return [_side(reading, run, layers, by_use) for run in reading.runs]
    side = _less(reading, layer, by_use, same)
    if (side.layers[0].expert_ids < 0).all():
        st.info(f"Nothing differs in layer {layer}: both runs route every token alike.")
    return [side]


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


def _said(
    reading: Reading, layer: int, by_use: bool, differences: bool, same: Matching | None
) -> str:
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
    return said + (_which_are_the_same(reading, place, same) if differences else "")


def _which_are_the_same(reading: Reading, layer: int, same: Matching | None) -> str:
    """How the experts of a difference are told to be the same, and what they then share."""
    what = "Use" if reading.unweighed else "Gate weights"
    by_id = _in_common(reading, layer, None)
    if same is None:
        how = (
            f"of the same id: {share(by_id)} of this text's choices are of both. In models that "
            "were trained apart an id means nothing; View matches them by use"
        )
    else:
        how = (
            f"matched by use: {same.said}. {share(_in_common(reading, layer, same))} of this "
            f"text's choices are then of both, by id {share(by_id)}"
        )
    return f" {what} of {less(reading.runs)}; a slit is below zero. Experts are {how}."


def _in_common(reading: Reading, layer: int, same: Matching | None) -> float:
    """The share of the choices of a text that both runs have made, mean over the tokens."""
    first, second = (gates > 0 for gates in _gates(reading, layer, same))
    most = np.maximum(first.sum(axis=1), second.sum(axis=1))
    return float(((first & second).sum(axis=1) / np.maximum(most, 1)).mean())


def _why_no_difference(runs: Comparison, by_id: bool) -> str:
    """A sentence where there is nothing to subtract; "" where there is."""
    said = runs.why_not("experts") if by_id else ""
    return f"{said} View matches them by use." if said else ""


def _gates(
    reading: Reading, layer: int, same: Matching | None
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """The gate weights of both runs [P, R], the second's under the ids of the first."""
    first, second = (
        gate_matrix(_weights(reading, run), layer, reading.routed[run.id][layer])
        for run in reading.runs
    )
    columns = np.arange(second.shape[1]) if same is None else same.ids
    wide = max(first.shape[1], 1 + int(columns.max(initial=0)))
    found = np.zeros((2, len(first), wide), np.float32)
    found[0, :, : first.shape[1]] = first
    found[1][:, columns] = second
    return found[0], found[1]


def _less(reading: Reading, layer: int, by_use: bool, same: Matching | None) -> Side:
    """The gate weights of the first run less those of the second."""
    first, second = _gates(reading, reading.place(layer), same)
    ids, values = sparse(first - second)
    mass = np.abs(first).sum(axis=0) + np.abs(second).sum(axis=0)
    order = np.argsort(-mass, kind="stable") if by_use else np.arange(len(mass))
    label = " less ".join(run.label for run in reading.runs)
    names = same.names if same else ()
    axis = f"Routed expert ({'='.join(run.label for run in reading.runs)})" if same else AXIS
    layers = [Layer(layer, ids, values, order, names, axis)]
    return Side("difference", label, NEUTRAL_COLOUR, layers, between(*reading.runs))


def sparse(dense: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Of values [P, R] the ids [P, S] that are not 0, -1 beyond them, and their values [P, S]."""
    slots = max(1, int((dense != 0).sum(axis=1).max(initial=0)))
    ids = np.argsort(-np.abs(dense), axis=1, kind="stable")[:, :slots]
    values = np.take_along_axis(dense, ids, axis=1)
    return np.where(values != 0, ids, -1), values
