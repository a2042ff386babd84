"""Packed rows of a token stream in a seeded order that depends on nothing but the step.

Shapes: B rows, T tokens a row, L layers, D documents a row (at most).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.routing import draw_pool_sizes
from model.train.presets import Preset


class Batch(NamedTuple):
    """Inputs, next-token labels and, per layer and document, the pool sizes of one step."""

    input_ids_BT: Tensor
    labels_BT: Tensor
    pool_sizes_LBD: Tensor


class PackedRows:
    """Rows of `context` tokens cut from a memory-mapped stream.

    Every epoch visits each row once, in its own permutation. Raises ValueError if the stream is
    shorter than one step.
    """

    def __init__(self, tokens: np.ndarray, preset: Preset, eos_token_id: int) -> None:
        self.tokens, self.preset, self.eos_token_id = tokens, preset, eos_token_id
        self.num_rows = (len(tokens) - 1) // preset.context
        if self.num_rows < preset.rows:
            raise ValueError(
                f"The corpus has {len(tokens):,} tokens, less than one step of "
                f"{preset.tokens_per_step:,}; build a larger one or train with fewer rows."
            )
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def _row(self, index: int) -> int:
        epoch, offset = divmod(index, self.num_rows)
        if epoch != self._epoch:
            rng = np.random.default_rng((self.preset.seed, epoch))
            self._epoch, self._order = epoch, rng.permutation(self.num_rows)
        return int(self._order[offset])

    def batch(self, step: int) -> Batch:
        """The batch of one step; equal for equal (corpus, preset, step)."""
        rows, context = self.preset.rows, self.preset.context
        starts = [self._row(step * rows + i) * context for i in range(rows)]
        stream = np.stack([self.tokens[s : s + context + 1] for s in starts]).astype(np.int64)
        input_ids_BT = torch.from_numpy(stream[:, :-1].copy())
        documents = 1 + int((stream[:, 1:-1] == self.eos_token_id).sum(1).max())
        return Batch(
            input_ids_BT, torch.from_numpy(stream[:, 1:].copy()), self._pool_sizes(step, documents)
        )

    def _pool_sizes(self, step: int, documents: int) -> Tensor:
        preset = self.preset
        generator = torch.Generator().manual_seed(preset.seed * 1_000_003 + step)
        shape = (preset.num_layers, preset.rows, documents)
        return draw_pool_sizes(shape, preset.pool_size_min, preset.pool_size_max, generator)


def heldout_batches(
    document: Callable[[int], np.ndarray], count: int, context: int
) -> list[np.ndarray]:
    """The first `count` held-out documents, cut to the context."""
    return [np.asarray(document(i)[:context], dtype=np.int64) for i in range(count)]
