"""The trace format: its manifest, its two tables, its version.

A trace is a folder. `manifest.json` is written last, so a folder without it is no trace;
`documents-00000.parquet` has a row for every document, `usage.npy` and `activation.npy`
(float16, documents x layers x routed experts) have one slab for each of those rows, and at level
"tokens" `tokens-00000.parquet` has a row for every token. docs of the columns: `documents_schema`,
`tokens_schema`. No part of it needs the model, torch or a tokenizer to be read.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import pyarrow as pa

FORMAT = "emo-viz-trace"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
DOCUMENTS = "documents-00000.parquet"
TOKENS = "tokens-00000.parquet"
USAGE = "usage.npy"
ACTIVATION = "activation.npy"

Level = Literal["documents", "tokens"]


@dataclass(frozen=True, kw_only=True)
class TracedModel:
    """What a reader must know of the recorded model; the expert counts include the shared ones."""

    name: str
    objective: str
    num_layers: int
    num_experts: int
    num_shared_experts: int
    num_experts_per_tok: int
    checkpoint_sha256: str

    @property
    def num_routed_experts(self) -> int:
        """R: the experts that the router chooses among; their ids are 0 .. R - 1."""
        return self.num_experts - self.num_shared_experts

    @property
    def num_routed_per_tok(self) -> int:
        """Routed experts of one token in one layer: top-k less the shared ones."""
        return self.num_experts_per_tok - self.num_shared_experts


@dataclass(frozen=True)
class TraceFile:
    """One file of a trace: its name in the folder, its size in bytes, its rows."""

    name: str
    bytes: int
    rows: int


@dataclass(frozen=True, kw_only=True)
class TraceManifest:
    """The contents of `manifest.json`.

    `tokens` counts the documents' own tokens: the EOS that opens each document is not among them.
    `created` is a UTC time in ISO 8601.
    """

    level: Level
    model: TracedModel
    documents: int
    tokens: int
    files: tuple[TraceFile, ...]
    created: str

    @property
    def has_tokens(self) -> bool:
        """Whether the trace holds a row for every token."""
        return self.level == "tokens"

    def to_json(self) -> str:
        """The manifest as the text of `manifest.json`."""
        head = {"format": FORMAT, "format_version": FORMAT_VERSION}
        return json.dumps(head | asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "TraceManifest":
        """Read a manifest; ValueError if it is not one, or one of another format version."""
        fields = _manifest_fields(text)
        try:
            level = fields["level"]
            if level not in get_args(Level):
                raise ValueError(f"unknown level {level!r}")
            return cls(
                level=level,
                model=TracedModel(**fields["model"]),
                documents=int(fields["documents"]),
                tokens=int(fields["tokens"]),
                files=tuple(TraceFile(**file) for file in fields["files"]),
                created=str(fields["created"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{MANIFEST} is damaged ({error}); record the trace again.") from error


def is_trace_manifest(text: str) -> bool:
    """Whether a text is the manifest of a trace of any format version."""
    try:
        fields = json.loads(text)
    except ValueError:
        return False
    return isinstance(fields, dict) and fields.get("format") == FORMAT


def _manifest_fields(text: str) -> dict[str, Any]:
    if not is_trace_manifest(text):
        raise ValueError(f"{MANIFEST} does not describe a trace; choose the folder of a trace.")
    fields: dict[str, Any] = json.loads(text)
    version = fields.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"it has trace format version {version} and this program reads version "
            f"{FORMAT_VERSION}; record the trace again."
        )
    return fields


def documents_schema() -> pa.Schema:
    """Columns of the documents table; `document` is the row of usage.npy and activation.npy.

    n_tokens: tokens recorded, without the opening EOS. dropped_tokens: tokens of the text beyond
    those. mean_loss: nats a token over the n_tokens.
    """
    text = {name: pa.string() for name in ("id", "domain", "source", "licence", "parent")}
    counts = {"n_tokens": pa.int32(), "dropped_tokens": pa.int32(), "mean_loss": pa.float32()}
    columns = {"document": pa.int32(), **text, "part": pa.int32(), "text": pa.string(), **counts}
    return pa.schema(columns)


def tokens_schema(model: TracedModel) -> pa.Schema:
    """Columns of the tokens table, one row a token, a document's rows together and in order.

    Position 0 is the EOS that opens the document; its loss is null. entropy: nats, a value a layer.
    expert_ids and gate_weights: layer by layer, num_routed_per_tok values a layer by falling gate
    weight, so layer l has the slice [l * k, (l + 1) * k).
    """
    slots = model.num_layers * model.num_routed_per_tok
    expert_id = pa.uint8() if model.num_routed_experts <= 256 else pa.int16()
    columns = {
        "document": pa.int32(),
        "position": pa.int32(),
        "token_id": pa.int32(),
        "text": pa.string(),
        "loss": pa.float32(),
        "entropy": pa.list_(pa.float16(), model.num_layers),
        "expert_ids": pa.list_(expert_id, slots),
        "gate_weights": pa.list_(pa.float16(), slots),
    }
    return pa.schema(columns)
