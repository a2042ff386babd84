"""What an importer hands on: documents with the experts of every token, or counts of experts.

Shapes: T tokens, L MoE layers, K expert slots a token, E experts. A slot without an expert is -1.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar, overload

import numpy as np

NO_EXPERT = -1

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class ImportedDocument:
    """One text as another tool recorded it; what its file did not hold is None.

    expert_ids: int32 [T, L, K], in the file's own order of slots. gate_weights: float32 [T, L, K],
    0 in a slot without an expert. router_logits: float32 [T, L, E].
    """

    id: str
    expert_ids: np.ndarray
    text: str | None = None
    token_ids: np.ndarray | None = None
    token_texts: list[str] | None = None
    gate_weights: np.ndarray | None = None
    router_logits: np.ndarray | None = None
    domain: str | None = None


@dataclass(frozen=True, eq=False)
class ImportedClusters:
    """Cluster of every token (or every document) of the routing that it was made from.

    assignments: int32, in the order of the documents' tokens, or of the documents. labels: a
    cluster's name, where somebody gave it one.
    """

    assignments: np.ndarray
    of: str
    labels: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ImportedRouting:
    """A routing file of another tool, read and checked.

    layers: the model's own numbers of the MoE layers, as far as the file tells them. num_experts:
    experts in each of them, None where the file does not say; experts_seen is what its ids prove:
    the highest one plus 1. counts: int64 [L, E], how often an expert was chosen, only where the
    file has no tokens (documents is then empty). notes: one sentence for each trap met.

    Documents of a large file are read when asked for: forward, and by one thread at a time.
    """

    kind: str
    model: str | None
    layers: tuple[int, ...]
    num_experts: tuple[int, ...] | None
    experts_seen: tuple[int, ...]
    documents: Sequence[ImportedDocument]
    counts: np.ndarray | None
    notes: tuple[str, ...]
    clusters: ImportedClusters | None = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a caller knows and a file may not say; text: of the documents, by id or in order."""

    num_layers: int | None = None
    top_k: int | None = None
    num_experts: int | None = None
    text: str | Sequence[str] | Mapping[str, str] | None = None


@dataclass(frozen=True, eq=False)
class Raw:
    """A document before the checks, with what its reader noticed; the last `padded` rows are ours.

    Each note is the end of a sentence that begins with "3 of 9 documents".
    """

    document: ImportedDocument
    notes: tuple[str, ...] = ()
    padded: int = 0


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a reader found, before the checks; `layers` may still hold dense ones."""

    kind: str
    layers: tuple[int, ...]
    model: str | None = None
    num_experts: tuple[int, ...] | None = None
    documents: Sequence[Raw] = ()
    counts: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    clusters: ImportedClusters | None = None


class Lazy(Sequence[T], Generic[T]):
    """A sequence whose items are made when asked for, so that a large file is never all in memory.

    The last item is kept, because several readers ask for the same one in a row.
    """

    def __init__(self, length: int, make: Callable[[int], T]) -> None:
        self._length = length
        self._make = make
        self._last: tuple[int, T] | None = None

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...

    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(self._length)))
        place = range(self._length)[index]
        last = self._last
        if last is None or last[0] != place:
            last = self._last = (place, self._make(place))
        return last[1]
