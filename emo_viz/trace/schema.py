"""The trace format: its manifest, its two tables, its versions.

A trace is a folder. `manifest.json` is written last, so a folder without it is no trace;
`documents-00000.parquet` has a row for every document, `usage.npy` and `activation.npy`
(float16, documents x layers x routed experts) have one slab for each of those rows, and at level
"tokens" `tokens-00000.parquet` has a row for every token, in row groups of some thousand tokens, so
that a document's are found without the others. docs of the columns: `documents_schema`,
`tokens_schema`. No part of it needs the model, torch or a tokenizer to be read.

There are three versions, and each trace is written as the first that can say it: what was recorded
before stays as it is, bit for bit, and programs that know the earlier ones go on reading it.

1: a model recorded from its checkpoint, with as many experts in every layer. All parts are there.
2: layers have different numbers of experts: the manifest lists them (`num_experts_per_layer`), the
   arrays are as wide as the largest layer, with zeros for the experts that a layer lacks, and a
   layer with fewer experts than a token could use has fewer slots in the tokens table.
3: whatever else. The manifest lists the parts that the trace `has` (`emo_viz.trace.absent`); what
   no document has is null in the tables, and without activation there is no activation.npy. It also
   says whether documents open with an EOS (`opening_eos`; without one, position 0 is a token as any
   other and is counted), whether usage is of router probabilities or, where there are none, of
   expert choices (`usage_of`), which layers of the model these are (`layer_numbers`), how many
   slots each has (`slots_per_layer`), whether slots can be empty (`empty_slots`: null in
   expert_ids), and, of an imported file, what it was (`source`) and which traps were met (`notes`).
"""

import json
import stat
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa

from emo_viz.trace.absent import PARTS, Part
from model.fields import is_count

FORMAT = "emo-viz-trace"
UNIFORM_VERSION = 1
UNEVEN_VERSION = 2
PARTIAL_VERSION = 3
MANIFEST = "manifest.json"
DOCUMENTS = "documents-00000.parquet"
TOKENS = "tokens-00000.parquet"
USAGE = "usage.npy"
ACTIVATION = "activation.npy"
FILES = (MANIFEST, DOCUMENTS, TOKENS, USAGE, ACTIVATION)

Level = Literal["documents", "tokens"]
UsageOf = Literal["probabilities", "choices"]
ClustersOf = Literal["", "documents", "tokens"]

# What every trace of versions 1 and 2 has, and at level "tokens" besides.
_ALWAYS: tuple[Part, ...] = (
    "activation",
    "domain",
    "loss",
    "n_tokens",
    "num_experts",
    "text",
    "top_k",
    "usage",
)
_WITH_TOKENS: tuple[Part, ...] = ("entropy", "gate_weights", "token_ids", "token_texts", "tokens")


