"""Experts page: one expert: what it is used for, whom it works with, what breaks without it."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from emo_viz.analysis import flow
from emo_viz.analysis.expert_effects import Effects
from emo_viz.analysis.expert_tokens import ExpertTokens
from emo_viz.analysis.experts import CONFIDENCE, SHUFFLES, top
from emo_viz.figures import experts as figures
from emo_viz.figures.theme import CHART_CONFIG
from emo_viz.server import library
from emo_viz.ui.experts import compare, contexts, effects
from emo_viz.ui.experts.state import open_expert, opener
from emo_viz.ui.parts import export, gathering, rows_to_open
from emo_viz.ui.parts.known import Data, Known, Place
from emo_viz.ui.parts.together import name
from emo_viz.ui.shell.frame import sized
from emo_viz.ui.shell.words import count, escape_markdown, share

NARROWEST, MOST_ROWS, MOST_ALIKE = 400, 8, 3
TOP = "Top domain"
MOST_DOMAINS = 24
NAMES = {  # of its tables, for screen readers
    "experts_partners": "Partners: experts of its layer that its tokens choose too",
    "experts_before": "Neighbours of its tokens in the layer before it",
    "experts_after": "Neighbours of its tokens in the layer after it",
    "experts_alike": "Alike: experts of other layers that the same documents choose",
}
WORTH_NAMING = 0.05


def show(data: Data, known: Known, place: Place) -> None:
    """The page of an expert. place: its layer's own number, and its id."""
    row = st.container(horizontal=True, vertical_alignment="bottom", gap="small")
    _steps(row, known, place)
    beside = compare.choose(row, data, known)
    measured = effects.of_one(known, place)
    _answer(known, place, measured)
    if beside is not None:
        compare.show(known, place, *beside)
    with st.grid(2, min_column_width=NARROWEST) as grid:
        with grid.cell():
            _domains(known, place, measured)
        with grid.cell():
            gathering.offer(st, [known])
            contexts.enriched(known, place)
            contexts.kwic(known, place)
    with st.grid(2, min_column_width=NARROWEST) as grid:
        with grid.cell():
            contexts.documents(known, place)
        with grid.cell():
            _partners(known, place)
    _others(known, place)
    _export(known, place, measured)
    _how(known, place, measured)


def _export(known: Known, place: Place, measured: Effects | None) -> None:
    """The expert's chart, and its domains, partners and others as tables."""
    made: dict[str, export.Table] = {}
    layer = None if known.tokens is None else known.tokens.place(place[0])
    if known.tokens is not None and layer is not None:
        pairs = known.tokens.pairs[layer]
        made["Partners"] = lambda: flow.partners(pairs, place[1])
        for number, _, _, near in _near(known.tokens, layer, place[1]):
            made[f"Neighbours in layer {number}"] = partial(_itself, near)
    if len(known.use.numbers) > 1:
        made["Alike in other layers"] = partial(_alike, known, place)
    if known.use.domains:
        made["Domains"] = lambda: _by_domain(known, place, measured)
    if contexts.has_tokens(known, place):
        made["Where it weighs most"] = partial(contexts.lines_table, known, place)
        made["Enriched tokens"] = partial(contexts.enriched_table, known, place)
    made["Documents"] = partial(contexts.documents_table, known, place)
    export.offer(
        f"expert {place[0]}.{place[1]}",
        [known.run],
        charts={"Domains": "experts_domains"} if known.use.domains else {},
        tables=made,
        shown=f"layer {place[0]}, expert {place[1]}",
    )


def _itself(table: pd.DataFrame) -> pd.DataFrame:
    return table


def _by_domain(known: Known, place: Place, measured: Effects | None) -> pd.DataFrame:
    """Of every domain the share of its choices that the expert has, the range of it by chance, and
    what it loses without it in nats a token with the 95 % interval, as far as that is measured."""
    own = known.use.affinity[:, known.use.place(place[0]), place[1]]
    low, high = _null(known, library.trace_key(known.run.id), place)
    chance = {"share_by_chance_low": low, "share_by_chance_high": high}
    table = pd.DataFrame({"domain": known.use.domains, "share": own, **chance})
    if measured is not None:
        lost = measured.by_domain(*place)
        for field in ("mean", "low", "high"):
            found = {domain: getattr(one, field) for domain, one in lost.items()}
            table[f"loss_without_nats_{field}"] = table["domain"].map(found)
    return table


def _steps(row: Any, known: Known, place: Place) -> None:
    row.button(
        "All experts",
        icon=":material/arrow_back:",
        key="experts_all",
        on_click=opener(known.run.id, None),
    )
    places = known.places
    at = places.index(place)
    for step, what, key in ((-1, "previous", "left"), (1, "next", "right")):
        inside = 0 <= at + step < len(places)
        row.button(
            f"{what.capitalize()} expert",
            icon=f":material/chevron_{key}:",
            key=f"experts_{what}",
            help=f"Go to the {what} expert ({key} arrow key)",
            disabled=not inside,
            on_click=opener(known.run.id, places[at + step] if inside else place),
        )


