"""How a text, or many documents, spread over the experts of a model.

Shapes: L layers, T positions (position 0 is the EOS that opens a document and is never counted),
R routed experts, S routed experts a token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emo_viz.analysis.bootstrap import Interval, bootstrap_interval
from emo_viz.trace import Trace

DOCUMENTS_AT_ONCE = 512  # bounds the float64 copies made of a large trace


class Gated(Protocol):
    """Which experts the tokens use, and how much: shapes of `model.run.inference.Recording`."""

    @property
    def expert_ids(self) -> np.ndarray: ...
    @property
    def gate_weights(self) -> np.ndarray: ...


class Recorded(Gated, Protocol):
    """What these functions read of a `model.run.inference.Recording`."""

    @property
    def token_ids(self) -> np.ndarray: ...
    @property
    def entropy(self) -> np.ndarray: ...
    @property
    def loss(self) -> np.ndarray: ...


@dataclass(frozen=True)
class TextRouting:
    """One text in one model, layer by layer; arrays of length L.

    half: the fewest routed experts that carry half of the expert choices of all tokens.
    distinct: routed experts that at least one token uses. overlap: experts that both halves of
    the text use, as a share of those that either uses (NaN for a single token). entropy: mean
    over the tokens, in nats. mean_loss: nats a token.
    """

    num_tokens: int
    half: NDArray[np.int64]
    distinct: NDArray[np.int64]
    overlap: NDArray[np.float64]
    entropy: NDArray[np.float64]
    mean_loss: float


@dataclass(frozen=True)
class Coverage:
    """Routed experts of a layer that a document uses: means over the layers and documents.

    half: the fewest that carry half of the document's expert choices. distinct: all of them.
    routed: how many each layer has.
    """

    half: Interval
    distinct: Interval
    routed: tuple[int, ...]
    num_tokens: int

    @property
    def num_layers(self) -> int:
        return len(self.routed)


def text_routing(recorded: Recorded) -> TextRouting:
    """Count what one text uses of each layer. The id -1 stands for no expert."""
    experts = recorded.expert_ids[:, 1:]
    tokens = experts.shape[1]
    halves = experts[:, : tokens // 2], experts[:, tokens // 2 :]
    return TextRouting(
        num_tokens=tokens,
        half=np.array([int(half_load(np.bincount(_chosen(layer)))) for layer in experts]),
        distinct=np.array([len(np.unique(_chosen(layer))) for layer in experts]),
        overlap=np.array([_jaccard(a, b) for a, b in zip(*halves, strict=True)]),
        entropy=recorded.entropy[:, 1:].mean(axis=1, dtype=np.float64),
        mean_loss=_mean(recorded.loss),
    )


def _mean(losses: NDArray[np.floating]) -> float:
    """NaN for a model that has none."""
    known = losses[~np.isnan(losses)]
    return float(known.mean(dtype=np.float64)) if known.size else float("nan")


def expert_order(recorded: Gated, layer: int, num_routed: int) -> NDArray[np.int64]:
    """All routed experts of a layer by falling sum of gate weights over the text, [R].

    num_routed: R, how many this layer has.
    Experts that no token uses follow by id.
    """
    ids, weights = recorded.expert_ids[layer, 1:], recorded.gate_weights[layer, 1:]
    mass = np.bincount(_chosen(ids), weights=weights[ids >= 0], minlength=num_routed)
    return np.argsort(-mass, kind="stable")


def gate_matrix(recorded: Gated, layer: int, num_routed: int) -> NDArray[np.float32]:
    """Gate weights of one layer as [T - 1, R]: 0 where a token does not use the expert.

    num_routed: R, how many this layer has.
    """
    ids, weights = recorded.expert_ids[layer, 1:], recorded.gate_weights[layer, 1:]
    gates = np.zeros((len(ids), num_routed), dtype=np.float32)
    tokens, slots = np.nonzero(ids >= 0)
    gates[tokens, ids[tokens, slots]] = weights[tokens, slots]
    return gates


def routing_table(recordings: Mapping[str, Recorded], token_texts: Sequence[str]) -> pd.DataFrame:
    """One row a model, layer and token with its experts and gate weights, for export.

    Empty where a layer has fewer experts than a token could use.
    """
    parts = []
    for model, recorded in recordings.items():
        for layer, (experts, gates) in enumerate(
            zip(recorded.expert_ids, recorded.gate_weights, strict=True)
        ):
            part = pd.DataFrame(
                {
                    "model": model,
                    "layer": layer,
                    "position": np.arange(1, len(token_texts)),
                    "token_id": recorded.token_ids[1:],
                    "token": list(token_texts[1:]),
                    "loss_nats": recorded.loss[1:],
                    "router_entropy_nats": recorded.entropy[layer, 1:],
                }
            )
            for rank in range(experts.shape[1]):
                part[f"expert_{rank + 1}"] = experts[1:, rank]
                part[f"gate_weight_{rank + 1}"] = gates[1:, rank]
            parts.append(part)
    return _without_empty_slots(pd.concat(parts, ignore_index=True))


def _without_empty_slots(table: pd.DataFrame) -> pd.DataFrame:
    """The id -1 is no expert, and its weight no weight."""
    for name in [str(name) for name in table if str(name).startswith("expert_")]:
        if (empty := table[name] < 0).any():
            table[name] = table[name].astype("Int64").mask(empty)
            weight = name.replace("expert", "gate_weight")
            table[weight] = table[weight].mask(empty)
    return table


def half_load(load: NDArray[Any]) -> NDArray[np.int64]:
    """The fewest experts that carry half of the load [..., R], which is 0 or more: [...]."""
    # A trace's float16 is sorted as float32, exactly and in a third of the time.
    kind = np.float32 if load.dtype == np.float16 else np.float64
    falling = np.ascontiguousarray(np.sort(load.astype(kind), axis=-1)[..., ::-1])
    carried = np.cumsum(falling, axis=-1, dtype=np.float64)
    return np.asarray((carried < carried[..., -1:] / 2).sum(axis=-1) + 1)


def coverage(trace: Trace) -> Coverage:
    """How many experts the documents of a trace use, with intervals over the documents.

    Layers without a router are not counted.
    """
    routed = trace.manifest.model.routed
    own = [layer for layer, experts in enumerate(routed) if experts]
    activation = np.asarray(trace.activation)
    if len(own) < len(routed):
        activation = activation[:, own]
    starts = range(0, len(activation), DOCUMENTS_AT_ONCE)
    parts = [activation[start : start + DOCUMENTS_AT_ONCE] for start in starts]
    half = np.concatenate([half_load(part).mean(axis=1) for part in parts])
    distinct = np.concatenate([(part > 0).sum(axis=2).mean(axis=1) for part in parts])
    return Coverage(
        half=bootstrap_interval(half),
        distinct=bootstrap_interval(distinct),
        routed=tuple(routed[layer] for layer in own),
        num_tokens=trace.manifest.tokens,
    )


def _chosen(expert_ids: np.ndarray) -> np.ndarray:
    """The ids of experts, flat: layers with fewer experts than a token could use hold -1 too."""
    chosen: np.ndarray = expert_ids[expert_ids >= 0]
    return chosen


def _jaccard(first: np.ndarray, second: np.ndarray) -> float:
    first, second = _chosen(first), _chosen(second)
    if not (first.size and second.size):
        return float("nan")
    either = len(np.union1d(first, second))
    return len(np.intersect1d(first, second)) / either
