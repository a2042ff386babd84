"""One pass over imported documents: refuses what cannot be, counts what a reader must know."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np

from emo_viz.trace.importers.imported import NO_EXPERT, ImportedDocument, Raw, Source
from emo_viz.trace.importers.reading import MAX_EXPERTS, bad

PREFIX = 16


class Survey:
    """What the raw documents hold. A row is one token in one layer; [L] arrays count per layer.

    A row of zeros in more than one slot is no routing: a top-k never names expert 0 twice.
    """

    def __init__(self, path: Path, source: Source) -> None:
        self.path, self.source = path, source
        layers = len(source.layers)
        self.seen = np.zeros(layers, np.int64)
        self.zero_rows = np.zeros(layers, np.int64)
        self.live_rows = np.zeros(layers, np.int64)
        self.slots = np.zeros(1, np.int64)
        self.bytes = self.padded = self.empty_tokens = self.holes = 0
        self.duplicates = self.ranked_rows = self.bad_weights = self.bad_logits = 0
        self.told: Counter[str] = Counter()
        self.prefixes: Counter[bytes] = Counter()

    def add(self, raw: Raw) -> None:
        """Look at one document. Raises ValueError for shapes or ids that cannot be."""
        document = raw.document
        ids = document.expert_ids
        self._check_shapes(document)
        self._check_range(ids)
        self.told.update(raw.notes)
        self.padded += raw.padded
        self.bytes += sum(a.nbytes for a in (ids, document.router_logits) if a is not None)
        self._look_at_rows(ids[: len(ids) - raw.padded])
        if document.gate_weights is not None:
            wrong = (ids != NO_EXPERT) & ~np.isfinite(document.gate_weights)
            self.bad_weights += int(wrong.sum())
        if document.router_logits is not None:
            self.bad_logits += int((~np.isfinite(document.router_logits)).any(axis=2).sum())
        self._look_at_prefix(document)

    def _check_shapes(self, document: ImportedDocument) -> None:
        ids = document.expert_ids
        first = len(self.source.layers)
        if ids.shape[1] != first:
            raise bad(
                self.path,
                f"has ragged layers: {document.id[:60]!r} has {ids.shape[1]}, the first {first}",
            )
        parts = {"token ids": document.token_ids, "token texts": document.token_texts}
        for what, part in parts.items():
            if part is not None and len(part) != len(ids):
                raise bad(self.path, f"holds {len(part)} {what} for {len(ids)} tokens")
        weights = document.gate_weights
        if weights is not None and weights.shape != ids.shape:
            raise bad(
                self.path,
                f"holds gate weights of shape {weights.shape} for expert ids of shape {ids.shape}",
            )

    def _check_range(self, ids: np.ndarray) -> None:
        if not ids.size:
            return
        if int(ids.min()) < NO_EXPERT:
            raise bad(self.path, f"holds the expert id {int(ids.min())}")
        highest = ids.max(axis=(0, 2)).astype(np.int64)
        known = self.source.num_experts
        limits = known or (MAX_EXPERTS,) * len(highest)
        for layer, top, limit in zip(self.source.layers, highest, limits, strict=True):
            if top >= limit:
                mend = (
                    f"only ids below {limit} are possible (an engine that replicates experts may "
                    "give physical ones)"
                )
                raise bad(self.path, f"holds the expert id {top} in layer {layer}", mend)
        self.seen = np.maximum(self.seen, highest + 1)

    def _look_at_rows(self, ids: np.ndarray) -> None:
        filled = ids != NO_EXPERT
        used = filled.any(axis=2)
        zero = (ids == 0).all(axis=2) & (ids.shape[2] > 1)
        live = used & ~zero
        self.zero_rows += zero.sum(axis=0)
        self.live_rows += live.sum(axis=0)
        self.empty_tokens += int((~used.any(axis=1)).sum())
        self.holes += int((~used & used.any(axis=1, keepdims=True)).sum())
        slots = np.bincount(filled[live].sum(axis=1), minlength=len(self.slots))
        slots[: len(self.slots)] += self.slots
        self.slots = slots
        rows = ids[live]
        ascending = np.sort(rows, axis=1)
        twice = (ascending[:, 1:] == ascending[:, :-1]) & (ascending[:, 1:] != NO_EXPERT)
        self.duplicates += int(twice.any(axis=1).sum())
        self.ranked_rows += int(((rows[:, 1:] < rows[:, :-1]) & (rows[:, 1:] >= 0)).any(1).sum())

    def _look_at_prefix(self, document: ImportedDocument) -> None:
        tokens = document.token_ids
        head = document.expert_ids[:PREFIX] if tokens is None else tokens[:PREFIX]
        if len(head) == PREFIX and (head != NO_EXPERT).any():
            # A digest: the rows of 16 tokens in every layer are many bytes a document.
            self.prefixes[hashlib.blake2b(head.tobytes(), digest_size=16).digest()] += 1
