"""Domains page: experts that work together, in one layer and from layer to layer."""

from functools import partial

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis import domains
from emo_viz.analysis import flow as flows
from emo_viz.analysis.expert_tokens import ExpertTokens
from emo_viz.analysis.runs import Run
from emo_viz.figures import domains as figures
from emo_viz.figures.theme import CHART_CONFIG
from emo_viz.ui.domains.view import View
from emo_viz.ui.parts import gathering
from emo_viz.ui.parts.known import Known
from emo_viz.ui.parts.together import in_each, name
from emo_viz.ui.shell import links, routes
from emo_viz.ui.shell.frame import sized
from emo_viz.ui.shell.words import count, share

MOST_PAIRS, MOST_STREAMS, WINDOW, NARROWEST = 10, 10, 4, 400
TOP_SHARE = 0.01  # of all pairs: what the strongest of them carry is the answer


def _with_tokens(view: View) -> View | None:
    """The runs of which tokens are known; the others are offered to be read."""
    gathering.offer(view.controls, view.known.values())
    there = [run for run in view.runs.ids if view.known[run].tokens is not None]
    if not there:
        view.say("This needs the tokens of the documents.", "No run's tokens are known yet.")
        return None
    runs = view.runs if len(there) == len(view.runs) else view.runs.only(there[0])
    known = {run: view.known[run] for run in there}
    return View(runs, known, view.keys, view.headline, view.controls)


def _tokens(known: Known) -> ExpertTokens:
    assert known.tokens is not None
    return known.tokens


def together(view: View) -> None:
    """Which experts of a layer serve the same tokens."""
    some = _with_tokens(view)
    number = some.layer(every=False) if some else None
    if some is None or number is None:
        return
    carried = {run: _carried(_tokens(known), number) for run, known in some.known.items()}
    usual = in_each(some.runs, lambda run: share(carried[run][1]))
    some.say(
        "The strongest 1 % of expert pairs make up "
        f"{in_each(some.runs, lambda run: f'**{share(carried[run][0])}**')} of all co-activations.",
        f"Layer {number}. If choices were independent: {usual}.",
    )
    pairs = _pairs(some, number)
    orders = _orders(some, pairs, number)
    _matrices(some, pairs, orders)
    tables = {run: _strongest(own, _tokens(some.known[run]).tokens) for run, own in pairs.items()}
    _tables(some, tables)
    some.export(
        "co-activation",
        {"Experts by experts": "domains_together"},
        {
            f"Strongest pairs, {some.runs[run].label}": partial(pd.DataFrame, tables[run])
            for run in tables
        }
        | {
            f"All pairs, {some.runs[run].label}": partial(_matrix, own, orders[run])
            for run, own in pairs.items()
        },
    )
    some.explain(
        "**Independent**: as many pairs in all, dealt out by the product of the two experts' "
        "loads. Rows and columns of a run are in an order of its own (ids do not mean the same "
        "in two models) that puts alike experts together."
    )


def _pairs(view: View, number: int) -> dict[str, NDArray[np.integer]]:
    """How many tokens every two experts of a layer serve, in each run that has the layer."""
    found = {}
    for run, known in view.known.items():
        own = _tokens(known)
        place = own.place(number)
        if place is not None:
            found[run] = own.pairs[place][: own.routed[place], : own.routed[place]]
    return found


def _orders(view: View, pairs: dict[str, NDArray[np.integer]], number: int) -> dict[str, list[int]]:
    tokens = {run: _tokens(view.known[run]).tokens for run in pairs}
    return {
        run: _order(own, f"{view.keys[run]}|{number}|{tokens[run]}") for run, own in pairs.items()
    }


def _matrices(
    view: View, pairs: dict[str, NDArray[np.integer]], orders: dict[str, list[int]]
) -> None:
    st.plotly_chart(
        sized(
            figures.together(view.runs, {run: _times(own) for run, own in pairs.items()}, orders)
        ),
        key="domains_together",
        config=CHART_CONFIG,
        alt="For every two experts of the layer how much more often than by independent choices "
        "they serve one token; the tables below have the strongest pairs.",
    )


def _tables(view: View, tables: dict[str, pd.DataFrame]) -> None:
    with st.grid(len(tables), min_column_width=NARROWEST) as grid:
        for one in view.runs:
            if one.id in tables:
                with grid.cell():
                    st.markdown(f"**Strongest pairs**, {name(one)}")
                    _pair_table(tables[one.id], one)


