"""Experts that work together: in one layer, and from one layer to the next.

Shapes: R routed experts of the largest layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
OTHER = "other"  # all the experts of a layer that are not shown


def expected_pairs(pairs: NDArray[np.integer]) -> Floats:
    """How many tokens would choose both experts [R, R] if choices were independent.

    pairs [R, R]: tokens that chose both; the diagonal: that chose the expert. As many pairs in all
    are dealt out by the product of the two loads. The diagonal is 0.
    """
    counts = np.diagonal(pairs).astype(np.float64)
    product = np.outer(counts, counts)
    np.fill_diagonal(product, 0)
    total = pairs.sum(dtype=np.float64) - counts.sum()
    expected: Floats = product * (total / product.sum() if product.sum() > 0 else 0)
    return expected


def partners(pairs: NDArray[np.integer], expert: int) -> pd.DataFrame:
    """The experts that an expert's tokens also choose, those most above independence first.

    Columns: expert, tokens, share (of the expert's tokens), expected (that share if choices were
    independent), times. Pairs that share no token are left out.
    """
    own, count = pairs[expert].astype(np.float64), max(1, int(pairs[expert, expert]))
    expected = expected_pairs(pairs)[expert]
    table = pd.DataFrame(
        {
            "expert": np.arange(len(own)),
            "tokens": own.astype(np.int64),
            "share": own / count,
            "expected": expected / count,
            "times": own / np.where(expected > 0, expected, np.nan),
        }
    )
    there = (table["expert"] != expert) & (own > 0)
    return _by_surprise(table[there])


def neighbours(flow: NDArray[np.floating], expert: int, back: bool) -> pd.DataFrame:
    """Where an expert's tokens go in the next layer, or (back) come from in the one before.

    flow [R, R]: gate weight from an expert to one of the next layer. Columns as of `partners`,
    without tokens; shares are of gate weight, expected that of all tokens.
    """
    mass = np.asarray(flow, np.float64)
    own = mass[:, expert] if back else mass[expert]
    everywhere = mass.sum(axis=1 if back else 0)
    share, expected = _scaled(own), _scaled(everywhere)
    table = pd.DataFrame({"expert": np.arange(len(own)), "share": share, "expected": expected})
    table["times"] = share / np.where(expected > 0, expected, np.nan)
    return _by_surprise(table[own > 0])


def _by_surprise(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by how much larger the share is than expected, weighed by how large it is."""
    score = table["share"] * np.log(table["times"].clip(lower=1e-12))
    order = np.argsort(-score.to_numpy(), kind="stable")
    return table.iloc[order].reset_index(drop=True)


def _scaled(values: Floats) -> Floats:
    scaled: Floats = values / max(values.sum(), 1e-12)
    return scaled


@dataclass(frozen=True)
class Information:
    """How much an expert of one layer says of the next, in nats: `known` of `possible` (the entropy
    of the next layer's use). by_chance: what as many tokens would show without any relation."""

    known: float
    possible: float
    by_chance: float


def information(flow: NDArray[np.floating], tokens: int) -> Information:
    """Mutual information of the experts of two layers, of one unit of gate weight a token.

    by_chance: the usual approximation (rows - 1) (columns - 1) / (2 tokens).
    """
    joint = np.asarray(flow, np.float64)
    joint = joint / max(joint.sum(), 1e-12)
    before, after = joint.sum(axis=1), joint.sum(axis=0)
    product = np.outer(before, after)
    there = joint > 0
    known = float((joint[there] * np.log(joint[there] / product[there])).sum())
    used = after[after > 0]
    free = ((before > 0).sum() - 1) * ((after > 0).sum() - 1)
    return Information(
        known, float(-(used * np.log(used)).sum()), float(free / (2 * max(tokens, 1)))
    )


