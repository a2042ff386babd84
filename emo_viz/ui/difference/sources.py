"""Routing difference page: what two runs did with the same documents, live or out of traces.

A side is a run in one way: a model run here in some precision, or a trace. Which two sides stand
against each other is a choice; each gives its documents in the same shape.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.difference import RoutedDocument
from emo_viz.analysis.routed import Numbered, of_recording, of_trace
from emo_viz.analysis.runs import Comparison, Run, compare
from emo_viz.server import assets, library
from emo_viz.server.library import LoadedModel, Missing
from emo_viz.trace.absent import Absent
from emo_viz.ui.parts.token_text import text_labels
from emo_viz.ui.parts.work import run_exclusive
from emo_viz.ui.shell.words import token_label

if TYPE_CHECKING:
    from emo_viz.trace import Trace

How = Literal["float32", "bfloat16", "trace"]
TRACE: How = "trace"


@dataclass(frozen=True)
class Side:
    """A run in one way. run: the one of the comparison; shown: with the name that the page uses."""

    run: Run
    shown: Run
    how: How

    @property
    def live(self) -> bool:
        return self.how != TRACE


@dataclass(frozen=True)
class Choice:
    """Two sides, and what the choice is called."""

    label: str
    first: Side
    second: Side

    @property
    def live(self) -> bool:
        """Whether both are run here: any text can then be asked for."""
        return self.first.live and self.second.live

    @property
    def runs(self) -> Comparison:
        return compare([self.first.shown, self.second.shown])


@dataclass(frozen=True, eq=False)
class Words:
    """The tokens of a document without its EOS: each one's piece of the text, and its label."""

    pieces: list[str]
    labels: list[str]


def choices(runs: Comparison) -> list[Choice]:
    """All that the runs of a comparison can be compared in."""
    found: list[Choice] = []
    live = {run.id: _can_run(run) for run in runs}
    recorded = {run.id: _has_tokens(run) for run in runs}
    if (second := runs.second) is not None:
        one, other, both = runs.first, second, " and ".join(run.label for run in runs)
        if live[one.id] and live[other.id]:
            found.append(Choice(both, _side(one), _side(other)))
        if recorded[one.id] and recorded[other.id]:
            found.append(Choice(f"{both}, recorded", _side(one, TRACE), _side(other, TRACE)))
        if not found:
            found += [
                Choice(f"{a.label} recorded, {b.label} live", _side(a, TRACE), _side(b))
                for a, b in ((one, other), (other, one))
                if recorded[a.id] and live[b.id]
            ]
    for run in runs:
        if live[run.id]:
            ways = (_way(run, "float32", "in float32"), _way(run, "bfloat16", "in bfloat16"))
            found.append(Choice(f"{run.label} in float32 and bfloat16", *ways))
        if live[run.id] and recorded[run.id]:
            ways = (_way(run, TRACE, "recorded"), _way(run, "float32", "live"))
            found.append(Choice(f"{run.label}, recorded and live", *ways))
    return found


def _side(run: Run, how: How = "float32") -> Side:
    return Side(run, run, how)


def _way(run: Run, how: How, name: str) -> Side:
    """A run in one of several ways, under a name that tells them apart."""
    # The first of two keeps the run's id, and with it its colour.
    own = how == TRACE or name == "in float32"
    shown = run.id if own else f"{run.id}-{name.split()[-1]}"
    return Side(run, replace(run, id=shown, label=f"{run.label} {name}"), how)


def _can_run(run: Run) -> bool:
    return (assets.checkpoint_path(run.id) / "config.json").exists()


def _has_tokens(run: Run) -> bool:
    """Whether it has a trace, token by token; one that cannot be read has not.

    Raises Missing, which says why it cannot be read, if the run has nothing else.
    """
    if not assets.trace_path(run.id).exists():
        return False
    try:
        return library.trace(run.id).has_tokens
    except Missing:
        if not _can_run(run):
            raise
        return False


def loaded(side: Side) -> LoadedModel:
    """The model of a live side. Raises Missing."""
    return library.model(side.run, side.how)


