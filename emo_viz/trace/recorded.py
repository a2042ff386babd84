"""The routing of one text, as it goes into a trace and as it comes out again.

Shapes: L layers, T positions, K expert slots a token (of the layer that has most), R routed
experts. A slot without an expert has the id -1.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from emo_viz.trace.absent import Absent, Part, sentence


class Recorded(Protocol):
    """What a `TraceWriter` reads of a `model.run.inference.Recording`, or of a `TokenRouting`.

    expert_ids [L, T, K]; token_ids [T]; router_probs [L, T, R]; gate_weights [L, T, K];
    entropy [L, T] and loss [T] in nats. All but the first may be None.
    """

    @property
    def expert_ids(self) -> np.ndarray: ...
    @property
    def token_ids(self) -> np.ndarray | None: ...
    @property
    def router_probs(self) -> np.ndarray | None: ...
    @property
    def gate_weights(self) -> np.ndarray | None: ...
    @property
    def entropy(self) -> np.ndarray | None: ...
    @property
    def loss(self) -> np.ndarray | None: ...


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenRouting:
    """A `Recorded` of what a source happens to have."""

    expert_ids: np.ndarray
    token_ids: np.ndarray | None = None
    router_probs: np.ndarray | None = None
    gate_weights: np.ndarray | None = None
    entropy: np.ndarray | None = None
    loss: np.ndarray | None = None


class RecordedDocument:
    """One document out of a trace, in the shapes of `model.run.inference.Recording`.

    Position 0 is the EOS that opens a document; where the source has none it is an empty place, so
    that every analysis may leave position 0 out. Asking for what the trace lacks raises Absent.
    """

    def __init__(
        self, trace: str, routing: TokenRouting, token_texts: list[str] | None = None
    ) -> None:
        self._trace, self._routing, self._texts = trace, routing, token_texts

    @property
    def expert_ids(self) -> np.ndarray:
        """int32 [L, T, K]."""
        return self._routing.expert_ids

    @property
    def token_ids(self) -> np.ndarray:
        """int64 [T]."""
        return self._there("token_ids", self._routing.token_ids)

    @property
    def gate_weights(self) -> np.ndarray:
        """float32 [L, T, K], 0 in an empty slot."""
        return self._there("gate_weights", self._routing.gate_weights)

    @property
    def entropy(self) -> np.ndarray:
        """float32 [L, T], nats."""
        return self._there("entropy", self._routing.entropy)

    @property
    def loss(self) -> np.ndarray:
        """float32 [T], nats."""
        return self._there("loss", self._routing.loss)

    @property
    def token_texts(self) -> list[str]:
        """Each token's piece of the text. Raises Absent where the trace has none."""
        if self._texts is None:
            raise Absent(sentence(self._trace, "token_texts"))
        return self._texts

    def _there(self, part: Part, values: np.ndarray | None) -> np.ndarray:
        if values is None:
            raise Absent(sentence(self._trace, part))
        return values