def _times(pairs: NDArray[np.integer]) -> NDArray[np.float64]:
    expected = flows.expected_pairs(pairs)
    times: NDArray[np.float64] = pairs / np.where(expected > 0, expected, np.nan)
    np.fill_diagonal(times, np.nan)
    return times


def _matrix(pairs: NDArray[np.integer], order: list[int]) -> pd.DataFrame:
    """Times independence, in the order of the picture."""
    times = _times(pairs)[np.ix_(order, order)]
    table = pd.DataFrame(times, order, list(map(str, order)))
    return table.rename_axis("expert").reset_index()


@st.cache_data(max_entries=32, show_spinner=False)
def _order(_pairs: NDArray[np.integer], key: str) -> list[int]:
    """Experts that serve the same tokens stand together."""
    counts = np.maximum(np.diagonal(_pairs), 1).astype(float)
    alike = _pairs / np.sqrt(np.outer(counts, counts))
    return domains.order([np.clip(alike / max(alike.max(), 1e-12), 0, 1)])


def _carried(found: ExpertTokens, number: int) -> tuple[float, float]:
    """The share of co-activations that the strongest pairs carry, and would by independence."""
    place = found.place(number)
    if place is None:
        return float("nan"), float("nan")
    above = np.triu_indices(found.routed[place], 1)
    shares = []
    for values in (found.pairs[place], flows.expected_pairs(found.pairs[place])):
        falling = -np.sort(-values[above].astype(float))
        top = max(1, round(TOP_SHARE * len(falling)))
        shares.append(float(falling[:top].sum() / max(falling.sum(), 1e-12)))
    return shares[0], shares[1]


def _strongest(pairs: NDArray[np.integer], tokens: int) -> pd.DataFrame:
    one, two = np.triu_indices(len(pairs), 1)
    expected = flows.expected_pairs(pairs)[one, two]
    own = pairs[one, two].astype(float)
    best = np.argsort(-(own - expected), kind="stable")[:MOST_PAIRS]
    return pd.DataFrame(
        {
            "Experts": [f"{one[at]} and {two[at]}" for at in best],
            "Of all tokens": 100 * own[best] / max(tokens, 1),
            "If independent": 100 * expected[best] / max(tokens, 1),
            "Times": own[best] / np.maximum(expected[best], 1e-12),
        }
    )


def _pair_table(table: pd.DataFrame, run: Run) -> None:
    percent = st.column_config.NumberColumn(format="%.2f %%")
    st.dataframe(
        table,
        key=f"domains_pairs_{run.id}",
        hide_index=True,
        height="content",
        row_height=28,
        column_config={
            "Of all tokens": percent,
            "If independent": percent,
            "Times": st.column_config.NumberColumn(format="%.1f"),
        },
        alt=f"The pairs of experts of {run.label} that are furthest above independence.",
    )


def flow(view: View) -> None:
    """Where tokens go from layer to layer."""
    some = _with_tokens(view)
    if some is None:
        return
    window = _chosen_window(some)
    if window is None:
        some.say("There is one layer with experts, so nothing flows between layers.", "")
        return
    shown = links.slider(
        some.controls, "Experts shown of each layer", 2, 20, 8, routes.DOMAINS_SHOWN, width=220
    )
    _say_flow(some, window)
    with st.grid(len(some.known), min_column_width=NARROWEST) as grid:
        for run in some.runs:
            with grid.cell():
                stream = _stream(some.known[run.id], window, shown)
                _sankey(some.known[run.id], stream, window)
                _strongest_streams(run, stream, window)
    some.export(
        "flow",
        {f"Flow in {run.label}": f"domains_flow_{run.id}" for run in some.runs},
        {
            f"Streams of {run.label}": partial(_named, some.known[run.id], window, shown)
            for run in some.runs
        },
    )
    steps = count(len(window) - 1, "step")
    some.explain(
        f"Nats: mutual information of the experts of two layers, mean over {steps}. "
        "A token counts 1 between two layers: its gate weights in the one are spread over its "
        "gate weights in the next. Shown are the experts that take part in the streams that "
        "are furthest above independence; all the others of a layer together are **other**."
    )


