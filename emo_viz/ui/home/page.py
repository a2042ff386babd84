"""Home page: what the models show, in computed sentences, and what is loaded."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from emo_viz.analysis import curves
from emo_viz.analysis.bootstrap import Interval
from emo_viz.analysis.glance import KEEP_K, Glances
from emo_viz.analysis.routing import Coverage
from emo_viz.analysis.runs import Comparison
from emo_viz.analysis.widths import in_words, kept_of
from emo_viz.figures.comparison import Compared, by_run
from emo_viz.figures.theme import CHART_CONFIG, colour_of, mark_of
from emo_viz.server import assets, commands, library
from emo_viz.ui.home import documents, first, loaded, look, sources, stories
from emo_viz.ui.parts import export, freshness, unseen
from emo_viz.ui.parts.together import in_each, less, name
from emo_viz.ui.shell import at_home, missing, routes, slots
from emo_viz.ui.shell.words import count, escape_markdown, with_commands

FIRST_PIXELS = 640
LOAD = "home_load"  # in the session: this visitor wants large models loaded
SHOWN = "home_shown"  # the runs and the document of the picture on the screen


@dataclass(frozen=True)
class Finding:
    """What one card says; `compared` is drawn, `sentence` carries the same numbers in words."""

    title: str
    sentence: str
    compared: Compared


@dataclass(frozen=True)
class Card:
    """A question, where its answer comes from, and the page that goes deeper.

    find: of these runs; over new documents alone, if `ask` says so. command: the commands that make
    what is missing, for these runs. way: what the page's address says, of these runs and of the
    document that is shown.
    """

    question: str
    find: Callable[[Comparison, bool], Finding]
    command: Callable[[Sequence[str]], str]
    page: str
    link: str
    ask: Callable[[], bool] = lambda: False
    way: Callable[[Comparison, str | None], dict[str, str]] = lambda *_: {}


def show() -> None:
    """Draw the page."""
    try:
        runs = library.comparison()
    except library.Missing as error:
        _nothing(error)
        return
    row = st.container(horizontal=True, vertical_alignment="center", gap="small")
    row.caption(_who(runs), width="stretch")
    buttons = row.container(horizontal=True, width="content", gap="small")
    stories.take_the_tour(buttons)
    document = documents.chosen(runs, buttons)
    known = look.stored(runs) if document is None else None
    # A picture that has been made stays where it is: under a skeleton it would lose the keyboard.
    ready = known is not None or st.session_state.get(SHOWN) == (runs.ids, document)
    top = st.container() if ready else st.empty()
    if ready:
        with top:
            drawn = _first(runs, known, document)
    else:
        top.skeleton(height=FIRST_PIXELS)
    stories.draw(runs, document)
    how = st.container()
    lead = _findings(runs, document)
    st.subheader("What is loaded")
    loaded.models(runs)
    loaded.texts(runs)
    if not ready:  # last: a model may have to be loaded, and the rest need not wait for it
        with top.container():
            drawn = _first(runs, known, document)
        lead()
    st.session_state[SHOWN] = (runs.ids, document) if drawn else None
    if drawn:
        how.expander("How it was measured").markdown(first.measured(*drawn))


def _nothing(error: library.Missing) -> None:
    """Where no run is here: what the app is for, and the two ways to one."""
    st.markdown(
        "EMO Viz shows how a mixture-of-experts model routes a text, token by token, which "
        "documents share experts, and what is lost when only some of the experts stay."
    )
    missing.empty_state(escape_markdown(error.sentence), error.command, of_runs=False)
    st.markdown("Or add a checkpoint, a model of the Hugging Face hub or a routing file:")
    st.page_link(routes.LIBRARY, label="Add a run", icon=":material/inventory_2:")


def _first(
    runs: Comparison, known: tuple[Glances, str] | None, document: str | None
) -> tuple[Comparison, Glances] | None:
    """The first screen, from its file if it is known; what it shows, None without a picture."""
    if known is None:
        return _made_first(runs, document)
    first.draw(runs, *known)
    return runs, known[0]


def _made_first(runs: Comparison, document: str | None) -> tuple[Comparison, Glances] | None:
    """The first screen where no file of it is here, or of another document than the file's."""
    load = not look.is_heavy(runs) or st.session_state.get(LOAD, False)
    try:
        found, key, left_out = look.made(runs, load, document)
    except (ValueError, library.Missing) as error:
        if not load:
            _offer()
            return None
        if isinstance(error, library.Missing):
            said, command = escape_markdown(error.sentence), error.command
        else:
            said, command = str(error), ""
        missing.empty_state(said, command, "No document to show")
        return None
    shown = Comparison(tuple(run for run in runs if run.id in found.runs))
    first.draw(shown, found, key)
    for sentence in left_out:
        st.info(sentence, icon=":material/visibility_off:")
    return shown, found


