"""Subset ablation page: what was measured, and what is measured live.

Opens the curves and the models, runs these on one document with a subset of their experts, and
measures more points of a curve in the background. Nothing here draws, but for an empty state.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from emo_viz.analysis import ablation
from emo_viz.analysis.curves import (
    GREEDY,
    METHODS,
    OTHER_DOMAIN,
    RANDOM,
    ROUTER_PROBABILITY,
    Curves,
    Measured,
    read_together,
)
from emo_viz.analysis.runs import Comparison
from emo_viz.analysis.widths import experts_by_layer, in_words
from emo_viz.server import assets, commands, library, measurements
from emo_viz.server.jobs import Job
from emo_viz.server.library import LoadedModel, Models
from emo_viz.server.measurements import documents_key
from emo_viz.ui.parts import freshness, measuring, together
from emo_viz.ui.parts.reading import tokens_of
from emo_viz.ui.parts.token_text import text_labels
from emo_viz.ui.parts.work import run_exclusive
from emo_viz.ui.shell import missing, routes
from emo_viz.ui.shell.words import escape_markdown

if TYPE_CHECKING:
    from model.run.subset import ExpertSubset

ALL_DOMAINS = "All domains"
OWN = routes.OWN_DOCUMENT
FINE_KEEP = (8, 10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 112)
NEW_TOKENS = 40
WORSE = 0.1  # nats: a token counts as worse only beyond what rounding could do
METHOD_WORDS = {
    ROUTER_PROBABILITY: "the experts with the highest mean router probability on the calibration "
    "documents, in one pass of the full model",
    GREEDY: "the experts with the highest mean router probability, layer by layer, each layer "
    "measured with the layers below it already cut",
    OTHER_DOMAIN: "the experts with the highest mean router probability on the calibration "
    "documents of another domain",
    RANDOM: "experts drawn at random in every layer",
}


@dataclass(frozen=True, eq=False)
class Study:
    """All that the page shows from: measured curves, the models, the held-out documents.

    curves: None where none were measured of models of other families than EMO; then everything is
    computed now, and `live_domains` are those that have documents of both kinds.
    """

    curves: Curves | None
    models: Models
    documents: pd.DataFrame
    live_domains: tuple[str, ...] = ()

    @property
    def runs(self) -> Comparison:
        return self.models.comparison

    def config(self, run: str) -> Any:
        """An EmoConfig, or what stands for one."""
        return self.models[run].live.geometry

    @property
    def experts(self) -> dict[str, tuple[int, ...]]:
        """Experts of every layer of each run, the shared ones counted."""
        return {one.run: experts_by_layer(one.live.geometry) for one in self.models}

    @property
    def num_experts(self) -> int:
        """Experts of the first run's largest layer: with as many kept, nothing is cut."""
        return max(self.experts[self.runs.first.id])

    @property
    def fewest_kept(self) -> int:
        """The smallest keep-k of the first run: what each token uses, where there are as many."""
        return min(int(self.config(self.runs.first.id).num_experts_per_tok), self.num_experts)

    def keep_of(self, run: str, keep_k: int) -> int:
        """The keep-k of a run that stands for keep_k experts of the first: the same share of its
        experts, and as many as each token uses."""
        most = max(self.experts[run])
        if most == self.num_experts:
            return keep_k
        share = round(keep_k * most / self.num_experts)
        return min(most, max(share, int(self.config(run).num_experts_per_tok)))

    @property
    def even(self) -> bool:
        """Whether all runs have as many experts in each layer."""
        return len(set(self.experts.values())) == 1

    def kept_in_words(self, run: str, keep_k: int) -> str:
        """How many experts a layer keeps: layers that have fewer than keep-k keep all theirs."""
        own = self.keep_of(run, keep_k)
        return in_words([min(own, experts) for experts in self.experts[run]])

    @property
    def domains(self) -> list[str]:
        return sorted(self.curves.info["domains"] if self.curves else self.live_domains)

    @property
    def methods(self) -> list[str]:
        if self.curves is None:
            return list(ablation.default_methods(len(self.domains)))
        measured = set(self.curves.rows["method"].unique())
        return [method for method in METHODS if method in measured]

    def other(self, domain: str) -> str | None:
        """The domain whose experts stand for another one's."""
        if self.curves is None:
            return ablation.other_domains(self.domains).get(domain)
        other: str | None = self.curves.info["domains"][domain]["other"]
        return other

    def calibration_ids(self, domain: str) -> tuple[str, ...]:
        """The documents that the experts of a domain are chosen on."""
        if self.curves is None:
            first = self.models.first
            return _calibration(first, first.key, documents_key())[domain].ids
        return tuple(self.curves.info["domains"][domain]["calibration"])


