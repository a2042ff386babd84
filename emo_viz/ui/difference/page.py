"""Routing difference page: which runs and documents, and what comes of it in one sentence."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from emo_viz.analysis.difference import (
    Difference,
    Documents,
    Pair,
    RoutedDocument,
    compare_pairs,
)
from emo_viz.analysis.difference_stream import Head, Pairs, paired
from emo_viz.analysis.matching import matched_by_use
from emo_viz.analysis.routed import Layers, common_layers
from emo_viz.analysis.runs import Comparison, compare
from emo_viz.server import assets, commands, library, recordings
from emo_viz.trace.absent import Absent
from emo_viz.ui.difference import sources
from emo_viz.ui.difference.sources import Choice, Opened, Words
from emo_viz.ui.parts.few import Few
from emo_viz.ui.parts.own_text import OwnText
from emo_viz.ui.parts.same_experts import BY_USE, ways
from emo_viz.ui.parts.together import name
from emo_viz.ui.shell import links, missing, routes
from emo_viz.ui.shell.words import count, escape_markdown, interval, numbered, share

HELD_OUT, OWN = "Held-out documents", routes.OWN_SOURCE
COUNTS = (24, 96, 384)
MOST_KEPT = 4  # comparisons whose documents stay on disk
OPENING = 60  # characters of a document's title
TOKEN, DOCUMENT = routes.DIFFERENCE_TOKEN, routes.DIFFERENCE_DOCUMENT
QUICK = 0.5  # seconds: what takes no longer shows no progress
TOKENS_COMMAND = f"{commands.RECORD} --level tokens"


Sides = tuple[Opened, Opened]


@dataclass(frozen=True, eq=False)
class Found:
    """Two runs over the same tokens.

    by_use: whether the second run's experts go by the ids of those of the first that they match.
    pairs: read as they are asked for; heads: what is known of them without. words: of a document.
    titles: what each document is called, a number and its opening. own: the text of the visitor,
    where it is one. linked: whether the token routing page knows the documents.
    """

    choice: Choice
    runs: Comparison
    layers: Layers
    pairs: Sequence[Pair]
    heads: Sequence[Head]
    difference: Difference
    by_use: bool
    words: Callable[[str], Words]
    titles: dict[str, str]
    own: str | None
    linked: bool

    @property
    def names(self) -> tuple[int, ...]:
        return self.layers.names

    def number(self, document: str) -> int:
        """Its number in its title."""
        return list(self.titles).index(document) + 1


def forget_selection() -> None:
    """Another text has other tokens."""
    st.session_state[TOKEN] = None


def _another() -> None:
    """Another comparison has other tokens, and its own way to tell its experts."""
    forget_selection()
    st.session_state[routes.DIFFERENCE_EXPERTS] = None


FIELD = OwnText("difference", routes.DIFFERENCE_TEXT, forget_selection)


def found() -> Found:
    """What the visitor asks for; ends the page where there is nothing to compare."""
    runs = library.comparison()
    options = sources.choices(runs)
    _say_one_run(runs, bool(options))
    if not options:
        _nothing_to_compare(runs)
    row = st.container(horizontal=True, vertical_alignment="bottom", gap="small")
    by_label = {option.label: option for option in options}
    label = links.select(
        row,
        "Compare",
        list(by_label),
        routes.DIFFERENCE_OF,
        "comparison",
        on_change=_another,
        width=330,
    )
    choice = by_label[label]
    sides = (sources.opened(choice.first), sources.opened(choice.second))
    if choice.live:
        _check_tokens(sides)
    try:
        first, second = sides
        layers = common_layers(first.layers, second.layers, (first.label, second.label))
        shown = _live if choice.live else _recorded
        return shown(choice, sides, layers, row)
    except ValueError as error:
        st.warning(escape_markdown(str(error)))
        missing.end()


def answer(found: Found) -> None:
    """The first line of the page, one sentence: how far the two runs agree, in numbers."""
    difference, (first, second) = found.difference, found.runs
    layers = difference.layers
    shared = [layer.shared.mean for layer in layers]
    chance = float(np.mean([layer.chance_shared for layer in layers]))
    least = int(np.argmin(shared))
    where = (
        f", fewest in layer {found.names[least]} (**{_exact(shared[least])}**)"
        if max(shared) > min(shared)
        else " in every layer"
    )
    st.markdown(
        f"## On {count(difference.tokens, 'token')} of "
        f"{count(len(difference.documents), 'document')}, {name(first)} and {name(second)} choose "
        f"**{_exact(float(np.mean(shared)))}** of the same experts{where}; by chance it would be "
        f"**{_exact(chance)}**."
    )


def measured(found: Found) -> None:
    """More numbers, and what all of them rest on."""
    difference, second = found.difference, found.runs.runs[1]
    said = [
        _first_difference(found),
        f"Exactly the same experts in {_exact(difference.same_choices)} of the choices (a token in "
        f"a layer), and in every layer for {_exact(difference.same_tokens)} of the tokens.",
    ]
    if difference.loss is not None:
        loss = f"Loss of {name(second)} less {name(found.runs.first)}"
        said.append(f"{loss}, nats a token: {_signed(difference)}.")
    notes = [found.layers.note, *difference.notes, _experts_note(found)]
    with st.expander("How it was measured"):
        st.markdown(" ".join([*said, *(escape_markdown(note) for note in notes if note)]))
        st.markdown(
            "By chance: the second run's choices shuffled among the tokens. The share of a token's "
            "experts that differs in a layer is 1 less their overlap (Jaccard): of all experts "
            "that it uses there, in either run, the share that one run alone uses."
        )


def _first_difference(found: Found) -> str:
    """Where the two first differ: in the first document that does, its first such token."""
    for pair, at, summary in zip(
        found.heads, found.difference.parts_at, found.difference.summaries, strict=True
    ):
        if at >= 0:
            layer = found.names[int(summary.first[np.flatnonzero(pair.places == at)[0]])]
            word = escape_markdown(found.words(pair.id).labels[at])
            of = "" if found.own is not None else f" of document {found.number(pair.id)}"
            return f"They first differ at token {at + 1}{of} (“{word}”), in layer {layer}."
    return "They never differ."


def _exact(value: float) -> str:
    """A share that says 100 % only where it is all: "63 %", "97.1 %", "99.96 %"."""
    if value < 0.9 or value == 1:
        return share(value)
    digits = 1 if value < 0.9945 else 2
    return f"{100 * value:.{digits}f} %" if value < 0.99995 else "over 99.99 %"


def _signed(difference: Difference) -> str:
    assert difference.loss is not None
    if difference.loss.n == 1:
        return f"{difference.loss.mean:+.4f}"
    return interval(difference.loss, "+.4f")


def _experts_note(found: Found) -> str:
    """How experts are told to be the same, where that needs saying."""
    if found.by_use:
        return (
            f"Experts of {found.runs.runs[1].label} are matched one to one with those of "
            f"{found.runs.first.label} by the tokens that they share, and go by their ids; the "
            "matching comes from the other half of the tokens."
        )
    if found.choice.first.run.id == found.choice.second.run.id:
        return ""
    return (
        "Experts are compared by their ids; two models that were trained apart need not have the "
        "same expert under the same id: Matched by use looks for it."
    )


def _say_one_run(runs: Comparison, shown: bool) -> None:
    if runs.second is None and shown:
        st.info(
            f"{name(runs.first)} is the only run that is chosen: below it stands against itself. "
            f"To compare it with another run, {_another_run()}.",
            icon=":material/compare_arrows:",
        )


def _another_run() -> str:
    if len(assets.runs()) > 1:
        return "choose it as run B in the side bar"
    return (
        "put a second checkpoint or a second trace beside it (`python -m emo_viz record` or "
        "`python -m emo_viz import`), and choose both"
    )


def _nothing_to_compare(runs: Comparison) -> None:
    """Neither two traces with tokens nor a model that runs."""
    lacking = [run for run in runs if not assets.trace_path(run.id).exists()]
    sentence = (
        f"{escape_markdown(runs.names)} cannot be compared token by token: that takes two runs, "
        "each with a checkpoint, or with a trace that was recorded token by token."
        if runs.second
        else f"{name(runs.first)} is the only run that is chosen; a difference takes a second one: "
        f"{_another_run()}."
    )
    command = commands.each(TOKENS_COMMAND, [run.id for run in lacking or runs])
    missing.empty_state(sentence, command)
    missing.end()


def _check_tokens(sides: Sides) -> None:
    """Models of different tokenizers do not share tokens: says so and ends the page."""
    facts = [replace(one.side.shown, facts=one.model.facts) for one in sides]
    if said := compare(facts).why_not("tokens"):
        st.info(
            f"{escape_markdown(said)} Each of them compares with itself in another precision "
            "(choose it above), and their use of experts compares document by document on the "
            "page Document clusters.",
            icon=":material/compare_arrows:",
        )
        missing.end()


def _live(choice: Choice, sides: Sides, layers: Layers, row: Any) -> Found:
    """Both models run here on held-out documents or on a text of the visitor's own."""
    source = links.choice(
        row, "Text", [HELD_OUT, OWN], routes.DIFFERENCE_SOURCE, on_change=forget_selection
    )
    most = min(one.context for one in sides)
    own = None
    if source == OWN:
        FIELD.file_picker(row)
        own = FIELD.ask("where the two runs choose other experts")
        if own is None:
            missing.end()
        texts = {routes.OWN_DOCUMENT: own}
    else:
        documents = _some(row, library.documents())
        texts = dict(zip(documents["id"], documents["text"], strict=True))

    def routed(side: Opened, places: Sequence[int]) -> Callable[[str], RoutedDocument]:
        return lambda document: sources.of_text(side, document, texts[document], most, places)

    first, second = routed(sides[0], layers.first), routed(sides[1], layers.second)
    return _found(
        row,
        choice,
        sides,
        layers,
        (list(texts), lambda document: (first(document), second(document))),
        lambda document: sources.words_of_text(sides[0], texts[document], most),
        repr((list(texts.items()), most)),
        numbered(texts, texts.values(), OPENING),
        own,
        linked=True,
    )


