"""SGLang's recorder in its per_token mode: batches of tokens of several requests, physical ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from emo_viz.trace.importers.imported import NO_EXPERT, ImportedDocument, Raw, Source
from emo_viz.trace.importers.reading import bad
from emo_viz.trace.importers.torch_files import tensor_array


@dataclass
class _Open:
    """A text that later batches may continue: its pieces and the position that comes next."""

    begins: int
    next: int
    token_ids: list[int] = field(default_factory=list)
    pieces: list[np.ndarray] = field(default_factory=list)


def read_recorder(path: Path, content: Mapping[str, Any]) -> Source:
    """{records: [{input_ids, positions, topk_ids_of_layer [L, T, 8], ...}], the map of ids}.

    Raises ValueError if a record or the map is damaged.
    """
    records = content["records"]
    if not isinstance(records, list) or not all(isinstance(r, Mapping) for r in records):
        raise bad(path, "holds no list of records")
    logical = content.get("last_physical_to_logical_map")
    if logical is None:
        raise bad(path, "lacks last_physical_to_logical_map, which tells what its ids mean")
    table = tensor_array(logical, path, "last_physical_to_logical_map")
    texts = _Texts()
    for record in records:
        ids = tensor_array(record.get("topk_ids_of_layer"), path, "topk_ids_of_layer")
        tokens = _numbers(record.get("input_ids"), path, "input_ids")
        positions = _numbers(record.get("positions"), path, "positions")
        rows = _logical(path, ids, table, len(tokens))
        lengths = record.get("extend_seq_lens")
        texts.add(tokens, positions, rows, lengths if isinstance(lengths, list) else None)
    return _source(table, texts.done)


def _numbers(value: object, path: Path, what: str) -> list[int]:
    if not isinstance(value, list) or not all(
        isinstance(n, int) and 0 <= n < 1 << 31 for n in value
    ):
        raise bad(path, f"holds no list of whole numbers in {what}")
    return value


def _logical(path: Path, ids: np.ndarray, table: np.ndarray, tokens: int) -> np.ndarray:
    """Physical ids [L, T, 8] as logical ids [T, L, 8]; table: [L, P], -1 stays."""
    if table.ndim != 2 or ids.ndim != 3 or ids.dtype.kind not in "iu" or table.dtype.kind != "i":
        raise bad(path, f"holds ids of shape {ids.shape} and a map of shape {table.shape}")
    if ids.shape[:2] != (len(table), tokens):
        raise bad(
            path, f"holds ids of shape {ids.shape} for {tokens} tokens and {len(table)} layers"
        )
    if not ids.size:
        return np.empty((tokens, len(table), ids.shape[2]), np.int32)
    if int(ids.max()) >= table.shape[1] or int(ids.min()) < NO_EXPERT or int(table.min()) < 0:
        raise bad(path, f"holds ids beyond the {table.shape[1]} physical experts of its map")
    layer = np.arange(len(table))[:, None, None]
    named = np.where(ids == NO_EXPERT, NO_EXPERT, table[layer, np.maximum(ids, 0)])
    return np.ascontiguousarray(named.transpose(1, 0, 2)).astype(np.int32)


class _Texts:
    """Joins batches to texts. No record names its requests: order and positions must do."""

    def __init__(self) -> None:
        self.done: list[_Open] = []
        self._open: list[_Open] = []

    def add(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        rows: np.ndarray,
        lengths: list[int] | None,
    ) -> None:
        """A batch: prompts (lengths says where each ends) or one next token of each request."""
        fits = lengths and all(isinstance(n, int) and n > 0 for n in lengths)
        sizes = lengths if lengths and fits and sum(lengths) == len(tokens) else [1] * len(tokens)
        if len(positions) < len(tokens):
            positions = [*positions, *range(len(positions), len(tokens))]
        starts = np.cumsum([0, *sizes]).tolist()
        if [text.next for text in self._open] != [positions[start] for start in starts[:-1]]:
            self._open = [_Open(positions[start], positions[start]) for start in starts[:-1]]
            self.done += self._open
        for text, start, size in zip(self._open, starts, sizes, strict=False):
            text.token_ids += tokens[start : start + size]
            text.pieces.append(rows[start : start + size])
            text.next += size


def _source(table: np.ndarray, texts: Sequence[_Open]) -> Source:
    experts = [int(row.max(initial=-1)) + 1 for row in table]
    identity = all(np.array_equal(row, np.arange(len(row))) for row in table)
    notes = [
        "No record names its request: batches were joined to texts by their order and positions."
    ]
    if not identity:
        notes.append(
            "Ids in the file are physical and were mapped to logical ones by the last map; tokens "
            "before a rebalancing may have had another."
        )
    late = sum(text.begins > 0 for text in texts)
    if late:
        notes.append(
            f"{late} of {len(texts)} texts begin after their first token: their prefix came from a "
            "cache, or the recording began later."
        )
    documents = tuple(
        Raw(
            ImportedDocument(
                id=f"text-{number}",
                expert_ids=np.concatenate(text.pieces),
                token_ids=np.array(text.token_ids, np.int32),
            )
        )
        for number, text in enumerate(texts)
    )
    return Source(
        kind="sglang-tokens",
        layers=tuple(range(len(table))),
        num_experts=tuple(experts),
        documents=documents,
        notes=tuple(notes),
    )