@dataclass(frozen=True)
class Choice:
    """What the visitor looks at; domain None means all. `document` is an id, or OWN with `text`."""

    domain: str | None
    method: str
    keep_k: int
    document: str
    text: str = ""

    @property
    def is_own(self) -> bool:
        return self.document == OWN


@dataclass(frozen=True)
class Document:
    """The text shown: title and origin are plain text, `domain` is None for a text of one's own.

    cut_tokens: how many tokens of it were left out before it came here.
    """

    title: str
    text: str
    domain: str | None
    origin: str
    cut_tokens: int = 0


@dataclass(frozen=True, eq=False)
class Live:
    """One document under the chosen subset of each run, computed now.

    pieces: texts of its T tokens, "" for EOS. labels: what each is called. dropped: tokens beyond
    the context. domain: whose calibration chose the experts. subsets, full and cut (losses [T],
    NaN at EOS) are by run id.
    """

    runs: Comparison
    shown: Document
    token_ids: NDArray[np.int64]
    pieces: list[str]
    labels: list[str]
    dropped: int
    domain: str
    subsets: "dict[str, ExpertSubset]"
    full: dict[str, NDArray[np.float32]]
    cut: dict[str, NDArray[np.float32]]

    @property
    def num_tokens(self) -> int:
        return len(self.pieces) - 1

    def change(self, run: str) -> NDArray[np.float32]:
        """Loss with the subset less the loss with all experts, by token [T]."""
        return self.cut[run] - self.full[run]

    def increase(self, run: str) -> float:
        return float(np.nanmean(self.change(run)))

    def worse(self, run: str) -> int:
        """Tokens whose loss rose by more than WORSE."""
        return int((self.change(run) > WORSE).sum())


def open_study() -> Study:
    """Everything measured, or an empty state that says what to run (the script ends there).

    Models that do not compare token by token are shown one at a time.
    """
    models = library.models()
    every = _stored_curves(models) if _all_emo(models) else None
    together.say_left_out(models.left_out)
    models = models.of(together.shown(models.comparison, "tokens"))
    if not _all_emo(models):
        return _measured_or_live(models)
    return _measured_study(every or _stored_curves(models), models)


def _all_emo(models: Models) -> bool:
    return all(one.live.is_emo for one in models)


def _stored_curves(models: Models) -> Curves:
    paths = assets.curves_paths(models.comparison.ids)
    try:
        return _curves(paths, _key(paths))
    except ValueError as error:
        unmeasured = "No subset curves have been measured yet."
        there = all(path.exists() for path in paths)
        _nothing(models, escape_markdown(str(error)) if there else unmeasured)


def _measured_or_live(models: Models) -> Study:
    """Of other families than EMO: with curves where there are some of these models and documents.

    Else all is computed now. Ends the page for a model that cannot be cut.
    """
    if said := next((one.live.why_not_cut for one in models if one.live.why_not_cut), ""):
        st.info(escape_markdown(said), icon=":material/visibility_off:")
        st.stop()
    documents, paths = library.documents(), assets.curves_paths(models.comparison.ids)
    try:
        curves = _curves(paths, _key(paths)).of_runs(models.comparison.ids)
        freshness.check("The subset curves", curves.origins)
    except ValueError:
        return _unmeasured(models, documents)
    if not set(curves.rows["document"].unique()) <= set(documents["id"]):
        return _unmeasured(models, documents)
    return Study(curves, models, documents)


def _unmeasured(models: Models, documents: pd.DataFrame) -> Study:
    try:
        calibration = library.calibration_documents()
    except ValueError as error:
        raise library.Missing(str(error), commands.DOCUMENTS) from error
    domains = sorted({*documents["domain"]} & {*calibration["domain"]})
    if not domains:
        raise library.Missing(
            "No domain has both documents and calibration documents.", commands.DOCUMENTS
        )
    return Study(None, models, documents[documents["domain"].isin(domains)], tuple(domains))


def _measured_study(every: Curves, models: Models) -> Study:
    try:
        curves = every.of_runs(models.comparison.ids)
        freshness.check("The subset curves", curves.origins)
    except freshness.Stale as error:
        _nothing(models, str(error), freshness.OUT_OF_DATE)
    except ValueError as error:
        _nothing(models, escape_markdown(str(error)))
    documents = library.documents()
    if not set(curves.rows["document"].unique()) <= set(documents["id"]):
        _nothing(models, "The subset curves were measured on other documents than these.")
    return Study(curves, models, documents)


