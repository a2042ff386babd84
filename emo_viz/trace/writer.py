"""Write a trace, document by document, with bounded memory.

Everything goes to a temporary folder beside the goal; the manifest is written last and the folder
is renamed at the end, so an earlier trace at the same place lives until the new one is whole.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from emo_viz.trace.schema import (
    ACTIVATION,
    DOCUMENTS,
    FILES,
    MANIFEST,
    TOKENS,
    USAGE,
    Level,
    TracedModel,
    TraceFile,
    TraceManifest,
    documents_schema,
    is_trace_manifest,
    tokens_schema,
)
from model.files import new_folder

if TYPE_CHECKING:
    from model.run.inference import Recording

# Small, so that one document is read in milliseconds; larger ones save no space.
ROW_GROUP_TOKENS = 4_096
ROW_GROUP_DOCUMENTS = 1_024


class TraceWriter:
    """Context manager that streams a trace to disk; leaving it by an exception leaves no trace.

    At most `row_group_tokens` tokens (or one document, if that is longer) are held in memory at
    level "tokens", none at level "documents".

    Raises ValueError if `out` exists and is neither an empty folder nor a trace.
    """

    def __init__(
        self,
        out: Path,
        model: TracedModel,
        level: Level,
        row_group_tokens: int = ROW_GROUP_TOKENS,
    ) -> None:
        check_replaceable(out)
        self.out = out.absolute()
        self.model = model
        self.level = level
        self.buffered_tokens = 0
        self._row_group_tokens = row_group_tokens
        self._documents: list[dict[str, object]] = []
        self._tokens: list[pa.RecordBatch] = []
        self._total_documents = 0
        self._total_tokens = 0
        self._token_rows = 0
        self._handles: list[IO[bytes]] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._folder = stack.enter_context(new_folder(self.out))
            slab = (self.model.num_layers, self.model.num_routed_experts)
            self._usage = _GrowingArray(self._folder / USAGE, slab)
            self._activation = _GrowingArray(self._folder / ACTIVATION, slab)
            self._document_file = self._parquet(DOCUMENTS, documents_schema())
            self._token_file: pq.ParquetWriter | None = None
            if self.level == "tokens":
                self._token_file = self._parquet(TOKENS, tokens_schema(self.model))
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
        self, document: Mapping[str, object], texts: Sequence[str], recording: "Recording"
    ) -> None:
        """Append one document.

        document: values for the columns id, domain, source, licence, parent, part, text and
        dropped_tokens (those that are missing become null). texts: T decoded tokens, the opening
        EOS first. recording: what the model did with these T tokens.
        """
        count = len(recording.token_ids) - 1
        assert count >= 1 and len(texts) == count + 1, "a document is EOS and at least one token"
        self._usage.append(recording.router_probs[:, 1:].mean(axis=1))
        self._activation.append(_activation(recording.expert_ids[:, 1:], self.model))
        self._add_tokens(texts, recording)
        facts = {"n_tokens": count, "mean_loss": float(np.mean(recording.loss[1:]))}
        self._documents.append({**document, **facts, "document": self._total_documents})
        self._total_documents += 1
        self._total_tokens += count
        if len(self._documents) >= ROW_GROUP_DOCUMENTS:
            self._flush_documents()

    def _add_tokens(self, texts: Sequence[str], recording: "Recording") -> None:
        if self._token_file is None:
            return
        if self.buffered_tokens + len(texts) > self._row_group_tokens:
            self._flush_tokens()
        batch = _token_rows(self._total_documents, texts, recording, self.model)
        self._tokens.append(batch)
        self.buffered_tokens += len(texts)
        self._token_rows += len(texts)

    def _flush_tokens(self) -> None:
        if self._token_file is not None and self._tokens:
            table = pa.Table.from_batches(self._tokens)
            self._token_file.write_table(table, row_group_size=len(table))
        self._tokens = []
        self.buffered_tokens = 0

    def _flush_documents(self) -> None:
        if self._documents:
            table = pa.Table.from_pylist(self._documents, schema=documents_schema())
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

    def _write_manifest(self) -> None:
        rows = dict.fromkeys((DOCUMENTS, USAGE, ACTIVATION), self._total_documents)
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
        )
        (self._folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


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


def _activation(expert_ids: np.ndarray, model: TracedModel) -> np.ndarray:
    """Share of tokens that chose each routed expert: ids [L, T, k] -> [L, R].

    Rows sum to the layer's slots; the id -1 stands for none.
    """
    layers, tokens, _ = expert_ids.shape
    chosen = expert_ids.astype(np.int64)
    flat = (chosen + np.arange(layers)[:, None, None] * model.num_routed_experts)[chosen >= 0]
    counts = np.bincount(flat, minlength=layers * model.num_routed_experts)
    shares: np.ndarray = counts.reshape(layers, model.num_routed_experts) / tokens
    return shares


def _token_rows(
    document: int, texts: Sequence[str], recording: "Recording", model: TracedModel
) -> pa.RecordBatch:
    count, schema = len(texts), tokens_schema(model)
    columns = {
        "document": np.full(count, document),
        "position": np.arange(count),
        "token_id": recording.token_ids,
        "text": pa.array(texts, pa.string()),
        # from_pandas: the NaN of the opening EOS becomes null, so that SQL averages leave it out.
        "loss": pa.array(recording.loss, pa.float32(), from_pandas=True),
        "entropy": recording.entropy.T,
        "expert_ids": _by_token(recording.expert_ids, model),
        "gate_weights": _by_token(recording.gate_weights, model),
    }
    arrays = [_column(columns[field.name], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _by_token(values: np.ndarray, model: TracedModel) -> np.ndarray:
    """[L, T, k] without the slots that a layer lacks: [T, slots of all layers]."""
    layers = [by_slot[:, :slots] for by_slot, slots in zip(values, model.slots, strict=True)]
    return np.concatenate(layers, axis=1)


def _column(values: "np.ndarray | pa.Array", kind: pa.DataType) -> pa.Array:
    """A column of the tokens table; a [T, n] array becomes one list of n values a token."""
    if isinstance(values, pa.Array):
        return values
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values.astype(kind.to_pandas_dtype()), kind)
    flat = values.reshape(-1).astype(kind.value_type.to_pandas_dtype())
    return pa.FixedSizeListArray.from_arrays(pa.array(flat, kind.value_type), kind.list_size)


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
