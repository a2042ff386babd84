"""Search page: what is searched for, how often it stands where, and a page of its lines."""

from urllib.parse import urlencode

import streamlit as st

from emo_viz.analysis.search import Line
from emo_viz.server import library, searching
from emo_viz.ui.parts import pins, together
from emo_viz.ui.parts.pins import Pin
from emo_viz.ui.search import compare, kwic, query, results, sides, taken
from emo_viz.ui.search.query import PAGE, Query
from emo_viz.ui.search.results import Results
from emo_viz.ui.shell import links, routes, slots
from emo_viz.ui.shell.address import whole_number
from emo_viz.ui.shell.words import (
    by_hand,
    compact,
    count,
    escape_markdown,
    on_one_line,
    token_label,
    visible,
)

A_PAGE = 25
MOST_DOMAINS = 6
CONTINUED = "…"  # a token that only continues the character before it
_GO = "search_go"
_LEADS = {"routing": routes.ROUTING, "clusters": routes.CLUSTERS}


def show() -> None:
    """Draw the page."""
    _go()
    pinned = sides.usable(pins.addressed())
    if _view_of(len(pinned)) == routes.COMPARING:
        compare.show(pinned)
        return
    runs = library.comparison()
    found = searching.searchable(runs)
    together.say_left_out(found.left_out)
    if not found.corpora:
        return
    asked = query.ask(runs, found)
    if not asked.text.strip():
        _before(asked)
        return
    shown = results.find(asked)
    _head(shown)
    _expert_link(asked, shown)
    pages = max(1, -(-shown.size // A_PAGE))
    page = links.value(PAGE, whole_number("page", 1, pages, "the first one is shown"), 1)
    if shown.size:
        taken.offer(asked, shown, _lines(asked, shown, page, pages))


def _view_of(pinned: int) -> str:
    """What the page shows; the pins are in sight however many lines are found."""
    return links.choice(
        st,
        "What to show",
        [routes.FINDING, routes.COMPARING],
        routes.SEARCH_VIEW,
        what="view",
        said=str,
        format_func=lambda view: (
            f"{view} ({pinned})" if pinned and view == routes.COMPARING else view
        ),
        label_visibility="collapsed",
    )


def _go() -> None:
    """Follow the link that was clicked: the page is another one from here on."""
    if target := st.session_state.pop(_GO, None):
        page, params = target
        st.switch_page(page, query_params=params)


def _before(asked: Query) -> None:
    """What there is to search, and an example of each kind out of it."""
    index = asked.corpus.index
    size = count(len(index), "document")
    domains = f" of {count(len(index.domains), 'domain')}" if index.domains else ""
    texts = "" if index.has_texts else " without their texts"
    st.markdown(f"## {size}{domains}{texts} to search, of {escape_markdown(asked.corpus.label)}.")
    st.caption(
        by_hand(
            "Type a word, a phrase, a token, an expert or a domain, and press Enter. Every hit is "
            "counted and leads to its token on the other pages. The key / opens this field from "
            "anywhere."
        )
    )
    with st.container(horizontal=True, gap="small"):
        for number, (label, text, kind) in enumerate(_examples(asked)):
            st.button(
                label,
                key=f"search_example_{number}",
                on_click=_search,
                args=(text, kind),
            )


def _examples(asked: Query) -> list[tuple[str, str, str]]:
    """Label, text and kind of a search that finds something in what is here."""
    index, found = asked.corpus.index, list[tuple[str, str, str]]()
    words = [word for word in index.text(0).split() if word.isalpha() and len(word) < 12]
    if index.has_texts:
        word = max(words, key=len, default="the")
        found.append((f"Word “{escape_markdown(word)}”", word, query.WORDS))
        found.append(("Token “␣the”", "␣the", query.TOKEN))
    layers = searching.expert_layers(asked.run)
    if layers:
        layer = layers[-1][0]
        found.append((f"Expert L{layer} E0", f"{layer}.0", query.EXPERT))
    if index.domains:
        name = index.domains[0]
        found.append((f"Domain {escape_markdown(name)}", name, query.DOMAIN))
    return found


def _search(text: str, kind: str) -> None:
    st.session_state[routes.SEARCH_TEXT] = text
    st.session_state[routes.SEARCH_FOR] = kind
    query.first_page()


def _head(shown: Results) -> None:
    st.markdown(shown.headline)
    if shown.said:
        st.info(shown.said, icon=":material/visibility_off:")
    if len(shown.domains) > 1:
        first = ", ".join(
            f"{escape_markdown(name)} {number:,}" for name, number in shown.domains[:MOST_DOMAINS]
        )
        rest = len(shown.domains) - MOST_DOMAINS
        more = f", and {count(rest, 'domain')} more" if rest > 0 else ""
        st.caption(f"{shown.unit.capitalize()} by domain: {first}{more}.")
    if shown.alike:
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.caption(by_hand("Other tokens that hold it:"), width="content")
            for number, piece in enumerate(shown.alike):
                st.button(
                    f"{escape_markdown(token_label(piece.text))} · {compact(piece.count)}",
                    key=f"search_alike_{number}",
                    on_click=_search,
                    args=(piece.text.replace("\n", "↵").replace(" ", "␣"), query.TOKEN),
                )


def _expert_link(asked: Query, shown: Results) -> None:
    if shown.expert:
        st.page_link(
            routes.EXPERTS,
            label="All that is known of this expert",
            icon=":material/hub:",
            query_params=slots.params() | routes.expert_page(asked.run, *shown.expert),
        )


def _lines(asked: Query, shown: Results, page: int, pages: int) -> slice:
    """A page of them; which."""
    first = (page - 1) * A_PAGE
    found = shown.lines(slice(first, min(first + A_PAGE, shown.size)))
    targets = [_target(asked, line) for line, _ in found]
    rows = [_row(asked, *one, target) for one, target in zip(found, targets, strict=True)]

    def did(number: int, what: kwic.Did) -> None:
        if what == "pin":
            pins.toggle(targets[number])
        else:
            params = _params(targets[number], what)
            st.session_state[_GO] = (_LEADS[what], params)

    which = f"{first + 1:,} to {first + len(rows):,} of {shown.size:,}"
    said, label = f"Lines {which}", "Hits in their contexts"
    kwic.kwic(rows, label, shown.whole, shown.note, said, "search_lines", did)
    _pager(page, pages, which)
    return slice(first, first + len(rows))


def _pager(page: int, pages: int, which: str) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        for step, name in ((-1, "Previous"), (1, "Next")):
            st.button(
                f"{name} page",
                key=f"search_{name.lower()}",
                disabled=not 1 <= page + step <= pages,
                on_click=_turn,
                args=(page + step,),
            )
        st.caption(f"Lines {which}; page {page:,} of {pages:,}.", width="content")


def _turn(page: int) -> None:
    st.session_state[PAGE] = page


def _target(asked: Query, line: Line) -> Pin:
    """The token or document of a line; by its text where no other page knows its id."""
    document = str(asked.corpus.index.facts["id"].iat[line.row])
    known = searching.recorded_tokens(asked.run, line.row)
    token = None if known and line.position and line.position > known else line.position
    if searching.can_be_opened(document, asked.corpus.runs):
        return Pin(document, token=token)
    text = asked.corpus.index.text(line.row)
    return pins.of_text(text, token) if text else Pin(document, token=token)


def _params(target: Pin, what: kwic.Did) -> dict[str, str]:
    if what == "routing":
        return slots.params() | target.routing
    return slots.params() | routes.clusters_of_document(target.document or "", target.token)


def _row(asked: Query, line: Line, note: str, target: Pin) -> kwic.Row:
    facts = asked.corpus.index.facts.iloc[line.row]

    def address(what: kwic.Did) -> str:
        return f"{routes.address(_LEADS[what])}?{urlencode(_params(target, what))}"

    place = f" at token {target.token}" if target.token else ""
    hit = line.hit or (CONTINUED if line.position else str(facts["id"]))
    whole = line.position is None and not line.before
    return kwic.Row(
        domain=visible(facts["domain"]),
        name="" if whole and facts["domain"] else visible(facts["title"]),
        before=on_one_line(line.before),
        hit=visible(hit),
        after=on_one_line(line.after),
        address=address("routing"),
        clusters=address("clusters") if target.document else "",
        title=f"Open in Token routing{place}",
        note=note,
        pinned=pins.is_pinned(target),
    )