def _nothing(models: Models, sentence: str, headline: str = "Nothing to show yet") -> NoReturn:
    command = commands.curves(models.comparison.ids)
    words = f"{sentence} Measure them with this command, or here:" if command else sentence
    missing.empty_state(words, command, headline)
    measuring.all_curves(models, "Measure all curves")
    st.stop()


def _key(paths: tuple[Path, ...]) -> str:
    """Of the curves and of what is said of them in the files beside."""
    return assets.content(*paths, *(path.with_suffix(".json") for path in paths))


@st.cache_resource(max_entries=2, show_spinner=False)
def _curves(paths: tuple[Path, ...], key: str) -> Curves:
    return read_together(paths)


def measured(study: Study, choice: Choice) -> Measured | None:
    """The curves of the chosen domain: finer ones, if they have been measured on this server.

    None where there are no curves.
    """
    if study.curves is None:
        return None
    job = fine_job(study, choice)
    if job is not None and isinstance(job.result, Measured):
        return job.result
    key = _key(assets.curves_paths(study.runs.ids))
    return _measured(study.curves, key, study.runs.ids, choice.domain)


@st.cache_resource(max_entries=64, show_spinner="Averaging the curves …")
def _measured(_curves: Curves, key: str, runs: tuple[str, ...], domain: str | None) -> Measured:
    return Measured.of(_curves.of_domain(domain))


def _chosen_document(study: Study, choice: Choice) -> Document:
    """The chosen document, or the visitor's own text as one."""
    if choice.is_own:
        return Document("Your own text", choice.text, None, "It stays on this machine.")
    row = study.documents[study.documents["id"] == choice.document].iloc[0]
    return Document(
        title=row["parent"] or row["id"],
        text=row["text"],
        domain=row["domain"],
        origin=" · ".join((row["domain"], row["source"], row["licence"], f"id {row['id']}")),
        cut_tokens=int(row.get("cut_tokens", 0)),
    )


def compute_live(study: Study, choice: Choice) -> Live:
    """Every model on the chosen document, whole and cut: a few forward passes, done now."""
    shown, models = _chosen_document(study, choice), study.models
    most = min(one.live.most_tokens(ablation.MAX_TOKENS) for one in models)
    encoded = tokens_of(models.first, shown.text, most)
    token_ids, pieces = encoded.token_ids, encoded.texts
    domain = shown.domain or choice.domain or _nearest(study, token_ids)
    try:
        subsets = {one.run: choose_subset(study, one, domain, choice) for one in models}
    except ValueError as error:  # greedy at a new keep-k needs the calibration documents
        missing.empty_state(escape_markdown(str(error)), commands.DOCUMENTS)
        st.stop()
    return Live(
        runs=study.runs,
        shown=shown,
        token_ids=token_ids,
        pieces=pieces,
        labels=text_labels(models.first.tokenizer, token_ids.tolist(), pieces),
        dropped=encoded.dropped,
        domain=domain,
        subsets=subsets,
        full={one.run: _losses(one, one.key, token_ids, ()) for one in models},
        cut={one.run: _losses(one, one.key, token_ids, subsets[one.run].experts) for one in models},
    )


def _nearest(study: Study, token_ids: NDArray[np.int64]) -> str:
    """The domain whose favourite experts the first run uses most on a text, as many as a token."""
    first = study.models.first
    scores = _expert_scores(first, first.key, token_ids)
    rankings = {domain: ranking(study, first.run, domain) for domain in study.domains}
    return ablation.nearest_domain(scores, rankings, first.live.geometry.num_routed_per_tok)


@st.cache_resource(max_entries=256, show_spinner=False)
def _expert_scores(
    _loaded: LoadedModel, key: str, token_ids: NDArray[np.int64]
) -> NDArray[np.float64]:
    with run_exclusive(_loaded):
        return _loaded.live.scores([token_ids])


def choose_subset(study: Study, loaded: LoadedModel, domain: str, choice: Choice) -> "ExpertSubset":
    """The subset of one model for a domain; only a greedy one at a new keep-k asks the model."""
    from model.run.subset import ExpertSubset, full_subset, random_subset

    config = loaded.live.geometry
    keep_k = study.keep_of(loaded.run, choice.keep_k)
    if keep_k == max(study.experts[loaded.run]):
        return full_subset(config)
    if choice.method == RANDOM:
        return random_subset(config, keep_k, seed=0)
    if choice.method == GREEDY:
        greedy = study.curves.info["greedy"][loaded.run][domain] if study.curves else {}
        known = greedy.get(str(keep_k))
        if known is None:
            return _greedy(loaded, loaded.key, documents_key(), domain, keep_k)
        return ExpertSubset(tuple(map(tuple, known)), GREEDY, study.calibration_ids(domain), keep_k)
    source = (study.other(domain) or domain) if choice.method == OTHER_DOMAIN else domain
    return ablation.ranked_subset(
        ranking(study, loaded.run, source), keep_k, config, study.calibration_ids(source)
    )