def _answer(known: Known, place: Place, measured: Effects | None) -> None:
    """What the expert is used for, in one sentence."""
    use, layer = known.use, known.use.place(place[0])
    who = f"{name(known.run)}, layer {place[0]}, expert {place[1]}"
    load = float(use.load[layer, place[1]])
    if load <= 0:
        st.markdown(f"## {who}: nothing chose it.")
    elif use.domains:
        shares = use.domain_shares[:, layer, place[1]]
        best = [d for d in top(shares, 2) if shares[d] >= WORTH_NAMING] or top(shares, 1)
        named = " and ".join(
            f"{share(float(shares[d]))} {escape_markdown(use.domains[d])}" for d in best
        )
        st.markdown(f"## {who}: {named}")
    else:
        st.markdown(f"## {who}: {share(load)} of the layer's choices")
    said = [
        f"It has {share(load)} of its layer's choices, "
        f"{use.times_even[layer, place[1]]:.2f} times an even share"
    ]
    if use.domains and load > 0:
        nats = float(use.entropy[layer, place[1]])
        said.append(
            f"it serves {np.exp(nats):.1f} of {len(use.domains)} domains (entropy {nats:.2f} nats)"
        )
    if measured is not None:
        found = measured.overall(*place)
        said.append(
            f"without it the loss changes by {found.mean:+.4f} nats a token "
            f"[{found.low:+.4f}, {found.high:+.4f}] on {count(measured.documents, 'document')}"
        )
    source = f"{count(use.documents, 'document')}, {count(round(use.weights.sum()), 'token')}"
    st.caption(f"{'; '.join(said)}. {source}.")


def _domains(known: Known, place: Place, measured: Effects | None) -> None:
    """Affinity beside measured effect, by domain."""
    if not known.use.domains:
        st.caption("The recording has no domains, so affinity by domain is not known.")
        effects.measure(known, place, measured)
        return
    profile = _profile(known, place, measured)
    above = int((profile.affinity > profile.null[1]).sum())
    st.plotly_chart(
        sized(figures.domains(known.run, profile)),
        key="experts_domains",
        config=CHART_CONFIG,
        alt=f"The expert's share of each domain's routing: above the range of shuffled domains in "
        f"{above} of {len(profile.domains)} domains shown"
        + (", beside the loss change without it." if measured else "."),
    )
    effects.measure(known, place, measured)


def _profile(known: Known, place: Place, measured: Effects | None) -> figures.Profile:
    use, layer = known.use, known.use.place(place[0])
    own = use.affinity[:, layer, place[1]]
    order = np.argsort(-own, kind="stable")[:MOST_DOMAINS]
    low, high = _null(known, library.trace_key(known.run.id), place)
    names = [use.domains[d] for d in order]
    null = np.stack([low[order], high[order]])
    even = 1 / max(1, use.routed[layer])
    if measured is None:
        return figures.Profile(names, own[order], null, even)
    by_domain = measured.by_domain(*place)
    found = [by_domain.get(each) for each in names]
    mean, least, most = (
        np.array([np.nan if one is None else getattr(one, field) for one in found])
        for field in ("mean", "low", "high")
    )
    return figures.Profile(names, own[order], null, even, mean, least, most)


