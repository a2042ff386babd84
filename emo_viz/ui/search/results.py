"""What a search has found: how many hits, said in one sentence, and the lines of one page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.search import Hits, Line, TextIndex, line
from emo_viz.analysis.search_tokens import Piece, Tokens
from emo_viz.server import searching
from emo_viz.trace.absent import Absent
from emo_viz.ui.search import query as ask
from emo_viz.ui.search import tokens_of_expert
from emo_viz.ui.search.query import Query
from emo_viz.ui.shell.words import count, escape_markdown, shorten, token_label

SHOWN = 40  # characters of a query in a sentence
NO_TEXTS = (
    "Only experts, documents and domains can be searched for: the recording of {run} holds no "
    "texts. Record the model's checkpoint, or import its file again with --text."
)


@dataclass(frozen=True, eq=False)
class Results:
    """What was found.

    headline: Markdown, the number of all hits in it. size: lines in all. lines: those of a slice,
    each with its note. whole: each is a document. note: what the notes are. domains: hits by
    domain, most first. unit: of these numbers. alike: pieces of a vocabulary to search for instead.
    said: a sentence on what is not here, "" for nothing.
    expert: layer and id of the one that was found. routed_now: whether a model is run to make
    lines, on each of their documents.
    """

    headline: str
    size: int
    lines: Callable[[slice], list[tuple[Line, str]]]
    domains: Sequence[tuple[str, int]] = ()
    whole: bool = False
    note: str = ""
    unit: str = "hits"
    alike: Sequence[Piece] = ()
    said: str = ""
    expert: tuple[int, int] | None = None
    routed_now: bool = False


def nothing(sentence: str, alike: Sequence[Piece] = ()) -> Results:
    """Results without a line."""
    return Results(sentence, 0, lambda part: [], alike=alike)


def find(query: Query) -> Results:
    """What the visitor asks for, which is not blank."""
    finders = {
        ask.WORDS: _words,
        ask.TOKEN: _token,
        ask.EXPERT: _expert,
        ask.DOCUMENT: _documents,
        ask.DOMAIN: _domain,
    }
    return finders[query.kind](query)


def _words(query: Query) -> Results:
    if not query.corpus.index.has_texts:
        return nothing(NO_TEXTS.format(run=escape_markdown(query.corpus.label)))
    hits = _filtered(query, _found_words(query.corpus.index, query))
    if not len(hits):
        parts = " Parts of longer words may hold it." if query.whole else ""
        expert = " To find an expert, search for Expert." if query.expert else ""
        return nothing(f"## {_quoted(query)} stands nowhere in {_where(query)}.{parts}{expert}")
    where = _in_documents(query, hits.documents)
    said = f"## {_quoted(query)} stands **{_times(len(hits))}** in {where}."
    return _of_hits(query, hits, said)


def _found_words(index: TextIndex, query: Query) -> Hits:
    return _words_once(index, query.corpus.key, query.text, query.whole, query.case)


@st.cache_resource(max_entries=16, show_spinner=False)
def _words_once(_index: TextIndex, key: str, text: str, whole: bool, case: bool) -> Hits:
    return _index.words(text, whole, case)


def _token(query: Query) -> Results:
    tokens = searching.tokens(query.corpus, query.run)
    if tokens is None:
        return nothing(
            "Tokens can be searched for where they are recorded with their texts, or where the "
            "texts and the model's tokenizer are here; of this run neither is."
        )
    hits = _filtered(query, tokens.find(query.piece))
    alike = [piece for piece in tokens.alike(query.piece) if piece.text != query.piece]
    label = escape_markdown(token_label(query.piece, SHOWN))
    if not len(hits):
        return nothing(f"## No token is exactly “{label}” in {_where(query)}.", alike)
    said = (
        f"## **{count(len(hits), 'token')}** of {tokens.total:,} "
        f"{'is' if len(hits) == 1 else 'are'} exactly “{label}”, in "
        f"{_in_documents(query, hits.documents)}."
    )
    return _of_hits(query, hits, said, tokens, alike)


def _documents(query: Query) -> Results:
    hits = _filtered(query, query.corpus.index.documents(query.text))
    what = f"{_quoted(query)} in its id, title or source"
    return _of_documents(query, hits, f"No document has {what}", f"with {what}")


def _domain(query: Query) -> Results:
    hits = query.corpus.index.of_domain(query.text)
    names = [name for name, _ in query.corpus.index.by_domain(hits)]
    if not len(hits):
        known = ", ".join(map(escape_markdown, query.corpus.index.domains)) or "none"
        return nothing(f"## No domain is called {_quoted(query)}.\n\nThe domains: {known}.")
    of = "of the domain " + ", ".join(f"**{escape_markdown(name)}**" for name in names[:4])
    return _of_documents(query, hits, "", of if len(names) < 5 else f"of {len(names)} domains")


def _of_documents(query: Query, hits: Hits, none: str, what: str) -> Results:
    if not len(hits):
        return nothing(f"## {none} in {_where(query)}.")
    said = f"## **{count(len(hits), 'document')}** of {len(query.corpus.index):,} {what}."
    found = _of_hits(query, hits, said)
    return Results(said, found.size, found.lines, found.domains, whole=True, unit="documents")


def _of_hits(
    query: Query,
    hits: Hits,
    said: str,
    tokens: Tokens | None = None,
    alike: Sequence[Piece] = (),
) -> Results:
    index = query.corpus.index

    def lines(part: slice) -> list[tuple[Line, str]]:
        some = hits.only(part)
        rows = dict.fromkeys(some.rows.tolist()) if some.starts is not None or tokens else {}
        pieces = {row: pieces_of(query, row) for row in rows}
        return [
            (line(index, some, number, pieces.get(int(row))), "")
            for number, row in enumerate(some.rows)
        ]

    return Results(said, len(hits), lines, index.by_domain(hits), alike=alike)


def pieces_of(query: Query, row: int) -> list[str] | None:
    """The tokens of a document as texts; None where they are not known."""
    tokens = searching.tokens(query.corpus, query.run)
    try:
        return None if tokens is None else tokens.pieces(row)
    except Absent:
        return None


def _expert(query: Query) -> Results:
    run = next(run for run in query.corpus.runs if run.id == query.run)
    layers = dict(searching.expert_layers(query.run))
    if not layers:
        return nothing(
            f"Where {escape_markdown(run.label)} uses an expert is known once it is recorded; the "
            "Library page does it."
        )
    expert = query.expert
    if expert is None:
        return nothing(f"## {_quoted(query)} names no expert: type its LAYER.ID, such as 3.17.")
    layer, number = expert
    if not 0 <= number < layers.get(layer, 0):
        return nothing(
            f"## {escape_markdown(run.label)} has no expert {number} in layer {layer}; "
            f"{_known(layers)}."
        )
    use = searching.expert_use(query.run, layer, number)
    name = f"L{layer} E{number} of {escape_markdown(run.label)}"
    weights = use.usage if use.counts is None else use.counts
    weights = weights * _mask(query)
    rows = np.argsort(-weights, kind="stable")[: int((weights > 0).sum())]
    if not len(rows):
        return nothing(f"## No token uses {name} in {_where(query)}.")
    found = tokens_of_expert.Found(query, layer, number, use, rows, weights)
    return _expert_results(query, name, found)


def _expert_results(query: Query, name: str, found: tokens_of_expert.Found) -> Results:
    documents = _in_documents(query, len(found.rows))
    if found.use.counts is None:
        said = f"## **{documents}** use {name}, those that use it most first."
    else:
        tokens = int(found.weights.sum())
        verb = "uses" if tokens == 1 else "use"
        said = f"## **{count(tokens, 'token')}** {verb} {name}, in {documents}."
    lines, why_not = found.tokens()
    domains = found.domains()
    if lines is None:
        return Results(
            said,
            len(found.rows),
            found.documents,
            domains,
            True,
            found.measure,
            found.unit,
            said=why_not,
            expert=(found.layer, found.expert),
        )
    size = int(found.weights.sum())
    return Results(
        said,
        size,
        lines,
        domains,
        note="Weight",
        unit=found.unit,
        expert=(found.layer, found.expert),
        routed_now=found.use.hits is None,
    )


def _known(layers: dict[int, int]) -> str:
    numbers = list(layers)
    sizes = sorted(set(layers.values()))
    experts = f"0 to {sizes[0] - 1}" if len(sizes) == 1 else f"up to {sizes[-1]} a layer"
    return f"its layers are {numbers[0]} to {numbers[-1]}, its experts {experts}"


def _mask(query: Query) -> NDArray[np.bool_]:
    domains = query.corpus.index.facts["domain"].to_numpy()
    return np.ones(len(domains), bool) if query.domain is None else domains == query.domain


def _filtered(query: Query, hits: Hits) -> Hits:
    return hits if query.domain is None else query.corpus.index.in_domain(hits, query.domain)


def _quoted(query: Query) -> str:
    return f"“{escape_markdown(shorten(query.text.strip(), SHOWN))}”"


def _where(query: Query) -> str:
    index = query.corpus.index
    if query.domain is not None:
        number = int(_mask(query).sum())
        return f"the {count(number, 'document')} of {escape_markdown(query.domain)}"
    return f"the {count(len(index), 'document')} of {escape_markdown(query.corpus.label)}"


def _in_documents(query: Query, number: int) -> str:
    of = int(_mask(query).sum())
    domain = f" of {escape_markdown(query.domain)}" if query.domain is not None else ""
    return f"{number:,} of {count(of, 'document')}{domain}"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"
