"""Measures checkpoints of one training run on the same documents, one by one, into one file.

The file is written after every checkpoint: what was stopped goes on from there, and checkpoints
that come later are added to it.

Shapes: D documents, M domains, L layers, R routed experts, K notches, T tokens.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emo_viz.analysis.ablation import check_disjoint
from emo_viz.analysis.alignment import alignment
from emo_viz.analysis.bootstrap import Interval
from emo_viz.analysis.clusters import spherical_kmeans
from emo_viz.analysis.origins import documents_digest
from emo_viz.analysis.runs import run_id
from emo_viz.analysis.training_history import (
    DOCUMENT_NMI,
    MODAL_SHARE,
    TOKEN_NMI,
    Documents,
    History,
    Moment,
    merged,
    read_history,
    write_history,
)
from emo_viz.analysis.vectors import fit_pca, flatten_usage, unit_rows
from emo_viz.runs.progress import Counter, Report, unreported
from emo_viz.runs.trained import find_tokenizer, open_checkpoint
from emo_viz.runs.workers import shared_out
from emo_viz.trace.documents import read_documents
from model.files import check_new_file, weights_digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from model.emo.modeling import EmoForCausalLM

PER_DOMAIN = 12
KEEPS = (8, 16, 32, 64)
MAX_TOKENS = 256
TOKEN_CLUSTERS = 32
OPENING = 90  # characters of a text that the page tells

Texts = list[NDArray[np.int64]]


@dataclass(frozen=True)
class Given:
    """What every checkpoint is measured on; domains of the documents in `names`."""

    documents: pd.DataFrame
    calibration: pd.DataFrame
    texts: Texts
    calibration_texts: Texts

    @property
    def names(self) -> list[str]:
        return sorted(set(self.documents["domain"]))

    @property
    def codes(self) -> NDArray[np.int64]:
        """The domain of each document [D], as its place in `names`."""
        return np.array([self.names.index(name) for name in self.documents["domain"]], np.int64)


class Job(NamedTuple):
    """A checkpoint that is to be measured; weights: their digest."""

    step: int
    folder: Path
    weights: str


class Made(NamedTuple):
    """A measured checkpoint; its experts a token, and those of a layer."""

    moment: Moment
    tokens_per_step: int | None
    least: int
    whole: int


def measure_history(
    checkpoints: Sequence[tuple[int, Path]],
    documents: Path,
    calibration: Path,
    out: Path,
    tokenizer: Path | None = None,
    keeps: Sequence[int] = KEEPS,
    per_domain: int = PER_DOMAIN,
    run: str = "",
    about: str = "",
    report: Report = unreported,
    anew: bool = False,
    workers: int = 1,
) -> History:
    """Measure checkpoints, (step, folder) each, and write the history to `out`.

    What `out` holds of other steps, or of the same weights, measured on the same documents, stays.
    per_domain: documents of each domain that are measured. about: a sentence on which run it is.
    anew: what `out` holds of another training or other documents is replaced, not refused.
    workers: processes, each with its own copy of a model; the bytes are the same by any number.
    Raises ValueError for checkpoints or documents that cannot be measured.
    """
    check_new_file(out)
    _check_steps(checkpoints)
    folders = [folder for _, folder in checkpoints]
    found = find_tokenizer(folders, tokenizer)
    given = _given(documents, calibration, per_domain, found)
    digests = {folder: weights_digest(folder) for folder in folders}
    run = run or run_id(folders[0].resolve().parent)
    history = _fresh(given, tuple(keeps), run, about)
    weights = {step: digests[folder] for step, folder in checkpoints}
    if out.exists() and not (anew and _is_of_another(out, history, weights)):
        history = _gone_on_with(out, history)
    there = {(moment.step, moment.weights) for moment in history.moments}
    missing = [each for each in checkpoints if (each[0], digests[each[1]]) not in there]
    step = Counter(report, len(missing))
    jobs = [Job(number, folder, digests[folder]) for number, folder in sorted(missing)]
    with shared_out(partial(_made, given, found, history.keeps), jobs, workers) as made:
        for each in made:
            history = _with(history, each)
            write_history(out, history)
            step()
    if not missing and history.moments:
        write_history(out, history)
    return history


def _check_steps(checkpoints: Sequence[tuple[int, Path]]) -> None:
    steps = [step for step, _ in checkpoints]
    for step, folder in checkpoints:
        if steps.count(step) > 1:
            raise ValueError(f"Step {step} is named twice; name each step once.")
        if not folder.is_dir():
            raise ValueError(f"There is no checkpoint at {folder}; check the path.")


def _given(
    documents: Path, calibration: Path, per_domain: int, tokenizer: "PreTrainedTokenizerBase"
) -> Given:
    """The first documents of each domain, and all calibration documents of these domains."""
    from model.run.inference import encode

    frames = [read_documents(path, required=("id", "domain")) for path in (documents, calibration)]
    for frame in frames:
        if "parent" not in frame:
            frame["parent"] = np.nan
    check_disjoint(*frames)
    some = frames[0].groupby("domain", sort=True).head(per_domain).reset_index(drop=True)
    few = frames[1][frames[1]["domain"].isin(some["domain"])].reset_index(drop=True)
    if lacking := sorted(set(some["domain"]) - set(few["domain"])):
        raise ValueError(f"The domain {lacking[0]!r} has no calibration documents.")
    texts = [
        [encode(tokenizer, text, MAX_TOKENS).token_ids for text in frame["text"]]
        for frame in (some, few)
    ]
    return Given(some, few, *texts)


def _fresh(given: Given, keeps: tuple[int, ...], run: str, about: str) -> History:
    """An empty history of these documents."""
    digests = [documents_digest(frame) for frame in (given.documents, given.calibration)]
    key = hashlib.sha256(json.dumps([digests, list(keeps), MAX_TOKENS]).encode()).hexdigest()
    return History(run, about, key, _told(given), len(given.calibration), keeps, None, ())


def _gone_on_with(out: Path, fresh: History) -> History:
    """The history in the file. Raises ValueError if it is of other documents or another run."""
    old = read_history(out)  # what cannot be read is not overwritten
    if not _is_like(old, fresh):
        raise ValueError(
            f"{out} is of another run or of other documents; name another --out, or remove it."
        )
    return replace(old, about=fresh.about or old.about)


def _is_like(old: History, fresh: History) -> bool:
    return (old.key, old.run) == (fresh.key, fresh.run)


def _is_of_another(out: Path, fresh: History, weights: Mapping[int, str]) -> bool:
    """Whether the file cannot be read, is of other documents or another run, or of another
    training of that name: one that shares no checkpoint, or has another one at a step.

    weights: digests by step.
    """
    try:
        old = read_history(out)
    except ValueError:
        return True
    shared = [weights[each.step] == each.weights for each in old.moments if each.step in weights]
    return not (_is_like(old, fresh) and shared and all(shared))


def _told(given: Given) -> Documents:
    frame = given.documents
    sources = frame["source"] if "source" in frame else frame["id"]
    return Documents(
        tuple(map(str, frame["id"])),
        tuple(map(str, frame["domain"])),
        tuple("" if pd.isna(each) else str(each) for each in sources),
        tuple(" ".join(text[: 3 * OPENING].split())[:OPENING] for text in frame["text"]),
        tuple(len(tokens) - 1 for tokens in given.texts),
    )


def _made(
    given: Given, tokenizer: "PreTrainedTokenizerBase", keeps: Sequence[int], job: Job
) -> Made:
    """Measure one checkpoint, at the notches and with all its experts."""
    model, tokens = open_checkpoint(job.folder, tokenizer)
    experts = {router.num_experts for router in model.routers()}  # shared ones among them
    if len(experts) != 1:
        raise ValueError(
            "Only checkpoints whose layers all have the same number of experts can be measured."
        )
    sizes = (model.config.num_experts_per_tok, experts.pop())
    moment = _measure(model, job.step, job.weights, given, _notches(keeps, *sizes))
    return Made(moment, tokens, *sizes)


def _notches(keeps: Sequence[int], least: int, whole: int) -> tuple[int, ...]:
    """Sorted, that of all experts the last."""
    cuts = [keep for keep in keeps if keep != whole]
    if bad := [keep for keep in cuts if not least <= keep < whole]:
        raise ValueError(f"{bad[0]} experts cannot be kept; choose from {least} to {whole - 1}.")
    return (*sorted(cuts), whole)


def _with(history: History, made: Made) -> History:
    """The history with a checkpoint, and what it says of a step."""
    keeps = _notches(history.keeps, made.least, made.whole)
    if history.moments and keeps != history.keeps:
        raise ValueError("All checkpoints must have the same number of experts.")
    return replace(
        history,
        keeps=keeps,
        tokens_per_step=made.tokens_per_step or history.tokens_per_step,
        moments=merged(history.moments, [made.moment]),
    )


def _measure(
    model: "EmoForCausalLM", step: int, weights: str, given: Given, keeps: Sequence[int]
) -> Moment:
    """What one checkpoint does with the documents."""
    from model.evaluate.measure import keep_sets
    from model.evaluate.passes import document_means, token_losses

    scores_MLR = _preferences(model, given)
    usage, modular = _routing(model, given)
    shared, codes = model.config.num_shared_experts, given.codes
    losses = []
    for keep in keeps[:-1]:
        masks = keep_sets(scores_MLR, keep - shared)[codes]
        losses.append(document_means(token_losses(model, given.texts, masks)))
    losses.append(document_means(token_losses(model, given.texts)))
    return Moment(step, weights, usage, np.stack(losses, 1).astype(np.float32), modular)


def _preferences(model: "EmoForCausalLM", given: Given) -> NDArray[np.float64]:
    """Mean router probability of every expert over a domain's calibration documents: [M, L, R]."""
    from model.run.selection import expert_scores

    domains = np.array(given.calibration["domain"])
    own = [np.flatnonzero(domains == name) for name in given.names]
    return np.stack(
        [expert_scores(model, [given.calibration_texts[d] for d in places]) for places in own]
    )


