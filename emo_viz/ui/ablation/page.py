"""Subset ablation page: what there is to show, and what of it was measured.

Opens the curves and the models. Nothing here draws, but for an empty state.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pandas as pd
import streamlit as st

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
from emo_viz.figures.kept import beside
from emo_viz.server import assets, commands, library, measurements
from emo_viz.server.jobs import Job
from emo_viz.server.library import Models
from emo_viz.ui.ablation.by_hand import Switches
from emo_viz.ui.parts import freshness, measuring, together, unseen
from emo_viz.ui.shell import missing, routes
from emo_viz.ui.shell.words import escape_markdown, with_commands

if TYPE_CHECKING:
    pass

OWN = routes.OWN_DOCUMENT
WORTH, WORTH_HERE = "importance", "importance_document"
BY_WORTH = (WORTH, WORTH_HERE)  # chosen now: no curves are measured of them
METHOD_WORDS = {
    ROUTER_PROBABILITY: "the experts with the highest mean router probability on the calibration "
    "documents, in one pass of the full model",
    GREEDY: "the experts with the highest mean router probability, layer by layer, each layer "
    "measured with the layers below it already cut",
    OTHER_DOMAIN: "the experts with the highest mean router probability on the calibration "
    "documents of another domain",
    RANDOM: "experts drawn at random in every layer",
    WORTH: "the experts of the highest importance on the calibration documents, a first-order "
    "estimate from one backward pass of each",
    WORTH_HERE: "the experts of the highest importance on the document shown, a first-order "
    "estimate from one backward pass: they have seen what they are tried on",
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

    @cached_property
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

    @cached_property
    def methods(self) -> list[str]:
        if self.curves is None:
            return [*ablation.default_methods(len(self.domains)), *BY_WORTH]
        measured = set(self.curves.rows["method"].unique())
        return [*(method for method in METHODS if method in measured), *BY_WORTH]

    def other(self, domain: str) -> str | None:
        """The domain whose experts stand for another one's."""
        if self.curves is None:
            return ablation.other_domains(self.domains).get(domain)
        other: str | None = self.curves.info["domains"][domain]["other"]
        return other

    def calibration_ids(self, domain: str) -> tuple[str, ...]:
        """The documents that the experts of a domain are chosen on."""
        if self.curves is None:
            table = library.calibration_documents()
            ids = table.loc[table["domain"] == domain, "id"].astype(str)
            return tuple(ids[: ablation.MAX_CALIBRATION])
        return tuple(self.curves.info["domains"][domain]["calibration"])


@dataclass(frozen=True)
class Choice:
    """What the visitor looks at; domain None means all. `document` is an id, or OWN with `text`.
    switched: single experts, by hand. only_new: the curves are of documents that training has
    hardly seen."""

    domain: str | None
    method: str
    keep_k: int
    document: str
    text: str = ""
    switched: Switches = ()
    only_new: bool = False

    @property
    def is_own(self) -> bool:
        return self.document == OWN


def open_study() -> Study:
    """Everything measured, or an empty state that says what to run (the script ends there).

    Models that do not compare token by token, or have other documents, are shown one at a time.
    """
    models = library.models()
    together.say_left_out(models.left_out)
    models = models.of(_shown(models.comparison))
    if not _all_emo(models):
        return _measured_or_live(models)
    return _measured_study(_stored_curves(models), models)


def _shown(runs: Comparison) -> Comparison:
    """The runs, or one of two that do not stand side by side."""
    said = measurements.why_not(runs)
    if not said:
        return together.shown(runs, "tokens")
    one = together.one_of_them(runs, said)
    library.choose(one.runs)  # all documents of the page are its own
    return one


def _all_emo(models: Models) -> bool:
    return all(one.live.is_emo for one in models)


def _stored_curves(models: Models) -> Curves:
    paths = assets.curves_paths(models.comparison.ids)
    try:
        return _curves(paths, _key(paths))
    except ValueError as error:
        unmeasured = "No subset curves have been measured yet."
        there = all(path.exists() for path in paths)
        _nothing(models, with_commands(str(error)) if there else unmeasured)