@dataclass(frozen=True)
class Stream:
    """Some experts of consecutive layers and what goes between them.

    nodes: for each layer the ids shown, in an order that crosses few streams, then -1 for all
    others together. links: a table with layer (a place in `nodes`), source, target (places among
    the nodes of the two layers), share (of all tokens' gate weight) and times (over what
    independence gives). rest: the share that goes from others to others, mean over layers.
    """

    nodes: tuple[tuple[int, ...], ...]
    links: pd.DataFrame
    rest: float

    def named(self, numbers: Sequence[int]) -> pd.DataFrame:
        """`links` by the experts' ids, or OTHER, and by the layers' own numbers: those of `nodes`.

        Columns: layer, expert, next_layer, next_expert, share, times.
        """
        at = self.links["layer"].to_numpy(int)
        return pd.DataFrame(
            {
                "layer": np.asarray(numbers, int)[at],
                "expert": self._names(at, "source"),
                "next_layer": np.asarray(numbers, int)[at + 1],
                "next_expert": self._names(at + 1, "target"),
                "share": self.links["share"],
                "times": self.links["times"],
            }
        )

    def _names(self, layers: NDArray[np.int64], end: str) -> list[str]:
        """Of the experts at one end of every link."""
        places = zip(layers, self.links[end], strict=True)
        ids = [self.nodes[layer][place] for layer, place in places]
        return [OTHER if expert < 0 else f"{expert}" for expert in ids]

    def strongest(self, numbers: Sequence[int], most: int) -> pd.DataFrame:
        """Rows of `named` from one expert to another, those furthest above independence first."""
        table = self.named(numbers)
        above = table["share"] * (1 - 1 / table["times"])
        ids = (table[["expert", "next_expert"]] != OTHER).all(axis=1)
        order = above[ids].sort_values(ascending=False, kind="stable").index
        return table.loc[order[:most]].reset_index(drop=True)


def stream(flows: Sequence[NDArray[np.floating]], shown: int) -> Stream:
    """The `shown` experts that take part in the strongest streams of each layer, the rest as other.

    flows: between consecutive layers [R, R] each; at least one.
    """
    joints = [np.asarray(flow, np.float64) / max(float(flow.sum()), 1e-12) for flow in flows]
    nodes = [_strongest(_surprise(joints, layer), shown) for layer in range(len(joints) + 1)]
    for layer, joint in enumerate(joints):
        nodes[layer + 1] = _uncrossed(joint, nodes[layer], nodes[layer + 1])
    rows: list[dict[str, Any]] = []
    rest = []
    for layer, joint in enumerate(joints):
        cut = _gathered(joint, nodes[layer], nodes[layer + 1])
        product = np.outer(cut.sum(axis=1), cut.sum(axis=0))
        times = cut / np.where(product > 0, product, np.nan)
        rest.append(cut[-1, -1])
        for source, target in zip(*np.nonzero(cut > 0), strict=True):
            place = {"layer": layer, "source": int(source), "target": int(target)}
            share = {"share": float(cut[source, target]), "times": float(times[source, target])}
            rows.append(place | share)
    ids = tuple((*map(int, own), -1) for own in nodes)
    return Stream(ids, pd.DataFrame(rows, columns=_LINKS), float(np.mean(rest)))


_LINKS = ["layer", "source", "target", "share", "times"]


def _uncrossed(
    joint: Floats, before: NDArray[np.int64], after: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The experts of a layer in the order of where their streams come from, mean over these."""
    if not len(before) or not len(after):
        return after
    above = np.clip(_above(joint)[np.ix_(before, after)], 1e-12, None)
    middles = (np.arange(len(before)) @ above) / above.sum(axis=0)
    ordered: NDArray[np.int64] = after[np.argsort(middles, kind="stable")]
    return ordered


def _surprise(joints: Sequence[Floats], layer: int) -> Floats:
    """By how much the strongest stream of each expert of a layer exceeds independence."""
    found = []
    if layer < len(joints):
        found.append(_above(joints[layer]).max(axis=1))
    if layer > 0:
        found.append(_above(joints[layer - 1]).max(axis=0))
    most: Floats = np.max(found, axis=0)
    return most


def _above(joint: Floats) -> Floats:
    above: Floats = joint - np.outer(joint.sum(axis=1), joint.sum(axis=0))
    return above


def _strongest(score: Floats, most: int) -> NDArray[np.int64]:
    order = np.argsort(-score, kind="stable")[:most]
    kept: NDArray[np.int64] = np.sort(order[score[order] > 0])
    return kept


def _gathered(joint: Floats, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Floats:
    """Some rows and columns of a joint distribution, the others added up as the last ones."""
    some = np.concatenate([joint[rows], np.delete(joint, rows, axis=0).sum(axis=0)[None]])
    rest = np.delete(some, columns, axis=1).sum(axis=1)[:, None]
    cut: Floats = np.concatenate([some[:, columns], rest], axis=1)
    return cut