def trace_of(side: Side) -> "Trace":
    """The trace of a recorded side. Raises Missing."""
    return library.trace(side.run.id)


def key_of(side: Side) -> str:
    """What caches of a side go by."""
    return loaded(side).key if side.live else library.trace_key(side.run.id)


def layers_of(side: Side) -> Numbered:
    """Its layers by the model's own numbers."""
    if side.live:
        routed = loaded(side).routed
        return Numbered(tuple(range(len(routed))), routed)
    model = trace_of(side).manifest.model
    return Numbered(model.own_layers, model.routed)


def context_of(side: Side) -> int:
    """The most tokens that a live side reads, EOS counted."""
    config = loaded(side).model.config
    return min(assets.model_facts(side.run).context, int(config.max_position_embeddings))


def of_text(
    side: Side, document: str, text: str, most: int, layers: Sequence[int]
) -> RoutedDocument:
    """What a live side does with a text. Raises ValueError for a text without tokens."""
    one = loaded(side)
    ids = library.encoded(one, text, most).token_ids
    return _routed(one, one.key, document, ids, tuple(layers), 1)


def of_row(side: Side, row: int, layers: Sequence[int]) -> RoutedDocument:
    """A document of a recorded side. Raises ValueError where it cannot be read."""
    return _recorded(trace_of(side), library.trace_key(side.run.id), row, tuple(layers))


def of_row_live(side: Side, source: Side, row: int, layers: Sequence[int]) -> RoutedDocument:
    """What a live side does with the tokens of a document of a recorded one.

    Raises Absent if the trace does not know their ids, ValueError if the model has not such tokens.
    """
    trace, one = trace_of(source), loaded(side)
    opening = int(trace.manifest.opening_eos)
    ids = trace.recorded(row).token_ids[1 - opening :]
    document = str(trace.facts["id"].iloc[row])
    return _routed(one, one.key, document, ids, tuple(layers), opening)


@st.cache_resource(max_entries=1024, show_spinner=False)
def _routed(
    _loaded: LoadedModel,
    key: str,
    document: str,
    token_ids: NDArray[Any],
    layers: tuple[int, ...],
    opening: int,
) -> RoutedDocument:
    from model.run.inference import record

    with run_exclusive(_loaded):
        recording = record(_loaded.model, token_ids)
    return of_recording(document, recording, layers, opening)


@st.cache_resource(max_entries=1024, show_spinner=False)
def _recorded(_trace: "Trace", key: str, row: int, layers: tuple[int, ...]) -> RoutedDocument:
    return of_trace(_trace, row, layers)


def words_of_text(side: Side, text: str, most: int) -> Words:
    """The tokens of a text as a live side reads it."""
    one = loaded(side)
    encoded = library.encoded(one, text, most)
    ids = encoded.token_ids.tolist()
    return Words(encoded.texts[1:], text_labels(one.tokenizer, ids, encoded.texts)[1:])


def words_of_row(side: Side, row: int) -> Words:
    """The tokens of a recorded document: their texts, else their ids, else their positions."""
    recorded = trace_of(side).recorded(row)
    for part in ("token_texts", "token_ids"):
        try:
            found = getattr(recorded, part)[1:]
        except Absent:
            continue
        pieces = [each if isinstance(each, str) else f"{each} " for each in found]
        return Words(pieces, [token_label(piece) for piece in pieces])
    pieces = [f"{place} " for place in np.arange(1, recorded.expert_ids.shape[1])]
    return Words(pieces, [piece.strip() for piece in pieces])


def openings(side: Side, rows: Mapping[str, int]) -> dict[str, str]:
    """The texts of recorded documents by id, or where the trace has none their ids."""
    trace = trace_of(side)
    if not trace.has("text"):
        return {document: document for document in rows}
    texts = trace.documents["text"].iloc[list(rows.values())]
    return {
        document: text if isinstance(text, str) and text.strip() else document
        for document, text in zip(rows, texts, strict=True)
    }
