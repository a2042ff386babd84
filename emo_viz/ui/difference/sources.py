"""Routing difference page: what two runs did with the same documents, live or out of traces.

A side is a run in one way: a model run here in some precision, or a trace. Which two sides stand
against each other is a choice; each gives its documents in the same shape.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis import matching
from emo_viz.analysis.difference import RoutedDocument
from emo_viz.analysis.routed import Numbered, of_recording, of_trace
from emo_viz.analysis.runs import Comparison, Run, compare
from emo_viz.server import assets, catalogue, library
from emo_viz.server.library import LoadedModel, Missing
from emo_viz.ui.parts.same_experts import weights_of
from emo_viz.ui.parts.token_text import recorded_pieces, text_labels
from emo_viz.ui.parts.work import run_exclusive
from emo_viz.ui.shell.words import token_label

LONGEST = 512  # tokens of a text, where neither config nor training says

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
    live = {run.id: library.can_run(run.id) for run in runs}
    recorded = {run.id: _has_tokens(run) for run in runs}
    if (second := runs.second) is not None:
        one, other, both = runs.first, second, " and ".join(run.label for run in runs)
        if live[one.id] and live[other.id]:
            found.append(Choice(both, _side(one), _side(other)))
        if recorded[one.id] and recorded[other.id]:
            found.append(Choice(f"{both}, recorded", _side(one, TRACE), _side(other, TRACE)))
        if not found:
            found += [
                # The live one first: its tokens are those of the text.
                Choice(f"{b.label} live, {a.label} recorded", _side(b), _side(a, TRACE))
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


def _has_tokens(run: Run) -> bool:
    """Whether it has a trace, token by token; one that cannot be read has not.

    Raises Missing, which says why it cannot be read, if the run has nothing else.
    """
    if not assets.trace_path(run.id).exists():
        return False
    try:
        return library.trace(run.id).has_tokens
    except Missing:
        if not library.can_run(run.id):
            raise
        return False


@dataclass(frozen=True, eq=False)
class Opened:
    """A side with what it is read from: a model or a trace. key: what caches of it go by."""

    side: Side
    key: str
    source: "LoadedModel | Trace"

    @property
    def label(self) -> str:
        return self.side.shown.label

    @property
    def model(self) -> LoadedModel:
        """Of a live side."""
        assert isinstance(self.source, LoadedModel)
        return self.source

    @property
    def trace(self) -> "Trace":
        """Of a recorded side."""
        assert not isinstance(self.source, LoadedModel)
        return self.source

    @property
    def layers(self) -> Numbered:
        """Its layers by the model's own numbers."""
        if self.side.live:
            routed, own = self.model.routed, self.model.live.own_layers
            # EMO's format lists its layers without a router too.
            return Numbered(own if len(own) == len(routed) else tuple(range(len(routed))), routed)
        return Numbered.of_trace(self.trace)

    @property
    def context(self) -> int:
        """The most tokens that a live side reads, EOS counted."""
        trained = catalogue.read_model(assets.checkpoint_path(self.side.run.id)).context
        return self.model.live.most_tokens(trained or LONGEST)


def opened(side: Side) -> Opened:
    """Load a side's model or open its trace. Raises Missing."""
    if side.live:
        model = library.model(side.run, side.how)
        return Opened(side, model.key, model)
    return Opened(side, library.trace_key(side.run.id), library.trace(side.run.id))


def trained_apart(one: Opened, other: Opened) -> bool:
    """Whether an id need not mean the same expert on both sides."""
    if one.side.run.id == other.side.run.id:
        return False
    return matching.trained_apart(_weights(one), _weights(other))


def _weights(one: Opened) -> matching.Weights:
    return weights_of(one.model) if one.side.live else matching.Weights.of_trace(one.trace)


def of_text(
    one: Opened, document: str, text: str, most: int, layers: Sequence[int]
) -> RoutedDocument:
    """What a live side does with a text. Raises ValueError for a text without tokens."""
    ids = library.encoded(one.model, text, most).token_ids
    return _routed(one.model, document, ids, layers, 1)


def of_row(one: Opened, row: int, layers: Sequence[int]) -> RoutedDocument:
    """A document of a recorded side. Raises ValueError where it cannot be read."""
    return of_trace(one.trace, row, layers)


def of_row_live(one: Opened, source: Opened, row: int, layers: Sequence[int]) -> RoutedDocument:
    """What a live side does with the tokens of a document of a recorded one: by their ids, or
    where the trace has none as the model's tokenizer reads its text.

    Raises Absent if the trace has neither, ValueError if the model has not such tokens.
    """
    trace = source.trace
    document = str(trace.facts["id"].iloc[row])
    if not trace.has("token_ids") and trace.has("text"):
        return of_text(one, document, trace.text(row), one.context, layers)
    opening = int(trace.manifest.opening_eos)
    ids = trace.recorded(row).token_ids[1 - opening :]
    return _routed(one.model, document, ids, layers, opening)


def _routed(
    loaded: LoadedModel,
    document: str,
    token_ids: NDArray[Any],
    layers: Sequence[int],
    opening: int,
) -> RoutedDocument:
    with run_exclusive(loaded):
        recording = loaded.live.record(token_ids)
    return of_recording(document, recording, layers, opening)


def words_of_text(one: Opened, text: str, most: int) -> Words:
    """The tokens of a text as a live side reads it."""
    return _words_of_text(one, one.key, text, most)


@st.cache_resource(max_entries=512, show_spinner=False)
def _words_of_text(_one: Opened, key: str, text: str, most: int) -> Words:
    encoded = library.encoded(_one.model, text, most)
    ids = encoded.token_ids.tolist()
    return Words(encoded.texts[1:], text_labels(_one.model.tokenizer, ids, encoded.texts)[1:])


def words_of_row(sides: Sequence[Opened], one: Opened, row: int) -> Words:
    """The tokens of a recorded document: their texts, else as a live side reads the document's
    text, else their ids, else their positions."""
    model = next((each for each in sides if each.side.live), None)
    trace = one.trace
    if model and not (trace.has("token_ids") or trace.has("token_texts")) and trace.has("text"):
        return words_of_text(model, trace.text(row), model.context)
    return _words_of_row(one, one.key, row)


@st.cache_resource(max_entries=512, show_spinner=False)
def _words_of_row(_one: Opened, key: str, row: int) -> Words:
    pieces = recorded_pieces(_one.trace.recorded(row))[1:]
    written = _one.trace.has("token_texts")  # ids and places have a space that is not theirs
    return Words(pieces, [token_label(piece if written else piece.strip()) for piece in pieces])


def openings(one: Opened, rows: Mapping[str, int]) -> dict[str, str]:
    """The texts of recorded documents by id, or where the trace has none their ids."""
    if not one.trace.has("text"):
        return {document: document for document in rows}
    texts = one.trace.documents["text"].iloc[list(rows.values())]
    return {
        document: text if isinstance(text, str) and text.strip() else document
        for document, text in zip(rows, texts, strict=True)
    }
