"""Token routing page: choosing a text, and what the models make of it in one sentence."""

import numpy as np
import pandas as pd
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from emo_viz.analysis.widths import in_words
from emo_viz.figures.kept import beside
from emo_viz.server import library, typical
from emo_viz.ui.parts.examples import OF_SEVERAL_KINDS
from emo_viz.ui.parts.own_text import OwnText
from emo_viz.ui.parts.reading import Chosen, Reading, say_absent
from emo_viz.ui.parts.steps import around, document_steps
from emo_viz.ui.parts.together import in_each
from emo_viz.ui.shell import links, routes, slots
from emo_viz.ui.shell.address import one_of
from emo_viz.ui.shell.words import count, escape_markdown, numbered, rest_cut, shorten

HELD_OUT, OWN = "Held-out document", routes.OWN_SOURCE
SOURCE, DOMAIN = routes.ROUTING_SOURCE, routes.ROUTING_DOMAIN
LOW_FIELD = 80  # pixels: the pictures below it stay in sight
DOCUMENT, TOKEN, EXPERT = "routing_choice", routes.ROUTING_TOKEN, routes.ROUTING_EXPERT
ROWS = routes.ROUTING_ROWS
_OF_TEXT = (TOKEN, EXPERT, ROWS)
_LEFT = "routing_left"  # what was chosen of the text of the other source


def choose_text(documents: pd.DataFrame) -> Chosen | None:
    """The row of controls that picks a text; None (and a hint) as long as there is none."""
    row = st.container(horizontal=True, vertical_alignment="bottom", gap="small")
    source = links.choice(
        row,
        "Text",
        [HELD_OUT, OWN],
        SOURCE,
        on_change=swap_selection,
        label_visibility="collapsed",
    )
    if source != OWN:
        return _held_out_text(documents, row)
    FIELD.examples(row)
    FIELD.file_picker(row)
    return own_text()


def answer(reading: Reading) -> None:
    """The first line of the page: how the models route this text, in numbers."""
    runs, routing, even = reading.runs, reading.routing, reading.even_routed
    known = "at least " if reading.at_least else ""
    of_all = f" of {known}{in_words(even)} experts" if even else ""

    def half(run: str) -> str:
        own = of_all if even else f" of {known}{in_words(reading.routed[run])} experts"
        said = own if not even or run == runs.first.id else ""
        return f"**{routing[run].half.mean():.1f}**{said}"

    st.markdown(f"## In a layer, half of this text's routing goes to {in_each(runs, half)}.")
    if said := runs.why_not("experts"):
        st.caption(escape_markdown(said))
    say_absent(reading.absent)


def measured(reading: Reading) -> None:
    """Where the text is from, over what the first line is a mean, and more numbers."""
    runs, routing = reading.runs, reading.routing
    distinct = in_each(runs, lambda run: f"{routing[run].distinct.mean():.1f}")
    entropy = in_each(runs, lambda run: or_none(routing[run].entropy.mean()))
    loss = in_each(runs, lambda run: or_none(routing[run].mean_loss))
    st.caption(
        f"{reading.chosen.origin}, {count(reading.num_tokens, 'token')}{reading.chosen.rest}. Mean "
        f"over {count(reading.num_layers, 'layer')} with experts. Distinct routed experts: "
        f"{distinct}. Router entropy in nats: {entropy}. Loss in nats a token: {loss}."
    )


def or_none(value: float) -> str:
    """A number with two decimals; "none" where there is none."""
    return "none" if np.isnan(value) else f"{value:.2f}"


def forget_selection() -> None:
    """Another text has other tokens: drop the selected one, and what a link shows of its rows."""
    for key in _OF_TEXT:
        st.session_state[key] = None


def swap_selection() -> None:
    """A text of the other source has its own chosen token: the one that it was left with, if it is
    still that text in these runs."""
    state, now = st.session_state, st.session_state[SOURCE]
    before, chosen = state.get(_LEFT, (None, {}))
    left = _text_of(OWN if now == HELD_OUT else HELD_OUT)
    state[_LEFT] = (left, {key: state.get(key) for key in _OF_TEXT})
    for key in _OF_TEXT:
        state[key] = chosen.get(key) if before == _text_of(now) else None


