"""A document of one run as `difference` compares it: out of a recording or out of a trace.

The opening EOS (or the empty place that stands for it) is left out: place 0 is the first token of
the text, position 1 of the pages.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emo_viz.analysis.difference import RoutedDocument
from emo_viz.trace import Trace
from emo_viz.trace.absent import Absent
from emo_viz.trace.recorded import RecordedDocument


class Recorded(Protocol):
    """What is needed of a `model.run.inference.Recording`; shapes as there."""

    @property
    def token_ids(self) -> NDArray[Any]: ...
    @property
    def expert_ids(self) -> NDArray[Any]: ...
    @property
    def gate_weights(self) -> NDArray[Any]: ...
    @property
    def loss(self) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Layers:
    """The layers that two runs are compared in: their places in the arrays of each, what they are
    called, and a sentence on how they were matched ("" where nothing needs saying)."""

    first: tuple[int, ...]
    second: tuple[int, ...]
    names: tuple[int, ...]
    note: str = ""


@dataclass(frozen=True)
class Numbered:
    """The layers of one run: the model's own number of each, and its routed experts."""

    numbers: tuple[int, ...]
    routed: tuple[int, ...]

    @classmethod
    def of_trace(cls, trace: Trace) -> "Numbered":
        """Those of a recording."""
        model = trace.manifest.model
        return cls(model.own_layers, model.routed)

    @property
    def sparse(self) -> list[int]:
        """Places of the layers that have experts to choose among."""
        return [place for place, routed in enumerate(self.routed) if routed > 0]


def common_layers(one: Numbered, other: Numbered, names: tuple[str, str]) -> Layers:
    """Layers with experts that both runs have: by their numbers, or in their order where both have
    as many. Layers without experts are left out.

    names: what the runs are called. Raises ValueError, in one sentence, if there is none.
    """
    ours, theirs = one.sparse, other.sparse
    our_numbers = [one.numbers[place] for place in ours]
    their_numbers = [other.numbers[place] for place in theirs]
    if len(ours) == len(theirs) > 0:
        note = ""
        if our_numbers != their_numbers:
            note = (
                f"Layers are matched in their order: {_span(our_numbers)} of {names[0]} with "
                f"{_span(their_numbers)} of {names[1]}."
            )
        return Layers(tuple(ours), tuple(theirs), tuple(our_numbers), note)
    both = sorted({*our_numbers} & {*their_numbers})
    if not both:
        raise ValueError(
            f"{names[0]} and {names[1]} have no layer with experts in common; record both with the "
            "model's own layer numbers."
        )
    left = sorted({*our_numbers} ^ {*their_numbers})
    return Layers(
        tuple(one.numbers.index(number) for number in both),
        tuple(other.numbers.index(number) for number in both),
        tuple(both),
        f"Layer{'s' * (len(left) > 1)} left out, as only one run has experts there: "
        f"{', '.join(map(str, left))}.",
    )


def _span(numbers: Sequence[int]) -> str:
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])


def of_recording(
    document: str, recording: Recorded, layers: Sequence[int], opening: int = 1
) -> RoutedDocument:
    """A document that a model was run on. opening: 1 if an EOS opens it, else 0."""
    return RoutedDocument(
        id=document,
        expert_ids=_by_token(recording.expert_ids, layers, opening),
        gate_weights=_by_token(recording.gate_weights, layers, opening),
        loss=recording.loss[opening:],
        token_ids=recording.token_ids[opening:],
    )


def of_trace(trace: Trace, row: int, layers: Sequence[int]) -> RoutedDocument:
    """A document of a trace; what this one lacks is None. Raises ValueError as `Trace.recorded`."""
    return of_document(str(trace.facts["id"].iloc[row]), trace.recorded(row), layers)


def of_document(name: str, recorded: RecordedDocument, layers: Sequence[int]) -> RoutedDocument:
    """`of_trace` of a document that has been read. name: its id."""
    weights = known(recorded, "gate_weights")
    loss, token_ids = known(recorded, "loss"), known(recorded, "token_ids")
    return RoutedDocument(
        id=name,
        expert_ids=_by_token(recorded.expert_ids, layers, 1),
        gate_weights=None if weights is None else _by_token(weights, layers, 1),
        loss=None if loss is None else loss[1:],
        token_ids=None if token_ids is None else token_ids[1:],
    )


def known(recorded: Any, part: str) -> NDArray[Any] | None:
    """A part of a `RecordedDocument`, or None where its trace has none."""
    try:
        values: NDArray[Any] = getattr(recorded, part)
    except Absent:
        return None
    return values


def _by_token(values: NDArray[Any], layers: Sequence[int], opening: int) -> NDArray[Any]:
    """[L, T, K] as [T, L, K], of the chosen layers."""
    return np.ascontiguousarray(values[list(layers)].swapaxes(0, 1)[opening:])
