"""One document at a glance: where its tokens are routed, and what is left of it in a cut model.

What the first screen shows. A file of it is written by `python -m emo_viz glance`, so that nobody
waits for a model to see it; where there is none, the same is made of a model or of a trace.

Shapes: L layers with a router, T tokens of the text (the opening one left out), R routed experts of
the largest layer, K of them a token, N notches of the slider.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emo_viz.analysis.arrays import (
    Arrays,
    by_number,
    check_shape,
    damaged,
    load_arrays,
    of_runs,
    save_arrays,
)
from emo_viz.analysis.curves import FULL, ROUTER_PROBABILITY
from emo_viz.analysis.origins import Origins

FORMAT, FORMAT_VERSION = "emo-viz-glance", 1
KEEP_K = 16
STEPS = (1.0, 1.25, 1.5, 1.75)  # notches between a number of experts and its double
NONE = -1
FEWEST_TOKENS = 40  # of a document that is worth a look
LOOKED_AT = 200  # words of a document


@dataclass(frozen=True)
class Text:
    """The document shown, plain text all; it is a whole one unless `rest` tokens are left out."""

    id: str
    domain: str
    title: str
    source: str
    licence: str
    rest: int = 0


@dataclass(frozen=True, eq=False)
class Glance:
    """What one run makes of the text.

    pieces [T]: the tokens' texts. layers [L]: the model's own number of each; routed [L]: experts
    that its router chooses among. shared: experts that serve every token besides; per_token: that a
    token uses, shared ones counted.
    expert_ids [L, T, K], -1 for none; weights [L, T, K]: the share of a token's routing that each
    has, summing to 1. ranking [L, R]: routed experts by falling use in the other documents that
    `ranked_on` counts, -1 after those that a layer has. keeps [N]: experts kept at each notch,
    rising to all, shared ones counted. losses [N, T] in nats, those of the kept experts alone; None
    where nothing could be cut.
    """

    pieces: tuple[str, ...]
    layers: tuple[int, ...]
    routed: tuple[int, ...]
    shared: int
    per_token: int
    ranked_on: int
    keeps: tuple[int, ...]
    expert_ids: NDArray[np.int64]
    weights: NDArray[np.float32]
    ranking: NDArray[np.int64]
    losses: NDArray[np.float32] | None

    @property
    def experts(self) -> tuple[int, ...]:
        """Experts of every layer, the shared ones counted."""
        return tuple(routed + self.shared for routed in self.routed)

    @property
    def places(self) -> NDArray[np.int64]:
        """Where in the ranking the experts of each token stand [L, T, K]; -1 for none."""
        order = np.argsort(np.where(self.ranking < 0, self.ranking.shape[1], self.ranking), axis=1)
        found = [row[ids] for row, ids in zip(order, self.expert_ids, strict=True)]
        return np.where(self.expert_ids < 0, -1, np.stack(found))

    @property
    def kept(self) -> NDArray[np.int64]:
        """Routed experts that each layer keeps at each notch [N, L]."""
        routed = np.array(self.routed)
        kept: NDArray[np.int64] = np.minimum(np.array(self.keeps)[:, None] - self.shared, routed)
        return kept

    @property
    def kept_share(self) -> NDArray[np.float64]:
        """The share of the text's routing that goes to kept experts [N, L]."""
        within = self.places[None] < self.kept[:, :, None, None]
        share: NDArray[np.float64] = np.where(within, self.weights, 0).sum(axis=-1).mean(axis=-1)
        return share

    @property
    def change(self) -> NDArray[np.float32] | None:
        """Loss of each token at each notch less that with all experts [N, T], in nats."""
        return None if self.losses is None else self.losses - self.losses[-1]


@dataclass(frozen=True, eq=False)
class Glances:
    """The text as each run reads it, by run id, and what this was made from."""

    text: Text
    runs: Mapping[str, Glance]
    origins: Origins = Origins()

    def of(self, runs: Sequence[str]) -> "Glances":
        """Those of these runs alone. Raises ValueError for one that is not here."""
        if missing := [run for run in runs if run not in self.runs]:
            raise ValueError(f"The first look holds no run {missing[0]}.")
        own = {run: self.runs[run] for run in runs}
        models = {run: self.origins.models[run] for run in runs if run in self.origins.models}
        origins = Origins(models, self.origins.documents, self.origins.calibration)
        return Glances(self.text, own, origins)


