"""Rows of a corpus in a seeded order that depends on nothing but the step.

Shapes: B rows, T tokens a row, L layers, D documents a row (at most).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.data.mixture import Mixture, check_domains, read_mixture
from model.train.presets import Preset


class Batch(NamedTuple):
    """Inputs, next-token labels and, per layer and document, the pool sizes of one step."""

    input_ids_BT: Tensor
    labels_BT: Tensor
    pool_sizes_LBD: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


class RowTable:
    """Where every row of `context` tokens, and the token after it, lies in one of two streams.

    With `own_rows`, a document's full rows hold that document alone, and what is left of all
    documents (the short ones and the ends of long ones, each opened by an end-of-text token) is
    packed. Without, the stream is cut every `context` tokens, wherever documents end.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        context: int,
        eos_token_id: int,
        own_rows: bool,
        documents: np.ndarray | None = None,
    ) -> None:
        """documents: the places of those that are taken, one after another; by default all."""
        self.context = context
        by_document = own_rows or documents is not None
        offsets = _document_offsets(tokens, eos_token_id) if by_document else np.array([0])
        lengths = np.diff(np.append(offsets, len(tokens)))
        if documents is not None:
            offsets, lengths = offsets[documents], lengths[documents]
        if documents is not None and not own_rows:
            tokens = np.concatenate(
                [tokens[a : a + n] for a, n in zip(offsets, lengths, strict=True)]
            )
            offsets, lengths = np.array([0]), np.array([len(tokens)])
        own = np.repeat(offsets, lengths // context) + context * _count_up(lengths // context)
        rests = _rests(tokens, offsets, lengths, context, eos_token_id) if own_rows else tokens[:0]
        packed = np.arange((len(rests) - 1) // context) * context
        own = own[own + context < len(tokens)]
        self._streams, self._starts, self._num_own = (tokens, rests), (own, packed), len(own)

    def __len__(self) -> int:
        return sum(len(starts) for starts in self._starts)

    def row(self, index: int) -> np.ndarray:
        """Row `index` and the token after it: [context + 1]."""
        which = int(index >= self._num_own)
        start = self._starts[which][index - which * self._num_own]
        return self._streams[which][start : start + self.context + 1]


def _document_offsets(tokens: np.ndarray, eos_token_id: int) -> np.ndarray:
    """Where documents start: at every end-of-text token, and at the head of the stream."""
    return np.union1d([0], np.flatnonzero(tokens == eos_token_id))


def _count_up(counts: np.ndarray) -> np.ndarray:
    """0, 1, .. count - 1 for each count, joined."""
    return np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)


def _rests(
    tokens: np.ndarray, offsets: np.ndarray, lengths: np.ndarray, context: int, eos_token_id: int
) -> np.ndarray:
    """What no own row holds of each document, each part opened by an end-of-text token."""
    first = offsets + lengths // context * context
    ends = zip(first, offsets + lengths, strict=True)
    parts = [tokens[start:end] for start, end in ends if start < end]
    opening = np.array([eos_token_id], tokens.dtype)
    opened = [part if part[0] == eos_token_id else np.append(opening, part) for part in parts]
    return np.concatenate(opened or [tokens[:0]])


class PackedRows:
    """Batches of rows cut from a memory-mapped stream (see RowTable).

    Every epoch visits each row once, in its own permutation; with a mixture (`preset.mixture`)
    every domain has epochs of its own. Raises ValueError if the stream is shorter than one step, or
    holds ids that the preset's vocabulary has not, and for a mixture of what is not there.

    domains: the domain of every document, in their order; of use to a mixture alone.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        preset: Preset,
        eos_token_id: int,
        domains: Sequence[str] | None = None,
    ) -> None:
        check_ids(tokens, preset.vocab_size)
        self.preset, self.eos_token_id = preset, eos_token_id
        self.mixture: Mixture | None = None
        layout = (preset.context, eos_token_id, preset.own_rows)
        if preset.mixture:
            self._mix(tokens, layout, domains or [])
        else:
            self._tables = [RowTable(tokens, *layout)]
        self.num_rows = sum(map(len, self._tables))
        if self.num_rows < preset.rows:
            raise ValueError(
                f"The corpus has {len(tokens):,} tokens, less than one step of "
                f"{preset.tokens_per_step:,}; build a larger one or train with fewer rows."
            )
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def _mix(
        self, tokens: np.ndarray, layout: tuple[int, int, bool], domains: Sequence[str]
    ) -> None:
        weights = read_mixture(self.preset.mixture)
        check_domains(weights, domains)
        if len(domains) != len(_document_offsets(tokens, self.eos_token_id)):
            raise ValueError("The corpus' tokens and its documents do not fit; build it again.")
        own = {name: np.flatnonzero(np.array(domains) == name) for name in weights}
        tables = {name: RowTable(tokens, *layout, own[name]) for name in sorted(weights)}
        sizes = {name: len(table) for name, table in tables.items()}
        self.mixture = Mixture(weights, sizes, self.preset.seed)
        self._tables = list(tables.values())

    def told(self) -> list[str]:
        """What to say before a run: which domains it repeats often."""
        return self.mixture.told(self.preset.rows * self.preset.steps) if self.mixture else []

    def _row(self, index: int) -> np.ndarray:
        if self.mixture:
            domain, place = self.mixture.row(index)
            return self._tables[domain].row(place)
        return self._tables[0].row(self._place(index))

    def _place(self, index: int) -> int:
        epoch, offset = divmod(index, self.num_rows)
        if epoch != self._epoch:
            rng = np.random.default_rng((self.preset.seed, epoch))
            self._epoch, self._order = epoch, rng.permutation(self.num_rows)
        return int(self._order[offset])

    def batch(self, step: int) -> Batch:
        """The batch of one step; equal for equal (corpus, preset, step)."""
        rows = range(step * self.preset.rows, (step + 1) * self.preset.rows)
        stream = np.stack([self._row(i) for i in rows]).astype(np.int64)
        input_ids_BT = torch.from_numpy(stream[:, :-1].copy())
        documents = 1 + int((stream[:, 1:-1] == self.eos_token_id).sum(1).max())
        return Batch(
            input_ids_BT, torch.from_numpy(stream[:, 1:].copy()), self._pool_sizes(step, documents)
        )

    def _pool_sizes(self, step: int, documents: int) -> Tensor:
        preset = self.preset
        generator = torch.Generator().manual_seed(preset.seed * 1_000_003 + step)
        shape = (preset.num_layers, preset.rows, documents)
        sizes_LBD = preset.pools.draw(shape, generator)
        shrinking = preset.pool_schedule * preset.steps
        if step < shrinking:  # at first all experts; the drawn sizes when the schedule is over
            sizes_LBD = sizes_LBD.clamp(min=round(preset.num_experts * (1 - step / shrinking)))
        return sizes_LBD


def check_ids(tokens: np.ndarray, vocab_size: int) -> None:
    """Raises ValueError for a token id that is not below `vocab_size`."""
    largest = int(tokens.max(initial=0))
    if largest >= vocab_size:
        raise ValueError(
            f"The corpus holds the token id {largest:,}, but the model's vocabulary has "
            f"{vocab_size:,} tokens; build the corpus again or give the preset its vocab_size."
        )


def heldout_batches(
    document: Callable[[int], np.ndarray], count: int, context: int
) -> list[np.ndarray]:
    """The first `count` held-out documents, cut to the context."""
    return [np.asarray(document(i)[:context], dtype=np.int64) for i in range(count)]
