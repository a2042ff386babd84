"""Home: which document the first screen shows: the usual one, one typical of a domain, or any."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from emo_viz.analysis.curves import read_together
from emo_viz.analysis.glance import typical, whole
from emo_viz.analysis.runs import Comparison
from emo_viz.figures.theme import sentence_case
from emo_viz.server import assets, library, recordings
from emo_viz.server import typical as usual
from emo_viz.ui.home import position
from emo_viz.ui.parts import opened
from emo_viz.ui.shell import links, routes, subjects
from emo_viz.ui.shell.address import one_of
from emo_viz.ui.shell.words import count, escape_markdown, isolated, shorten

GOOD = 6  # documents that are one click away
TITLE = 44  # characters
PICKER, PICKER_PIXELS = "home_picker", 430


def chosen(runs: Comparison, row: st.delta_generator.DeltaGenerator) -> str | None:
    """The id of the document asked for, None for the usual one; the picker is put into `row`."""
    table = _table(runs)
    if table is None or len(table) < 2:
        return None
    ids, usual_id = table["id"].tolist(), usual_of(runs, table)
    kind = one_of("document", ids, instead="this shows the usual one")
    document: str = links.value(routes.HOME_DOCUMENT, kind, usual_id)
    icon = ":material/menu_book:"
    picker = row.popover("Another document", icon=icon, key=PICKER, on_change="rerun")
    if opened.is_open(picker):
        with picker.container(width=PICKER_PIXELS):
            _picker(runs, table, document)
    return None if document == usual_id else document


def usual_of(runs: Comparison, table: pd.DataFrame) -> str:
    """The id of the document that is shown unless another is asked for."""
    try:
        found = str(usual.document(runs)["id"])
    except library.Missing:
        found = ""
    return found if found in set(table["id"]) else str(table["id"].iloc[0])


def prepare(runs: Comparison) -> None:
    """Find what the picker offers, before anybody waits for it."""
    table = _table(runs)
    if table is not None and len(table) > 1:
        _good(runs.ids, usual.key(runs.ids), usual_of(runs, table))


def _table(runs: Comparison) -> pd.DataFrame | None:
    """The documents that can be shown, with id, domain and title; None where there are none."""
    try:
        if any(map(library.can_run, runs.ids)):
            return _titled(usual.key(runs.ids), library.documents(runs.ids))
        traces = {name: recordings.opened(name) for name in recordings.of_shown()}
        first = next((name for name, one in traces.items() if one.has_tokens), None)
        return None if first is None else _titled(library.trace_key(first), traces[first].facts)
    except library.Missing:
        return None


@st.cache_resource(max_entries=4, show_spinner=False)
def _titled(key: str, _documents: pd.DataFrame) -> pd.DataFrame:
    ids = _documents["id"].astype(str)
    none = pd.Series("", index=_documents.index)
    domain = _documents["domain"].fillna("").astype(str) if "domain" in _documents else none
    named = _documents["parent"].fillna("").astype(str) if "parent" in _documents else none
    title = pd.Series(map(subjects.title, named, ids), index=ids.index, dtype=str)
    # Two parts of one text have one title.
    number = title.groupby([domain, title]).cumcount() + 1
    title = title.where(number == 1, title + ", part " + number.astype(str))
    return pd.DataFrame({"id": ids, "domain": domain, "title": title})


def _picker(runs: Comparison, table: pd.DataFrame, document: str) -> None:
    titles = dict(zip(table["id"], table["title"], strict=True))
    domains = dict(zip(table["id"], table["domain"], strict=True))
    good = _good(runs.ids, usual.key(runs.ids), usual_of(runs, table))
    good = [one for one in good if one in titles]
    if good:
        st.caption("Typical of their domains: a cut costs them what it costs most there.")
        with st.container(horizontal=True, gap="xsmall"):
            for one in good:
                st.button(
                    escape_markdown(sentence_case(subjects.in_words(domains[one]))),
                    key=f"home_good_{one}",
                    disabled=one == document,
                    help=escape_markdown(titles[one]),
                    on_click=_show,
                    args=(one,),
                )
    with st.container(horizontal=True, gap="small"):
        _all(table, titles, domains[document], document)


def _all(table: pd.DataFrame, titles: dict[str, str], domain: str, document: str) -> None:
    """Every document, those of one domain at a time."""
    known = sorted(set(table["domain"]))
    if len(known) > 1:
        at = known.index(domain)
        words = subjects.in_words
        domain = st.selectbox("Domain", known, at, words, key=f"home_domain_{document}", width=160)
    own: Sequence[str] = table.loc[table["domain"] == domain, "id"].tolist()
    places = {one: place for place, one in enumerate(own, start=1)}  # titles may be alike
    key = f"home_all_{document}_{domain}"
    st.selectbox(
        f"All {count(len(own), 'document')}",
        own,
        format_func=lambda one: f"{places[one]}. {isolated(shorten(titles[one], TITLE))}",
        placeholder="Choose one",
        index=own.index(document) if document in own else None,
        key=key,
        on_change=lambda: _show(st.session_state[key]),
        width=250,
    )


def _show(document: str | None) -> None:
    if document is not None:
        st.session_state[routes.HOME_DOCUMENT] = document
        st.session_state[PICKER] = False  # what was chosen lies below it
        position.forget_token()


@st.cache_resource(max_entries=8, show_spinner=False)
def _good(runs: tuple[str, ...], key: str, usual_id: str) -> list[str]:
    """The usual document, then the most typical whole one of some other domains, every so many of
    them by name; none without curves."""
    documents = library.documents(runs)
    try:
        rows = read_together(assets.curves_paths(runs)).of_runs(runs).rows
    except ValueError:
        return []
    found = [usual_id]
    shown = set(documents.loc[documents["id"] == usual_id, "domain"])
    domains = sorted(set(documents["domain"]) - shown)
    step = max(1, len(domains) // GOOD)
    for domain in domains[::step]:
        one = typical(rows, whole(documents, domain))
        if one is not None and one not in found:
            found.append(one)
    return found[:GOOD]
