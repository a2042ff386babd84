"""Home page: what the pair of models shows, in computed sentences, and what is loaded."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st

from emo_viz.analysis import curves, tokens
from emo_viz.analysis.bootstrap import Interval
from emo_viz.analysis.origins import Origins, of_trace
from emo_viz.analysis.routing import Coverage, coverage
from emo_viz.analysis.widths import apart, in_words, kept_of
from emo_viz.figures.comparison import Compared, two_models
from emo_viz.figures.theme import chart_config
from emo_viz.server import assets, commands, library
from emo_viz.trace import Trace
from emo_viz.ui.parts import freshness
from emo_viz.ui.shell import routes
from emo_viz.ui.shell.words import compact, count, escape_markdown

KEEP_K = 16
CURVES = "curves.parquet"


@dataclass(frozen=True)
class Finding:
    """What one card says; `compared` is drawn, `sentence` carries the same numbers in words."""

    sentence: str
    compared: Compared


@dataclass(frozen=True)
class Card:
    """A question, where its answer comes from, and the page that goes deeper."""

    question: str
    title: str
    find: Callable[[], Finding]
    command: str
    page: str
    link: str


def show() -> None:
    """Draw the page."""
    st.markdown(
        "Watch a mixture-of-experts language model route tokens. EMO, trained so that groups of "
        "experts emerge, stands beside a standard MoE of the same size, data and number of tokens."
    )
    st.subheader("What the pair shows")
    with st.grid(3, min_column_width=300, border=True) as grid:
        for card in CARDS:
            with grid.cell():
                _draw(card)
    st.caption(
        "In brackets, and as bars where they are wider than the mark: 95 % intervals, by "
        "resampling the documents. They do not say what another training run would give."
    )
    _price()
    st.subheader("What is loaded")
    _models()
    _documents()


def _draw(card: Card) -> None:
    st.markdown(f"**{card.question}**")
    try:
        finding = card.find()
    except freshness.Stale as error:
        st.markdown(f":material/history: {error}")
        _commands(card.command)
    except ValueError as error:
        st.markdown(escape_markdown(str(error)))
        _commands(card.command)
    else:
        st.plotly_chart(
            two_models(finding.compared, card.title),
            config=chart_config(card.title),
            alt=finding.sentence,
        )
        st.markdown(finding.sentence)  # below: charts line up whatever the sentences' lengths
    st.page_link(card.page, label=card.link, icon=":material/arrow_forward:")


def _price() -> None:
    with suppress(ValueError):  # the card has said what is missing
        st.markdown(_full_models())


def _commands(template: str) -> None:
    """The command, once for each model if it names one."""
    folders = assets.MODEL_FOLDERS.values()
    lines = dict.fromkeys(template.format(folder=folder) for folder in folders)
    st.code("\n".join(lines), language="bash", wrap_lines=True)


def _robustness() -> Finding:
    measured, experts = _curves()
    kept = {
        model: _percent(_kept(measured.increase(model, curves.ROUTER_PROBABILITY, KEEP_K)))
        for model in assets.MODEL_FOLDERS
    }
    emo, standard = kept["emo"], kept["standard"]
    by_chance = min(measured.increase(model, curves.RANDOM, KEEP_K).mean for model in kept)
    return Finding(
        f"With {kept_of(KEEP_K, experts)} experts a layer, EMO keeps "
        f"**{emo.mean:.0f}\u00a0%** {_span(emo, '{:.0f}')} of its likelihood a token, the standard "
        f"MoE **{standard.mean:.0f}\u00a0%** {_span(standard, '{:.0f}')}. "
        f"{count(measured.documents, 'held-out document')}, {count(measured.tokens, 'token')}, "
        f"{count(len(measured.cells.tokens), 'domain')}.",
        Compared(
            emo,
            standard,
            "% of the likelihood a token",
            100 * curves.likelihood_kept(by_chance),
            "random experts",
        ),
    )


def _full_models() -> str:
    """What each model loses with all its experts: kept shares are shares of this."""
    measured, experts = _curves()
    emo, standard = (measured.full_loss(model).mean for model in assets.MODEL_FOLDERS)
    gap = measured.full_difference(curves.EMO, curves.STANDARD)
    return (
        f"With all {in_words(experts)} experts, the loss is **{emo:.3f}** nats a token in EMO and "
        f"**{standard:.3f}** in the standard MoE; EMO less standard MoE: **{gap.mean:+.3f}** "
        f"{_span(gap, '{:+.3f}')}."
    )


def _modularity() -> Finding:
    paths = [_existing(assets.token_clusters_path(name)) for name in assets.MODEL_FOLDERS]
    found = _tokens_headline(paths[0], paths[1], assets.stamp(*paths))
    freshness.check("The token clusters", found.origins)
    return Finding(
        f"{found.clusters} clusters of tokens by routing share **{found.emo.mean:.2f}** "
        f"{_span(found.emo)} of their information (NMI) with the domain in EMO, "
        f"**{found.standard.mean:.2f}** {_span(found.standard)} in the standard MoE; EMO less "
        f"standard MoE: {found.difference.mean:+.3f} {_span(found.difference, '{:+.3f}')}. "
        f"{count(found.documents, 'document')}, {count(found.tokens, 'token')}.",
        Compared(
            found.emo,
            found.standard,
            "NMI with the domain (0 to 1)",
            max(found.emo_chance, found.standard_chance),
            "shuffled domains",
        ),
    )


def _spread() -> Finding:
    emo, standard = (_coverage(name) for name in assets.MODEL_FOLDERS)
    if what := apart(emo.routed, standard.routed):
        raise ValueError(
            f"The traces of the two models have other numbers of {what}, so they do not compare. "
            "For a matched pair, this makes them:"
        )
    routed = in_words(emo.routed)
    return Finding(
        f"Half of a document's routing in a layer goes to **{emo.half.mean:.1f}** "
        f"{_span(emo.half, '{:.1f}')} of {routed} experts in EMO, to "
        f"**{standard.half.mean:.1f}** {_span(standard.half, '{:.1f}')} in the standard MoE; in "
        f"all it uses {emo.distinct.mean:.1f} and {standard.distinct.mean:.1f}. "
        f"{count(emo.half.n, 'document')}, {count(emo.num_tokens, 'token')}, mean over "
        f"{count(emo.num_layers, 'layer')}.",
        Compared(
            emo.half, standard.half, "routed experts", float(np.mean(emo.routed)) / 2, "even use"
        ),
    )


CARDS = (
    Card(
        "How many experts does a document use?",
        "Experts that carry half of the routing",
        _spread,
        commands.RECORD,
        routes.ROUTING,
        "See one text, token by token",
    ),
    Card(
        "Do the experts follow the subject?",
        "Token clusters and domains",
        _modularity,
        commands.CLUSTERS,
        routes.CLUSTERS,
        "See which tokens share experts",
    ),
    Card(
        "How far can the model be cut down?",
        f"Likelihood kept with {KEEP_K} experts",
        _robustness,
        commands.CURVES,
        routes.ABLATION,
        "Choose a subset of the experts",
    ),
)


def _models() -> None:
    rows = []
    for name in assets.MODEL_FOLDERS:
        try:
            facts = assets.model_facts(name)
        except FileNotFoundError:
            continue
        except ValueError as error:
            st.error(escape_markdown(str(error)), icon=":material/error:")
            continue
        trained = facts.tokens_trained
        rows.append(
            {
                "Model": facts.label,
                "Layers": facts.num_layers,
                "Experts a layer": f"{facts.experts_in_words(facts.num_shared_experts)} routed + "
                f"{facts.num_shared_experts} shared",
                "Experts a token": f"{facts.num_experts_per_tok - facts.num_shared_experts} routed "
                f"+ {facts.num_shared_experts} shared",
                "Hidden size": facts.hidden_size,
                "Parameters": compact(facts.parameters),
                "Tokens trained on": "not recorded" if trained is None else compact(trained),
            }
        )
    if rows:
        st.table(pd.DataFrame(rows).set_index("Model"))
    else:
        st.write("No checkpoint is here.")
        trains = [commands.TRAIN.format(name=name) for name in assets.MODEL_FOLDERS]
        st.code("\n".join(trains), language="bash")


def _documents() -> None:
    if not assets.documents_path().exists():
        st.write("No documents are here.")
        st.code(commands.DOCUMENTS, language="bash")
        return
    documents = library.documents()
    st.caption(
        f"Bundled: {count(len(documents), 'document')} of "
        f"{count(documents['domain'].nunique(), 'domain')}{_bundled_tokens()}, with their "
        f"licences in ATTRIBUTION.md beside them.{_cut(documents)}"
    )


def _cut(documents: pd.DataFrame) -> str:
    """How many texts are not here as a whole."""
    cut = int((documents["cut_tokens"] > 0).sum()) if "cut_tokens" in documents else 0
    words = f" Of {count(cut, 'longer text')} only the beginning is here, as much as fits the "
    return f"{words}models' context." if cut else ""


def _bundled_tokens() -> str:
    try:
        tokens = Trace.open(assets.trace_path("emo")).manifest.tokens
    except ValueError:
        return ""
    return f", {count(tokens, 'token')}"


def _curves() -> tuple[curves.Measured, tuple[int, ...]]:
    path = _existing(assets.analysis_path(CURVES))
    measured, experts, origins = _read_curves(path, assets.stamp(path, path.with_suffix(".json")))
    freshness.check("The curves", origins)
    return measured, experts


@st.cache_resource(max_entries=4, show_spinner="Reading the curves …")
def _read_curves(
    path: Path, stamp: assets.Stamp
) -> tuple[curves.Measured, tuple[int, ...], Origins]:
    """The curves of all domains, the experts of every layer, and what they are of."""
    read = curves.read_curves(path)
    return curves.Measured.of(read.rows), read.experts, read.origins


def _coverage(name: str) -> Coverage:
    path = assets.trace_path(name)
    found, origins = _read_trace(name, path, assets.stamp(path))
    freshness.check(f"The traces of {assets.MODEL_LABELS[name]}", origins)
    return found


@st.cache_resource(max_entries=4, show_spinner=False)
def _read_trace(name: str, path: Path, stamp: assets.Stamp) -> tuple[Coverage, Origins]:
    trace = Trace.open(path)
    return coverage(trace), of_trace(trace, name)


@st.cache_resource(max_entries=4, show_spinner=False)
def _tokens_headline(emo: Path, standard: Path, stamp: assets.Stamp) -> tokens.Headline:
    return tokens.headline(emo, standard)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise ValueError(f"Not measured yet: {path.name} is not there. This makes it:")
    return path


def _kept(increase: Interval) -> Interval:
    """An increase of the loss in nats as the share of a token's likelihood that is left."""
    mean, low, high = (np.exp(-value) for value in (increase.mean, increase.high, increase.low))
    return Interval(float(mean), float(low), float(high), increase.n)


def _percent(value: Interval) -> Interval:
    return Interval(100 * value.mean, 100 * value.low, 100 * value.high, value.n)


def _span(value: Interval, form: str = "{:.2f}") -> str:
    return f"[{form.format(value.low)}, {form.format(value.high)}]"