def ranking(study: Study, run: str, domain: str) -> NDArray[np.int64]:
    """Routed experts of every layer by falling router probability on a domain: [L, R].

    -1 where a layer has fewer.
    """
    if study.curves is None:
        loaded = study.models[run]
        return _ranking(loaded, loaded.key, documents_key(), domain)
    return np.asarray(study.curves.info["ranking"][run][domain])


@st.cache_resource(max_entries=256, show_spinner="Reading the calibration documents …")
def _ranking(_loaded: LoadedModel, key: str, documents: str, domain: str) -> NDArray[np.int64]:
    texts = _calibration(_loaded, key, documents)[domain]
    with run_exclusive(_loaded):
        scores = _loaded.live.scores(texts.documents)
    return ablation.ranked(scores, _loaded.live.geometry)


@st.cache_resource(max_entries=64, show_spinner="Choosing experts layer by layer …")
def _greedy(
    _loaded: LoadedModel, key: str, documents: str, domain: str, keep_k: int
) -> "ExpertSubset":
    texts = _calibration(_loaded, key, documents)[domain]
    with run_exclusive(_loaded):
        return _loaded.live.select(texts.documents, keep_k, "greedy", texts.ids)


@st.cache_resource(max_entries=4, show_spinner=False)
def _calibration(_loaded: LoadedModel, key: str, documents: str) -> dict[str, ablation.Texts]:
    """The calibration documents of every domain, tokenised."""
    texts = ablation.tokenise(library.calibration_documents(), _encode(_loaded))
    return {domain: ablation.first_texts(some) for domain, some in texts.items()}


def _encode(loaded: LoadedModel) -> ablation.Encode:
    most = loaded.live.most_tokens(ablation.MAX_TOKENS)
    return lambda text: loaded.live.encode(text, most)


@st.cache_resource(max_entries=512, show_spinner=False)
def _losses(
    _loaded: LoadedModel,
    key: str,
    token_ids: NDArray[np.int64],
    experts: tuple[tuple[int, ...], ...],
) -> NDArray[np.float32]:
    """Losses of one document [T]; `experts` are those kept in each layer, () for all."""
    with run_exclusive(_loaded):
        losses = _loaded.live.losses(token_ids, experts)
    losses.flags.writeable = False
    return losses


@st.cache_resource(max_entries=256, show_spinner=False)
def continuation(
    _loaded: LoadedModel,
    key: str,
    prompt_ids: NDArray[np.int64],
    experts: tuple[tuple[int, ...], ...],
) -> str:
    """The likeliest NEW_TOKENS tokens after a prompt; `experts` as in `_losses`."""
    with run_exclusive(_loaded):
        return _loaded.live.go_on(prompt_ids, NEW_TOKENS, experts)


def fine_tasks(study: Study, domain: str, method: str) -> dict[str, ablation.Task]:
    """What "more points" measures in each run: one method and random subsets at `fine_keep`."""
    return {one.run: _fine_task(study, one, domain, method) for one in study.models}


def fine_keep(study: Study, run: str) -> list[int]:
    """The keep-ks of more points that a run can have, each once."""
    least, most = int(study.config(run).num_experts_per_tok), max(study.experts[run])
    asked = [study.keep_of(run, k) for k in FINE_KEEP if k <= study.num_experts]
    return sorted({k for k in asked if least <= k < most})


def _fine_task(study: Study, loaded: LoadedModel, domain: str, method: str) -> ablation.Task:
    calibration = _calibration(loaded, loaded.key, documents_key())
    rows = study.documents[study.documents["domain"] == domain]
    held_out = ablation.tokenise(rows, _encode(loaded))[domain]
    keep, methods = fine_keep(study, loaded.run), list(dict.fromkeys([method, RANDOM]))
    cuts = ablation.plan_cuts(loaded.live.geometry, keep, methods, ablation.RANDOM_SEEDS)
    other = study.other(domain)
    return ablation.Task(calibration[domain], held_out, calibration[other] if other else None, cuts)


def fine_job(study: Study, choice: Choice) -> Job | None:
    """The finer measurement of the chosen domain and method, if anybody has asked for it."""
    if choice.domain is None or study.curves is None:
        return None
    return measurements.find_points(study.models, choice.domain, choice.method)


def start_fine_job(study: Study, domain: str, method: str) -> None:
    """Measure the domain at more keep-ks, in the background; one model after the other."""
    measurements.start_points(
        study.models, domain, method, lambda: fine_tasks(study, domain, method)
    )
