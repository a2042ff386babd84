"""Routing difference page: the figures, one document token by token, and what differs most."""

import json
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis.difference import DocumentSummary, Pair, loss_by_overlap, token_difference
from emo_viz.analysis.difference_table import all_tokens, most_different
from emo_viz.figures import difference as figures
from emo_viz.figures.theme import CHART_CONFIG, SEQUENTIAL
from emo_viz.ui.difference import panel
from emo_viz.ui.difference.page import DOCUMENT, FIELD, TOKEN, Found
from emo_viz.ui.difference.sources import Words
from emo_viz.ui.parts import heatmap, rows_to_open
from emo_viz.ui.parts.colouring import DEEPEST, NO_VALUE, Colouring, loss_difference, plain
from emo_viz.ui.parts.export import offer
from emo_viz.ui.parts.heatmap import Layer, Pick, Side
from emo_viz.ui.parts.lazy_tabs import Tab, lazy_tabs
from emo_viz.ui.parts.strip import StripToken, token_strip
from emo_viz.ui.parts.together import name
from emo_viz.ui.shell import links, routes, slots
from emo_viz.ui.shell.address import one_of
from emo_viz.ui.shell.words import by_hand, count, isolated, share, visible

AGREEMENT, LOSS, PLAIN = "Agreement", "Loss difference", "None"
TEXT_PIXELS, MAP_PIXELS = 560, 520
GROUP = "difference"
BY_EXPERTS, BY_WEIGHTS = "Experts", "Gate weights and losses"
MOST_TOKENS = 2048  # in the strip and the map: a browser holds more, but slowly
MOST_ROWS = 200
MOST_MARKS = 1_500


def overview(found: Found) -> None:
    """All documents together: agreement and where it parts; weights and losses when asked for."""
    tabs = [
        Tab(BY_EXPERTS, lambda: _agreement(found)),
        Tab(BY_WEIGHTS, lambda: _weights_and_losses(found)),
    ]
    lazy_tabs(routes.DIFFERENCE_VIEW, tabs, "view")


def _weights_and_losses(found: Found) -> None:
    with st.grid(2, min_column_width=380) as grid:
        with grid.cell():
            _weights(found)
        with grid.cell():
            _losses(found)


def _agreement(found: Found) -> None:
    layers, names = found.difference.layers, found.names
    over = f"95 % intervals over {count(len(found.pairs), 'document')}"
    several = over if len(found.pairs) > 1 else "one document, so there is no interval"
    with st.grid(2, min_column_width=380) as grid:
        with grid.cell():
            st.plotly_chart(
                figures.agreement(layers, names),
                key="difference_agreement",
                config=CHART_CONFIG,
                alt="The share of experts in common, of tokens with all experts alike, and the "
                f"level of chance, in each of {count(len(names), 'layer')}.",
            )
            st.caption(f"{count(found.difference.tokens, 'token')}, {several}. {_at_once(found)}")
        if _all_differ_at_once(found):
            return
        with grid.cell():
            st.plotly_chart(
                figures.divergence(found.difference.first_layer, found.difference.parts_at, names),
                key="difference_divergence",
                config=CHART_CONFIG,
                alt="The share of tokens that part first in each layer or never, and the share of "
                "documents that have parted up to each position.",
            )
            st.caption(_how_many_differ(found))


def _all_differ_at_once(found: Found) -> bool:
    """Whether every token differs from the first layer on: no picture says it better."""
    return bool(found.difference.first_layer[0] == 1)


def _at_once(found: Found) -> str:
    if not _all_differ_at_once(found):
        return ""
    return f"Every token differs in layer {found.names[0]} already, the first of each document too."


def _how_many_differ(found: Found) -> str:
    tokens = f"{share(1 - found.difference.same_tokens)} of the tokens differ in a layer"
    if len(found.pairs) == 1:
        return f"{tokens}."
    parted = int((found.difference.parts_at >= 0).sum())
    return f"{tokens}; {parted:,} of {len(found.pairs):,} documents hold one."


def _weights(found: Found) -> None:
    if any(layer.weight is None for layer in found.difference.layers):
        _needs("gate weights", found)
        return
    st.plotly_chart(
        figures.weight(found.difference.layers, found.names),
        key="difference_weight",
        config=CHART_CONFIG,
        alt="The share of a token's gate weight that moved between the runs, by layer.",
    )
    st.caption(
        "Half the summed difference of a token's gate weights, scaled to sum to 1: 0 % where both "
        "runs weigh the same experts alike, 100 % where they have none in common."
    )