def _recorded(choice: Choice, sides: Sides, layers: Layers, row: Any) -> Found:
    """At least one of the two out of a trace, whose documents these are."""
    traces = [one for one in sides if not one.side.live]
    facts = [one.trace.facts for one in traces]
    rows = [dict(zip(each["id"].astype(str), range(len(each)), strict=True)) for each in facts]
    table = facts[0].assign(id=facts[0]["id"].astype(str))
    by_id = len(rows) == 1 or any(document in rows[1] for document in rows[0])
    if by_id:
        table = table[table["id"].isin(rows[-1].keys())]
    chosen = _some(row, table)
    places = dict(zip(chosen["id"], chosen.index, strict=True))

    def routed(side: Opened, at: Sequence[int]) -> Callable[[str], RoutedDocument]:
        def read(document: str) -> RoutedDocument:
            if side.side.live:
                return sources.of_row_live(side, traces[0], places[document], at)
            second = side is sides[1] and by_id
            return sources.of_row(side, rows[-1][document] if second else places[document], at)

        return read

    first, second = routed(sides[0], layers.first), routed(sides[1], layers.second)
    return _found(
        row,
        choice,
        sides,
        layers,
        (list(places), lambda document: (first(document), second(document))),
        lambda document: sources.words_of_row(sides, traces[0], places[document]),
        repr(list(places.items())),
        numbered(places, sources.openings(traces[0], places).values(), OPENING),
        None,
        linked=bool(recordings.without_checkpoint()),
    )


