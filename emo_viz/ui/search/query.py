"""What is searched for: the field, what it means, and the filters, all of them in the address."""

import re
from dataclasses import dataclass

import streamlit as st

from emo_viz.analysis.runs import Comparison
from emo_viz.analysis.search import MOST_CHARACTERS
from emo_viz.server import searching
from emo_viz.server.searching import Corpus, Searchable
from emo_viz.ui.parts import text_links
from emo_viz.ui.shell import links, routes
from emo_viz.ui.shell.address import checked

WORDS, TOKEN, EXPERT = "Words", "Token", "Expert"
DOCUMENT, DOMAIN = "Document", "Domain"
KINDS = (WORDS, TOKEN, EXPERT, DOCUMENT, DOMAIN)
HINTS = {
    WORDS: "A word or a phrase",
    TOKEN: "One piece of the vocabulary, its space as ␣ or in front",
    EXPERT: "LAYER.ID, such as 3.17",
    DOCUMENT: "Part of an id, a title or a source",
    DOMAIN: "The name of a domain, or part of it",
}
# Whole words or not, and whether capitals count.
MATCHES = {
    "Whole words": (True, False),
    "Parts of words too": (False, False),
    "Whole words, capitals as typed": (True, True),
    "Parts of words too, capitals as typed": (False, True),
}
PAGE = routes.SEARCH_PAGE
_SIGNS = {"␣": " ", "↵": "\n", "⇥": "\t"}
_EXPERT = re.compile(r"\s*L?\s*(\d{1,4})\s*(?:[.,:/\s]|E)\s*E?\s*(\d{1,6})\s*", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Query:
    """text: as it was typed. domain: None for all. run: the id of the one that is asked about."""

    text: str
    kind: str
    whole: bool
    case: bool
    domain: str | None
    run: str
    corpus: Corpus

    @property
    def piece(self) -> str:
        """The text as a piece of a vocabulary: signs for white space are what they stand for."""
        return "".join(_SIGNS.get(character, character) for character in self.text)

    @property
    def expert(self) -> tuple[int, int] | None:
        """Layer and id, as "3.17", "L3 E17" or "3 17"; None for a text that is no expert."""
        found = _EXPERT.fullmatch(self.text)
        return (int(found[1]), int(found[2])) if found else None


def ask(runs: Comparison, found: Searchable) -> Query:
    """The controls. found: holds one corpus at least."""
    first = st.container(horizontal=True, vertical_alignment="bottom", gap="small")
    field = first.container(width="stretch")
    kind = links.choice(
        first, "Search for", KINDS, routes.SEARCH_FOR, what="kind of search", on_change=first_page
    )
    text = _field(field, kind)
    second = st.container(horizontal=True, vertical_alignment="bottom", gap="small")
    run = _run(second, runs, found, kind)
    corpus = found.of(run)
    assert corpus is not None
    whole, case = True, False
    if kind == WORDS:
        match = links.select(
            second,
            "Match",
            list(MATCHES),
            routes.SEARCH_MATCH,
            "matching of words",
            width=300,
            on_change=first_page,
        )
        whole, case = MATCHES[match]
    domain = _domain(second, corpus) if kind != DOMAIN else None
    return Query(text, kind, whole, case, domain, run, corpus)


def first_page() -> None:
    """Another search begins on its first page."""
    st.session_state[PAGE] = 1


def _field(place: st.delta_generator.DeltaGenerator, kind: str) -> str:
    known = checked(
        "The link searches for {asked}, which is blank or longer than "
        f"{MOST_CHARACTERS} characters; nothing is searched for.",
        _short,
        "text to search for",
    )
    links.enter(routes.SEARCH_TEXT, known, "")
    text: str = place.text_input(
        "Text to search for",
        key=routes.SEARCH_TEXT,
        placeholder=f"{HINTS[kind]}, then Enter",
        max_chars=MOST_CHARACTERS,
        on_change=first_page,
    )
    kept = links.leave(routes.SEARCH_TEXT, known, text if text.strip() else "", "")
    return text_links.without_halves(kept)


def _short(text: str) -> str:
    if not text.strip() or len(text) > MOST_CHARACTERS:
        raise ValueError
    return text_links.without_halves(text)


def _run(
    place: st.delta_generator.DeltaGenerator, runs: Comparison, found: Searchable, kind: str
) -> str:
    """The run that is asked about, where it matters which."""
    known = [run for run in runs if found.of(run.id)]
    apart = len(found.corpora) > 1
    tokens = kind == TOKEN and not searching.same_tokens(known)
    if len(known) == 1 or not (apart or tokens or kind == EXPERT):
        return known[0].id
    labels, ids = runs.labels, [run.id for run in known]
    return links.choice(
        place,
        "Run",
        ids,
        routes.SEARCH_RUN,
        said=str,
        format_func=labels.__getitem__,
        on_change=first_page,
    )


def _domain(place: st.delta_generator.DeltaGenerator, corpus: Corpus) -> str | None:
    domains = corpus.index.domains
    if len(domains) < 2:
        return None
    chosen = links.select(
        place,
        "Domain",
        [routes.ALL_DOMAINS, *domains],
        routes.SEARCH_DOMAIN,
        width=220,
        on_change=first_page,
    )
    return None if chosen == routes.ALL_DOMAINS else chosen