@dataclass(frozen=True, kw_only=True)
class TracedModel:
    """What a reader must know of the recorded model; the expert counts include the shared ones.

    `num_experts` is that of the largest layer; `num_experts_per_layer` is None where all layers
    have as many, and 0 for a layer without a router. `layer_numbers`: the model's own numbers of
    the layers that are in the trace, None for 0, 1, 2, ... `slots_per_layer`: routed experts of a
    token, where that is not the top-k of all layers, or as many as the layer has.

    What is not known: `checkpoint_sha256` is "", `num_experts_per_tok` is 0, and `experts_known` is
    False where the number of experts is only that of the ids seen. Raises ValueError for impossible
    numbers.
    """

    name: str
    objective: str
    num_layers: int
    num_experts: int
    num_shared_experts: int
    num_experts_per_tok: int
    checkpoint_sha256: str
    num_experts_per_layer: tuple[int, ...] | None = None
    layer_numbers: tuple[int, ...] | None = None
    slots_per_layer: tuple[int, ...] | None = None
    experts_known: bool = True

    def __post_init__(self) -> None:
        counts = (self.num_layers, self.num_experts, self.num_experts_per_tok)
        layers, slots, numbers = (
            self.num_experts_per_layer,
            self.slots_per_layer,
            self.layer_numbers,
        )
        lists = (*(layers or ()), *(slots or ()), *(numbers or ()))
        if not all(map(is_count, (*counts, self.num_shared_experts, *lists))):
            raise ValueError("numbers of layers and experts must be whole and not negative")
        top_k = self.num_experts_per_tok or self.num_experts  # 0: not known
        if not 0 <= self.num_shared_experts < min(top_k, self.num_experts):
            raise ValueError("a token must use at least one routed expert")
        if layers is not None and _fit(layers) != (self.num_layers, self.num_experts):
            raise ValueError("num_experts_per_layer must fit num_layers and num_experts")
        if slots is not None and _fit(slots) != (self.num_layers, self.num_routed_per_tok):
            raise ValueError("slots_per_layer must fit num_layers and num_experts_per_tok")
        if numbers is not None and _ascending(numbers) != self.num_layers:
            raise ValueError("layer_numbers must ascend, one for each layer")

    @property
    def num_routed_experts(self) -> int:
        """R: the experts that the router chooses among; their ids are 0 .. R - 1.

        Of the largest layer; see `routed_in_layer`.
        """
        return self.num_experts - self.num_shared_experts

    @property
    def num_routed_per_tok(self) -> int:
        """Routed experts of one token in one layer: top-k less the shared ones; 0: not known.

        A layer that has no more experts has fewer; see `slots_in_layer`.
        """
        return max(0, self.num_experts_per_tok - self.num_shared_experts)

    def routed_in_layer(self, layer: int) -> int:
        """Routed experts of one layer."""
        layers = self.num_experts_per_layer
        count = self.num_experts if layers is None else layers[layer]
        return max(0, count - self.num_shared_experts)

    def slots_in_layer(self, layer: int) -> int:
        """Routed experts of one token in one layer, as many as there are values in the table."""
        if self.slots_per_layer is not None:
            return self.slots_per_layer[layer]
        return min(self.num_routed_per_tok, self.routed_in_layer(layer))

    @property
    def routed(self) -> tuple[int, ...]:
        """`routed_in_layer` of every layer."""
        return tuple(map(self.routed_in_layer, range(self.num_layers)))

    @property
    def slots(self) -> tuple[int, ...]:
        """`slots_in_layer` of every layer."""
        return tuple(map(self.slots_in_layer, range(self.num_layers)))

    @property
    def own_layers(self) -> tuple[int, ...]:
        """The model's own number of every layer of the trace."""
        return self.layer_numbers or tuple(range(self.num_layers))


def _fit(values: tuple[int, ...]) -> tuple[int, int]:
    return len(values), max(values, default=0)


def _ascending(values: tuple[int, ...]) -> int:
    """How many there are; -1 unless each is larger than the one before."""
    return len(values) if list(values) == sorted(set(values)) else -1


@dataclass(frozen=True)
class TraceFile:
    """One file of a trace: its name in the folder, its size in bytes, its rows."""

    name: str
    bytes: int
    rows: int

    def fault(self, folder: Path) -> str | None:
        """What can be seen to be wrong with it in a trace's folder without reading it."""
        try:
            state = (folder / self.name).stat()
        except OSError:
            return "is missing"
        if not stat.S_ISREG(state.st_mode):
            return "is no file"
        size = state.st_size
        return None if size == self.bytes else f"has {size} bytes instead of {self.bytes}"


