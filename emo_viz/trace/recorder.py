"""Run a model over documents and write what its routers did to a trace."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from emo_viz.trace.documents import OPTIONAL_COLUMNS, REQUIRED_COLUMNS
from emo_viz.trace.documents import check_documents as check_documents
from emo_viz.trace.reader import Trace
from emo_viz.trace.schema import Level, TracedModel
from emo_viz.trace.writer import TraceWriter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from model.emo.modeling import EmoForCausalLM

Progress = Callable[[int, int], None]


class RecordingCancelled(Exception):
    """The caller's cancel callback said so; nothing was written."""


def record_trace(
    model: "EmoForCausalLM",
    tokenizer: "PreTrainedTokenizerBase",
    documents: pd.DataFrame,
    out: Path,
    *,
    name: str,
    checkpoint_sha256: str,
    level: Level = "documents",
    max_tokens: int = 256,
    progress: Progress = lambda done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Trace:
    """Record `documents` (columns id, domain, text; source, licence, parent, part if there are).

    Each text is cut to `max_tokens` tokens, the opening EOS among them. cancelled() is asked before
    and progress(documents done, documents in all) called after each document. A trace that was at
    `out` stays whole until the new one is.

    Raises ValueError for documents that cannot be recorded, a model without routers, a max_tokens
    that the model cannot take, or an `out` that is something else; RecordingCancelled.
    """
    from model.run.inference import encode, record

    check_documents(documents)
    traced = _traced_model(model, name, checkpoint_sha256)
    check_max_tokens(model, max_tokens)
    with TraceWriter(out, traced, level) as writer:
        for done, row in enumerate(_rows(documents), start=1):
            if cancelled():
                raise RecordingCancelled
            encoded = encode(tokenizer, row["text"], max_tokens)
            # One document at a time: on a CPU, batches of whole documents are no faster.
            recording = record(model, encoded.token_ids)
            writer.add(row | {"dropped_tokens": encoded.dropped}, encoded.texts, recording)
            progress(done, len(documents))
    return Trace.open(out)


def check_max_tokens(model: "EmoForCausalLM", max_tokens: int) -> None:
    """ValueError unless the model can take documents of this length, EOS and one token at least."""
    longest = model.config.max_position_embeddings
    if not 2 <= max_tokens <= longest:
        raise ValueError(f"{max_tokens} tokens a document are not within 2 and {longest}.")


def _traced_model(model: "EmoForCausalLM", name: str, checkpoint_sha256: str) -> TracedModel:
    config = model.config
    if config.objective == "dense":
        raise ValueError(f"{name} is a dense model and has no routers; record an EMO or MoE model.")
    counts = [config.experts_in_layer(layer) for layer in range(config.num_hidden_layers)]
    return TracedModel(
        name=name,
        objective=config.objective,
        num_layers=config.num_hidden_layers,
        num_experts=max(counts),
        num_shared_experts=config.num_shared_experts,
        num_experts_per_tok=config.num_experts_per_tok,
        checkpoint_sha256=checkpoint_sha256,
        num_experts_per_layer=None if len(set(counts)) == 1 else tuple(counts),
    )


def _rows(documents: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The columns that a trace keeps, a document at a time; missing values are left out."""
    columns = [c for c in (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS) if c in documents.columns]
    for values in documents[columns].itertuples(index=False, name=None):
        row = {c: v for c, v in zip(columns, values, strict=True) if not pd.isna(v)}
        yield {c: int(v) if c == "part" else str(v) for c, v in row.items()}
