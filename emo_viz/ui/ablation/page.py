"""Subset ablation page: what was measured, and what is measured live.

Opens the curves and the pair, runs both models on one document with a subset of their experts, and
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
    read_curves,
)
from emo_viz.analysis.widths import experts_by_layer, in_words
from emo_viz.server import assets, commands, library, measurements
from emo_viz.server.jobs import Job
from emo_viz.server.library import LoadedModel, Pair
from emo_viz.server.measurements import documents_key
from emo_viz.ui.parts import freshness, measuring
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
    """All that the page shows from: measured curves, the pair, the held-out documents."""

    curves: Curves
    pair: Pair
    documents: pd.DataFrame

    @property
    def config(self) -> Any:
        return self.pair.emo.model.config

    @property
    def experts(self) -> tuple[int, ...]:
        """Experts of every layer, the shared ones counted."""
        return experts_by_layer(self.config)

    @property
    def num_experts(self) -> int:
        """Experts of the largest layer: with as many kept, nothing is cut."""
        return max(self.experts)

    @property
    def fewest_kept(self) -> int:
        """The smallest keep-k: what each token uses, where there are as many."""
        return min(int(self.config.num_experts_per_tok), self.num_experts)

    def kept_in_words(self, keep_k: int) -> str:
        """How many experts a layer keeps: layers that have fewer than keep-k keep all theirs."""
        return in_words([min(keep_k, experts) for experts in self.experts])

    @property
    def domains(self) -> list[str]:
        return sorted(self.curves.info["domains"])

    @property
    def methods(self) -> list[str]:
        measured = set(self.curves.rows["method"].unique())
        return [method for method in METHODS if method in measured]


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
    """One document under the chosen subset of each model, computed now.

    pieces: texts of its T tokens, "" for EOS. labels: what each is called. dropped: tokens beyond
    the context. domain: whose calibration chose the experts. subsets, full and cut (losses [T],
    NaN at EOS) have the keys "emo" and "standard".
    """

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

    def change(self, model: str) -> NDArray[np.float32]:
        """Loss with the subset less the loss with all experts, by token [T]."""
        return self.cut[model] - self.full[model]

    def increase(self, model: str) -> float:
        return float(np.nanmean(self.change(model)))

    def worse(self, model: str) -> int:
        """Tokens whose loss rose by more than WORSE."""
        return int((self.change(model) > WORSE).sum())


def open_study() -> Study:
    """Everything measured, or an empty state that says what to run (the script ends there)."""
    path = assets.analysis_path("curves.parquet")
    try:
        curves = _curves(path, _stamp(path))
    except ValueError as error:
        unmeasured = "No subset curves have been measured yet."
        _nothing(escape_markdown(str(error)) if path.exists() else unmeasured)
    study = Study(curves, library.pair(), library.documents())
    try:
        freshness.check("The subset curves", curves.origins)
    except freshness.Stale as error:
        _nothing(str(error), freshness.OUT_OF_DATE)
    if not set(curves.rows["document"].unique()) <= set(study.documents["id"]):
        _nothing("The subset curves were measured on other documents than these.")
    return study


def _nothing(sentence: str, headline: str = "Nothing to show yet") -> NoReturn:
    words = f"{sentence} Measure them with this command, or here:"
    missing.empty_state(words, commands.CURVES, headline)
    measuring.all_curves(library.pair(), "Measure all curves")
    st.stop()


def _stamp(path: Path) -> assets.Stamp:
    """Of the curves and of what is said of them in the file beside."""
    return assets.stamp(path, path.with_suffix(".json"))


@st.cache_resource(max_entries=2, show_spinner=False)
def _curves(path: Path, stamp: assets.Stamp) -> Curves:
    return read_curves(path)


def measured(study: Study, choice: Choice) -> Measured:
    """The curves of the chosen domain: finer ones, if they have been measured on this server."""
    job = fine_job(study, choice)
    if job is not None and isinstance(job.result, Measured):
        return job.result
    stamp = _stamp(assets.analysis_path("curves.parquet"))
    return _measured(study.curves, stamp, choice.domain)


@st.cache_resource(max_entries=64, show_spinner="Averaging the curves …")
def _measured(_curves: Curves, stamp: assets.Stamp, domain: str | None) -> Measured:
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
    """Both models on the chosen document, whole and cut: a few forward passes, done now."""
    shown = _chosen_document(study, choice)
    pair = study.pair
    context = min(ablation.MAX_TOKENS, *(one.model.config.max_position_embeddings for one in pair))
    encoded = tokens_of(pair, shown.text, context)
    token_ids, pieces = encoded.token_ids, encoded.texts
    domain = shown.domain or choice.domain or _nearest(study, token_ids)
    try:
        subsets = {one.name: choose_subset(study, one, domain, choice) for one in pair}
    except ValueError as error:  # greedy at a new keep-k needs the calibration documents
        missing.empty_state(escape_markdown(str(error)), commands.DOCUMENTS)
        st.stop()
    return Live(
        shown=shown,
        token_ids=token_ids,
        pieces=pieces,
        labels=text_labels(pair.emo.tokenizer, token_ids.tolist(), pieces),
        dropped=encoded.dropped,
        domain=domain,
        subsets=subsets,
        full={loaded.name: _losses(loaded, loaded.key, token_ids, ()) for loaded in pair},
        cut={
            loaded.name: _losses(loaded, loaded.key, token_ids, subsets[loaded.name].experts)
            for loaded in pair
        },
    )


def _nearest(study: Study, token_ids: NDArray[np.int64]) -> str:
    """The domain whose favourite experts EMO uses most on a text, as many as a token has."""
    scores = _expert_scores(study.pair.emo, study.pair.emo.key, token_ids)
    rankings = {domain: ranking(study, "emo", domain) for domain in study.domains}
    return ablation.nearest_domain(scores, rankings, study.config.num_routed_per_tok)


@st.cache_resource(max_entries=256, show_spinner=False)
def _expert_scores(
    _loaded: LoadedModel, key: str, token_ids: NDArray[np.int64]
) -> NDArray[np.float64]:
    from model.run.selection import expert_scores

    with run_exclusive(_loaded):
        return expert_scores(_loaded.model, [token_ids])


def choose_subset(study: Study, loaded: LoadedModel, domain: str, choice: Choice) -> "ExpertSubset":
    """The subset of one model for a domain; only a greedy one at a new keep-k asks the model."""
    from model.run.subset import ExpertSubset, full_subset, random_subset

    info, config, keep_k = study.curves.info, loaded.model.config, choice.keep_k
    if keep_k == study.num_experts:
        return full_subset(config)
    if choice.method == RANDOM:
        return random_subset(config, keep_k, seed=0)
    if choice.method == GREEDY:
        known = info["greedy"][loaded.name][domain].get(str(keep_k))
        if known is None:
            return _greedy(loaded, loaded.key, documents_key(), domain, keep_k)
        ids = tuple(info["domains"][domain]["calibration"])
        return ExpertSubset(tuple(map(tuple, known)), GREEDY, ids, keep_k)
    source = info["domains"][domain]["other"] if choice.method == OTHER_DOMAIN else domain
    return ablation.ranked_subset(
        ranking(study, loaded.name, source),
        keep_k,
        config,
        info["domains"][source]["calibration"],
    )


def ranking(study: Study, model: str, domain: str) -> NDArray[np.int64]:
    """Routed experts of every layer by falling router probability on a domain: [L, R].

    -1 where a layer has fewer.
    """
    return np.asarray(study.curves.info["ranking"][model][domain])


@st.cache_resource(max_entries=64, show_spinner="Choosing experts layer by layer …")
def _greedy(
    _loaded: LoadedModel, key: str, documents: str, domain: str, keep_k: int
) -> "ExpertSubset":
    from model.run.selection import select_experts

    texts = _calibration(_loaded, key, documents)[domain]
    with run_exclusive(_loaded):
        return select_experts(_loaded.model, texts.documents, keep_k, "greedy", texts.ids)


@st.cache_resource(max_entries=2, show_spinner=False)
def _calibration(_loaded: LoadedModel, key: str, documents: str) -> dict[str, ablation.Texts]:
    """The calibration documents of every domain, tokenised."""
    texts = ablation.tokenise(library.calibration_documents(), _loaded.tokenizer)
    return {domain: ablation.first_texts(some) for domain, some in texts.items()}


@st.cache_resource(max_entries=512, show_spinner=False)
def _losses(
    _loaded: LoadedModel,
    key: str,
    token_ids: NDArray[np.int64],
    experts: tuple[tuple[int, ...], ...],
) -> NDArray[np.float32]:
    """Losses of one document [T]; `experts` are those kept in each layer, () for all."""
    from model.run.inference import document_losses
    from model.run.subset import ExpertSubset, apply_subset, full_subset

    subset = ExpertSubset(experts, "", (), 0) if experts else full_subset(_loaded.model.config)
    with run_exclusive(_loaded), apply_subset(_loaded.model, subset):
        losses = document_losses(_loaded.model, [token_ids])[0]
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
    from model.run.inference import continue_text
    from model.run.subset import ExpertSubset, apply_subset, full_subset

    subset = ExpertSubset(experts, "", (), 0) if experts else full_subset(_loaded.model.config)
    with run_exclusive(_loaded), apply_subset(_loaded.model, subset):
        return continue_text(_loaded.model, _loaded.tokenizer, prompt_ids, NEW_TOKENS)


def fine_task(study: Study, domain: str, method: str) -> ablation.Task:
    """What "more points" measures: one method and random subsets at FINE_KEEP."""
    loaded = study.pair.emo
    calibration = _calibration(loaded, loaded.key, documents_key())
    rows = study.documents[study.documents["domain"] == domain]
    held_out = ablation.tokenise(rows, loaded.tokenizer)[domain]
    config = study.config
    keep = [k for k in FINE_KEEP if config.num_experts_per_tok <= k < study.num_experts]
    methods = list(dict.fromkeys([method, RANDOM]))
    cuts = ablation.plan_cuts(config, keep, methods, ablation.RANDOM_SEEDS)
    other = study.curves.info["domains"][domain]["other"]
    return ablation.Task(calibration[domain], held_out, calibration[other] if other else None, cuts)


def fine_job(study: Study, choice: Choice) -> Job | None:
    """The finer measurement of the chosen domain and method, if anybody has asked for it."""
    if choice.domain is None:
        return None
    return measurements.find_points(study.pair, choice.domain, choice.method)


def start_fine_job(study: Study, domain: str, method: str) -> None:
    """Measure the domain at more keep-ks, in the background; both models, one after the other."""
    measurements.start_points(study.pair, domain, method, lambda: fine_task(study, domain, method))
