"""What the runs did with a pinned token, document or text: live, else out of their recordings."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from emo_viz.analysis.alike import RoutedText, of_recorded, use_of
from emo_viz.analysis.runs import Comparison, compare
from emo_viz.figures.kept import beside
from emo_viz.server import assets, library, recordings
from emo_viz.server.library import Missing, Models
from emo_viz.trace.absent import Absent
from emo_viz.ui.parts import text_links, together
from emo_viz.ui.parts.own_text import MOST_CHARACTERS
from emo_viz.ui.parts.pins import Pin
from emo_viz.ui.parts.reading import Chosen, Reading, read
from emo_viz.ui.shell import links
from emo_viz.ui.shell.words import (
    count,
    escape_markdown,
    isolated,
    opening,
    shorten,
    token_label,
    visible,
)

if TYPE_CHECKING:
    from emo_viz.trace import Trace

TITLE = 50  # characters


@dataclass(frozen=True, eq=False)
class Side:
    """A pin as the runs of a comparison read it.

    title: Markdown. pieces: its tokens as texts; none where they are not known. labels: what each
    of these is called. routed: by run id. layers: the model's own number of each layer, by run id.
    """

    pin: Pin
    title: str
    pieces: Sequence[str]
    labels: Sequence[str]
    runs: Comparison
    routed: Mapping[str, RoutedText]
    layers: Mapping[str, Sequence[int]]


class NotHere(Exception):
    """A pin cannot be shown; the text is one sentence, safe for Markdown."""


def title(pin: Pin, shown: Callable[[str], str] = isolated) -> str:
    """What a pin is called: in lists, plainly. shown: makes others' texts safe to stand in it."""
    where = _title_of(pin, shown)
    return where if pin.token is None else f"Token {pin.token} of {where}"


def _title_of(pin: Pin, shown: Callable[[str], str]) -> str:
    try:
        if pin.document is None:
            text = text_links.text_of(pin.text or "", MOST_CHARACTERS)
            return f"your text “{shown(opening(text, TITLE))}”"
        row = _known(pin.document)
    except ValueError:
        return "a text that is no longer here"
    if row is None:
        return shown(shorten(visible(pin.document), TITLE))
    return f"{shown(visible(row[0]))} · {shown(shorten(visible(row[1]), TITLE))}"


def _known(document: str) -> tuple[str, str, str] | None:
    """Domain, title and text of a document of the recording beside a model, which the page Token
    routing pins, or else of a held-out one. A text may be `_in_recording` alone."""
    found = None
    with suppress(Missing):
        if other := recordings.beside_model():
            found = _by_id(recordings.readable(other)).get(document)
    with suppress(Missing):
        found = found or _by_id(library.documents()).get(document)
    return found


def _in_recording(document: str) -> str | None:
    """The text of a document of the recording beside a model; None of any other."""
    other = recordings.beside_model()
    if not other:
        return None
    rows = recordings.readable(other)
    if document not in _by_id(rows):
        return None
    try:
        return recordings.text_of(recordings.opened(other), library.row_of(rows, document))
    except ValueError as error:
        raise NotHere(escape_markdown(str(error))) from None


def _by_id(table: pd.DataFrame) -> dict[str, tuple[str, str, str]]:
    """Domain, title and text of each of some shared documents."""
    return beside(table, "by id", lambda: _rows(table))


def _rows(table: pd.DataFrame) -> dict[str, tuple[str, str, str]]:
    titles = table["parent"].fillna("").where(table["parent"].fillna("") != "", table["id"])
    rows = zip(table["id"], table["domain"], titles, table["text"], strict=True)
    return {str(name): (str(domain), str(own), str(text)) for name, domain, own, text in rows}


def usable(pins: Sequence[Pin]) -> list[Pin]:
    """Those of which something can be shown; of the others the page says why not."""
    why_not = {pin: _why_not(pin) for pin in pins}
    for sentence in filter(None, why_not.values()):
        st.info(sentence, icon=":material/visibility_off:")
    return [pin for pin in pins if not why_not[pin]]


def _why_not(pin: Pin) -> str:
    """In a sentence, safe for Markdown; "" also where it takes a recording to tell."""
    try:
        if _can_run():
            _text(pin)
    except NotHere as error:
        return str(error)
    return ""


def _can_run() -> bool:
    return any(map(library.can_run, library.comparison().ids))