@dataclass(frozen=True, kw_only=True)
class TraceManifest:
    """The contents of `manifest.json`.

    `tokens` counts the documents' own tokens: the EOS that opens each document is not among them.
    `created` is a UTC time in ISO 8601. has: the parts that are there. source: what was imported,
    with `notes` on it, or "". clusters_of: what another tool's clusters are made of, with the names
    that they have by their number. recorded_with: the model's "family" (model_type), the "device"
    and the "dtype" that it ran on and in, where that is known; in all versions.
    """

    level: Level
    model: TracedModel
    documents: int
    tokens: int
    files: tuple[TraceFile, ...]
    created: str
    has: frozenset[Part]
    usage_of: UsageOf = "probabilities"
    opening_eos: bool = True
    empty_slots: bool = False
    source: str = ""
    notes: tuple[str, ...] = ()
    clusters_of: ClustersOf = ""
    cluster_labels: dict[str, str] = field(default_factory=dict)
    recorded_with: dict[str, str] = field(default_factory=dict)

    @property
    def has_tokens(self) -> bool:
        """Whether the trace holds a row for every token."""
        return self.level == "tokens"

    @property
    def version(self) -> int:
        """The first format version that can say all of this."""
        model = self.model
        lacks = self.has != _whole(self.level, model) or not model.experts_known
        odd = model.layer_numbers is not None or model.slots_per_layer is not None
        choices = self.usage_of != "probabilities"
        if lacks or odd or choices or not self.opening_eos or self.empty_slots or self.source:
            return PARTIAL_VERSION
        return UNIFORM_VERSION if model.num_experts_per_layer is None else UNEVEN_VERSION

    def to_json(self) -> str:
        """The manifest as the text of `manifest.json`."""
        version = self.version
        fields = asdict(self) | {"has": sorted(self.has)}
        if version < PARTIAL_VERSION:  # as it has always been
            kept = _FIELDS if not self.recorded_with else (*_FIELDS, _WITH)
            fields = {name: fields[name] for name in kept}
            model = fields["model"]
            names = _MODEL_FIELDS if version == UNIFORM_VERSION else (*_MODEL_FIELDS, _LAYERS)
            fields["model"] = {name: model[name] for name in names}
        return json.dumps({"format": FORMAT, "format_version": version} | fields, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "TraceManifest":
        """Read a manifest; ValueError if it is not one, or one of another format version."""
        fields = _manifest_fields(text)
        try:
            return _manifest(fields)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{MANIFEST} is damaged (a field is missing or of another kind); record the trace "
                "again."
            ) from error
        except ValueError as error:
            raise ValueError(f"{MANIFEST} is damaged ({error}); record the trace again.") from error


_FIELDS = ("level", "model", "documents", "tokens", "files", "created")
_WITH = "recorded_with"
_LAYERS = "num_experts_per_layer"
_MODEL_FIELDS = (
    "name",
    "objective",
    "num_layers",
    "num_experts",
    "num_shared_experts",
    "num_experts_per_tok",
    "checkpoint_sha256",
)


def _whole(level: Level, model: TracedModel) -> frozenset[Part]:
    """The parts of a trace that lacks nothing; versions 1 and 2 say "" for no digest."""
    digest: tuple[Part, ...] = ("checkpoint",) if model.checkpoint_sha256 else ()
    return frozenset((*_ALWAYS, *digest, *(_WITH_TOKENS if level == "tokens" else ())))


def _manifest(fields: dict[str, Any]) -> TraceManifest:
    level, model = fields["level"], _traced_model(fields["model"])
    if level not in get_args(Level):
        raise ValueError(f"unknown level {level!r}")
    partial = fields["format_version"] == PARTIAL_VERSION
    return TraceManifest(
        level=level,
        model=model,
        documents=_count(fields["documents"]),
        tokens=_count(fields["tokens"]),
        files=tuple(map(_file, fields["files"])),
        created=str(fields["created"]),
        recorded_with={str(k): str(v) for k, v in fields.get(_WITH, {}).items()},
        **(_partial(fields, level) if partial else {"has": _whole(level, model)}),
    )


def _file(fields: dict[str, Any]) -> TraceFile:
    listed = TraceFile(**fields)
    if not isinstance(listed.name, str) or Path(listed.name).name != listed.name:
        raise ValueError(f"it lists a file {listed.name!r}")
    return listed


