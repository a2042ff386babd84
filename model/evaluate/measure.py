"""Measures one model on the held-out documents of a corpus: losses, keep-k curves, modularity.

A curve's point is the loss of every document with the K experts of each layer that its domain's
calibration documents prefer by router probability ("own"), with another domain's ("other"), with
random ones ("random"), or with all experts and a pool of K chosen from the document so far
("pool", of EMO's own format alone). K counts the shared experts. Losses are in nats a token.

Shapes: D evaluated documents, M domains, L layers with a router, R routed experts, N tokens.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.data.heldout import CALIBRATION, EVALUATED, HeldOut
from model.emo.modeling import EmoForCausalLM
from model.evaluate import choices, modules
from model.evaluate.choices import Question
from model.evaluate.intervals import Span, domain_means, pooled_mean, span
from model.evaluate.passes import document_means
from model.evaluate.subject import Masks, Subject, subject_of

FORMAT = "emo-viz-evaluation"
FORMAT_VERSION = 1
KEEP = (8, 16, 32, 64)
SHARES = (16, 8, 4, 2)  # of its experts, a model of another family keeps a sixteenth, an eighth, ..
FULL = "full"
SEEN_LIMIT = 0.01  # a document with a larger share of seen sequences is not among the "unseen"
SEED = 0  # of the random experts and the clusters
MAX_CLUSTERED = 100_000  # tokens: the bound of the memory that clustering takes

NONE: Mapping[str, Sequence[Question]] = MappingProxyType({})


@dataclass(frozen=True)
class Measured:
    """Losses by measure ("full", "own/16", ..) [D], and what else was found out."""

    losses: dict[str, NDArray[np.float64]]
    repeats: dict[str, NDArray[np.float64]]
    modules: dict[str, Any]
    choices: dict[str, Any]


def evaluate(
    model: EmoForCausalLM | Subject,
    documents: Sequence[HeldOut],
    keep: Sequence[int] | None = None,
    questions: Mapping[str, Sequence[Question]] = NONE,
) -> dict[str, Any]:
    """All measures of a model in eval mode, as what `python -m model.evaluate` writes.

    keep: numbers of experts a layer, None for usual ones. questions: of multiple choice, by the
    name of their set. Raises ValueError if documents or numbers do not fit.
    """
    subject = subject_of(model)
    keep = keep_sizes(subject, keep)
    evaluated = [each for each in documents if each.role == EVALUATED]
    calibration = [each for each in documents if each.role == CALIBRATION]
    domains = sorted({each.domain for each in evaluated})
    domains_D = np.array([domains.index(each.domain) for each in evaluated], np.int64)
    tokens_D = np.array([len(each.tokens) - 1 for each in evaluated], np.float64)
    of = _Documents(evaluated, calibration, domains, domains_D)
    measured = _measure(subject, keep, of, questions)
    losses_DC = np.stack(list(measured.losses.values()), 1)
    names = list(measured.losses)
    unseen_D = np.array([each.seen < SEEN_LIMIT for each in evaluated])
    groups = {"all": np.ones_like(unseen_D), "unseen": unseen_D}
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": subject.describe() | ({"absent": dict(subject.absent)} if subject.absent else {}),
        "summary": {
            group: _summary(names, losses_DC[kept], tokens_D[kept], domains_D[kept])
            | _repeats(measured.repeats, kept)
            | {"documents": int(kept.sum()), "tokens": int(tokens_D[kept].sum())}
            for group, kept in groups.items()
            if kept.any()
        },
        "modules": measured.modules,
        **({"choices": measured.choices} if measured.choices else {}),
        "domains": _by_domain(names, domains, losses_DC, tokens_D, domains_D),
        "documents": {
            "id": [each.id for each in evaluated],
            "domain": [each.domain for each in evaluated],
            "tokens": tokens_D.astype(int).tolist(),
            "seen": [None if math.isnan(each.seen) else each.seen for each in evaluated],
        },
        "losses": {name: np.round(losses, 4).tolist() for name, losses in measured.losses.items()},
    }


def keep_sizes(subject: Subject, asked: Sequence[int] | None) -> list[int]:
    """Experts to keep a layer, shared ones counted, each fewer than any layer has.

    Raises ValueError for a number that was asked for and is no cut of the model.
    """
    if why := _why_no_cuts(subject):
        if asked is not None:
            raise ValueError(f"No experts can be left out ({why}); leave out --keep.")
        return []
    least, most = subject.slots + subject.shared, min(subject.experts) + subject.shared
    if asked is None:
        usual = KEEP if subject.has_pools else [most // share for share in SHARES]
        return sorted({k for k in usual if least <= k < most})
    if wrong := [k for k in asked if not least <= k < most]:
        raise ValueError(f"{wrong[0]} experts a layer are no cut: keep {least} to {most - 1}.")
    return sorted(set(asked))


def _why_no_cuts(subject: Subject) -> str:
    if not subject.experts:
        return "a dense model has none"
    return subject.absent.get("cuts") or subject.absent.get("modules") or ""


@dataclass(frozen=True)
class _Documents:
    evaluated: Sequence[HeldOut]
    calibration: Sequence[HeldOut]
    domains: Sequence[str]
    domains_D: NDArray[np.int64]


def _measure(
    subject: Subject,
    keep: Sequence[int],
    of: _Documents,
    questions: Mapping[str, Sequence[Question]],
) -> Measured:
    texts, domains_D = [each.tokens for each in of.evaluated], of.domains_D
    full = subject.losses(texts)
    losses = {FULL: document_means(full)}
    repeats = _repeated(texts, full)
    answers = {
        name: {"questions": len(some), "chance": choices.chance(some)}
        | {FULL: choices.accuracy(subject, some, None)}
        for name, some in questions.items()
    }
    if not subject.experts or "modules" in subject.absent:
        return Measured(losses, repeats, {}, answers)
    scores_MLR = _preferences(subject, of.calibration, of.domains)
    found = modules.agreement(*_clusters(subject, texts), domains_D)
    found["keep_overlap"] = {}
    for k in keep:
        kept = k - subject.shared
        own_MLR = keep_sets(scores_MLR, kept)
        cuts = _cuts(subject, own_MLR, kept, domains_D)
        for kind, masks_DLR in cuts.items():
            losses[f"{kind}/{k}"] = document_means(subject.losses(texts, masks_DLR))
        if subject.has_pools:
            losses[f"pool/{k}"] = document_means(subject.losses(texts, causal_pool=kept))
        if len(of.domains) > 1:
            found["keep_overlap"][str(k)] = modules.keep_overlap(own_MLR)
        for name, some in questions.items():
            masks_QLR = _of_questions(some, scores_MLR, own_MLR, of.domains)
            answers[name][f"own/{k}"] = choices.accuracy(subject, some, masks_QLR)
    return Measured(losses, repeats, found, answers)


def _of_questions(
    questions: Sequence[Question],
    scores_MLR: NDArray[np.float64],
    own_MLR: Masks,
    domains: Sequence[str],
) -> Masks:
    """The experts of each question's domain, of another domain those that all domains prefer."""
    kept = int(own_MLR[0, 0].sum())
    by_name = dict(zip(domains, own_MLR, strict=True))
    (common_LR,) = keep_sets(scores_MLR.mean(0, keepdims=True), kept)
    return np.stack([by_name.get(question.domain, common_LR) for question in questions])


