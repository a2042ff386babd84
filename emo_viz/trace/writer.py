"""Write a trace, document by document, with bounded memory.

Everything goes to a temporary folder beside the goal; the manifest is written last and the folder
is renamed at the end, so an earlier trace at the same place lives until the new one is whole.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from emo_viz.trace.absent import Part
from emo_viz.trace.recorded import Recorded
from emo_viz.trace.schema import (
    ACTIVATION,
    DOCUMENTS,
    FILES,
    MANIFEST,
    TOKENS,
    USAGE,
    ClustersOf,
    Level,
    TracedModel,
    TraceFile,
    TraceManifest,
    UsageOf,
    documents_schema,
    is_trace_manifest,
    tokens_schema,
)
from emo_viz.trace.tables import activation, shares, token_rows
from model.files import new_folder

# Small, so that one document is read in milliseconds; larger ones save no space.
ROW_GROUP_TOKENS = 4_096
ROW_GROUP_DOCUMENTS = 1_024


class TraceWriter:
    """Context manager that streams a trace to disk; leaving it by an exception leaves no trace.

    At most `row_group_tokens` tokens (or one document, if that is longer) are held in memory at
    level "tokens", none at level "documents". What no document has is said to be absent.

    opening_eos: position 0 of every document is an EOS, which no average counts. source, notes: of
    an imported file (`notes` may be added to until the end), whose tokens without any expert in a
    layer were not recorded there, and are not counted. clusters_of: clusters of another tool
    come with the documents ("cluster") or with their tokens (`clusters`); cluster_labels: their
    names.

    Raises ValueError if `out` exists and is neither an empty folder nor a trace.
    """

    def __init__(
        self,
        out: Path,
        model: TracedModel,
        level: Level,
        row_group_tokens: int = ROW_GROUP_TOKENS,
        *,
        opening_eos: bool = True,
        source: str = "",
        notes: Sequence[str] = (),
        clusters_of: ClustersOf = "",
        cluster_labels: Mapping[str, str] | None = None,
        recorded_with: Mapping[str, str] | None = None,
    ) -> None:
        check_replaceable(out)
        self.out = out.absolute()
        self.model = model
        self.level = level
        self.buffered_tokens = 0
        self._facts: dict[str, Any] = {
            "opening_eos": opening_eos,
            "source": source,
            "clusters_of": clusters_of,
            "cluster_labels": dict(cluster_labels or {}),
            "recorded_with": dict(recorded_with or {}),
        }
        self.notes = list(notes)
        self._first = int(opening_eos)  # the first position that counts
        self._clusters_of = clusters_of
        self._row_group_tokens = row_group_tokens
        self._documents: list[dict[str, object]] = []
        self._tokens: list[pa.RecordBatch] = []
        self._total_documents = 0
        self._total_tokens = 0
        self._token_rows = 0
        self._seen: set[Part] = set()
        self._usage_of: UsageOf | None = None
        self._empty_slots = False
        self._handles: list[IO[bytes]] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._folder = stack.enter_context(new_folder(self.out))
            slab = (self.model.num_layers, self.model.num_routed_experts)
            self._usage = _GrowingArray(self._folder / USAGE, slab)
            self._activation = _GrowingArray(self._folder / ACTIVATION, slab)
            self._document_file = self._parquet(DOCUMENTS, documents_schema(self._clusters_of))
            self._token_file: pq.ParquetWriter | None = None
            if self.level == "tokens":
                schema = tokens_schema(self.model, self._clusters_of)
                self._token_file = self._parquet(TOKENS, schema)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Pushed last, so called first: what fails in them is the folder's failure.
        if kind is None:
            self._stack.push(self._finish)
        else:
            self._stack.push(self._abandon)
        self._stack.__exit__(kind, error, trace)

    def _finish(self, *unused: object) -> None:
        try:
            self._close_files()
        except BaseException:
            self._abandon()
            raise
        self._write_manifest()
        check_replaceable(self.out)  # it may have changed meanwhile

    def _abandon(self, *unused: object) -> None:
        """Let go of the files; on a full disk each of them may fail again."""
        for close in (
            self._document_file.close,
            *([self._token_file.close] if self._token_file else []),
            *(handle.close for handle in self._handles),
            self._usage.close,
            self._activation.close,
        ):
            with suppress(Exception):
                close()

    def add(
        self,
        document: Mapping[str, object],
        texts: Sequence[str] | None,
        recording: Recorded,
        *,
        clusters: np.ndarray | None = None,
    ) -> None:
        """Append one document.

        document: values for the columns id, domain, source, licence, parent, part, text,
        dropped_tokens and cluster (those that are missing become null). texts: T decoded tokens,
        the opening EOS first, if there is one. recording: what the model did with these T tokens;
        what it lacks is None. clusters: int32 [T].

        Usage is the mean router probability; in a trace without these, each expert's share of the
        choices. Raises ValueError for a document with probabilities after one without, or before.
        """
        ids = recording.expert_ids
        count = ids.shape[1] - self._first
        assert count >= 1, "a document is at least one token, after its EOS if it has one"
        assert texts is None or len(texts) == ids.shape[1], "each token has one text"
        chosen = activation(
            ids[:, self._first :], self.model, all_recorded=not self._facts["source"]
        )
        self._append(_usage(recording.router_probs, chosen, self._first), chosen)
        self._say_usage_of("choices" if recording.router_probs is None else "probabilities")
        self._add_tokens(texts, recording, clusters)
        self._add_document(document, count, _mean_loss(recording.loss, self._first))

    def add_shares(
        self,
        document: Mapping[str, object],
        usage: np.ndarray,
        activation: np.ndarray | None = None,
        tokens: int | None = None,
    ) -> None:
        """Append a document of which only averages are known, at level "documents".

        usage [L, R]: each expert's share of the choices; activation [L, R]: share of the tokens
        that chose it; tokens: their number.
        """
        assert self._token_file is None, "a trace of tokens needs every token"
        self._append(usage, activation)
        self._say_usage_of("choices")
        self._add_document(document, tokens, None)

    def _append(self, usage: np.ndarray, activation: np.ndarray | None) -> None:
        self._usage.append(usage)
        self._activation.append(np.zeros(usage.shape) if activation is None else activation)
        if activation is not None:
            self._seen.add("activation")

    def _say_usage_of(self, usage_of: UsageOf) -> None:
        if self._usage_of not in (None, usage_of):
            raise ValueError(
                "Some documents have router probabilities and some have none; make a trace of each."
            )
        self._usage_of = usage_of

    def _add_document(
        self, document: Mapping[str, object], tokens: int | None, mean_loss: float | None
    ) -> None:
        facts = {"n_tokens": tokens, "mean_loss": mean_loss, "document": self._total_documents}
        self._documents.append({**document, **facts})
        found: dict[Part, object] = {
            "n_tokens": tokens,
            "loss": mean_loss,
            "domain": document.get("domain"),
            "text": document.get("text"),
        }
        self._seen |= {part for part, value in found.items() if value is not None}
        self._total_documents += 1
        self._total_tokens += tokens or 0
        if len(self._documents) >= ROW_GROUP_DOCUMENTS:
            self._flush_documents()

    def _add_tokens(
        self, texts: Sequence[str] | None, recording: Recorded, clusters: np.ndarray | None
    ) -> None:
        if self._token_file is None:
            return
        schema = tokens_schema(self.model, self._clusters_of)
        batch, empty = token_rows(
            self._total_documents, texts, recording, clusters, self.model, schema
        )
        if self.buffered_tokens + len(batch) > self._row_group_tokens:
            self._flush_tokens()
        self._tokens.append(batch)
        self.buffered_tokens += len(batch)
        self._token_rows += len(batch)
        self._empty_slots |= empty
        found: dict[Part, object] = {
            "token_ids": recording.token_ids,
            "token_texts": texts,
            "entropy": recording.entropy,
            "gate_weights": recording.gate_weights,
        }
        self._seen |= {part for part, value in found.items() if value is not None}

    def _flush_tokens(self) -> None:
        if self._token_file is not None and self._tokens:
            table = pa.Table.from_batches(self._tokens)
            self._token_file.write_table(table, row_group_size=len(table))
        self._tokens = []
        self.buffered_tokens = 0

    def _flush_documents(self) -> None:
        if self._documents:
            schema = documents_schema(self._clusters_of)
            table = pa.Table.from_pylist(self._documents, schema=schema)
            self._document_file.write_table(table)
        self._documents = []

    def _parquet(self, name: str, schema: pa.Schema) -> pq.ParquetWriter:
        # A file handle, because Arrow takes no name that is not UTF-8.
        self._handles.append((self._folder / name).open("wb"))
        return pq.ParquetWriter(self._handles[-1], schema, compression="zstd")

    def _close_files(self) -> None:
        self._flush_tokens()
        self._flush_documents()
        self._document_file.close()
        if self._token_file is not None:
            self._token_file.close()
        for handle in self._handles:
            handle.close()
        self._usage.close()
        self._activation.close()
        if not self._has_activation:
            (self._folder / ACTIVATION).unlink()

    @property
    def _has_activation(self) -> bool:
        return "activation" in self._seen or not self._total_documents

    @property
    def _has(self) -> frozenset[Part]:
        """The parts that are there: those met, and those that the model says."""
        told: dict[Part, object] = {
            "usage": True,
            "checkpoint": self.model.checkpoint_sha256,
            "num_experts": self.model.experts_known,
            "top_k": self.model.num_experts_per_tok,
            "tokens": self._token_file,
            "clusters": self._clusters_of,
            "activation": self._has_activation,
        }
        return frozenset(self._seen | {part for part, value in told.items() if value})

    def _write_manifest(self) -> None:
        rows = dict.fromkeys((DOCUMENTS, USAGE), self._total_documents)
        if self._has_activation:
            rows[ACTIVATION] = self._total_documents
        if self._token_file is not None:
            rows[TOKENS] = self._token_rows
        manifest = TraceManifest(
            level=self.level,
            model=self.model,
            documents=self._total_documents,
            tokens=self._total_tokens,
            files=tuple(
                TraceFile(name, (self._folder / name).stat().st_size, count)
                for name, count in rows.items()
            ),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            has=self._has,
            usage_of=self._usage_of or "probabilities",
            empty_slots=self._empty_slots,
            notes=tuple(self.notes),
            **self._facts,
        )
        (self._folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def _usage(probs: np.ndarray | None, chosen: np.ndarray, first: int) -> np.ndarray:
    """[L, R]: the mean probability over the tokens that have one, or the share of choices."""
    if probs is None:
        return shares(chosen)
    counted = probs[:, first:]
    known = np.isfinite(counted).all(axis=2)
    mean: np.ndarray
    if known.all():
        mean = counted.mean(axis=1)
        return mean
    sums = np.where(known[..., None], counted, 0).sum(axis=1)
    mean = sums / np.maximum(known.sum(axis=1), 1)[:, None]
    return mean


def _mean_loss(loss: np.ndarray | None, first: int) -> float | None:
    """Over the tokens that have one."""
    if loss is None:
        return None
    known = loss[first:][~np.isnan(loss[first:])]
    return float(np.mean(known)) if len(known) else None


def check_replaceable(out: Path) -> None:
    """ValueError unless `out` is free: not there, an empty folder, or a trace to be replaced.

    A trace with anything else in its folder is not replaced, because that would be lost.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    manifest = out / MANIFEST
    if not manifest.is_file() or not is_trace_manifest(manifest.read_text(errors="replace")):
        raise ValueError(f"{out} exists and is not a trace; choose another place for the trace.")
    others = sorted(path.name for path in out.iterdir() if path.name not in FILES)
    if others:
        raise ValueError(
            f"{out} holds more than a trace ({others[0]}); move that away, or choose another place "
            "for the trace."
        )


class _GrowingArray:
    """A float16 .npy file to which slabs are appended; its header is put right on closing."""

    def __init__(self, path: Path, slab: tuple[int, ...]) -> None:
        self._file = path.open("wb")
        self._slab = slab
        self._rows = 0
        self._write_header()

    def append(self, values: np.ndarray) -> None:
        assert values.shape == self._slab, f"slab {values.shape} is not {self._slab}"
        self._file.write(values.astype(np.float16).tobytes())
        self._rows += 1

    def close(self) -> None:
        # numpy pads the header so that the number of rows can grow in place.
        self._file.seek(0)
        self._write_header()
        self._file.close()

    def _write_header(self) -> None:
        header = {"descr": "<f2", "fortran_order": False, "shape": (self._rows, *self._slab)}
        np.lib.format.write_array_header_1_0(self._file, header)