def _partial(fields: dict[str, Any], level: Level) -> dict[str, Any]:
    """What version 3 says besides."""
    has, usage_of, clusters_of = (fields[name] for name in ("has", "usage_of", "clusters_of"))
    has = frozenset(has)
    if not has <= set(PARTS) or ("tokens" in has) != (level == "tokens") or "usage" not in has:
        raise ValueError(f"it has the parts {', '.join(sorted(map(str, has)))}")
    if usage_of not in get_args(UsageOf) or clusters_of not in get_args(ClustersOf):
        raise ValueError(f"usage of {usage_of!r}, clusters of {clusters_of!r}")
    return {
        "has": has,
        "usage_of": usage_of,
        "clusters_of": clusters_of,
        "opening_eos": bool(fields["opening_eos"]),
        "empty_slots": bool(fields["empty_slots"]),
        "source": str(fields["source"]),
        "notes": tuple(map(str, fields["notes"])),
        "cluster_labels": {str(k): str(v) for k, v in fields["cluster_labels"].items()},
    }


def _traced_model(fields: dict[str, Any]) -> TracedModel:
    lists = ("num_experts_per_layer", "layer_numbers", "slots_per_layer")
    found = {name: fields.get(name) for name in lists}
    tuples = {name: None if value is None else tuple(value) for name, value in found.items()}
    return TracedModel(**fields | tuples)


def _count(value: object) -> int:
    if not is_count(value):
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
    if version not in (UNIFORM_VERSION, UNEVEN_VERSION, PARTIAL_VERSION):
        raise ValueError(
            f"it has trace format version {version} and this program reads versions "
            f"{UNIFORM_VERSION} to {PARTIAL_VERSION}; use the program that wrote it, or record the "
            "trace again."
        )
    return fields


def documents_schema(clusters_of: ClustersOf = "") -> pa.Schema:
    """Columns of the documents table; `document` is the row of usage.npy and activation.npy.

    n_tokens: tokens recorded, without the opening EOS. dropped_tokens: tokens of the text beyond
    those, in texts of more than 100,000 characters an estimate. mean_loss: nats a token over the
    n_tokens. cluster: of another tool, where these are of documents. What is absent is null.
    """
    text = {name: pa.string() for name in ("id", "domain", "source", "licence", "parent")}
    counts = {"n_tokens": pa.int32(), "dropped_tokens": pa.int32(), "mean_loss": pa.float32()}
    columns = {"document": pa.int32(), **text, "part": pa.int32(), "text": pa.string(), **counts}
    return pa.schema(columns | ({"cluster": pa.int32()} if clusters_of == "documents" else {}))


def tokens_schema(model: TracedModel, clusters_of: ClustersOf = "") -> pa.Schema:
    """Columns of the tokens table, one row a token, a document's rows together and in order.

    Position 0 is the EOS that opens the document, where documents have one; its loss is null.
    entropy: nats, a value a layer, NaN for a layer without a router. expert_ids and gate_weights:
    layer by layer, `model.slots` values a layer, by falling gate weight, or without gate weights in
    the order of the source; an empty slot is null. Where the slots are all k, layer l has the slice
    [l * k, (l + 1) * k). cluster: of another tool, where these are of tokens. What is absent is
    null.
    """
    slots = sum(model.slots)
    small, middle = model.num_routed_experts <= 256, model.num_routed_experts <= 1 << 15
    expert_id = pa.uint8() if small else pa.int16() if middle else pa.int32()
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
    return pa.schema(columns | ({"cluster": pa.int32()} if clusters_of == "tokens" else {}))


# The columns of the tokens table that a trace may lack.
TOKEN_COLUMNS: dict[str, Part] = {
    "token_id": "token_ids",
    "text": "token_texts",
    "loss": "loss",
    "entropy": "entropy",
    "gate_weights": "gate_weights",
}