def _offer() -> None:
    """In place of the first screen of large models: to load them."""
    st.markdown("A document is shown here once the models have read it; they are large.")
    if st.button("Load the models", icon=":material/memory:", key="home_load_models"):
        st.session_state[LOAD] = True
        st.rerun()


def _findings(runs: Comparison, document: str | None) -> Callable[[], None]:
    """Draw the cards; what is returned draws their links anew, once the first screen is known."""
    st.subheader("What the pair shows" if len(runs) > 1 else "What the model shows")
    found, told, places = {}, set[str](), []
    with st.grid(3, min_column_width=240, border=True) as grid:
        for number, card in enumerate(CARDS):
            with grid.cell():
                finding = _draw(card, runs, f"home_finding_{number}", told)
                places.append(st.empty())
            if finding is not None:
                found[f"home_finding_{number}"] = finding

    def lead() -> None:
        for card, place in zip(CARDS, places, strict=True):
            way = slots.params() | card.way(runs, document)
            icon = ":material/arrow_forward:"
            place.page_link(card.page, label=card.link, icon=icon, query_params=way)

    lead()
    if found:
        st.caption(
            "In brackets, and as bars where they are wider than the mark: 95 % intervals, by "
            "resampling the documents. They do not say what another training run would give."
        )
    _price(runs)
    export.offer(
        "findings",
        runs,
        charts={"One document": first.KEY} | {one.title: key for key, one in found.items()},
        tables={"Findings": lambda: findings_table(runs, found.values())},
        legend=[export.Entry(colour_of(run), run.label, mark_of(run)) for run in runs],
    )
    return lead


def findings_table(runs: Comparison, found: Iterable[Finding]) -> pd.DataFrame:
    """A row for each finding and run: its number with the 95 % interval, and chance if known."""
    rows = [
        {
            "finding": one.title,
            "run": run.label,
            "mean": one.compared.values[run.id].mean,
            "low": one.compared.values[run.id].low,
            "high": one.compared.values[run.id].high,
            "unit": one.compared.unit,
            "chance": one.compared.chance,
        }
        for one in found
        for run in runs
    ]
    return pd.DataFrame(rows)


def _who(runs: Comparison) -> str:
    """What stands on the pages, in a sentence."""
    if runs.ids == assets.BUNDLED_IDS and all(map(assets.is_bundled, runs.ids)):
        return (
            "EMO, trained so that groups of experts emerge, stands beside a standard MoE of the "
            "same size, data and number of tokens."
        )
    names = [f"**{name(run)}**" for run in runs]
    return f"{' stands beside '.join(names)}." if len(runs) > 1 else f"This is {names[0]}."


def _draw(card: Card, runs: Comparison, key: str, told: set[str]) -> Finding | None:
    """Draw one card; its finding, or None where that is not known. told: commands that cards before
    it have named."""
    finding = None
    st.markdown(f"**{card.question}**")
    above, control = st.container(), st.container()
    try:
        with control:
            only_new = card.ask()
        finding = card.find(runs, only_new)
    except (freshness.Stale, library.Missing, ValueError) as error:
        if isinstance(error, freshness.Stale):
            st.markdown(f":material/history: {error}")
        else:
            st.markdown(with_commands(str(error)))
        _mend(card.command(runs.ids), told)
    else:
        above.plotly_chart(
            chart(runs, finding),
            config=CHART_CONFIG,
            key=key,
            alt=f"{finding.title}; the sentence below has the numbers.",
        )
        above.markdown(finding.sentence)  # below: charts line up whatever the sentences' lengths
    return finding


