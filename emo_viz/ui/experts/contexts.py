"""Experts page: the texts around an expert's tokens, and the documents that it serves most."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import streamlit as st

from emo_viz.analysis.experts import top
from emo_viz.analysis.routed import Numbered
from emo_viz.figures.theme import colour_of
from emo_viz.server import library, recordings
from emo_viz.trace.absent import Absent
from emo_viz.ui.experts.kwic import Line, lines
from emo_viz.ui.parts.known import Known, Place
from emo_viz.ui.shell import routes, slots
from emo_viz.ui.shell.words import (
    by_hand,
    count,
    escape_html,
    escape_markdown,
    opening,
    token_label,
    visible,
)

AROUND = 60  # characters before and after a token
DOCUMENTS = 8


@dataclass(frozen=True)
class Texts:
    """Where the documents of a run's expert tokens are read, row by row."""

    known: Known

    @property
    def _of_trace(self) -> bool:
        found = self.known.tokens
        return found is None or found.info.get("of") == "trace"

    def id(self, row: int) -> str:
        """The id of the document in this row."""
        if self._of_trace:
            return self.known.use.ids[row]
        return str(library.documents([self.known.run.id])["id"].iloc[row])

    def text(self, row: int) -> str:
        """Its text; "" where it is not known."""
        if not self._of_trace:
            return str(library.documents([self.known.run.id])["text"].iloc[row])
        return text_of_trace(self.known, row)


def text_of_trace(known: Known, row: int) -> str:
    """The text of a document of the recording; "" where it has none."""
    trace = library.trace(known.run.id)
    try:
        return trace.text(row)
    except Absent:
        pass
    try:
        return "".join(trace.recorded(row).token_texts)
    except Absent:
        return ""


def enriched(known: Known, place: Place) -> None:
    """The tokens that the expert stands out in, each with its ratio."""
    if not has_tokens(known, place):
        return
    chips = [
        '<span style="display:inline-block;padding:1px 7px;margin:0 4px 4px 0;border-radius:6px;'
        f'border:1px solid rgba(128,132,140,.4)" title="{own:,} of its choices">'
        f"{escape_html(token_label(text, 18))}"
        f' <span style="opacity:.75">×{ratio:.1f}</span></span>'
        for _, text, own, ratio in _enriched(known, place)
    ]
    if not chips:
        st.caption("No token stands out in its choices.")
        return
    st.html(
        '<div style="font-size:.86rem"><b>Enriched tokens</b> (share of its choices over that of '
        f"all tokens)<br>{''.join(chips)}</div>"
    )


def has_tokens(known: Known, place: Place) -> bool:
    """Whether it is known which tokens the expert serves."""
    return known.tokens is not None and known.tokens.place(place[0]) is not None


def _enriched(known: Known, place: Place) -> Iterator[tuple[int, str, int, float]]:
    """Id and text of each token, how often the expert chose it, and the share of its choices over
    that of all tokens."""
    found = known.tokens
    layer = None if found is None else found.place(place[0])
    if found is None or layer is None:
        return
    parts = (found.enriched, found.enriched_counts, found.enriched_ratios)
    for token, own, ratio in zip(*(part[layer, place[1]].tolist() for part in parts), strict=True):
        if token >= 0:
            yield token, found.texts.get(token, f"#{token}"), own, ratio


def enriched_table(known: Known, place: Place) -> pd.DataFrame:
    """The same to take home, texts as JSON."""
    table = pd.DataFrame(
        list(_enriched(known, place)), columns=["token_id", "token", "choices", "ratio"]
    )
    return table.assign(token=[json.dumps(text, ensure_ascii=False) for text in table["token"]])


def kwic(known: Known, place: Place) -> None:
    """Where the expert weighs most, one place a document."""
    if not has_tokens(known, place):
        return
    found = _lines(known, place)
    if not found:
        st.caption("No token of these documents chose it.")
        return
    shown = [line for *_, line in found]
    ways = [to_routing(known, place, line.document, position) for position, _, line in found]
    known_gates = any(line.weight for line in shown)
    what = "weighs most" if known_gates else "was chosen"
    on = by_hand(" A click reads on in Token routing.") if any(ways) else ""
    st.html(
        f'<div style="font-size:.86rem"><b>Where it {what}</b>'
        f"{', with its gate weight' if known_gates else ''}.{on}</div>"
    )
    label = f"Texts around the tokens that expert {place[1]} of layer {place[0]} weighs most in"
    lines(shown, label, colour_of(known.run), "experts_kwic", routes.ROUTING, ways)