def _losses(found: Found) -> None:
    bins = loss_by_overlap(found.difference.summaries)
    if not bins:
        _needs("losses", found)
        return
    overlap, change, labels = _some_tokens(found)
    st.plotly_chart(
        figures.loss(found.runs, bins, overlap, change, labels),
        key="difference_loss",
        config=CHART_CONFIG,
        alt="The size of the loss difference of tokens against the mean overlap of their experts.",
    )
    st.caption(
        f"Line: all tokens, in {count(len(bins), 'bin')} of overlap. Marks: "
        f"{count(len(labels), 'token')}, drawn at random where there are more. Where losses differ "
        "although the experts agree, something else than routing differs."
    )


def _some_tokens(found: Found) -> tuple[NDArray[Any], NDArray[Any], list[str]]:
    """Overlap, loss difference and a name of up to MOST_MARKS tokens of all documents."""
    known = [
        (head, each, np.flatnonzero(np.isfinite(each.loss)))
        for head, each in zip(found.heads, found.difference.summaries, strict=True)
        if each.loss is not None
    ]
    overlap = np.concatenate([each.overlap[at] for _, each, at in known])
    change = np.concatenate([np.asarray(each.loss)[at] for _, each, at in known])
    some = np.arange(len(overlap))
    if len(some) > MOST_MARKS:
        some = np.sort(np.random.default_rng(0).choice(len(some), MOST_MARKS, replace=False))
    document = np.concatenate([np.full(len(at), n) for n, (*_, at) in enumerate(known)])
    token = np.concatenate([head.places[at] + 1 for head, _, at in known])
    names = [
        f"{found.titles[known[n][0].id]}, token {position}"
        for n, position in zip(document[some].tolist(), token[some].tolist(), strict=True)
    ]
    return overlap[some], change[some], names


def _needs(what: str, found: Found) -> None:
    """In place of a figure: what it would need."""
    kind = "weights" if what == "gate weights" else "losses"
    sides = (found.choice.first, found.choice.second)
    lacking = [
        name(side.shown)
        for number, side in enumerate(sides)
        if any(not getattr(head, kind)[number] for head in found.heads)
    ]
    of = " and ".join(lacking) or "one of the runs"
    st.info(
        f"Not shown: there are no {what} of {of}; record the model's checkpoint with "
        "--level tokens.",
        icon=":material/visibility_off:",
    )


@st.fragment
def explore(found: Found) -> None:
    """One document, all of them together, and the tokens that differ most, which lead back to
    one."""
    with links.fragment():
        pair, summary, token, colour = _controls(found)
        words = found.words(pair.id)
        with st.grid(2, min_column_width=380) as grid:
            with grid.cell():
                _text(found, pair, summary, words, token, colour)
            with grid.cell():
                _map(found, pair, words)
        heatmap.tell(GROUP, token, None, key="difference_look")
        if token is not None:
            panel.of_token(found, pair, words, token)
        st.subheader("All documents together" if len(found.pairs) > 1 else "Layer by layer")
        overview(found)
        _most_different(found)


def _controls(found: Found) -> tuple[Pair, DocumentSummary, int | None, str]:
    with st.container(horizontal=True, vertical_alignment="bottom", gap="small"):
        place = _place(found)
        pair = found.pairs[place]
        token = links.token_field(int(pair.places.max()) + 1, TOKEN, width=130)
        summary = found.difference.summaries[place]
        measures = [AGREEMENT, *([LOSS] if summary.loss is not None else []), PLAIN]
        colour = links.choice(st, "Colour of the text", measures, routes.DIFFERENCE_COLOUR)
        if found.linked:
            st.page_link(
                routes.ROUTING,
                label="Open in Token routing",
                icon=":material/alt_route:",
                query_params=slots.params() | _routing_of(found, pair.id, token),
            )
        export(found)
    return pair, summary, token, colour