def _measured_or_live(models: Models) -> Study:
    """Of other families than EMO: with curves where there are some of these models and documents.

    Else all is computed now. Ends the page for a model that cannot be cut.
    """
    if said := next((one.live.why_not_cut for one in models if one.live.why_not_cut), ""):
        st.info(escape_markdown(said), icon=":material/visibility_off:")
        missing.end()
    documents, paths = library.documents(), assets.curves_paths(models.comparison.ids)
    try:
        curves = _fresh(_curves(paths, _key(paths)), models)
    except freshness.Stale as error:
        st.warning(f"{error} They are not shown.", icon=":material/update:")
        return _unmeasured(models, documents)
    except ValueError:
        return _unmeasured(models, documents)
    if not _are_of(curves, documents):
        return _unmeasured(models, documents)
    return Study(curves, models, documents)


def _unmeasured(models: Models, documents: pd.DataFrame) -> Study:
    try:
        calibration = library.calibration_documents()
    except ValueError as error:
        raise library.Missing(str(error), commands.documents(library.documents_path())) from error
    domains = sorted({*documents["domain"]} & {*calibration["domain"]})
    if not domains:
        raise library.Missing(
            "No domain has both documents and calibration documents.",
            commands.documents(library.documents_path()),
        )
    return Study(None, models, documents[documents["domain"].isin(domains)], tuple(domains))


def _measured_study(every: Curves, models: Models) -> Study:
    try:
        curves = _fresh(every, models)
    except freshness.Stale as error:
        _nothing(models, str(error), freshness.OUT_OF_DATE)
    except ValueError as error:
        _nothing(models, with_commands(str(error)))
    documents = library.documents()
    if not _are_of(curves, documents):
        _nothing(models, "The subset curves were measured on other documents than these.")
    return Study(curves, models, documents)


def _fresh(every: Curves, models: Models) -> Curves:
    """Those of the runs that are shown. Raises ValueError where they are not of what lies here."""
    ids = models.comparison.ids
    curves = beside(every, ids, lambda: every.of_runs(ids))
    freshness.check("The subset curves", curves.origins)
    return curves


def measured_ids(curves: Curves) -> set[str]:
    """The ids of the documents that curves were measured on."""
    return beside(curves, "documents", lambda: set(curves.rows["document"].unique()))


def _are_of(curves: Curves, documents: pd.DataFrame) -> bool:
    return measured_ids(curves) <= beside(documents, "ids", lambda: set(documents["id"]))


def _nothing(models: Models, sentence: str, headline: str = "Nothing to show yet") -> NoReturn:
    command = commands.curves(models.comparison.ids)
    words = f"{sentence} Measure them with this command, or here:" if command else sentence
    missing.empty_state(words, command, headline)
    measuring.all_curves(models, "Measure all curves")
    missing.end()


def _key(paths: tuple[Path, ...]) -> str:
    """Of the curves and of what is said of them in the files beside."""
    return assets.content(*paths, *(path.with_suffix(".json") for path in paths))


@st.cache_resource(max_entries=2, show_spinner=False)
def _curves(paths: tuple[Path, ...], key: str) -> Curves:
    return read_together(paths)


def measured(study: Study, choice: Choice) -> Measured | None:
    """The curves of the chosen domain: finer ones, if they have been measured on this server.

    None where there are none of these runs, or of experts chosen this way.
    """
    if study.curves is None or choice.method in BY_WORTH:
        return None
    job = fine_job(study, choice)
    if job is not None and isinstance(job.result, Measured):
        return job.result
    key = _key(assets.curves_paths(study.runs.ids))
    if choice.only_new:
        key += assets.content(library.documents_path())
    return _measured(study, key, study.runs.ids, choice.domain, choice.only_new)


@st.cache_resource(max_entries=64, show_spinner="Averaging the curves …")
def _measured(
    _study: Study, key: str, runs: tuple[str, ...], domain: str | None, only_new: bool
) -> Measured:
    assert _study.curves is not None, "the caller has looked"
    curves = unseen.restricted(_study.curves, _study.documents, only_new)
    return Measured.of(curves.of_domain(domain))


def fine_job(study: Study, choice: Choice) -> Job | None:
    """The finer measurement of the chosen domain and method, if anybody has asked for it."""
    if choice.domain is None or study.curves is None or choice.method in BY_WORTH:
        return None
    if choice.only_new:  # it is of all documents
        return None
    return measurements.find_points(study.models, choice.domain, choice.method)
