"""The trace format: its manifest, its two tables, its version.

A trace is a folder. `manifest.json` is written last, so a folder without it is no trace;
`documents-00000.parquet` has a row for every document, `usage.npy` and `activation.npy`
(float16, documents x layers x routed experts) have one slab for each of those rows, and at level
"tokens" `tokens-00000.parquet` has a row for every token. docs of the columns: `documents_schema`,
`tokens_schema`. No part of it needs the model, torch or a tokenizer to be read.

Version 2 is for models whose layers have different numbers of experts: the manifest lists them
(`num_experts_per_layer`), the arrays are as wide as the largest layer, with zeros for the experts
that a layer lacks, and a layer with fewer experts than a token could use has fewer slots in the
tokens table. Models with the same number in every layer are written, and read, as version 1.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import pyarrow as pa

FORMAT = "emo-viz-trace"
UNIFORM_VERSION = 1
UNEVEN_VERSION = 2
MANIFEST = "manifest.json"
DOCUMENTS = "documents-00000.parquet"
TOKENS = "tokens-00000.parquet"
USAGE = "usage.npy"
ACTIVATION = "activation.npy"
FILES = (MANIFEST, DOCUMENTS, TOKENS, USAGE, ACTIVATION)

Level = Literal["documents", "tokens"]


@dataclass(frozen=True, kw_only=True)
class TracedModel:
    """What a reader must know of the recorded model; the expert counts include the shared ones.

    `num_experts` is that of the largest layer; `num_experts_per_layer` is None where all layers
    have as many, and 0 for a layer without a router. Raises ValueError for impossible numbers.
    """

    name: str
    objective: str
    num_layers: int
    num_experts: int
    num_shared_experts: int
    num_experts_per_tok: int
    checkpoint_sha256: str
    num_experts_per_layer: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        counts = (self.num_layers, self.num_experts, self.num_experts_per_tok)
        layers = self.num_experts_per_layer
        if not all(map(_is_count, (*counts, self.num_shared_experts, *(layers or ())))):
            raise ValueError("numbers of layers and experts must be whole and not negative")
        if not 0 <= self.num_shared_experts < min(self.num_experts_per_tok, self.num_experts):
            raise ValueError("a token must use at least one routed expert")
        if layers is not None and (len(layers), max(layers, default=0)) != (
            self.num_layers,
            self.num_experts,
        ):
            raise ValueError("num_experts_per_layer must fit num_layers and num_experts")

    @property
    def num_routed_experts(self) -> int:
        """R: the experts that the router chooses among; their ids are 0 .. R - 1.

        Of the largest layer; see `routed_in_layer`.
        """
        return self.num_experts - self.num_shared_experts

    @property
    def num_routed_per_tok(self) -> int:
        """Routed experts of one token in one layer: top-k less the shared ones.

        A layer that has no more experts has fewer; see `slots_in_layer`.
        """
        return self.num_experts_per_tok - self.num_shared_experts

    def routed_in_layer(self, layer: int) -> int:
        """Routed experts of one layer."""
        layers = self.num_experts_per_layer
        count = self.num_experts if layers is None else layers[layer]
        return max(0, count - self.num_shared_experts)

    def slots_in_layer(self, layer: int) -> int:
        """Routed experts of one token in one layer, as many as there are values in the table."""
        return min(self.num_routed_per_tok, self.routed_in_layer(layer))

    @property
    def routed(self) -> tuple[int, ...]:
        """`routed_in_layer` of every layer."""
        return tuple(map(self.routed_in_layer, range(self.num_layers)))

    @property
    def slots(self) -> tuple[int, ...]:
        """`slots_in_layer` of every layer."""
        return tuple(map(self.slots_in_layer, range(self.num_layers)))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


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
        fields = asdict(self)
        uniform = self.model.num_experts_per_layer is None
        if uniform:  # as version 1 has always been
            del fields["model"]["num_experts_per_layer"]
        version = UNIFORM_VERSION if uniform else UNEVEN_VERSION
        return json.dumps({"format": FORMAT, "format_version": version} | fields, indent=1)

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
                model=_traced_model(fields["model"]),
                documents=_count(fields["documents"]),
                tokens=_count(fields["tokens"]),
                files=tuple(TraceFile(**file) for file in fields["files"]),
                created=str(fields["created"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{MANIFEST} is damaged (a field is missing or of another kind); record the trace "
                "again."
            ) from error
        except ValueError as error:
            raise ValueError(f"{MANIFEST} is damaged ({error}); record the trace again.") from error


def _traced_model(fields: dict[str, Any]) -> TracedModel:
    layers = fields.get("num_experts_per_layer")
    return TracedModel(
        **fields | {"num_experts_per_layer": None if layers is None else tuple(layers)}
    )


def _count(value: object) -> int:
    if not _is_count(value):
        raise ValueError(f"{value!r} is no number of documents or tokens")
    return int(str(value))


def is_trace_manifest(text: str) -> bool:
    """Whether a text is the manifest of a trace of any format version."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and fields.get("format") == FORMAT


def _manifest_fields(text: str) -> dict[str, Any]:
    if not is_trace_manifest(text):
        raise ValueError(f"{MANIFEST} does not describe a trace; choose the folder of a trace.")
    fields: dict[str, Any] = json.loads(text)
    version = fields.get("format_version")
    if version not in (UNIFORM_VERSION, UNEVEN_VERSION):
        raise ValueError(
            f"it has trace format version {version} and this program reads versions "
            f"{UNIFORM_VERSION} and {UNEVEN_VERSION}; record the trace again."
        )
    return fields


def documents_schema() -> pa.Schema:
    """Columns of the documents table; `document` is the row of usage.npy and activation.npy.

    n_tokens: tokens recorded, without the opening EOS. dropped_tokens: tokens of the text beyond
    those, in texts of more than 100,000 characters an estimate. mean_loss: nats a token over the
    n_tokens.
    """
    text = {name: pa.string() for name in ("id", "domain", "source", "licence", "parent")}
    counts = {"n_tokens": pa.int32(), "dropped_tokens": pa.int32(), "mean_loss": pa.float32()}
    columns = {"document": pa.int32(), **text, "part": pa.int32(), "text": pa.string(), **counts}
    return pa.schema(columns)


def tokens_schema(model: TracedModel) -> pa.Schema:
    """Columns of the tokens table, one row a token, a document's rows together and in order.

    Position 0 is the EOS that opens the document; its loss is null. entropy: nats, a value a layer,
    NaN for a layer without a router. expert_ids and gate_weights: layer by layer, by falling gate
    weight, `model.slots` values a layer. Where these are all k, layer l has the slice
    [l * k, (l + 1) * k).
    """
    slots = sum(model.slots)
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
