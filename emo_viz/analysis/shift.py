"""Two recordings of the same tokens that begin a place apart, where neither tells by token ids.

One engine writes a row for the token that opens a prompt and another does not: compared by their
places, the two then agree no better than chance, although they chose the same experts.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emo_viz.analysis.difference import EMPTY, RoutedDocument, agreement, same_documents

SHIFTS = (1, -1)
DOCUMENTS = 20  # to tell it from
BETTER, MORE = 2.0, 0.1  # times and share by which a shift must agree better than none


def realigned(
    first: Sequence[RoutedDocument], second: Sequence[RoutedDocument]
) -> tuple[list[RoutedDocument], str]:
    """The second run's documents, shifted by a place where that is plainly how they belong to the
    first's, and a sentence that says so ("" if they are as they were)."""
    pairs = [
        (one, other)
        for one, other in same_documents(first, second)[0]
        if one.token_ids is None or other.token_ids is None
    ][:DOCUMENTS]
    if not pairs or any(a.expert_ids.shape[1] != b.expert_ids.shape[1] for a, b in pairs):
        return list(second), ""
    as_given, *rest = (_agreement(pairs, by) for by in (0, *SHIFTS))
    best = max(rest)
    if best < BETTER * as_given or best < as_given + MORE:
        return list(second), ""
    by = SHIFTS[rest.index(best)]
    where = "one place later" if by > 0 else "one place earlier"
    said = (
        f"The second run begins {where} than the first: its tokens are shifted, as then "
        f"{best:.0%} of the experts agree instead of {as_given:.0%}."
    )
    return [_shifted(each, by) for each in second], said.replace("%", " %")


def _agreement(pairs: Sequence[tuple[RoutedDocument, RoutedDocument]], by: int) -> float:
    """Mean share of experts in common over the tokens that both recorded."""
    shares = []
    for one, other in pairs:
        moved = _shifted(other, by).expert_ids
        length = min(len(one.expert_ids), len(moved))
        ours, theirs = one.expert_ids[:length], moved[:length]
        both = (ours != EMPTY).any((1, 2)) & (theirs != EMPTY).any((1, 2))
        if both.any():
            shares.append(agreement(ours[both], theirs[both])[0].mean())
    return float(np.mean(shares)) if shares else 0.0


def _shifted(document: RoutedDocument, by: int) -> RoutedDocument:
    """Later by one place, an empty one before it (1), or without its first token (-1)."""
    if by == 0:
        return document

    def moved(values: NDArray[Any] | None, fill: float) -> NDArray[Any] | None:
        if values is None or by < 0:
            return None if values is None else values[1:]
        return np.concatenate([np.full_like(values[:1], fill), values])

    ids = moved(document.expert_ids, EMPTY)
    assert ids is not None
    return replace(
        document,
        expert_ids=ids,
        gate_weights=moved(document.gate_weights, 0),
        loss=moved(document.loss, np.nan),
        token_ids=moved(document.token_ids, EMPTY),
    )