def _chosen_window(view: View) -> list[int] | None:
    """The layers that are shown, of those that all runs have; None where there is but one."""
    layers = [_tokens(known).numbers for known in view.known.values()]
    windows = _windows(sorted(set.intersection(*map(set, layers))))
    if not windows:
        return None
    labels = [" to ".join(map(str, window)) for window in windows]
    chosen = links.select(view.controls, "Layers", labels, routes.DOMAINS_FROM, width=170)
    return windows[labels.index(chosen)]


def _say_flow(view: View, window: list[int]) -> None:
    known = {run: _information(_tokens(one), window) for run, one in view.known.items()}
    possible = in_each(view.runs, lambda run: f"{known[run].possible:.2f}")
    chance = in_each(view.runs, lambda run: f"{known[run].by_chance:.2f}")
    view.say(
        "A token's experts in one layer tell "
        f"{in_each(view.runs, lambda run: f'**{known[run].known:.2f}** nats')} of those in the "
        "next.",
        f"Possible: {possible}; without any relation: {chance}.",
    )


def _windows(numbers: list[int]) -> list[list[int]]:
    """Runs of up to WINDOW layers that follow each other, then every two neighbours."""
    wide = [numbers[at : at + WINDOW] for at in range(0, len(numbers), WINDOW - 1)]
    pairs = [numbers[at : at + 2] for at in range(len(numbers) - 1)]
    every = [window for window in [*wide, *pairs] if len(window) > 1]
    return [window for at, window in enumerate(every) if window not in every[:at]]


def _between(found: ExpertTokens, window: list[int]) -> list[NDArray[np.float32]]:
    places = [found.numbers.index(number) for number in window]
    return [found.flow[place] for place in places[:-1]]


def _information(found: ExpertTokens, window: list[int]) -> flows.Information:
    each = [flows.information(one, found.tokens) for one in _between(found, window)]
    mean = [float(np.mean([getattr(one, field) for one in each])) for field in _FIELDS]
    return flows.Information(*mean)


_FIELDS = ("known", "possible", "by_chance")


def _stream(known: Known, window: list[int], shown: int) -> flows.Stream:
    return flows.stream(_between(_tokens(known), window), shown)


def _named(known: Known, window: list[int], shown: int) -> pd.DataFrame:
    return _stream(known, window, shown).named(window)


def _sankey(known: Known, stream: flows.Stream, window: list[int]) -> None:
    labels, node = {}, 0
    for number, own in zip(window, stream.nodes, strict=True):
        for expert in own:
            labels[node] = _purpose(known, number, expert)
            node += 1
    between = stream.strongest(window, len(stream.links))
    strong = int((between["times"] >= figures.STRONG).sum())
    st.plotly_chart(
        figures.flow(known.run, stream, window, labels),
        key=f"domains_flow_{known.run.id}",
        config=CHART_CONFIG,
        alt=f"How the gate weight of {known.run.label} goes on from the experts of each layer to "
        "those of the next; the table below has the strongest streams.",
    )
    st.caption(
        f"{strong} of {count(len(between), 'stream')} between the experts shown are at least "
        f"{figures.STRONG:.0f} times independence. Not drawn: the {share(stream.rest)} of the "
        "gate weight that goes from others to others."
    )


def _strongest_streams(run: Run, stream: flows.Stream, window: list[int]) -> None:
    table = stream.strongest(window, MOST_STREAMS)
    table["share"] *= 100
    number = st.column_config.NumberColumn
    st.markdown(f"**Strongest streams**, {name(run)}")
    st.dataframe(
        table,
        key=f"domains_streams_{run.id}",
        hide_index=True,
        height="content",
        row_height=28,
        column_config={
            "layer": number("From layer"),
            "expert": "From expert",
            "next_layer": number("To layer"),
            "next_expert": "To expert",
            "share": number("Of gate weight", format="%.2f %%"),
            "times": number("Times", format="%.1f", help="Times what independence gives."),
        },
        alt=f"The streams of {run.label} that are furthest above independence, from which "
        "expert to which.",
    )


def _purpose(known: Known, number: int, expert: int) -> str:
    """What a node is for, in its hover."""
    if expert < 0:
        return f"all other experts of layer {number}"
    use = known.use
    said = f"layer {number}, expert {expert}"
    if not use.domains or number not in use.numbers:
        return said
    shares = use.domain_shares[:, use.place(number), expert]
    best = int(shares.argmax())
    return f"{said}: {use.domains[best]} {100 * shares[best]:.0f} %"
