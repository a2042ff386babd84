"""Recording the routing of a model over documents: one recipe for any family, device and caller.

Documents are recorded a window at a time, so that memory does not grow with their number; finished
windows are kept beside the goal (`emo_viz.runs.partial`), and a recording that was killed goes on
after them and ends with the same bytes. The trace itself is written at the end, out of the windows.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from emo_viz.runs.partial import Partial, Recorded
from emo_viz.runs.progress import Report, unreported
from emo_viz.trace.documents import check_documents
from emo_viz.trace.reader import Trace
from emo_viz.trace.recorder import check_max_tokens, rows, traced_model
from emo_viz.trace.schema import Level, TracedModel
from emo_viz.trace.writer import TraceWriter, check_replaceable
from model.files import check_writable, weights_digest

if TYPE_CHECKING:
    from model.run.inference import Encoded
    from model.run.opening import Opened
    from model.run.recording import Routing

WINDOW_TOKENS = 16_384
GPU_BATCH_TOKENS = 8_192
Tell = Callable[[str], None]
Batches = Iterator[list[tuple[int, "Routing"]]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to record.

    device: torch's name, or "auto" to spread a model over all there are. max_tokens: of a document,
    its opening token counted. batch_tokens: of the documents that are run together, padding
    counted; None is one document at a time on a CPU, where batches are no faster, and 8,192 tokens
    elsewhere.
    """

    device: str = "cpu"
    dtype: str = "float32"
    level: Level = "documents"
    max_tokens: int = 256
    batch_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be recorded, and by what.

    encode: a text as tokens. record: batches of documents, each with its number among those given.
    opened: whether a token that is not the text's opens each document. recorded_with: what the
    manifest says of the model's family, device and type.
    """

    documents: pd.DataFrame
    model: TracedModel
    level: Level
    encode: Callable[[str], "Encoded"]
    record: Callable[[Sequence[np.ndarray]], Batches]
    opened: bool = True
    window_tokens: int = WINDOW_TOKENS
    recorded_with: Mapping[str, str] | None = None


def record(
    source: str | Path,
    documents: pd.DataFrame,
    out: Path,
    options: Options = Options(),  # noqa: B008 (it is frozen)
    *,
    report: Report = unreported,
    tell: Tell = lambda sentence: None,
) -> Trace:
    """Record a checkpoint folder, or a model of the Hugging Face hub: see `record_opened`.

    Raises ValueError, besides, for what cannot be opened; before anything is loaded if it is too
    large for the device.
    """
    from model.run.opening import open_checkpoint

    # What is quickly tried comes before a model is loaded, which can take minutes.
    check_replaceable(out)
    check_writable(out)
    check_documents(documents)
    opened = open_checkpoint(str(source), options.device, options.dtype, options.max_tokens)
    return record_opened(opened, documents, out, options, report=report, tell=tell)


def record_opened(
    opened: "Opened",
    documents: pd.DataFrame,
    out: Path,
    options: Options,
    *,
    report: Report = unreported,
    tell: Tell = lambda sentence: None,
) -> Trace:
    """Record `documents` (columns id, domain, text; source, licence, parent, part if there are).

    report: documents done, documents in all; what it raises ends the recording, which can go on
    later. tell: gets a sentence where an unfinished recording is taken up or thrown away. A trace
    that was at `out` stays whole until the new one is.

    Raises ValueError for documents that cannot be recorded, a max_tokens that the model cannot
    take, or an `out` that is something else or cannot be written.
    """
    import torch
    import transformers

    from model.run.inference import encode_after
    from model.run.opening import tokenizer_digest
    from model.run.recording import Recorder

    check_documents(documents)
    check_max_tokens(opened.model.model, options.max_tokens)
    opening, tokenizer = opened.opening, opened.tokenizer
    recorder = Recorder(opened.model, opening is not None)
    options = replace(options, batch_tokens=_batch_tokens(options, recorder.device.type))
    digest = weights_digest(opened.folder)
    job = Job(
        documents=documents,
        model=traced_model(recorder, opened.name, digest),
        level=options.level,
        encode=lambda text: encode_after(opening, tokenizer, text, options.max_tokens),
        record=lambda encoded: recorder.record(encoded, options.batch_tokens),
        opened=opening is not None,
        window_tokens=max(WINDOW_TOKENS, 4 * (options.batch_tokens or 0)),
        recorded_with={
            "family": opened.model.family,
            "device": recorder.device.type,
            "dtype": options.dtype,
        },
    )
    of = {
        "model": [opened.name, digest],
        "tokenizer or config": tokenizer_digest(opened.folder),
        "collection of documents": documents_key(documents),
        "set of options": [vars(options), str(recorder.device), job.window_tokens],
        "version of a library": [torch.__version__, transformers.__version__],
    }
    return write_trace(job, out, of, report=report, tell=tell)


def write_trace(
    job: Job,
    out: Path,
    of: Mapping[str, Any],
    *,
    report: Report = unreported,
    tell: Tell = lambda sentence: None,
) -> Trace:
    """Record a job, going on with what is there of it (`of`: all that decides its bytes)."""
    check_replaceable(out)
    check_writable(out)
    with Partial.place(out, of) as partial:
        partial.resume(tell)
        _record_windows(job, partial, report)
        with TraceWriter(
            out,
            job.model,
            job.level,
            opening_eos=job.opened,
            recorded_with=job.recorded_with,
        ) as writer:
            for recorded in partial.recorded():
                writer.add(recorded.row, recorded.texts, recorded.routing)
        partial.clear()
    return Trace.open(out)


def documents_key(documents: pd.DataFrame) -> str:
    """A digest of all that a trace keeps of the documents, in their order."""
    digest = hashlib.sha256()
    for row in rows(documents):
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def _batch_tokens(options: Options, device: str) -> int | None:
    if options.batch_tokens is None and device != "cpu":
        return GPU_BATCH_TOKENS
    return options.batch_tokens


def _record_windows(job: Job, partial: Partial, report: Report) -> None:
    """Record what no window has yet."""
    total = len(job.documents)
    report(partial.done, total)
    for window in _windows(job, partial.done):
        routings: dict[int, Routing] = {}
        with _told_of_memory():
            for batch in job.record([encoded.token_ids for _, encoded in window]):
                routings.update(batch)
                report(partial.done + len(routings), total)
        partial.keep(
            [
                Recorded(row | {"dropped_tokens": encoded.dropped}, encoded.texts, routings[n])
                for n, (row, encoded) in enumerate(window)
            ],
            job.level,
        )


def _windows(job: Job, start: int) -> Iterator[list[tuple[dict[str, Any], "Encoded"]]]:
    """Documents in their order, each window as long as it must be to hold enough tokens."""
    window, tokens = [], 0
    for row in rows(job.documents.iloc[start:]):
        encoded = _encoded(job, row)
        window.append((row, encoded))
        tokens += len(encoded.token_ids)
        if tokens >= job.window_tokens:
            yield window
            window, tokens = [], 0
    if window:
        yield window


def _encoded(job: Job, row: Mapping[str, Any]) -> "Encoded":
    try:
        return job.encode(row["text"])
    except ValueError as error:
        raise ValueError(f"The document {row['id']} cannot be recorded: {error}") from error


@contextmanager
def _told_of_memory() -> Iterator[None]:
    """Turns torch's ways of saying that memory is out into one sentence."""
    try:
        yield
    except RuntimeError as error:
        said = str(error).lower()
        if "out of memory" in said or "can't allocate memory" in said:
            raise ValueError(
                "The device ran out of memory; give fewer tokens to a batch or a document, or "
                "choose a smaller type."
            ) from error
        raise
