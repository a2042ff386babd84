"""Two recordings of the same tokens that begin a place apart, where neither tells by token ids.

One engine writes a row for the token that opens a prompt and another does not: compared by their
places, the two then agree no better than chance, although they chose the same experts.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emo_viz.analysis.difference import (
    EMPTY,
    Documents,
    RoutedDocument,
    agreement,
)

SHIFTS = (1, -1)
DOCUMENTS = 20  # to tell it from
BETTER, MORE = 2.0, 0.1  # times and share by which a shift must agree better than none


def shift_of(pairs: Sequence[Documents]) -> tuple[int, str]:
    """By how many places the second run's tokens are to be moved, 1, 0 or -1, as told from the
    first documents whose token ids are not known in both; and a sentence, "" for 0."""
    some = [(a, b) for a, b in pairs if a.token_ids is None or b.token_ids is None][:DOCUMENTS]
    if not some or any(a.expert_ids.shape[1] != b.expert_ids.shape[1] for a, b in some):
        return 0, ""
    as_given, *rest = (_agreement(some, by) for by in (0, *SHIFTS))
    best = max(rest)
    if best < BETTER * as_given or best < as_given + MORE:
        return 0, ""
    by = SHIFTS[rest.index(best)]
    where = "one place later" if by > 0 else "one place earlier"
    said = (
        f"The second run begins {where} than the first: its tokens are shifted, as then "
        f"{best:.0%} of the experts agree instead of {as_given:.0%}."
    )
    return by, said.replace("%", " %")


def _agreement(pairs: Sequence[Documents], by: int) -> float:
    """Mean share of experts in common over the tokens that both recorded."""
    shares = []
    for one, other in pairs:
        moved = shifted(other, by).expert_ids
        length = min(len(one.expert_ids), len(moved))
        ours, theirs = one.expert_ids[:length], moved[:length]
        both = (ours != EMPTY).any((1, 2)) & (theirs != EMPTY).any((1, 2))
        if both.any():
            shares.append(agreement(ours[both], theirs[both])[0].mean())
    return float(np.mean(shares)) if shares else 0.0


def shifted(document: RoutedDocument, by: int) -> RoutedDocument:
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
