"""Measuring subset curves: choose experts on calibration documents, lose nats on held-out ones.

`measure` does one (model, domain); `python -m emo_viz curves` and the ablation page call it and
`analysis/curves.py` does the arithmetic. A Part, what it returns, is plain data that JSON can hold.

Shapes: L layers, R routed experts, D documents.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emo_viz.analysis.curves import (
    COLUMNS,
    FULL,
    GREEDY,
    METHODS,
    OTHER_DOMAIN,
    RANDOM,
    ROUTER_PROBABILITY,
    Curves,
)
from emo_viz.analysis.origins import Origins
from emo_viz.analysis.widths import experts_by_layer

if TYPE_CHECKING:
    from model.emo.config import EmoConfig
    from model.run.inference import Encoded
    from model.run.live import Live
    from model.run.subset import ExpertSubset

MAX_TOKENS = 256  # of a document, EOS included: the context that the nano pair was trained with
MAX_CALIBRATION = 16
RANDOM_SEEDS = 5
BATCH_TOKENS = 1024  # fastest on a CPU: the logits of larger batches fall out of its caches
GUARDED_DOCUMENTS = 8  # so that a visitor waits for a fraction of a second, not for a whole curve

Encode = Callable[[str], "Encoded"]
Guard = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Texts:
    """Named documents of one domain as token ids, EOS first."""

    domain: str
    ids: tuple[str, ...]
    documents: tuple[NDArray[np.int64], ...]


@dataclass(frozen=True)
class Cut:
    """One cell of a curve: how the experts are chosen, how many stay, which random draw."""

    method: str
    keep_k: int
    seed: int = 0


@dataclass(frozen=True)
class Task:
    """What to measure for one domain: chosen on `calibration`, evaluated on `held_out`.

    `other` is the calibration of another domain, for the cuts of method other_domain.
    """

    calibration: Texts
    held_out: Texts
    other: Texts | None
    cuts: tuple[Cut, ...]

    def fingerprint(self, model: str) -> str:
        """Names the result by all it depends on; `model` is a digest of the weights."""
        state = hashlib.sha256(repr((model, self.cuts)).encode())
        for texts in (self.calibration, self.held_out, self.other):
            state.update(repr((texts.domain, texts.ids) if texts else None).encode())
            for document in texts.documents if texts else ():
                state.update(len(document).to_bytes(8) + document.tobytes())
        return state.hexdigest()


@dataclass(frozen=True)
class Part:
    """The curves of one model on one domain.

    losses[c] are the summed nats of the D held-out documents under cuts[c]; tokens [D]; ranking
    [L, R] lists routed experts by falling router probability on the calibration documents, and
    then -1 where a layer has fewer than R; greedy maps a keep-k to the kept experts of every layer.
    """

    domain: str
    cuts: list[tuple[str, int, int]]
    documents: list[str]
    tokens: list[int]
    losses: list[list[float]]
    ranking: list[list[int]]
    greedy: dict[str, list[list[int]]]

    def check(self, task: Task) -> None:
        """Raises ValueError (TypeError) unless this is what `measure` gives for the task."""
        held_out, losses = task.held_out, np.asarray(self.losses, np.float64)
        same = (
            self.domain == held_out.domain
            and [tuple(cut) for cut in self.cuts]
            == [(c.method, c.keep_k, c.seed) for c in task.cuts]
            and tuple(self.documents) == held_out.ids
            and self.tokens == [len(document) - 1 for document in held_out.documents]
            and losses.shape == (len(self.cuts), len(self.documents))
            and np.asarray(self.ranking).dtype.kind == "i"
            and np.asarray(self.ranking).ndim == 2
            and self.greedy.keys() == {str(c.keep_k) for c in task.cuts if c.method == GREEDY}
        )
        if not (same and np.isfinite(losses).all()):
            raise ValueError(f"This is no measurement of {held_out.domain!r}.")

    def rows(self, model: str) -> pd.DataFrame:
        """The rows of curves.parquet for this part."""
        count, cells = len(self.documents), len(self.cuts)
        method, keep_k, seed = zip(*self.cuts, strict=True)
        columns = {
            "model": model,
            "domain": self.domain,
            "method": np.repeat(method, count),
            "keep_k": np.repeat(np.array(keep_k, np.int16), count),
            "seed": np.repeat(np.array(seed, np.int16), count),
            "document": np.tile(self.documents, cells),
            "loss_sum": np.concatenate(self.losses).astype(np.float32),
            "tokens": np.tile(np.array(self.tokens, np.int32), cells),
        }
        categories = dict.fromkeys(("model", "domain", "method", "document"), "category")
        return pd.DataFrame(columns).astype(categories)


def check_disjoint(documents: pd.DataFrame, calibration: pd.DataFrame) -> None:
    """Raises ValueError if a calibration document, or another part of its parent, is evaluated."""
    for column in ("id", "parent"):
        given = calibration[column].dropna().astype(str)
        shared = set(given[given != ""]) & set(documents[column].dropna().astype(str))
        if shared:
            raise ValueError(
                f"{len(shared)} calibration documents are evaluation documents too (same {column} "
                f"{min(shared)!r}); take them out of one of the two files."
            )


def nearest_domain(
    scores_LR: NDArray[np.float64], rankings: Mapping[str, NDArray[np.int64]], count: int
) -> str:
    """The domain whose `count` favourite experts a layer hold most of a text's router probability.

    scores_LR: the text's mean router probabilities [L, R]; rankings: routed experts of every layer
    by falling router probability on each domain, [L, R], -1 for those that a layer lacks.
    """

    def held(ranking_LR: NDArray[np.int64]) -> float:
        first = ranking_LR[:, :count]
        return float(np.take_along_axis(scores_LR, first, axis=1).sum(where=first >= 0))

    return max(sorted(rankings), key=lambda domain: held(rankings[domain]))


def other_domains(domains: Sequence[str]) -> dict[str, str]:
    """A fixed derangement: every domain's partner is half the sorted list away.

    Half the list, not the next name, because neighbours in the alphabet are often kin.
    """
    names = sorted(domains)
    half = len(names) // 2
    return dict(zip(names, names[half:] + names[:half], strict=True)) if half else {}


def default_keep(config: "EmoConfig") -> list[int]:
    """Keep-ks at which curves are measured: every doubling of the experts that a token uses."""
    most = max(experts_by_layer(config))
    doubled = (config.num_experts_per_tok << n for n in range(most.bit_length()))
    return [k for k in doubled if k < most]


def default_methods(domains: int) -> tuple[str, ...]:
    """The methods that so many domains allow: one domain has no other."""
    return tuple(method for method in METHODS if domains > 1 or method != OTHER_DOMAIN)


def describe(
    configs: Mapping[str, "EmoConfig"],
    origins: Origins,
    keep: Sequence[int],
    methods: Sequence[str],
    random_seeds: int,
) -> dict[str, Any]:
    """What curves.json says of how the curves of the runs were made: see `collect`."""
    return {
        "runs": {run: _experts(config) for run, config in configs.items()},
        **origins.to_dict(),
        "settings": {
            "keep": sorted(set(keep)),
            "methods": list(dict.fromkeys(methods)),
            "random_seeds": random_seeds,
            "max_tokens": MAX_TOKENS,
            "max_calibration": MAX_CALIBRATION,
        },
    }


def _experts(config: "EmoConfig") -> dict[str, Any]:
    """num_experts_per_layer stands there only where the layers differ."""
    experts = experts_by_layer(config)
    uneven = {"num_experts_per_layer": list(experts)} if len(set(experts)) > 1 else {}
    per_token = config.num_experts_per_tok
    return {"num_experts": max(experts), **uneven, "num_experts_per_tok": per_token}


def plan_cuts(
    config: "EmoConfig", keep: Sequence[int], methods: Sequence[str], random_seeds: int
) -> tuple[Cut, ...]:
    """The full model once, then every method at every keep-k below the number of experts.

    That is the number of the largest layer; layers that have no more than keep-k keep them all.
    Raises ValueError for an unknown method or a keep-k out of range.
    """
    from model.run.subset import check_keep_k

    if unknown := set(methods) - set(METHODS):
        raise ValueError(f"There is no method {min(unknown)!r}; choose of {', '.join(METHODS)}.")
    most = max(experts_by_layer(config))
    cuts = [Cut(FULL, most)]
    for keep_k in sorted(set(keep) - {most}):
        check_keep_k(config, keep_k)
        for method in dict.fromkeys(methods):
            seeds = random_seeds if method == RANDOM else 1
            cuts += [Cut(method, keep_k, seed) for seed in range(seeds)]
    return tuple(cuts)


def tokenise(rows: pd.DataFrame, encode: Encode) -> dict[str, Texts]:
    """The documents of each domain, in the order of the rows. rows: id, domain, text."""
    texts = {}
    for domain, group in rows.groupby(rows["domain"].astype(str)):
        documents = tuple(encode(text).token_ids for text in group["text"])
        texts[str(domain)] = Texts(str(domain), tuple(group["id"].astype(str)), documents)
    return texts


def plan_tasks(
    held_out: dict[str, Texts], calibration: dict[str, Texts], cuts: tuple[Cut, ...]
) -> list[Task]:
    """A task for every held-out domain, each with at most MAX_CALIBRATION calibration documents.

    Raises ValueError if a domain has no calibration documents, or other_domain has no partner.
    """
    if missing := set(held_out) - set(calibration):
        raise ValueError(
            f"The domain {min(missing)} has no calibration documents; add some to the "
            "calibration file."
        )
    partners = other_domains(list(held_out))
    if not partners and any(cut.method == OTHER_DOMAIN for cut in cuts):
        raise ValueError("The method other_domain needs at least two domains; leave it out.")
    few = {name: first_texts(calibration[name]) for name in held_out}
    return [
        Task(few[name], texts, few.get(partners.get(name, "")), cuts)
        for name, texts in held_out.items()
    ]


def first_texts(texts: Texts) -> Texts:
    """At most MAX_CALIBRATION documents: what a subset is chosen from."""
    return Texts(texts.domain, texts.ids[:MAX_CALIBRATION], texts.documents[:MAX_CALIBRATION])


def rank_experts(live: "Live", calibration: Texts) -> NDArray[np.int64]:
    """Routed experts of every layer by falling mean router probability: [L, R], one pass.

    A layer with fewer than R ends in -1.
    """
    return ranked(live.scores(calibration.documents), live.geometry)


def ranked(scores_LR: NDArray[np.float64], config: "EmoConfig") -> NDArray[np.int64]:
    """Routed experts of every layer by falling score [L, R], -1 after those that a layer has."""
    from model.run.subset import routed_in_layer

    ranking_LR = np.full(scores_LR.shape, -1)
    for layer, scores_R in enumerate(scores_LR):
        num_routed = routed_in_layer(config, layer)
        ranking_LR[layer, :num_routed] = np.argsort(-scores_R[:num_routed], kind="stable")
    return ranking_LR


def ranked_subset(
    ranking_LR: NDArray[np.int64],
    keep_k: int,
    config: "EmoConfig",
    calibration_ids: Sequence[str],
    groups: int = 1,
) -> "ExpertSubset":
    """The subset of the first experts of a ranking, equally many of each of some groups.

    Raises ValueError for a keep-k out of range.
    """
    from model.run.subset import subset_from_scores

    # Places of the experts; the -1 of absent ones land behind those that a layer has.
    scores_LR = -np.argsort(np.where(ranking_LR < 0, ranking_LR.shape[1], ranking_LR), axis=1)
    how = (config, ROUTER_PROBABILITY, calibration_ids, groups)
    return subset_from_scores(scores_LR, keep_k, *how)


def measure(
    live: "Live",
    task: Task,
    guard: Guard = nullcontext,
    step: Callable[[], None] = lambda: None,
) -> Part:
    """Measure every cut of a task.

    guard() is held around a few documents at a time; step() is called after each cut, outside
    the guard, and may raise to stop. Raises ValueError for losses that are not finite.
    """
    with guard():
        ranking = rank_experts(live, task.calibration)
        needs_other = any(cut.method == OTHER_DOMAIN for cut in task.cuts)
        other = rank_experts(live, task.other) if needs_other and task.other else None
    losses, greedy = [], {}
    for cut in task.cuts:
        with guard():
            subset = _choose(live, task, cut, ranking, other)
        losses.append(_loss_sums(live, task.held_out, subset, guard))
        if cut.method == GREEDY:
            greedy[str(cut.keep_k)] = [list(layer) for layer in subset.experts]
        step()
    if not np.isfinite(losses).all():
        raise ValueError(
            f"The model's losses on {task.held_out.domain} are not finite; train the model again."
        )
    return Part(
        domain=task.held_out.domain,
        cuts=[(cut.method, cut.keep_k, cut.seed) for cut in task.cuts],
        documents=list(task.held_out.ids),
        tokens=[len(document) - 1 for document in task.held_out.documents],
        losses=losses,
        ranking=ranking.tolist(),
        greedy=greedy,
    )


def _choose(
    live: "Live",
    task: Task,
    cut: Cut,
    ranking: NDArray[np.int64],
    other: NDArray[np.int64] | None,
) -> "ExpertSubset":
    from model.run.subset import full_subset, random_subset

    config, given = live.geometry, task.calibration
    groups = live.groups_at(cut.keep_k)
    if cut.method == FULL:
        return full_subset(config)
    if cut.method == RANDOM:
        return random_subset(config, cut.keep_k, cut.seed, groups)
    if cut.method == GREEDY:
        return live.select(given.documents, cut.keep_k, "greedy", given.ids, groups)
    if cut.method == OTHER_DOMAIN:
        assert other is not None and task.other is not None
        return ranked_subset(other, cut.keep_k, config, task.other.ids, groups)
    return ranked_subset(ranking, cut.keep_k, config, given.ids, groups)


def _loss_sums(live: "Live", texts: Texts, subset: "ExpertSubset", guard: Guard) -> list[float]:
    sums: list[float] = []
    for first in range(0, len(texts.documents), GUARDED_DOCUMENTS):
        with guard():
            some = texts.documents[first : first + GUARDED_DOCUMENTS]
            losses = live.many_losses(some, subset.experts, BATCH_TOKENS)
        sums += [float(np.nansum(loss, dtype=np.float64)) for loss in losses]
    return sums


def collect(
    parts: Mapping[str, Sequence[Part]], tasks: Sequence[Task], about: dict[str, Any]
) -> Curves:
    """The parts of every model (by run id) as one set of curves.

    tasks: of any of them, what they have in common counts. about: see `describe`.
    """
    rows = pd.concat([part.rows(model) for model, found in parts.items() for part in found])
    rows = rows.astype(dict.fromkeys(("model", "domain", "method", "document"), "category"))
    domains = {
        task.held_out.domain: {
            "calibration": list(task.calibration.ids),
            "other": task.other.domain if task.other else None,
        }
        for task in tasks
    }
    info = {
        **about,
        "domains": domains,
        "ranking": {m: {part.domain: part.ranking for part in parts[m]} for m in parts},
        "greedy": {m: {part.domain: part.greedy for part in parts[m]} for m in parts},
    }
    return Curves(rows.sort_values(COLUMNS[:6], ignore_index=True), info)


def shared_share(
    kept: Sequence[Sequence[int]], ranking_LR: NDArray[np.int64], routed: Sequence[int]
) -> float:
    """Share of a subset's routed experts that are also among the first of a ranking.

    kept: ids of each layer; as many of the ranking count as the subset keeps routed experts.
    routed: routed experts of each layer. Mean over layers.
    """
    shares = []
    for experts, ranked, num_routed in zip(kept, ranking_LR, routed, strict=True):
        own = {expert for expert in experts if expert < num_routed}
        shares.append(len(own & set(ranked[: len(own)].tolist())) / len(own))
    return float(np.mean(shares))