def _text_of(source: str) -> tuple[str, ...]:
    """What tells the text of a source, as these runs read it, from others."""
    key = FIELD.draft if source == OWN else DOCUMENT
    state = st.session_state
    chosen = state.get(key, state.get(f"{key}_kept"))  # a field that is not drawn is forgotten
    return (source, str(chosen), *map(str, slots.params().items()))


def _take_own_text() -> None:
    forget_selection()
    mixed = st.session_state[FIELD.draft] in OF_SEVERAL_KINDS
    st.session_state[ROWS] = routes.WHOLE_TEXT if mixed else None


FIELD = OwnText("routing", routes.ROUTING_TEXT, _take_own_text)


def is_whole_at_first() -> bool:
    """Whether a link or an example asks for all rows of the picture."""
    rows = one_of("tokens shown", [routes.WHOLE_TEXT], instead="readable rows are shown")
    return links.value(ROWS, rows, None) is not None


def own_text() -> Chosen | None:
    """What the visitor has written, once there is something."""
    is_whole_at_first()  # read where there is no text yet: a button may bring one
    row = st.container(horizontal=True, vertical_alignment="bottom", gap="small")
    text = FIELD.ask("which experts each of its tokens uses", row, LOW_FIELD)
    return None if text is None else Chosen(text, "Your own text")


def _held_out_text(documents: pd.DataFrame, row: DeltaGenerator) -> Chosen:
    document = choose_document(documents, row)
    rest = rest_cut(document.get("cut_tokens", 0))
    return Chosen(document["text"], origin(document), document["id"], rest)


def choose_document(documents: pd.DataFrame, row: DeltaGenerator) -> pd.Series:
    """One of some documents (id, domain, text, parent, source, licence), of a domain or of all."""
    domain, shown = _of_domain(documents, row)
    ids = shown["id"].tolist()
    kind = one_of("document", ids, always=True)
    usual = typical.among(ids, library.comparison())
    links.enter(DOCUMENT, kind, usual, routes.ROUTING_DOCUMENT)
    labels = beside(documents, (DOMAIN, domain), lambda: numbered(ids, shown["text"], 90))
    chosen = row.selectbox(
        f"Document ({len(ids):,})",
        ids,
        format_func=labels.__getitem__,
        key=DOCUMENT,
        on_change=forget_selection,
        label_visibility="collapsed",
    )
    links.leave(DOCUMENT, kind, chosen, usual, routes.ROUTING_DOCUMENT)
    steps = row.container(horizontal=True, width="content", gap="small")
    place = ids.index(chosen)
    document_steps(steps, "routing", around(ids, place), _open_document)
    return shown.iloc[place]


def _of_domain(documents: pd.DataFrame, row: DeltaGenerator) -> tuple[str, pd.DataFrame]:
    domains = beside(documents, "domains", lambda: sorted(documents["domain"].unique()))
    if len(domains) < 2:  # nothing to choose
        return routes.ALL_DOMAINS, documents
    domain = links.select(
        row,
        "Domain",
        [routes.ALL_DOMAINS, *domains],
        DOMAIN,
        on_change=forget_selection,
        width=210,
        label_visibility="collapsed",
    )
    if domain == routes.ALL_DOMAINS:
        return domain, documents
    own = beside(documents, ("of domain", domain), lambda: documents[documents["domain"] == domain])
    return domain, own


def _open_document(document: str) -> None:
    st.session_state[DOCUMENT] = document
    forget_selection()


def origin(row: pd.Series) -> str:
    """Where a document is from, in words that are safe for Markdown."""
    parts = [row["parent"] or row["id"], row["source"], row["licence"]]
    known = [escape_markdown(shorten(str(part), 80)) for part in parts if part]
    of = f" of {escape_markdown(row['domain'])}" if row["domain"] else ""
    return f"Document{of} ({', '.join(known)})"