def _place(found: Found) -> int:
    """Of the document that is chosen among those that are compared."""
    ids = [head.id for head in found.heads]
    if len(ids) < 2:
        return 0
    kind = one_of("document", ids)
    links.enter(DOCUMENT, kind, ids[0])
    chosen = st.selectbox(
        f"Document ({len(ids):,})",
        ids,
        format_func=found.titles.__getitem__,
        key=DOCUMENT,
        on_change=_forget,
        width=330,
    )
    return ids.index(links.leave(DOCUMENT, kind, chosen, ids[0]))


def _routing_of(found: Found, document: str, token: int | None) -> dict[str, str]:
    """Parameters that open the token routing page there."""
    if found.own is not None:
        return routes.routing_of_text(FIELD.in_link(found.own), token)
    return routes.routing_of_document(document, token)


def _forget() -> None:
    st.session_state[TOKEN] = None


def _pick(position: int | None) -> None:
    st.session_state[TOKEN] = position


def _text(
    found: Found,
    pair: Pair,
    summary: DocumentSummary,
    words: Words,
    token: int | None,
    colour: str,
) -> None:
    colouring = _colouring(found, summary, colour)
    by_place = dict(zip(pair.places.tolist(), range(len(pair.places)), strict=True))
    differs = summary.first < len(found.names)
    shown = min(len(words.pieces), MOST_TOKENS)

    def strip_token(place: int) -> StripToken:
        piece, at = words.pieces[place], by_place.get(place)
        overlap = "not compared" if at is None else f"overlap {summary.overlap[at]:.2f}"
        return StripToken(
            text=visible(piece),
            title=f"Token {place + 1}: {words.labels[place]}\n{overlap}",
            colour=NO_VALUE if at is None else colouring.colour(at),
            marked=at is not None and bool(differs[at]),
            sign=piece.isspace() and "\n" in piece,
            breaks=piece.count("\n"),
            lean=0 if at is None else colouring.lean(at),
        )

    token_strip(
        [strip_token(place) for place in range(shown)],
        token,
        mark_colour=figures.DIFFERENCE_COLOUR,
        pixels=TEXT_PIXELS,
        key="difference_strip",
        on_pick=_pick,
        group=GROUP,
    )
    cut = "" if shown == len(words.pieces) else f" The first {shown:,} tokens are shown."
    st.caption(
        f"Underlined: the {int(differs.sum()):,} of {count(len(pair.places), 'token')} that differ "
        f"in a layer. {colouring.legend}{cut}"
    )


def _colouring(found: Found, summary: DocumentSummary, colour: str) -> Colouring:
    """Of the compared tokens."""
    if colour == AGREEMENT:
        differ = 1 - summary.overlap.astype(np.float64)
        low, high = _span(differ)
        return Colouring(
            DEEPEST * np.clip((differ - low) / (high - low), 0, 1),
            SEQUENTIAL,
            f"Colour: overlap of the experts, mean over the layers, from {1 - low:.2g} (pale) to "
            f"{1 - high:.2g} (deep).",
        )
    if colour == LOSS and summary.loss is not None and np.isfinite(summary.loss).any():
        return loss_difference(summary.loss, found.runs)
    return plain(len(summary.overlap))


def _map(found: Found, pair: Pair, words: Words) -> None:
    """Tokens by layers: how much of the experts differs."""
    shown = min(len(words.labels), MOST_TOKENS)
    layers = len(found.names)
    columns = np.full((shown, layers), -1)
    parts = np.zeros((shown, layers), np.float32)
    inside = pair.places < shown
    columns[pair.places[inside]] = np.arange(layers)
    parts[pair.places[inside]] = 1 - token_difference(pair).overlap[inside]
    names = [str(name) for name in found.names]
    picture = Layer(0, columns, parts, np.arange(layers), names, "Layer")
    heatmap.heatmap(
        [Side("difference", "Experts that differ", figures.DIFFERENCE_COLOUR, [picture])],
        [isolated(label) for label in words.labels[:shown]],
        key="difference_map",
        on_pick=_pick_cell,
        pixels=MAP_PIXELS,
        what="share of experts that differ",
        columns="layer",
        group=GROUP,
        span=_span(parts[pair.places[inside]]),
    )


def _span(parts: NDArray[np.floating]) -> tuple[float, float]:
    """Where the shares lie, but for a few: that is what the colours tell apart."""
    low, high = np.percentile(parts, [5, 95]) if parts.size else (0.0, 0.0)
    return (float(low), float(high)) if high > low else (0.0, float(parts.max(initial=0)) or 1.0)


