"""What is known of every run, without loading one: from configs, headers and manifests.

A run that is broken is an entry with a fault, in one sentence with the way out.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

from emo_viz.analysis.runs import Run
from emo_viz.analysis.widths import in_words
from emo_viz.server import assets, home, looks
from emo_viz.server.home import Kind
from emo_viz.trace.schema import MANIFEST, TraceManifest
from model import fields
from model.files import FileState, file_state, inside, read_json, read_text, weight_files

BOTH_HALVES = (("num_layers", "num_decoder_layers"), ("encoder_layers", "decoder_layers"))
ROUTED_WEIGHT = re.compile(r"\.experts[._]|\.(mlp|block_sparse_moe)\.(input|output)_linear\.")
FIXED_TOP_K = {"switch_transformers": 1, "nllb-moe": 2}
ANALYSES = {
    "maps.npz": "document map",
    "token_map.npz": "token map",
}


@dataclass(frozen=True)
class Model:
    """What config.json and the weights' headers say; None where they do not.

    experts: of every layer, in words. top_k: experts a token. active: parameters that one token
    uses. bytes: of the weights on disk, about what they take in memory as they are stored. context:
    tokens that it can take at a time.
    """

    family: str
    layers: int | None
    experts: str
    top_k: int | None
    parameters: int
    active: int | None
    bytes: int
    context: int | None


@dataclass(frozen=True)
class Recording:
    """What a trace says of itself; experts in words."""

    family: str
    layers: int
    experts: str
    top_k: int | None
    documents: int
    tokens: int
    by_token: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One run in the list. faults: sentences on what of it cannot be used."""

    id: str
    kind: Kind
    source: str
    run: Run | None
    model: Model | None
    recording: Recording | None
    measured: tuple[str, ...]
    faults: tuple[str, ...]

    @property
    def family(self) -> str:
        found = self.model or self.recording
        return found.family if found else ""


def entries() -> list[Entry]:
    """Every run that is here, the broken ones too."""
    runs = {run.id: run for run in assets.runs()}
    faults = {name: said for name, said in home.runs().items() if isinstance(said, str)}
    found = [entry(run) for run in runs.values()]
    broken = [
        Entry(name, "yours", "", None, None, None, (), (said,))
        for name, said in faults.items()
        if name not in runs
    ]
    return found + broken


@looks.once
def entry(run: Run) -> Entry:
    """One of `assets.runs()`."""
    faults: list[str] = []
    added = home.find(run.id) if assets.is_added(run.id) else None
    model = _tried(lambda: _checkpoint(run, added), faults)
    recording = _tried(lambda: _trace(run), faults)
    if added is not None and not added.checkpoint and recording is None and not faults:
        faults.append(f"The trace of {run.id} is gone; delete the run and import its file again.")
    place = added.checkpoint if added else str(run.checkpoint or run.trace or "")
    kind = assets.kind_of(run.id)
    return Entry(run.id, kind, place, run, model, recording, measured(run.id), tuple(faults))


def _tried(read: Any, faults: list[str]) -> Any:
    try:
        return read()
    except ValueError as error:
        faults.append(str(error))
        return None


def measured(run: str) -> tuple[str, ...]:
    """What has been measured of a run, in words."""
    found = ["clusters"] if assets.token_clusters_path(run).is_file() else []
    for name, words in ANALYSES.items():
        if assets.measured_path(name, [run]).is_file():
            found.append(words)
    curves = assets.curves_path(run).is_file()
    return (*found, *(["curves"] if curves else []))


def _checkpoint(run: Run, added: home.Added | None) -> Model | None:
    """Raises ValueError for a checkpoint that is gone or damaged."""
    if run.checkpoint is None:
        return None
    folder = assets.checkpoint_path(run.id)
    if not (folder / "config.json").is_file():
        if added is not None and assets.is_hub_name(added.checkpoint):
            raise ValueError(
                f"{added.checkpoint} is no longer in the Hugging Face cache; add it again to fetch "
                "it."
            )
        raise ValueError(
            f"The checkpoint of {run.id} is no longer at {folder}; put it back"
            f"{', or delete the run here.' if added else '.'}"
        )
    return read_model(folder)


def read_model(folder: Path) -> Model:
    """What a checkpoint folder says of itself. Raises ValueError, one sentence, if it cannot be
    read."""
    try:
        files = [folder / "config.json", *weight_files(folder)]
        return _read_model(str(folder), tuple(map(file_state, files)))
    except OSError as error:
        raise ValueError(f"{folder} cannot be read ({error.strerror}); copy it again.") from error