def _cuts(
    subject: Subject, own_MLR: Masks, kept: int, domains_D: NDArray[np.int64]
) -> dict[str, Masks]:
    """The experts that each document may use, [D, L, R], by how they were chosen."""
    domains = len(own_MLR)
    cuts = {"own": own_MLR[domains_D]}
    if domains > 1:
        cuts["other"] = own_MLR[(domains_D + max(1, domains // 2)) % domains]
    random_MLR = np.random.default_rng(SEED).random(own_MLR.shape)
    for layer, experts in enumerate(subject.experts):
        random_MLR[:, layer, experts:] = -1  # there are none
    return cuts | {"random": keep_sets(random_MLR, kept)[domains_D]}


def keep_sets(scores_MLR: NDArray[np.float64], kept: int) -> Masks:
    """The `kept` experts of the highest score in every layer, ties to the lower id: [M, L, R]."""
    order = np.argsort(-scores_MLR, axis=-1, kind="stable")
    masks = np.zeros(scores_MLR.shape, bool)
    np.put_along_axis(masks, order[..., :kept], True, axis=-1)
    return masks


def _preferences(
    subject: Subject, calibration: Sequence[HeldOut], domains: Sequence[str]
) -> NDArray[np.float64]:
    """Mean router probability of every expert over a domain's calibration tokens: [M, L, R]."""
    sums: dict[str, torch.Tensor] = {}
    texts = [each.tokens for each in calibration]
    for place, probs_TLR in subject.probabilities(texts):
        domain = calibration[place].domain
        sums[domain] = sums.get(domain, 0.0) + probs_TLR.sum(0)
    if missing := [name for name in domains if name not in sums]:
        raise ValueError(f"The domain {missing[0]!r} has no calibration documents.")
    totals = torch.stack([sums[name] for name in domains]).double()
    scores: NDArray[np.float64] = (totals / totals.sum(-1, keepdim=True)).cpu().numpy()
    return scores


def _clusters(
    subject: Subject, texts: Sequence[NDArray[np.int64]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cluster and document of every token [N], of as many documents as memory has room for."""
    room = np.cumsum([len(tokens) - 1 for tokens in texts]) <= MAX_CLUSTERED
    stride = -(-len(texts) // max(1, int(room.sum())))  # of every domain some
    taken = list(range(0, len(texts), stride))
    rows: dict[int, torch.Tensor] = {}
    for place, probs_TLR in subject.probabilities([texts[d] for d in taken]):
        rows[place] = probs_TLR.flatten(1).clone()
    ordered = [rows[place] for place in range(len(taken))]
    documents_N = np.repeat(np.array(taken), [len(each) for each in ordered])
    return modules.token_clusters(torch.cat(ordered), seed=SEED), documents_N


def _repeated(
    texts: Sequence[NDArray[np.int64]], losses: Sequence[NDArray[np.float32]]
) -> dict[str, NDArray[np.float64]]:
    """Losses at tokens whose pair with the one before has occurred in the document, and elsewhere.

    Where a pair is repeated a model can copy; runs of one kind differ most in when they learn to.
    Sums and counts [D].
    """
    again = [_is_repeat(tokens) for tokens in texts]
    pairs = list(zip(again, losses, strict=True))
    return {
        "repeated": np.array([float(loss[mask].sum()) for mask, loss in pairs]),
        "repeated_count": np.array([float(mask.sum()) for mask, _ in pairs]),
        "elsewhere": np.array([float(loss[~mask].sum()) for mask, loss in pairs]),
        "elsewhere_count": np.array([float((~mask).sum()) for mask, _ in pairs]),
    }


def _is_repeat(tokens: NDArray[np.int64]) -> NDArray[np.bool_]:
    pairs = tokens[:-1] * (1 << 20) + tokens[1:]
    repeat = np.ones(len(pairs), bool)
    repeat[np.unique(pairs, return_index=True)[1]] = False
    return repeat


def _repeats(repeats: dict[str, NDArray[np.float64]], kept: NDArray[np.bool_]) -> dict[str, Span]:
    return {
        name: pooled_mean(repeats[name][kept], repeats[f"{name}_count"][kept])
        for name in ("repeated", "elsewhere")
    }


def _summary(
    names: Sequence[str],
    losses_DC: NDArray[np.float64],
    tokens_D: NDArray[np.float64],
    domains_D: NDArray[np.int64],
) -> dict[str, Any]:
    """Loss of the whole model, and what each cut adds to it: mean over domains, with intervals."""
    means, drawn = domain_means(losses_DC, tokens_D, domains_D)
    full = names.index(FULL)
    increases = {
        name: span(float(means[c] - means[full]), drawn[:, c] - drawn[:, full])
        for c, name in enumerate(names)
        if c != full
    }
    return {FULL: span(float(means[full]), drawn[:, full]), "increase": increases}


def _by_domain(
    names: Sequence[str],
    domains: Sequence[str],
    losses_DC: NDArray[np.float64],
    tokens_D: NDArray[np.float64],
    domains_D: NDArray[np.int64],
) -> dict[str, dict[str, float]]:
    """Loss of every measure on each domain alone."""
    found = {}
    for m, domain in enumerate(domains):
        here = domains_D == m
        means = np.average(losses_DC[here], axis=0, weights=tokens_D[here])
        found[domain] = dict(zip(names, np.round(means, 4).tolist(), strict=True))
    return found