@st.cache_data(max_entries=64, show_spinner=False)
def _null(_known: Known, key: str, place: Place) -> tuple[Any, Any]:
    """The range of the affinity to each domain by chance."""
    dealt = _known.use.null(_known.use.place(place[0]), place[1])
    low, high = np.quantile(dealt, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    return low, high


def _partners(known: Known, place: Place) -> None:
    found = known.tokens
    layer = None if found is None else found.place(place[0])
    if found is None or layer is None:
        return
    st.markdown("**Partners** in its layer: experts that its tokens choose too")
    table = flow.partners(found.pairs[layer], place[1])
    if table.empty:
        st.caption("None: no token that chose it chose another one in this layer.")
        return
    _table(known, place[0], table, "experts_partners", "Of its tokens", "If independent")


def _others(known: Known, place: Place) -> None:
    """Experts of other layers: of those beside its own by its tokens, of all by its documents."""
    found = known.tokens
    layer = None if found is None else found.place(place[0])
    with st.grid(2, min_column_width=NARROWEST) as grid:
        near = () if found is None or layer is None else _near(found, layer, place[1])
        for number, what, key, table in near:
            with grid.cell():
                st.markdown(f"**Neighbours** of its tokens in layer {number}, {what} it")
                _table(known, number, table, key, "Gate weight", "Of all tokens")
        if len(known.use.numbers) > 1:
            with grid.cell():
                st.markdown("**Alike** in other layers: experts that the same documents choose")
                _alike_table(known, _alike(known, place))


def _near(
    found: ExpertTokens, layer: int, expert: int
) -> Iterator[tuple[int, str, str, pd.DataFrame]]:
    """The layers next to one: number, which of the two it is, key of its table, and neighbours."""
    for step, what, key in ((-1, "before", "experts_before"), (1, "after", "experts_after")):
        at = layer + step
        if 0 <= at < len(found.numbers):
            table = flow.neighbours(found.flow[min(layer, at)], expert, back=step < 0)
            yield found.numbers[at], what, key, table


def _alike(known: Known, place: Place) -> pd.DataFrame:
    """Of every other layer the experts most alike, with what the layer's median one has in common
    with this expert; all as shares."""
    use, own = known.use, known.use.place(place[0])
    rows = []
    for layer, common in enumerate(_common(known, library.trace_key(known.run.id), place)):
        if layer != own and use.routed[layer]:
            median = float(np.median(common[: use.routed[layer]]))
            rows += [
                (use.numbers[layer], int(expert), float(common[expert]), median)
                for expert in top(common, MOST_ALIKE)
            ]
    return pd.DataFrame(rows, columns=["layer", "expert", "share", "median"])


@st.cache_data(max_entries=64, show_spinner=False)
def _common(_known: Known, key: str, place: Place) -> Any:
    """What the expert has in common with every other one."""
    return _known.use.alike(_known.use.place(place[0]), place[1])


def _alike_table(known: Known, alike: pd.DataFrame) -> None:
    shown = pd.DataFrame(
        {
            "Layer": alike["layer"],
            "Expert": alike["expert"],
            "In common": 100 * alike["share"],
            "Median expert": 100 * alike["median"],
            TOP: [_top_domain(known, *each) for each in _places(alike)],
        }
    )
    columns = {"In common": _number("%.0f %%", 90), "Median expert": _number("%.0f %%", 110)}
    _rows_of_experts(known, shown, "experts_alike", _places(alike), columns)


def _places(table: pd.DataFrame) -> list[Place]:
    return [(int(n), int(e)) for n, e in zip(table["layer"], table["expert"], strict=True)]


def _table(known: Known, number: int, table: pd.DataFrame, key: str, own: str, usual: str) -> None:
    """Experts of a layer beside what would be expected."""
    rows = table.head(MOST_ROWS)
    places = [(number, int(expert)) for expert in rows["expert"]]
    shown = pd.DataFrame(
        {
            "Expert": rows["expert"],
            "Times": rows["times"],
            own: 100 * rows["share"],
            usual: 100 * rows["expected"],
            TOP: [_top_domain(known, *each) for each in places],
        }
    )
    columns = {
        "Times": _number("%.1f", 56),
        own: _number("%.1f %%", 100),
        usual: _number("%.1f %%", 112),
    }
    _rows_of_experts(known, shown, key, places, columns)


def _number(form: str, width: int) -> Any:
    return st.column_config.NumberColumn(format=form, width=width)


def _rows_of_experts(
    known: Known, shown: pd.DataFrame, key: str, places: Sequence[Place], columns: dict[str, Any]
) -> None:
    """A table of which each row opens the expert in its place."""
    rows_to_open.table(
        shown if known.use.domains else shown.drop(columns=TOP),
        key,
        lambda row: open_expert(known.run.id, places[row]),
        {
            "Layer": st.column_config.NumberColumn(width=52),
            "Expert": st.column_config.NumberColumn(width=60),
            **columns,
        },
        height="content",
        row_height=28,
        alt=NAMES[key],
    )


def _top_domain(known: Known, number: int, expert: int) -> str:
    use = known.use
    if not use.domains or number not in use.numbers:
        return ""
    shares = use.domain_shares[:, use.place(number), expert]
    best = int(shares.argmax())
    return f"{use.domains[best]} {100 * shares[best]:.0f} %" if shares[best] > 0 else ""


def _how(known: Known, place: Place, measured: Effects | None) -> None:
    with st.expander("How it was measured"):
        st.markdown(
            f"**Affinity**: the expert's share of each domain's choices in layer {place[0]}; the "
            f"band is the middle {100 * CONFIDENCE:.0f} % of {SHUFFLES} times in which whole "
            "documents were dealt to the domains at random, the dotted line an even share. "
            "**Effect**: the router chooses among the other experts alone, as if this one were "
            "deleted; bars are 95 % intervals by resampling documents, none where a domain has "
            "one. **If independent**: the same number of pairs dealt out by the product of the two "
            "loads. **Neighbours**: a token's gate weight in one layer spread over that in the "
            "next; "
            "beside it, where all tokens go; **Times** is the one over the other. **Alike**: how "
            "the choices of both experts divide over the documents, the smaller share of each "
            f"document added up; the {MOST_ALIKE} most alike of each layer, beside its median "
            "expert."
        )
        if known.tokens:
            st.caption(
                f"Tokens, contexts and partners: {count(known.tokens.tokens, 'token')} of "
                f"{count(known.tokens.documents, 'document')}."
            )
        if measured is not None:
            st.caption(
                f"Effect: {count(measured.documents, 'document')}, "
                f"{count(int(measured.tokens.sum()), 'token')}."
            )
