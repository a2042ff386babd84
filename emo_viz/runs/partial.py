"""An unfinished recording: windows of documents that are whole, kept beside the trace."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from emo_viz.runs.unfinished import Unfinished
from emo_viz.trace.schema import Level

if TYPE_CHECKING:
    from model.run.recording import Routing

# As in a trace. Values of a token, one document after another.
BY_TOKEN = {
    "token_ids": np.int64,
    "expert_ids": np.int16,
    "gate_weights": np.float16,
    "entropy": np.float16,
    "loss": np.float32,
}


# All that a trace of documents needs of them.
WITHOUT_TOKENS = ("expert_ids", "loss")


class Recorded(NamedTuple):
    """One document: its row, the texts of its tokens, and what the model did with it."""

    row: Mapping[str, Any]
    texts: Sequence[str] | None
    routing: "Routing"


class Partial(Unfinished):
    """The finished windows of a recording, each of some documents."""

    format = "emo-viz-partial-recording"
    work, working, goal, results = "recording", "recording", "trace", "documents"

    def keep(self, window: Sequence[Recorded], level: Level) -> None:
        """Keep a window. Raises ValueError if it cannot be written."""
        self.write(_packed(window, level))

    def recorded(self) -> Iterator[Recorded]:
        """All documents in their order, one window in memory at a time."""
        for window in self.read():
            yield from _unpacked(window)


def _packed(window: Sequence[Recorded], level: Level) -> dict[str, np.ndarray]:
    """Arrays of all documents, tokens along the first axis; what is None is left out."""
    routings = [recorded.routing for recorded in window]
    with_tokens = level == "tokens"
    words = json.dumps([[r.row, r.texts if with_tokens else None] for r in window])
    arrays = {
        "lengths": np.array([len(routing.token_ids) for routing in routings]),
        "words": np.frombuffer(words.encode(), np.uint8),
        "opened": np.array([routings[0].opened]),
    }
    for name in BY_TOKEN if with_tokens else WITHOUT_TOKENS:
        values = [getattr(routing, name) for routing in routings]
        if values[0] is not None:
            first = [v if v.ndim == 1 else np.moveaxis(v, 1, 0) for v in values]
            arrays[name] = np.concatenate(first).astype(BY_TOKEN[name])
    if routings[0].usage is not None:
        arrays["usage"] = np.array([routing.usage for routing in routings])
    return arrays


def _unpacked(arrays: Mapping[str, np.ndarray]) -> Iterator[Recorded]:
    from model.run.recording import Routing

    words = json.loads(arrays["words"].tobytes().decode())
    ends = np.cumsum(arrays["lengths"])
    for number, ((row, texts), end) in enumerate(zip(words, ends, strict=True)):
        own = slice(end - arrays["lengths"][number], end)
        values: dict[str, Any] = dict.fromkeys(BY_TOKEN)
        for name in BY_TOKEN:
            if name in arrays:
                value = arrays[name][own]
                values[name] = value if value.ndim == 1 else np.moveaxis(value, 0, 1)
        usage = arrays["usage"][number] if "usage" in arrays else None
        routing = Routing(**values, usage=usage, opened=bool(arrays["opened"][0]))
        yield Recorded(row, texts, routing)