def _routing(
    model: "EmoForCausalLM", given: Given
) -> tuple[NDArray[np.float32], dict[str, Interval]]:
    """The documents' usage [D, L, R], and how modular the routing is."""
    import torch

    from model.evaluate import modules
    from model.evaluate.passes import router_probabilities

    rows: dict[int, Any] = {}
    usage: dict[int, NDArray[np.float32]] = {}
    for place, probs_TLR in router_probabilities(model, given.texts):
        rows[place] = probs_TLR.flatten(1).clone()
        usage[place] = probs_TLR.mean(0).float().cpu().numpy()
    places = range(len(given.texts))
    usages = np.stack([usage[place] for place in places])
    clusters = modules.token_clusters(torch.cat([rows[place] for place in places]), TOKEN_CLUSTERS)
    documents = np.repeat(np.arange(len(given.texts)), [len(rows[place]) for place in places])
    tokens = modules.agreement(clusters, documents, given.codes)
    return usages, {
        DOCUMENT_NMI: _document_nmi(usages, given),
        TOKEN_NMI: _interval(tokens["nmi"], len(usages)),
        MODAL_SHARE: _interval(tokens["modal_share"], len(usages)),
    }


def _interval(span: Sequence[float], documents: int) -> Interval:
    mean, low, high = span
    return Interval(mean, low, high, documents)


def _document_nmi(usage: NDArray[np.float32], given: Given) -> Interval:
    """Agreement of as many clusters of documents as there are domains with the domains."""
    rows = flatten_usage(usage)
    vectors = unit_rows(fit_pca(rows).project(rows))
    found = spherical_kmeans(vectors, len(given.names))
    return alignment(found.labels, given.codes).nmi
