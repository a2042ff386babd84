"""Experts page: every expert of the runs, as points and as a sortable table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from emo_viz.analysis.experts import ExpertUse, top
from emo_viz.figures import experts as figures
from emo_viz.figures.theme import CHART_CONFIG
from emo_viz.server import assets, expert_facts, library
from emo_viz.ui.experts import effects
from emo_viz.ui.experts.state import open_expert
from emo_viz.ui.parts import export, gathering, rows_to_open
from emo_viz.ui.parts.known import Data, Known
from emo_viz.ui.parts.together import in_each, name
from emo_viz.ui.shell import links, routes
from emo_viz.ui.shell.frame import sized
from emo_viz.ui.shell.words import by_hand, count, escape_markdown, token_label

BOTH, ALL = "Both", "All layers"
CHART, TABLE = "experts_chart", "experts_table"
PIXELS = 340
TOP_DOMAINS, TOP_TOKENS = 3, 6
RUN, LAYER, EXPERT, LOAD, ENTROPY = "Run", "Layer", "Expert", "Load", "Entropy"
DOMAINS, TOKENS, COST, SHARE = "Top domains", "Enriched tokens", "Without it", "Of the domain"


@dataclass(frozen=True)
class Filter:
    """What is shown: runs, one layer by its own number (None: all), and experts of one domain."""

    runs: tuple[str, ...]
    layer: int | None
    domain: str | None


def show(data: Data) -> None:
    """All experts."""
    headline = st.container()
    chosen = _controls(data)
    shown = [data.known[run] for run in chosen.runs]
    rows = _filtered(shown, chosen)
    with headline:
        _answer(data, len(rows))
    _chart(data, shown, rows)
    _table(data, rows, chosen)
    export.offer(
        "experts",
        [known.run for known in shown],
        charts={"Experts by domains and load": CHART},
        tables={"Experts": lambda: rows},
        shown=f"{count(len(rows), 'expert')}. {_source(data)}",
    )
    _how(data)


def _controls(data: Data) -> Filter:
    row = st.container(horizontal=True, vertical_alignment="bottom", gap="medium")
    ids = list(data.known)
    labels = {run: known.run.label for run, known in data.known.items()} | {BOTH: BOTH}
    shown = BOTH
    if len(ids) > 1:
        shown = links.choice(
            row,
            "Runs",
            [BOTH, *ids],
            routes.EXPERTS_SHOWN,
            what="choice of runs",
            format_func=labels.__getitem__,
        )
    numbers = sorted({n for known in data.known.values() for n, _ in known.places})
    layers = [ALL, *map(str, numbers)]
    layer = links.select(row, "Layer", layers, routes.EXPERTS_LAYER, width=140)
    domains = sorted({name for known in data.known.values() for name in known.use.domains})
    domain = None
    if domains:
        domain = links.select_or_none(
            row,
            "domain",
            "Among the top domains",
            domains,
            routes.EXPERTS_DOMAIN,
            placeholder="any",
            width=220,
        )
    gathering.offer(row, data.known.values())
    return Filter(
        tuple(ids) if shown == BOTH else (shown,), None if layer == ALL else int(layer), domain
    )


def _answer(data: Data, shown: int) -> None:
    """How specialised the experts are, in one sentence. shown: how many of them are."""
    first = next(iter(data.known.values())).use
    fewest = min(len(known.use.domains or ()) for known in data.known.values())
    experts = sum(len(known.places) for known in data.known.values())
    if fewest < 2:
        st.markdown(f"## {count(experts, 'expert')} of {_names(data)}, by their load.")
        what = "All documents are of one domain" if fewest else "The recording has no domains"
        st.caption(
            f"{what}, so how experts divide over domains is not known; record the model on "
            "documents of several."
        )
        return
    runs = [known.run for known in data.known.values()]

    def serves(run: str) -> str:
        return f"**{_median(data.known[run].use):.1f}**"

    both = data.runs if len(runs) > 1 else data.runs.only(runs[0].id)
    total = len(first.domains)
    st.markdown(f"## Of {total} domains, the median expert serves {in_each(both, serves)}.")
    some = f"{shown:,} of " if shown < experts else ""
    st.caption(
        f"{some}{count(experts, 'expert')}. {_source(data)}"
        + by_hand(" Click a point, or Open in a row, to see one expert.")
    )


def _names(data: Data) -> str:
    return " and ".join(name(known.run) for known in data.known.values())


def _source(data: Data) -> str:
    uses = [known.use for known in data.known.values()]
    tokens = {round(use.weights.sum()) for use in uses}
    documents = {use.documents for use in uses}
    if len(tokens) > 1 or len(documents) > 1:
        return "Each from its own recording."
    return f"{count(documents.pop(), 'document')}, {count(tokens.pop(), 'token')}."


def _median(use: ExpertUse) -> float:
    return float(np.exp(np.nanmedian(use.entropy[use.there])))


def _chance(known: Known) -> float:
    return _by_chance(known.use, library.trace_key(known.run.id))


@st.cache_data(max_entries=16, show_spinner=False)
def _by_chance(_use: ExpertUse, key: str) -> float:
    return float(np.exp(_use.spread_by_chance(5)))


def _filtered(shown: Sequence[Known], chosen: Filter) -> pd.DataFrame:
    """The rows of the table, in the order in which they are shown at first."""
    rows = pd.concat([_rows_of(known) for known in shown], ignore_index=True)
    if chosen.layer is not None:
        rows = rows[rows[LAYER] == chosen.layer]
    if chosen.domain is None:
        by, up = (COST, False) if rows[COST].notna().any() else (ENTROPY, True)
        return rows.sort_values(by, ascending=up, kind="stable").reset_index(drop=True)
    shares = {known.run.label: _shares(known, chosen.domain) for known in shown}
    places = zip(rows[RUN], rows[LAYER], rows[EXPERT], strict=True)
    own = [shares[label].get((layer, expert)) for label, layer, expert in places]
    rows = rows.assign(**{SHARE: np.array(own, float)})
    return rows.dropna(subset=[SHARE]).sort_values(SHARE, ascending=False).reset_index(drop=True)


def _shares(known: Known, domain: str) -> dict[tuple[int, int], float]:
    """Per cent of the domain's routing in its layer, of the experts that have it among their top
    domains."""
    use = known.use
    if domain not in use.domains:
        return {}
    place = use.domains.index(domain)
    ranks = (use.domain_shares > use.domain_shares[place]).sum(axis=0)
    layers, experts = np.nonzero((ranks < TOP_DOMAINS) & (use.affinity[place] > 0))
    return {
        (use.numbers[layer], int(expert)): float(100 * use.affinity[place, layer, expert])
        for layer, expert in zip(layers, experts, strict=True)
    }


def _rows_of(known: Known) -> pd.DataFrame:
    file = expert_facts.path(known.run.id)
    token_key = assets.content(file) if known.tokens else ""
    key = f"{known.run.label}|{library.trace_key(known.run.id)}|{token_key}|{id(known.tokens)}"
    rows: pd.DataFrame = _made(known, key)
    return rows.assign(**{COST: effects.of_all(known)})


@st.cache_data(max_entries=8, show_spinner=False)
def _made(_known: Known, key: str) -> pd.DataFrame:
    use = _known.use
    at = [(use.place(number), number, expert) for number, expert in _known.places]
    layers, experts = np.array([a for a, _, _ in at], int), np.array([e for _, _, e in at], int)
    named = bool(use.domains)
    entropies = use.entropy[layers, experts] if named else np.full(len(at), np.nan)
    return pd.DataFrame(
        {
            RUN: _known.run.label,
            LAYER: [number for _, number, _ in at],
            EXPERT: experts,
            LOAD: use.times_even[layers, experts],
            ENTROPY: entropies,
            DOMAINS: [_domains(use, layer, expert) if named else "" for layer, _, expert in at],
            TOKENS: [_tokens(_known, number, expert) for _, number, expert in at],
        }
    )


def _domains(use: ExpertUse, layer: int, expert: int) -> str:
    shares = use.domain_shares[:, layer, expert]
    best = top(shares, TOP_DOMAINS)
    return ", ".join(f"{use.domains[place]} {100 * shares[place]:.0f} %" for place in best)


def _tokens(known: Known, number: int, expert: int) -> str:
    found = known.tokens
    layer = None if found is None else found.place(number)
    if found is None or layer is None:
        return ""
    ids = found.enriched[layer, expert, :TOP_TOKENS]
    return "  ".join(token_label(found.texts.get(int(i), f"#{i}"), 14) for i in ids if i >= 0)


def _chart(data: Data, shown: Sequence[Known], rows: pd.DataFrame) -> None:
    points = {}
    for known in shown:
        own = rows[rows[RUN] == known.run.label]
        points[known.run.id] = figures.Points(
            own[LAYER].to_numpy(),
            own[EXPERT].to_numpy(),
            np.exp(own[ENTROPY].to_numpy()),
            own[LOAD].to_numpy(),
        )
    domains = max(len(known.use.domains) for known in shown)
    chance = {known.run.id: _chance(known) for known in shown if known.use.domains}
    st.plotly_chart(
        sized(figures.overview(data.runs, points, domains, chance)),
        key=CHART,
        config=CHART_CONFIG,
        on_select=_pick_point(data),
        selection_mode="points",
        alt="Every expert by the number of domains that it serves and by its load; dotted: even "
        "load, and the median where documents are dealt to domains at random. The table below "
        "it has the same numbers.",
    )


def _pick_point(data: Data) -> Any:
    def picked() -> None:
        points = st.session_state[CHART]["selection"]["points"]
        if points:
            run, layer, expert = (int(points[0]["customdata"][key]) for key in "012")
            open_expert(data.runs.runs[run].id, (layer, expert))

    return picked


def _table(data: Data, rows: pd.DataFrame, chosen: Filter) -> None:
    """What is sorted by stands before the long columns: it is in sight in a narrow window too."""
    columns = [RUN] if len(chosen.runs) > 1 else []
    columns += [LAYER, EXPERT]
    columns += [SHARE] if SHARE in rows else []
    columns += [COST] if rows[COST].notna().any() else []
    columns += [LOAD]
    columns += [ENTROPY, DOMAINS] if rows[DOMAINS].any() else []
    columns += [TOKENS] if rows[TOKENS].any() else []
    by_label = {known.run.label: run for run, known in data.known.items()}

    def opened(place: int) -> None:
        row = rows.iloc[place]
        open_expert(by_label[row[RUN]], (int(row[LAYER]), int(row[EXPERT])))

    shown = rows.assign(**{COST: rows[COST].round(4) + 0.0})[columns]  # never "-0.0000"
    config = _column_config(chosen.domain)
    alt = "Every expert with its load, domains and tokens"
    rows_to_open.table(shown, TABLE, opened, config, height=PIXELS, row_height=28, alt=alt)


def _column_config(domain: str | None) -> dict[str, Any]:
    number = st.column_config.NumberColumn
    return {
        RUN: st.column_config.TextColumn(width=96),
        LAYER: number(width=48),
        EXPERT: number(width=56),
        LOAD: number(
            format="%.2f", width=52, help="Share of the layer's choices over that of even use."
        ),
        SHARE: number(
            f"Of {domain}",
            format="%.1f %%",
            help="Share of this domain's choices in the layer that the expert has.",
        ),
        ENTROPY: number(
            format="%.2f",
            width=64,
            help="Nats, of how its choices divide over the domains, all weighed the same: 0 for "
            "an expert of one domain.",
        ),
        DOMAINS: st.column_config.TextColumn(width=265),
        TOKENS: st.column_config.TextColumn(width=265),
        COST: number(
            format="%+.4f",
            width=80,
            help="Loss in nats a token without this expert alone, less the loss with it.",
        ),
    }


def _how(data: Data) -> None:
    with st.expander("How it was measured"):
        st.markdown(
            "**Load**: the expert's share of all choices of its layer over that of even use. "
            "**Domains it serves**: the exponential of the entropy (in nats) of how its choices "
            "divide over the domains, all domains weighed the same; an expert of one domain serves "
            "1. **Chance**: whole documents are dealt to the domains at random, five times"
            f"{_dealt(data)}. "
            "**Enriched tokens**: tokens that the expert was chosen for at least eight times, by "
            "their share of its choices times the logarithm of that share over their share of all "
            "tokens."
        )
        for known in data.known.values():
            _how_of(known)


def _dealt(data: Data) -> str:
    """How many domains the median expert would serve by chance, of each run that has domains."""
    named = [known for known in data.known.values() if known.use.domains]
    each = ", ".join(f"{_chance(known):.1f} in {name(known.run)}" for known in named)
    return f"; the median expert then serves {each}" if each else ""


def _how_of(known: Known) -> None:
    if known.tokens:
        found = known.tokens
        st.caption(
            f"Tokens of {name(known.run)}: {count(found.tokens, 'token')} of "
            f"{count(found.documents, 'document')}."
        )
    if not known.use.of_choices:
        st.caption(
            f"Of {escape_markdown(known.run.label)} only router probabilities are known, "
            "so shares are of these."
        )
    effects.say_how(known)