def _mend(command: str, told: set[str]) -> None:
    """The command that makes what is missing: of a pair of one's own it is one for all cards."""
    if command and command in told:
        st.caption("The same command makes it.")
        return
    told.add(command)
    missing.mend(command)


def chart(runs: Comparison, finding: Finding) -> go.Figure:
    """The chart of a finding, drawn once for all visitors."""
    return _chart(repr((runs.labels, finding)), runs, finding)


@st.cache_resource(max_entries=24, show_spinner=False)
def _chart(key: str, _runs: Comparison, _finding: Finding) -> go.Figure:
    """The chart of a finding; the key says all that it shows."""
    return by_run(_runs, _finding.compared, _finding.title)


def _price(runs: Comparison) -> None:
    with suppress(ValueError):  # the card has said what is missing
        st.markdown(_full_models(runs))


def _robustness(runs: Comparison, only_new: bool) -> Finding:
    measured, experts = sources.curves(runs, only_new)
    keep = _keep(measured, experts, runs)
    kept = {
        run: percent_kept(measured.increase(run, curves.ROUTER_PROBABILITY, k))
        for run, k in keep.items()
    }
    by_chance = min(measured.increase(run, curves.RANDOM, k).mean for run, k in keep.items())
    even = len({*keep.values()}) == len({experts[run] for run in keep}) == 1
    first = runs.first.id
    with_k = f"{kept_of(keep[first], experts[first])} experts a layer"

    def said(run: str) -> str:
        own = "" if even else f" with {kept_of(keep[run], experts[run])}"
        return f"**{kept[run].mean:.0f}\u00a0%** {_span(kept[run], '{:.0f}')}{own}"

    return Finding(
        f"Likelihood kept with {keep[first]} experts" if even else "Likelihood kept by a subset",
        f"With {with_k if even else 'some of the experts'}, the likelihood kept a token is "
        f"{in_each(runs, said)}. "
        f"{count(measured.documents, 'held-out document')} of "
        f"{count(len(measured.cells.tokens), 'domain')}, {unseen.in_a_sentence(only_new)}"
        f"{count(measured.tokens, 'token')}.{'' if only_new else sources.measured_on(runs)}",
        Compared(
            kept,
            "% of the likelihood",
            100 * curves.likelihood_kept(by_chance),
            "random experts",
            ".0f",
        ),
    )


def _keep(
    measured: curves.Measured, experts: dict[str, tuple[int, ...]], runs: Comparison
) -> dict[str, int]:
    """The keep-k to speak of in each run: KEEP_K where the first has been measured there, the
    nearest that has been where not, and the same share of the experts in the other."""
    points = {run: measured.kept(run, curves.ROUTER_PROBABILITY) for run in runs.ids}
    first = runs.first.id
    asked = min(points[first], key=lambda k: abs(k - KEEP_K))
    share = asked / max(experts[first])
    return {
        run: min(own, key=lambda k: abs(k - share * max(experts[run])))
        for run, own in points.items()
    }


def _full_models(runs: Comparison) -> str:
    """What each model loses with all its experts: kept shares are shares of this."""
    measured, experts = sources.curves(runs, sources.only_new())
    losses = in_each(runs, lambda run: f"**{measured.full_loss(run).mean:.3f}**")
    counts = {experts[run] for run in runs.ids}
    of_all = f"all {in_words(counts.pop())} experts" if len(counts) == 1 else "all experts"
    said = f"With {of_all}, the loss in nats a token is {losses}"
    if runs.second is None:
        return f"{said}."
    if len({measured.tokens_of(run) for run in runs.ids}) > 1:
        return f"{said}; the tokenizers differ, so these do not compare."
    gap = measured.full_difference(runs.first.id, runs.second.id)
    return f"{said}; {less(runs)}: **{gap.mean:+.3f}** {_span(gap, '{:+.3f}')}."