def sides(pins: tuple[Pin, Pin]) -> tuple[Side, Side]:
    """Both pins in the same runs. Raises NotHere, or Missing where there is no run at all."""
    if not _can_run():
        return _recorded(pins)
    try:
        models = library.models()
    except Missing as error:  # perhaps too large for this machine; its recording is not
        try:
            return _recorded(pins)
        except NotHere:
            raise error from None
    together.say_left_out(models.left_out)
    runs = together.shown(models.comparison, "tokens", "layers")
    chosen = replace(models.of(runs), left_out=())
    return _live(chosen, pins[0]), _live(chosen, pins[1])


def _live(models: Models, pin: Pin) -> Side:
    reading = read(models, Chosen(_text(pin), "", pin.document))
    pin = _within(pin, reading.num_tokens)
    routed = {run: _of_reading(reading, run) for run in reading.runs.ids}
    layers = {one.run: one.live.own_layers for one in models}
    name = title(pin, escape_markdown)
    words = reading.pieces[1:], reading.labels[1:]
    return Side(pin, name, *words, reading.runs, routed, layers)


def _within(pin: Pin, tokens: int) -> Pin:
    """The pin, or the last of the tokens for one beyond them, which is said: documents change, and
    so do the models that cut them into tokens. Raises NotHere where there is none."""
    if pin.token is None or pin.token <= tokens:
        return pin
    name = _title_of(pin, escape_markdown)
    if not tokens:
        raise NotHere(f"The pinned token {pin.token:,} is not here: {name} has no tokens.")
    links.warn(
        f"The pinned token {pin.token:,} is beyond the {count(tokens, 'token')} read of {name}; "
        "the last of them is shown."
    )
    return replace(pin, token=tokens)


def _text(pin: Pin) -> str:
    if pin.document is None:
        try:
            return text_links.text_of(pin.text or "", MOST_CHARACTERS)
        except ValueError:
            raise NotHere(
                "A pinned text cannot be read: its link was cut off, or the server that kept it "
                "has been restarted; open the text again and pin it."
            ) from None
    if (recorded := _in_recording(pin.document)) is not None:
        return recorded
    row = _known(pin.document)
    if row is None:
        raise NotHere(f"The pinned document {escape_markdown(pin.document)} is not here.")
    return row[2]


def _of_reading(reading: Reading, run: str) -> RoutedText:
    one = reading.recordings[run]
    ids = one.expert_ids[:, 1:]
    return RoutedText(
        use_of(ids, max(reading.routed[run])), ids, one.gate_weights[:, 1:], one.loss[1:]
    )


def _recorded(pins: tuple[Pin, Pin]) -> tuple[Side, Side]:
    """Out of the recordings that hold both pins. Raises NotHere."""
    names = [pin.document for pin in pins]
    rows: dict[str, tuple[int, int]] = {}
    for run in library.comparison():
        if None in names or not assets.trace_path(run.id).exists():
            continue
        trace = library.trace(run.id)
        known = {str(name): row for row, name in enumerate(trace.facts["id"])}
        tokens = any(pin.token for pin in pins)
        if all(name in known for name in names) and (trace.has_tokens or not tokens):
            rows[run.id] = known[str(names[0])], known[str(names[1])]
    if not rows:
        raise NotHere(
            "Without the model's checkpoint two pins are compared out of a recording that holds "
            "both documents, and of tokens one that was made with --level tokens; there is none."
        )
    runs = compare([run for run in library.comparison() if run.id in rows])
    return _of_traces(runs, pins[0], rows, 0), _of_traces(runs, pins[1], rows, 1)


def _of_traces(runs: Comparison, pin: Pin, rows: Mapping[str, tuple[int, int]], at: int) -> Side:
    traces = {run: library.trace(run) for run in runs.ids}
    routed = {run: _of_trace(trace, rows[run][at]) for run, trace in traces.items()}
    pieces = _pieces(traces[runs.first.id], rows[runs.first.id][at])
    if pin.token:
        pin = _within(pin, min(_tokens(one) for one in routed.values()))
    layers = {run: trace.manifest.model.own_layers for run, trace in traces.items()}
    words = pieces, list(map(token_label, pieces))
    return Side(pin, title(pin, escape_markdown), *words, runs, routed, layers)


def _of_trace(trace: "Trace", row: int) -> RoutedText:
    if not trace.has_tokens:
        use = np.asarray(trace.usage[row], np.float64)
        if trace.has("activation"):
            use = np.asarray(trace.activation[row], np.float64)
        return RoutedText(use / np.maximum(use.sum(axis=1, keepdims=True), 1e-12))
    return of_recorded(trace.recorded(row), trace.manifest.model)


def _tokens(routed: RoutedText) -> int:
    return 0 if routed.expert_ids is None else routed.expert_ids.shape[1]


def _pieces(trace: "Trace", row: int) -> list[str]:
    try:
        return trace.recorded(row).token_texts[1:]
    except Absent:
        return []