def _some(row: Any, documents: pd.DataFrame) -> pd.DataFrame:
    """The first so many documents, of one domain or of all."""
    domains = sorted(documents["domain"].dropna().unique()) if "domain" in documents else []
    if len(domains) > 1:
        domain = links.select(
            row,
            "Domain",
            [routes.ALL_DOMAINS, *domains],
            routes.DIFFERENCE_DOMAIN,
            on_change=forget_selection,
            width=210,
        )
        if domain != routes.ALL_DOMAINS:
            documents = documents[documents["domain"] == domain]
    counts = [*(number for number in COUNTS if number < len(documents)), len(documents)]
    number = links.choice(
        row,
        "Documents",
        counts,
        routes.DIFFERENCE_DOCUMENTS,
        what="number of documents",
        on_change=forget_selection,
    )
    return documents.head(number)


def _run(
    documents: Sequence[str], routed: Callable[[str], Documents], place: Any
) -> Iterator[Documents]:
    """Both sides of every document, one after the other, with progress where it takes a while.

    A visitor who chooses something else in the meantime ends it at the next document.
    """
    began = time.monotonic()
    for number, document in enumerate(documents):
        if time.monotonic() - began > QUICK:
            said = f"Document {number + 1:,} of {len(documents):,} in both runs …"
            place.progress(number / len(documents), said)
        yield routed(document)
    place.empty()


def _found(
    row: Any,
    choice: Choice,
    sides: Sides,
    layers: Layers,
    documents: tuple[list[str], Callable[[str], Documents]],
    words: Callable[[str], Words],
    texts: str,
    titles: dict[str, str],
    own: str | None,
    linked: bool,
) -> Found:
    by_use = _experts(row, sides) == BY_USE
    key = repr(([one.key for one in sides], layers, texts))
    try:
        pairs, notes = _paired(key, documents)
    except Absent as error:
        st.info(escape_markdown(str(error)), icon=":material/visibility_off:")
        missing.end()
    named, difference = _compared(pairs, notes, by_use, key)
    heads = pairs.heads
    runs = choice.runs
    return Found(choice, runs, layers, named, heads, difference, by_use, words, titles, own, linked)


def _paired(
    key: str, documents: tuple[list[str], Callable[[str], Documents]]
) -> tuple[Pairs, list[str]]:
    """Both runs over the documents, once for all visitors; the last few stay on disk."""
    names, routed = documents
    return _kept().of(key, lambda: paired(_run(names, routed, st.empty())))


@st.cache_resource(max_entries=1, show_spinner=False)
def _kept() -> Few[tuple[Pairs, list[str]]]:
    return Few(MOST_KEPT)


def _experts(row: Any, sides: Sides) -> str:
    """An id means the same in one model run in two ways; in two models it need not."""
    options = ways(sources.trained_apart(*sides))
    how: str = links.choice(
        row,
        "Experts",
        options,
        routes.DIFFERENCE_EXPERTS,
        what="matching of experts",
        help="By id for one model in two ways. Matched by use where an id need not mean the same: "
        "models trained apart, or physical instead of logical ids.",
    )
    return how


@st.cache_resource(max_entries=8, show_spinner=False)
def _compared(
    _pairs: Pairs, _notes: list[str], by_use: bool, key: str
) -> tuple[Sequence[Pair], Difference]:
    named = matched_by_use(_pairs) if by_use and len(_pairs) else _pairs
    return named, compare_pairs(named, _notes)