def _modularity(runs: Comparison, _only_new: bool) -> Finding:
    sources.check_measured("token clusters", runs, assets.token_clusters_path)
    paths = tuple(map(assets.token_clusters_path, runs.ids))
    found = sources.tokens_headline(paths, assets.content(*paths))
    freshness.check("The token clusters", found.origins)
    own = dict(zip(runs.ids, found.runs.values(), strict=True))
    shared = in_each(runs, lambda run: f"**{own[run].domain.mean:.2f}** {_span(own[run].domain)}")
    gap = ""
    if found.difference is not None:
        span = _span(found.difference, "{:+.3f}")
        gap = f"; {less(runs)}: {found.difference.mean:+.3f} {span}"
    first = own[runs.first.id]
    said = (
        "All documents are of one domain, so whether clusters follow domains cannot be told. "
        if _of_one_domain(runs)
        else f"{first.clusters} clusters of tokens by routing agree with the domain (NMI) by "
        f"{shared}{gap}. "
    )
    return Finding(
        "Token clusters and domains",
        f"{said}{count(found.documents, 'document')}, {count(first.tokens, 'token')}.",
        Compared(
            {run: each.domain for run, each in own.items()},
            "NMI with the domain",
            max(each.chance for each in own.values()),
            "shuffled domains",
            ".2f",
        ),
    )


def _of_one_domain(runs: Comparison) -> bool:
    try:
        return library.documents(runs.ids)["domain"].nunique() == 1
    except library.Missing:
        return False


def _spread(runs: Comparison, _only_new: bool) -> Finding:
    found = {run.id: sources.coverage(run) for run in runs}
    first = found[runs.first.id]
    even = len({each.routed for each in found.values()}) == 1
    beside = _beside(sources.shared(runs.first))

    def half(run: str) -> str:
        own = found[run]
        of_all = (
            "" if even and run != runs.first.id else f" of {in_words(own.routed)} experts{beside}"
        )
        return f"**{own.half.mean:.1f}** {_span(own.half, '{:.1f}')}{of_all}"

    distinct = in_each(runs, lambda run: f"{found[run].distinct.mean:.1f}")
    layers = {each.num_layers for each in found.values()}
    own = f"{count(first.num_layers, 'layer')} with experts"
    over = own if len(layers) == 1 else "the layers of each"
    return Finding(
        "Half of the routing",
        f"Half of a document's routing in a layer goes to {in_each(runs, half)}; in all it uses "
        f"{distinct}. {count(first.half.n, 'document')}, {count(first.num_tokens, 'token')}, mean "
        f"over {over}.",
        _half_compared(found, even),
    )


def _beside(shared: int) -> str:
    """The experts that a router does not choose among, where a layer has such."""
    verb = "serves" if shared == 1 else "serve"
    return f" ({shared} more {verb} all tokens)" if shared else ""


def _half_compared(found: dict[str, Coverage], even: bool) -> Compared:
    """In experts, where all runs have as many; else in shares of them."""
    if even:
        routed = float(np.mean(next(iter(found.values())).routed))
        values = {run: each.half for run, each in found.items()}
        return Compared(values, "routed experts", routed / 2, "even use", ".1f")
    shares = {run: _of_all(each.half, float(np.mean(each.routed))) for run, each in found.items()}
    return Compared(shares, "% of the routed experts", 50, "even use", ".1f")


def _of_all(value: Interval, most: float) -> Interval:
    mean, low, high = (100 * each / most for each in (value.mean, value.low, value.high))
    return Interval(mean, low, high, value.n)


CARDS = (
    Card(
        "How many experts does a document use?",
        _spread,
        lambda runs: commands.each(commands.RECORD, runs),
        routes.ROUTING,
        "See this text, token by token",
        way=at_home.routing,
    ),
    Card(
        "Do the experts follow the subject?",
        _modularity,
        lambda runs: commands.each(commands.CLUSTERS, runs),
        routes.CLUSTERS,
        "Which tokens share experts",
    ),
    Card(
        "How far can the model be cut down?",
        _robustness,
        commands.curves,
        routes.ABLATION,
        "Choose a subset of the experts",
        sources.offer_new,
        at_home.ablation,
    ),
)


def percent_kept(increase: Interval) -> Interval:
    """An increase of the loss in nats as the percentage of a token's likelihood that is left."""
    values = (increase.mean, increase.high, increase.low)
    mean, low, high = (100 * curves.likelihood_kept(value) for value in values)
    return Interval(mean, low, high, increase.n)


def _span(value: Interval, form: str = "{:.2f}") -> str:
    return f"[{form.format(value.low)}, {form.format(value.high)}]"