def _pick_cell(pick: Pick) -> None:
    _pick(pick.token)


def _most_different(found: Found) -> None:
    st.subheader("Tokens that differ most")
    table = most_different(found.difference, found.heads, MOST_ROWS)
    if table.empty:
        st.caption("No token differs in any layer.")
        return
    words = {document: found.words(document) for document in table["document"].unique()}
    shown = _table(found, table, words)
    rows_to_open.table(
        shown,
        "difference_tokens",
        lambda row: _open_row(table.iloc[row]),
        _columns(found),
        alt=f"The {count(len(shown), 'token')} with the least overlap of their experts.",
    )
    differ = sum(int((each.first < len(found.names)).sum()) for each in found.difference.summaries)
    st.caption(
        f"{len(shown):,} of the {count(differ, 'token')} that differ, those with the least overlap "
        f"first.{by_hand(' Press Open in a row to see its experts above.')}"
    )


def _table(found: Found, table: pd.DataFrame, words: dict[str, Words]) -> pd.DataFrame:
    places = zip(table["document"], table["position"], strict=True)
    several = len(found.pairs) > 1
    shown = {
        "Document": [found.titles[document] for document in table["document"]],
        "Token": table["position"],
        "Text": [words[document].labels[position - 1] for document, position in places],
        "Overlap": table["overlap"],
        "First layer": [found.names[layer] for layer in table["first"]],
    }
    if table["weight"].notna().any():
        shown["Weight moved"] = 100 * table["weight"]
    if table["loss"].notna().any():
        shown["Loss difference"] = table["loss"]
    if found.linked:
        places = zip(table["document"], table["position"], strict=True)
        shown["Token routing"] = [_address(found, *place) for place in places]
    return pd.DataFrame(shown if several else {k: v for k, v in shown.items() if k != "Document"})


def _address(found: Found, document: str, position: int) -> str:
    """The routing page's address beside this one's, with the runs that are chosen."""
    page = routes.ROUTING.removeprefix("pages/").removesuffix(".py").split("_", 1)[1]
    return f"{page}?{urlencode(slots.params() | _routing_of(found, document, position))}"


def _columns(found: Found) -> dict[str, Any]:
    first, second = found.runs
    config = st.column_config
    return {
        "Document": config.TextColumn(width="medium"),
        "Overlap": config.NumberColumn(format="%.2f", help="Jaccard, mean over the layers"),
        "First layer": config.NumberColumn(help="The first in which the experts differ"),
        "Weight moved": config.NumberColumn(format="%.1f %%", help="Mean over the layers"),
        "Loss difference": config.NumberColumn(
            format="%+.4f", help=f"{second.label} less {first.label}, nats"
        ),
        "Token routing": config.LinkColumn(display_text="Open", help="In a tab of its own"),
    }


def _open_row(row: pd.Series) -> None:
    """Show the document and the token of a row."""
    st.session_state[DOCUMENT] = row["document"]
    st.session_state[TOKEN] = int(row["position"])


def export(found: Found) -> None:
    """Every picture, and every token as a table."""
    weighed = all(layer.weight is not None for layer in found.difference.layers)
    charts = {"One document": "difference_map"}
    if st.session_state.get(routes.DIFFERENCE_VIEW) == BY_WEIGHTS:
        charts["Weight moved"] = "difference_weight" if weighed else ""
        lost = loss_by_overlap(found.difference.summaries)
        charts["Loss difference"] = "difference_loss" if lost else ""
    else:
        charts["Experts in common"] = "difference_agreement"
        charts["Where they part"] = "" if _all_differ_at_once(found) else "difference_divergence"
    offer(
        "routing difference",
        found.runs,
        charts={title: key for title, key in charts.items() if key},
        tables={"Every token": lambda: every_token(found)},
        shown=f"{count(len(found.pairs), 'document')}, {count(found.difference.tokens, 'token')}",
    )


def every_token(found: Found) -> pd.DataFrame:
    """Both choices of experts in every layer, overlap, gate weight moved, losses; tokens as JSON
    strings, so that none is taken for something else."""

    def texts(document: str) -> list[str]:
        return [json.dumps(piece, ensure_ascii=False) for piece in found.words(document).pieces]

    first, second = found.runs.labels.values()
    tables = all_tokens(found.pairs, found.names, (first, second), texts)
    return pd.concat(tables, ignore_index=True)