@lru_cache(maxsize=256)
def _read_model(folder: str, states: tuple[FileState, ...]) -> Model:
    """The states of the files are the key: what is replaced is read again."""
    place = Path(folder)
    config = read_json(inside(place, "config.json"))
    told = _flat(config)
    headers = [_header(file) for file in weight_files(place)]
    tensors = {name: size for header in headers for name, (_, size) in header.items()}
    experts = _experts(told)
    top_k = _first(told, fields.PER_TOKEN) or FIXED_TOP_K.get(str(config.get("model_type")))
    layers, parameters = _layers(told), sum(tensors.values())
    if layers is None and not experts:
        raise ValueError(
            f"The config.json in {folder} names neither layers nor experts; copy the checkpoint "
            "again."
        )
    routed = sum(size for name, size in tensors.items() if ROUTED_WEIGHT.search(name))
    active = None
    if top_k and sum(experts) and routed:
        used = sum(min(top_k, count) for count in experts) / sum(experts)
        active = parameters - routed + round(routed * used)
    return Model(
        family=str(config.get("model_type", "not named")),
        layers=layers,
        experts=in_words(list(experts)) if experts else "",
        top_k=top_k,
        parameters=parameters,
        active=active,
        bytes=sum(file.stat().st_size for file in weight_files(place)),
        context=_first(told, fields.LENGTHS),
    )


def stored_types(folder: Path) -> dict[str, int]:
    """How many numbers of a checkpoint are stored in each type, as safetensors calls it.

    Raises ValueError, one sentence, if it cannot be read.
    """
    return dict(_stored_types(tuple(map(file_state, weight_files(folder)))))


@lru_cache(maxsize=64)
def _stored_types(files: tuple[FileState, ...]) -> Counter[str]:
    """The states of the files are the key: what is replaced is read again."""
    found = Counter[str]()
    for file in files:
        for kind, size in _header(file.path).values():
            found[kind] += size
    return found


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """With what some families keep in a config of its own for the text, or for the experts."""
    parts = [config.get(name) for name in ("ffn_config", "text_config")]
    nested = {k: v for part in parts if isinstance(part, dict) for k, v in part.items()}
    return nested | config


def _layers(config: Mapping[str, Any]) -> int | None:
    """Those of an encoder and a decoder together."""
    for names in BOTH_HALVES:
        if all(fields.is_count(config.get(name)) for name in names):
            return sum(int(config[name]) for name in names)
    return _first(config, fields.LAYERS)


def _experts(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Of every layer where these differ, else of one; () where the config does not say."""
    listed = config.get("num_experts_per_layer")
    if isinstance(listed, list) and listed and all(fields.is_count(each) for each in listed):
        return tuple(listed)
    found = _first(config, fields.EXPERTS)
    return (found,) if found else ()


def _first(said: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((said[name] for name in names if fields.is_count(said.get(name))), None)


def _header(file: Path) -> dict[str, tuple[str, int]]:
    """The type of each tensor of a safetensors file, and how many numbers are in it.

    Raises ValueError for a file that is damaged.
    """
    try:
        with file.open("rb") as handle:
            size = int.from_bytes(handle.read(8), "little")
            if not 0 < size <= file.stat().st_size:
                raise ValueError("its header is longer than the file")
            header = json.loads(handle.read(size))
        tensors = {name: each for name, each in header.items() if name != "__metadata__"}
        end = max((int(each["data_offsets"][1]) for each in tensors.values()), default=0)
        if 8 + size + end > file.stat().st_size:
            raise ValueError("its tensors are longer than the file")
        return {
            name: (str(each["dtype"]), prod(map(int, each["shape"])))
            for name, each in tensors.items()
        }
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged or cut short; copy the checkpoint again.") from error


def _trace(run: Run) -> Recording | None:
    """Raises ValueError for a trace that cannot be read."""
    folder = assets.trace_path(run.id)
    if not folder.exists():
        return None
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"The trace of {run.id} is unfinished; record it again.")
    try:
        manifest = _manifest(folder / MANIFEST, file_state(folder / MANIFEST))
    except ValueError as error:
        raise ValueError(f"The trace of {run.id} cannot be opened: {error}") from error
    for file in manifest.files:
        if fault := file.fault(folder):
            raise ValueError(
                f"The trace of {run.id} is damaged: {file.name} {fault}; record it again."
            )
    return _recording(manifest)


@lru_cache(maxsize=256)
def _manifest(path: Path, state: FileState) -> TraceManifest:
    """The state of the file is the key: what is replaced is read again."""
    return TraceManifest.from_json(read_text(path))


def _recording(manifest: TraceManifest) -> Recording:
    model = manifest.model
    counts = model.num_experts_per_layer or [model.num_experts]
    return Recording(
        family=manifest.recorded_with.get("family", ""),
        layers=model.num_layers,
        experts=f"{'' if model.experts_known else 'at least '}{in_words(list(counts))}",
        top_k=model.num_experts_per_tok or None,
        documents=manifest.documents,
        tokens=manifest.tokens,
        by_token=manifest.has_tokens,
        notes=manifest.notes,
    )