def notches(per_token: int, most: int) -> tuple[int, ...]:
    """Numbers of experts to keep, from what a token uses to all: four to a doubling."""
    first = max(1, min(per_token, most))
    doublings = range((most // first).bit_length())
    steps = {round((first << n) * step) for n in doublings for step in STEPS}
    return tuple(sorted({k for k in steps if k < most} | {first, most}))


def same_share(keeps: Sequence[int], per_token: int, most: int) -> tuple[int, ...]:
    """Of a run with `most` experts a layer as large a share as `keeps` are of their last."""
    return tuple(min(most, max(per_token, round(k * most / keeps[-1]))) for k in keeps)


def shares(weights: NDArray[Any] | None, expert_ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Gate weights [L, T, K] such that those of a token sum to 1; equal ones where unknown."""
    there = expert_ids >= 0
    known = there if weights is None else np.where(there, np.nan_to_num(weights), 0)
    total = known.sum(axis=-1, keepdims=True)
    return (known / np.where(total > 0, total, 1)).astype(np.float32)


def by_use(use: NDArray[Any], routed: Sequence[int]) -> NDArray[np.int64]:
    """The ranking of routed experts by falling use [L, R], -1 after those that a layer has."""
    ranking = np.full(use.shape, -1)
    for layer, count in enumerate(routed):
        ranking[layer, :count] = np.argsort(-use[layer, :count], kind="stable")
    return ranking


def typical(rows: pd.DataFrame, documents: pd.DataFrame) -> str | None:
    """The document that a cut costs what it costs most: no example is picked by hand.

    Of `documents` (with id), that whose loss increases in the runs of the curves' rows are nearest
    to the medians over all, with the experts of its domain, at the measured keep-k nearest to
    KEEP_K. None if none of them was measured.
    """
    plain = rows.astype({"model": str, "method": str, "document": str})
    full = plain[plain["method"] == FULL].set_index(["document", "model"])
    cut = plain[plain["method"] == ROUTER_PROBABILITY]
    if full.empty or cut.empty:
        return None
    measured = cut["keep_k"].unique()
    cut = cut[cut["keep_k"] == min(measured, key=lambda k: (abs(int(k) - KEEP_K), k))]
    cut = cut.set_index(["document", "model"])
    increase = ((cut["loss_sum"] - full["loss_sum"]) / full["tokens"]).unstack().dropna()
    apart = (increase - increase.median()).abs().sum(axis=1)
    own = apart[apart.index.isin(set(documents["id"].astype(str)))].sort_values(kind="stable")
    return str(own.index[0]) if len(own) else None


def whole(documents: pd.DataFrame, domain: str = "") -> pd.DataFrame:
    """The documents (of a domain) that are here from beginning to end; all if none is.

    Raises ValueError for a domain without documents.
    """
    own = documents[documents["domain"] == domain] if domain else documents
    if own.empty:
        raise ValueError(f"There are no documents of the domain {domain}.")
    if "cut_tokens" not in own:
        return own
    cut = pd.to_numeric(own["cut_tokens"], errors="coerce").fillna(0)
    uncut = own[cut == 0]
    return uncut if len(uncut) else own


def told_once(documents: pd.DataFrame) -> pd.DataFrame:
    """The half of the documents that repeat their words least: lists of one term read badly."""
    apart = documents["text"].map(_share_of_distinct_words)
    return documents[apart >= apart.median()]


def _share_of_distinct_words(text: str) -> float:
    words = text.split()[:LOOKED_AT]
    return len(set(words)) / max(1, len(words))


def shortest(lengths: Sequence[int]) -> int:
    """Which document to take where nothing else tells: the shortest worth a look, else the
    longest."""
    enough = [row for row, length in enumerate(lengths) if length >= FEWEST_TOKENS]
    order = sorted(enough, key=lambda row: lengths[row])
    return order[0] if order else int(np.argmax(lengths))


def save_glances(path: Path, glances: Glances) -> None:
    """Write one .npz file. Raises ValueError if it cannot be written."""
    runs = glances.runs
    info: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION}
    info |= {"runs": list(runs), "text": asdict(glances.text)}
    info["origins"] = glances.origins.to_dict()
    info["about"] = [{name: getattr(one, name) for name in _ABOUT} for one in runs.values()]
    arrays = by_number(
        "experts", {run: one.expert_ids.astype(np.int16) for run, one in runs.items()}
    )
    arrays |= by_number(
        "weights", {run: one.weights.astype(np.float16) for run, one in runs.items()}
    )
    arrays |= by_number("ranking", {run: one.ranking.astype(np.int16) for run, one in runs.items()})
    # Whole: the losses of other pages are, and a share that is rounded must round alike.
    none = np.empty((0, 0), np.float32)
    losses = {run: none if one.losses is None else one.losses for run, one in runs.items()}
    arrays |= by_number("losses", losses)
    save_arrays(path, arrays, info)


_ABOUT = ("pieces", "layers", "routed", "shared", "per_token", "ranked_on", "keeps")


def load_glances(path: Path) -> Glances:
    """Read a file. Raises ValueError if there is none, or it is damaged or of another version."""
    arrays, info = load_arrays(path, FORMAT, FORMAT_VERSION)
    with damaged(path):
        return _read(arrays, info)


def _read(arrays: Arrays, info: dict[str, Any]) -> Glances:
    runs = [str(run) for run in info["runs"]]
    of = {name: of_runs(name, arrays, runs) for name in ("experts", "weights", "ranking", "losses")}
    if any(
        ids.dtype.kind not in "iu" for name in ("experts", "ranking") for ids in of[name].values()
    ):
        raise ValueError("ids of experts are whole numbers")
    found = {}
    for run, about in zip(runs, info["about"], strict=True):
        losses = of["losses"][run].astype(np.float32)
        found[run] = Glance(
            pieces=tuple(map(str, about["pieces"])),
            layers=tuple(map(int, about["layers"])),
            routed=tuple(map(int, about["routed"])),
            shared=int(about["shared"]),
            per_token=int(about["per_token"]),
            ranked_on=int(about["ranked_on"]),
            keeps=tuple(map(int, about["keeps"])),
            expert_ids=of["experts"][run].astype(np.int64),
            weights=of["weights"][run].astype(np.float32),
            ranking=of["ranking"][run].astype(np.int64),
            losses=losses if losses.size else None,
        )
        _check(found[run])
    if not found:
        raise ValueError("a first look is of at least one run")
    return Glances(Text(**info["text"]), found, Origins.from_dict(info["origins"]))


def _check(one: Glance) -> None:
    """Raises ValueError unless the arrays fit one another."""
    layers, tokens = len(one.layers), len(one.pieces)
    if not tokens or not layers or len(one.routed) != layers or min(one.routed) < 0:
        raise ValueError("a first look is of tokens and layers")
    check_shape(one.expert_ids, layers, tokens, None)
    check_shape(one.weights, *one.expert_ids.shape)
    check_shape(one.ranking, layers, max(one.routed))
    for ranking, ids, routed in zip(one.ranking, one.expert_ids, one.routed, strict=True):
        if sorted(ranking[:routed]) != list(range(routed)) or (ranking[routed:] != NONE).any():
            raise ValueError("a ranking holds each expert of its layer once")
        if ids.max(initial=NONE) >= routed or ids.min(initial=NONE) < NONE:
            raise ValueError("an expert that the model lacks")
    if one.weights.min(initial=0) < 0 or one.shared < 0:
        raise ValueError("shares and numbers of experts are 0 or more")
    _check_notches(one)


def _check_notches(one: Glance) -> None:
    """Raises ValueError unless experts to keep never fall, with a loss of each token."""
    keeps = np.array(one.keeps)
    if not len(keeps) or keeps[0] < 1 or (np.diff(keeps) < 0).any():
        raise ValueError("the numbers of experts to keep do not fall")
    if one.losses is not None:
        check_shape(one.losses, len(keeps), len(one.pieces))
