"""What single tokens say of every expert: the tokens it is enriched in, where it weighs most, which
experts it works with, and where its tokens come from and go to.

Gathered from one document after another, so that memory does not grow with the layers' pairs.

Shapes: L layers with a router, T positions (position 0 opens the document and is not counted),
K routed experts a token, R routed experts of the largest layer, C contexts, E enriched tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emo_viz.analysis.arrays import (
    Arrays,
    check_shape,
    damaged,
    load_arrays,
    read_geometry,
    save_arrays,
)
from emo_viz.analysis.origins import Origins

FORMAT, FORMAT_VERSION = "emo-viz-experts", 1
CONTEXTS, ENRICHED = 12, 12
MIN_COUNT = 8  # choices of an expert for a token, below which a ratio says nothing
MOST_SLOTS = 1 << 26  # expert choices that are looked at: 128 MiB of ids
NONE = -1

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ExpertTokens:
    """Of one run, by layer and expert.

    numbers [L], routed [L]: as in `ExpertUse`. counts [L, R]: tokens that chose the expert. pairs
    [L, R, R]: tokens that chose both. flow [L - 1, R, R]: how much of the tokens' gate weight goes
    from an expert to one of the next layer; a token counts 1 between two layers. enriched,
    enriched_counts [L, R, E]: token ids and the expert's choices for them, -1 and 0 for none;
    enriched_ratios: their share of the expert's choices over their share of all tokens.
    context_* [L, R, C]: the document's row, the token's position (the first is 1) and gate weight
    (NaN where it is not known), and the characters of the text that it stands for; row -1: none.
    texts: of the enriched tokens by id, where they are known.
    """

    run: str
    numbers: tuple[int, ...]
    routed: tuple[int, ...]
    counts: Integers
    pairs: NDArray[np.int32]
    flow: NDArray[np.float32]
    enriched: Integers
    enriched_counts: Integers
    enriched_ratios: Floats
    context_rows: Integers
    context_positions: Integers
    context_gates: Floats
    context_starts: Integers
    context_ends: Integers
    texts: dict[int, str]
    documents: int
    tokens: int
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def origins(self) -> Origins:
        """The weights and documents it was made from, as far as that is known."""
        return Origins.from_dict(self.info.get("origins", {}))

    def place(self, number: int) -> int | None:
        """Of the layer of this number in the arrays; None if it is not among them."""
        return self.numbers.index(number) if number in self.numbers else None


class Gathering:
    """Adds up documents; `add` each, then `finish`."""

    def __init__(self, numbers: Sequence[int], routed: Sequence[int]) -> None:
        self.numbers, self.routed = tuple(numbers), tuple(routed)
        layers, self._wide = len(self.numbers), max(self.routed, default=0)
        self._pairs = np.zeros((layers, self._wide, self._wide), np.float64)
        self._flow = np.zeros((max(0, layers - 1), self._wide, self._wide), np.float64)
        self._best: list[tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.int64]]] = []
        self._rows: list[int] = []
        self._ids: list[NDArray[np.int16]] = []
        self._token_ids: list[Integers] = []
        self._texts: dict[int, str] = {}
        self.tokens = self.slots = 0
        self._gates_known = True

    @property
    def full(self) -> bool:
        """Whether as much has been added as is looked at."""
        return self.slots >= MOST_SLOTS

    def add(
        self,
        row: int,
        expert_ids: NDArray[np.integer],
        gate_weights: NDArray[np.floating] | None,
        token_ids: NDArray[np.integer] | None,
        texts: Sequence[str] | None,
    ) -> None:
        """One document: its row, its ids [L, T, K] (-1: none), gate weights [L, T, K], token ids
        [T] and the pieces of its text [T], the last three if they are known."""
        ids = np.asarray(expert_ids[:, 1:], np.int64)
        layers, tokens, _ = ids.shape
        gates = np.ones(ids.shape) if gate_weights is None else gate_weights[:, 1:]
        weights = np.zeros((layers, tokens, self._wide), np.float32)
        layer, token, _ = place = np.nonzero(ids >= 0)
        weights[layer, token, ids[place]] = gates[place]
        chosen = np.zeros_like(weights)
        chosen[layer, token, ids[place]] = 1
        self._pairs += chosen.swapaxes(1, 2) @ chosen
        mass = weights / np.maximum(weights.sum(axis=2, keepdims=True), 1e-12)
        if layers > 1:
            self._flow += mass[:-1].swapaxes(1, 2) @ mass[1:]
        self._gates_known &= gate_weights is not None
        self._remember(row, weights, tokens, texts)
        if token_ids is not None:
            self._token_ids.append(np.asarray(token_ids[1:], np.int64))
            self._ids.append(ids.astype(np.int16))
            if texts is not None:
                self._name(token_ids[1:].tolist(), texts[1:])
        self.tokens, self.slots = self.tokens + tokens, self.slots + ids.size

    def _name(self, token_ids: Sequence[int], texts: Sequence[str]) -> None:
        """Keep what each token says; one that only continues a character is named after it."""
        character = ""
        for token, text in zip(token_ids, texts, strict=True):
            if text:
                self._texts[token] = text
                character = text[-1]
            else:
                self._texts.setdefault(token, f"\u2026{character}")

    def finish(self, run: str, info: dict[str, Any]) -> ExpertTokens:
        """What was added, of the run of this id. Raises ValueError for no document."""
        if not self._rows:
            raise ValueError("Nothing can be said of experts without a document.")
        counts = np.diagonal(self._pairs, axis1=1, axis2=2).astype(np.int64)
        enriched = self._enriched(counts)
        rows, positions, gates, starts, ends = self._contexts()
        wanted = set(np.unique(enriched[0]).tolist())
        return ExpertTokens(
            run=run,
            numbers=self.numbers,
            routed=self.routed,
            counts=counts,
            pairs=self._pairs.astype(np.int32),
            flow=self._flow.astype(np.float32),
            enriched=enriched[0],
            enriched_counts=enriched[1],
            enriched_ratios=enriched[2],
            context_rows=rows,
            context_positions=positions,
            context_gates=gates if self._gates_known else np.full(gates.shape, np.nan),
            context_starts=starts,
            context_ends=ends,
            texts={number: text for number, text in self._texts.items() if number in wanted},
            documents=len(self._rows),
            tokens=self.tokens,
            info=info,
        )

    def _remember(
        self,
        row: int,
        weights: NDArray[np.float32],
        tokens: int,
        texts: Sequence[str] | None,
    ) -> None:
        """Where each expert weighs most in the document: one context a document, for variety."""
        if not tokens:
            return
        best = weights.argmax(axis=1)
        lengths = [0] * tokens if texts is None else [len(text) for text in texts[1:]]
        ends = np.cumsum(lengths)
        spans = np.stack([ends - lengths, ends]) if texts is not None else np.full((2, tokens), -1)
        self._rows.append(row)
        self._best.append(
            (
                np.take_along_axis(weights, best[:, None], axis=1)[:, 0],
                (best + 1).astype(np.int32),
                spans[:, best].astype(np.int64),
            )
        )

    def _contexts(self) -> tuple[Integers, Integers, Floats, Integers, Integers]:
        """Rows, positions, gate weights and characters [L, R, C] of the largest gate weights."""
        gates = np.stack([gate for gate, _, _ in self._best])  # [D, L, R]
        most = min(CONTEXTS, len(gates))
        order = np.argsort(-gates, axis=0, kind="stable")[:most]
        taken = np.take_along_axis(gates, order, axis=0)
        positions = np.take_along_axis(np.stack([p for _, p, _ in self._best]), order, axis=0)
        spans = np.stack([span for _, _, span in self._best], axis=1)  # [2, D, L, R]
        starts, ends = (np.take_along_axis(one, order, axis=0) for one in spans)
        rows = np.where(taken > 0, np.asarray(self._rows)[order], NONE)
        found = (rows, positions, taken, starts, ends)
        last = [np.moveaxis(each, 0, -1) for each in found]
        whole = [np.asarray(each, np.int64) for each in last]
        return whole[0], whole[1], last[2].astype(np.float64), whole[3], whole[4]

    def _enriched(self, counts: Integers) -> tuple[Integers, Integers, Floats]:
        """Token ids, counts and ratios [L, R, E]; see `ExpertTokens`."""
        shape = (len(self.numbers), self._wide, ENRICHED)
        ids, inside = np.full(shape, NONE, np.int64), np.zeros(shape, np.int64)
        ratios = np.zeros(shape)
        if not self._token_ids:
            return ids, inside, ratios
        kinds, token = np.unique(np.concatenate(self._token_ids), return_inverse=True)
        everywhere = np.bincount(token) / len(token)
        for layer in range(len(self.numbers)):
            chosen = np.concatenate([each[layer] for each in self._ids]).astype(np.int64)
            table = _table(chosen, token, self._wide, len(kinds))
            for expert in range(self.routed[layer]):
                own = table[expert]
                frequent = np.flatnonzero(own >= MIN_COUNT)
                rate = own[frequent] / max(1, counts[layer, expert])
                ratio = rate / everywhere[frequent]
                # Frequent and concentrated: rates weighed with the logarithm of their ratio.
                score = rate * np.log(ratio)
                best = np.argsort(-score, kind="stable")[:ENRICHED]
                best = best[score[best] > 0]
                ids[layer, expert, : len(best)] = kinds[frequent[best]]
                inside[layer, expert, : len(best)] = own[frequent[best]]
                ratios[layer, expert, : len(best)] = ratio[best]
        return ids, inside, ratios


def _table(chosen: Integers, token: Integers, experts: int, kinds: int) -> NDArray[np.int64]:
    """How often each expert was chosen [T, K] for each kind of token: [experts, kinds]."""
    rows, slots = np.nonzero(chosen >= 0)
    flat = chosen[rows, slots] * kinds + token[rows]
    return np.bincount(flat, minlength=experts * kinds).reshape(experts, kinds)


def save(path: Path, found: ExpertTokens) -> None:
    """Write as one .npz file, under a temporary name first. Raises ValueError if it cannot be."""
    arrays: dict[str, NDArray[Any]] = {
        name: getattr(found, name).astype(kind) for name, kind in _ARRAYS.items()
    }
    said = {name: getattr(found, name) for name in ("run", "documents", "tokens", "info")}
    texts = {str(number): text for number, text in found.texts.items()}
    head = {"format": FORMAT, "format_version": FORMAT_VERSION}
    more = {"numbers": list(found.numbers), "routed": list(found.routed), "texts": texts}
    save_arrays(path, arrays, head | said | more)


_ARRAYS = {
    "counts": np.int32,
    "pairs": np.int32,
    "flow": np.float32,
    "enriched": np.int32,
    "enriched_counts": np.int32,
    "enriched_ratios": np.float32,
    "context_rows": np.int32,
    "context_positions": np.int32,
    "context_gates": np.float32,
    "context_starts": np.int32,
    "context_ends": np.int32,
}


def load(path: Path) -> ExpertTokens:
    """Read what `save` wrote.

    Raises ValueError if there is none, or it is damaged or of another format version.
    """
    arrays, info = load_arrays(path, FORMAT, FORMAT_VERSION)
    with damaged(path):
        numbers, routed = read_geometry(info)
        layers, wide = len(numbers), max(routed)
        check_shape(arrays["counts"], layers, wide)
        check_shape(arrays["pairs"], layers, wide, wide)
        check_shape(arrays["flow"], max(0, layers - 1), wide, wide)
        for name in _ARRAYS:
            if name.startswith("enriched"):
                check_shape(arrays[name], layers, wide, ENRICHED)
        contexts = arrays["context_rows"].shape[-1]
        for name in _ARRAYS:
            if name.startswith("context"):
                _check_contexts(name, arrays[name], (layers, wide, contexts))
        _check_numbers(arrays, int(info["documents"]), int(info["tokens"]))
        found = ExpertTokens(
            run=str(info["run"]),
            numbers=numbers,
            routed=routed,
            **{name: _wide(arrays[name]) for name in _ARRAYS},
            texts={int(number): str(text) for number, text in dict(info["texts"]).items()},
            documents=int(info["documents"]),
            tokens=int(info["tokens"]),
            info=dict(info["info"]),
        )
        _ = found.origins
        return found


def _check_contexts(name: str, values: NDArray[Any], shape: tuple[int, ...]) -> None:
    """Raises ValueError unless they fit; a gate weight alone may be unknown."""
    unknown = np.isnan(values) if name == "context_gates" else False
    check_shape(np.where(unknown, 0, values), *shape)


def _check_numbers(arrays: Arrays, documents: int, tokens: int) -> None:
    """Raises ValueError for ids and counts that no documents have."""
    whole = [name for name, kind in _ARRAYS.items() if np.issubdtype(kind, np.integer)]
    if any(arrays[name].dtype.kind not in "iu" for name in whole):
        raise ValueError("ids and counts are whole numbers")
    if any(values.min(initial=0) < NONE for values in arrays.values()):
        raise ValueError("ids and counts are 0 or more, and -1 stands for none")
    if documents < 1 or tokens < 1 or arrays["counts"].min() < 0 or arrays["pairs"].min() < 0:
        raise ValueError("experts are counted on documents with tokens")


def _wide(values: NDArray[Any]) -> NDArray[Any]:
    """Small tables as computation wants them; the large ones stay as they are."""
    if values.ndim == 3 and values.shape[1] == values.shape[2]:
        return values
    return values.astype(np.int64 if values.dtype.kind == "i" else np.float64)