def _lines(known: Known, place: Place) -> list[tuple[int, float, Line]]:
    """The places where the expert weighs most: the token's place in its document, its gate weight
    (NaN where it is not known), and the line."""
    found = known.tokens
    layer = None if found is None else found.place(place[0])
    if found is None or layer is None:
        return []
    parts = ("rows", "positions", "starts", "ends", "gates")
    columns = [getattr(found, f"context_{part}")[layer, place[1]].tolist() for part in parts]
    texts = Texts(known)
    places = [one for one in zip(*columns, strict=True) if one[0] >= 0]
    return [(one[1], one[4], _line(texts, *one)) for one in places]


def lines_table(known: Known, place: Place) -> pd.DataFrame:
    """The same to take home."""
    found = _lines(known, place)
    rows = [{"position": at} | asdict(line) | {"weight": gate} for at, gate, line in found]
    return pd.DataFrame(rows).rename(columns={"weight": "gate_weight"})


def _line(texts: Texts, row: int, position: int, start: int, end: int, gate: float) -> Line:
    text = texts.text(row)
    weight = "" if np.isnan(gate) else f"{gate:.2f}"
    if start < 0 or not text:
        return Line("", f"token {position}", "", weight, texts.id(row))
    if start == end:  # it only continues the character before
        start = max(0, start - 1)
    token = token_label(text[start:end], 30)
    before, after = visible(text[max(0, start - AROUND) : start]), visible(text[end : end + AROUND])
    return Line(before, token, after, weight, texts.id(row))


def to_routing(
    known: Known, place: Place, document: str, token: int | None
) -> dict[str, str] | None:
    """The parameters of Token routing that show a document with this expert followed; None where
    that page does not have the document, or the layer."""
    run, use = known.run, known.use
    layer = recordings.layer_of_routing(run.id, Numbered(use.numbers, use.routed), place[0])
    if layer is None or document not in recordings.of_routing([run.id]):
        return None
    alone = not any(map(library.can_run, library.comparison().ids))  # it shows one recording
    params = {
        **slots.params(),
        **({routes.RUN: run.id} if alone else {}),
        **routes.routing_of_document(document),
        routes.ROUTING_LAYER: str(layer),
        routes.ROUTING_EXPERT: str(place[1]) if alone else f"{run.label} {place[1]}",
    }
    return params | ({routes.ROUTING_TOKEN: str(token)} if token else {})


def documents(known: Known, place: Place) -> None:
    """The documents that give the expert the largest share of their choices."""
    use = known.use
    own = use.shares[:, use.place(place[0]), place[1]]
    rows = top(own, DOCUMENTS)
    st.markdown(
        f"**Documents** by its share of their choices in this layer, of "
        f"{count(use.documents, 'document')}"
    )
    for row in rows:
        domain = f"{use.domains[use.domain_of[row]]}: " if use.domains else ""
        said = escape_markdown(f"{domain}{_opening(known, int(row))}")
        label = f"**{100 * float(own[row]):.1f} %**\u2002{said}"
        way = to_routing(known, place, use.ids[int(row)], None)
        if way is None:
            st.markdown(label)
            continue
        st.page_link(routes.ROUTING, label=label, help="Read it in Token routing", query_params=way)


def documents_table(known: Known, place: Place) -> pd.DataFrame:
    """The same to take home: id, domain where it is known, share of its choices, and first
    words."""
    use = known.use
    own = use.shares[:, use.place(place[0]), place[1]]
    rows = top(own, DOCUMENTS)
    domains = {"domain": [use.domains[use.domain_of[row]] for row in rows]} if use.domains else {}
    openings = [_opening(known, int(row)) for row in rows]
    ids = [use.ids[int(row)] for row in rows]
    return pd.DataFrame({"document": ids, **domains, "share": own[rows], "opening": openings})


def _opening(known: Known, row: int) -> str:
    return opening(text_of_trace(known, row), 60) or known.use.ids[row]
