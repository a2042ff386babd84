"""EMO's clustering folders (router logits of every token) and OLMoE's c4_results.jsonl."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from emo_viz.trace.importers.imported import (
    NO_EXPERT,
    ImportedClusters,
    ImportedDocument,
    Lazy,
    Options,
    Raw,
    Source,
)
from emo_viz.trace.importers.reading import (
    MAX_EXPERTS,
    MAX_LAYERS,
    Records,
    bad,
    gzip_lines,
    int_array,
    read_npy,
    whole,
)
from model.files import read_json

LOGITS = "embeddings_logits.npy"
PROBABILITIES = "embeddings_probs.npy"
INFO = "info.json"
ASSIGNMENTS = "assignments.npy"
SAMPLE = 4096
# Float16 rounds: a row of 128 probabilities sums to 1 this closely.
TOLERANCE = 0.01
SMALLEST = 2.0**-24  # of float16; the logarithm of a probability that it rounds to 0


def is_emo_folder(path: Path) -> bool:
    """Whether a folder holds router logits, or clusters made of them."""
    return any((path / name).is_file() for name in (LOGITS, PROBABILITIES, ASSIGNMENTS))


def read_emo(path: Path, options: Options) -> Source:
    """A folder of EMO's clustering scripts: of extract.py, or one of cluster.py inside of it.

    Raises ValueError if its files are damaged or do not fit each other.
    """
    if (path / ASSIGNMENTS).is_file():
        return _with_clusters(path, options)
    name = LOGITS if (path / LOGITS).is_file() else PROBABILITIES
    table = read_npy(path / name)
    info = read_json(path / INFO) if (path / INFO).is_file() else {}
    layers, experts, top_k = _geometry(path, table, info, options)
    bounds, token_ids = _boundaries(path, len(table))
    domains = _domains(path, len(bounds) - 1)
    probabilities = is_probabilities(_sample(table, layers, experts))

    def make(index: int) -> Raw:
        rows = slice(int(bounds[index]), int(bounds[index + 1]))
        logits = np.asarray(table[rows], np.float32).reshape(-1, layers, experts)
        if probabilities:
            logits = np.log(np.maximum(logits, SMALLEST))
        document = ImportedDocument(
            id=str(index),
            expert_ids=strongest(logits, top_k),
            token_ids=None if token_ids is None else np.asarray(token_ids[rows], np.int32),
            router_logits=logits,
            domain=domains[index],
        )
        return Raw(document)

    model = info.get("model_path")
    return Source(
        kind="emo",
        model=model if isinstance(model, str) else None,
        layers=tuple(range(layers)),
        num_experts=(experts,) * layers,
        documents=Lazy(len(bounds) - 1, make),
        notes=_emo_notes(name, top_k, probabilities),
    )


def _emo_notes(name: str, top_k: int, probabilities: bool) -> tuple[str, ...]:
    notes = [
        f"The folder holds what the routers gave, not what was used: the {top_k} largest of each "
        "token were taken as its experts, and there are no gate weights."
    ]
    if probabilities:
        notes.append(
            f"{name} holds probabilities (its rows sum to 1): their logarithms stand for the "
            "logits, which they equal but for a constant in each row."
        )
    return tuple(notes)


def _geometry(
    path: Path, table: np.ndarray, info: dict[str, Any], options: Options
) -> tuple[int, int, int]:
    """Layers, routed experts, and how many of them a token has."""
    known = {
        "num_layers": options.num_layers,
        "num_standard_experts": options.num_experts,
        "routed_top_k": options.top_k,
    }
    for name, given in known.items():
        if name in info:
            known[name] = whole(info, name, path / INFO, MAX_EXPERTS)
        elif given is None:
            raise bad(path, f"has no {name} in {INFO}", "name num_layers, num_experts and top_k")
    layers, experts, top_k = (number or 0 for number in known.values())
    if table.ndim != 2 or table.dtype.kind != "f" or table.shape[1] != layers * experts:
        raise bad(
            path,
            f"holds router logits of shape {table.shape} in {table.dtype}",
            f"[tokens, {layers} layers x {experts} experts] of floats is expected",
        )
    if not 0 < top_k <= experts or layers > MAX_LAYERS:
        raise bad(path, f"says that {top_k} of {experts} experts are used in {layers} layers")
    return layers, experts, top_k


def _boundaries(path: Path, tokens: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Where documents begin and end, [documents + 1], and the token ids of all of them."""
    ids_file, bounds_file = path / "documents.npy", path / "doc_boundaries.npy"
    ids = read_npy(ids_file) if ids_file.is_file() else None
    bounds = (
        read_npy(bounds_file).astype(np.int64)
        if bounds_file.is_file()
        else np.array([0, tokens], np.int64)
    )
    if ids is not None and (ids.shape != (tokens,) or ids.dtype.kind not in "iu"):
        raise bad(ids_file, f"holds {ids.dtype} of shape {ids.shape}", f"{tokens} ids are expected")
    whole_range = bounds.ndim == 1 and len(bounds) > 1 and bounds[0] == 0 and bounds[-1] == tokens
    if not whole_range or (np.diff(bounds) < 0).any():
        raise bad(bounds_file, f"does not divide the folder's {tokens} tokens into documents")
    return bounds, ids


def _domains(path: Path, documents: int) -> list[str | None]:
    """Each document's source; None where the folder does not tell."""
    file = path / "metadata_docs.jsonl.gz"
    if not file.is_file():
        return [None] * documents
    domains: list[str | None] = []
    for record in gzip_lines(file):
        source = record.get("source")
        domains.append(source if isinstance(source, str) else None)
        if len(domains) > documents:
            break
    if len(domains) != documents:
        raise bad(file, f"does not describe the folder's {documents} documents", "copy it again")
    return domains


def _sample(table: np.ndarray, layers: int, experts: int) -> np.ndarray:
    rows = np.asarray(table[:SAMPLE], np.float32)
    return rows.reshape(-1, layers, experts)


def is_probabilities(logits: np.ndarray) -> bool:
    """Whether what should be logits [..., E] are probabilities: none negative, sums of 1."""
    if not logits.size or logits.shape[-1] < 2 or not np.isfinite(logits).all():
        return False
    sums = logits.sum(axis=-1)
    return bool((logits >= 0).all() and (np.abs(sums - 1) < TOLERANCE).all())


def strongest(logits: np.ndarray, top_k: int) -> np.ndarray:
    """int32 [T, L, top_k]: the experts of the largest logits [T, L, E], the largest first.

    Where a logit is not finite there is no expert.
    """
    finite = np.isfinite(logits).all(axis=-1, keepdims=True)
    falling = np.where(finite, -logits, 0)
    found = np.argpartition(falling, top_k - 1, axis=-1)[..., :top_k]
    order = np.argsort(np.take_along_axis(falling, found, axis=-1), axis=-1, kind="stable")
    ids = np.take_along_axis(found, order, axis=-1)
    return np.where(finite, ids, NO_EXPERT).astype(np.int32)


def _with_clusters(path: Path, options: Options) -> Source:
    """A run of cluster.py with the routing in the folder above it, which it was made from."""
    above = path.resolve().parent
    if (above / ASSIGNMENTS).is_file() or not is_emo_folder(above):
        raise bad(path, "holds clusters without their routing", f"put {LOGITS} in the folder above")
    source = read_emo(above, options)
    assignments = int_array(read_npy(path / ASSIGNMENTS), path / ASSIGNMENTS, "it", 1)
    tokens = len(read_npy(above / LOGITS if (above / LOGITS).is_file() else above / PROBABILITIES))
    sizes = {tokens: "tokens", len(source.documents): "documents"}
    if len(assignments) not in sizes:
        raise bad(
            path,
            f"assigns {len(assignments)} clusters",
            f"the folder above has {tokens} tokens and {len(source.documents)} documents (a run "
            "with --balance-by is made of a part of them)",
        )
    clusters = ImportedClusters(assignments, sizes[len(assignments)], _labels(path))
    return replace(source, clusters=clusters)


def _labels(path: Path) -> dict[int, str]:
    """Names that somebody gave to clusters: {id: {label, category}}."""
    file = path / "cluster_labels.json"
    if not file.is_file():
        return {}
    labels = {}
    for number, value in read_json(file).items():
        name = value.get("label") if isinstance(value, dict) else value
        if number.isdecimal() and len(number) < 9 and isinstance(name, str):
            labels[int(number)] = name
    return labels


def read_olmoe(path: Path, options: Options) -> Source:
    """OLMoE's c4_results.jsonl: {input_ids [T], predicted_token_ids [T], exp_ids [T, K, L]}.

    Raises ValueError if a line has another form.
    """
    records = Records(path)

    def make(index: int) -> Raw:
        record = records[index]
        by_rank = int_array(record.get("exp_ids"), path, f"exp_ids of line {index + 1}", 3)
        tokens = int_array(record.get("input_ids"), path, f"input_ids of line {index + 1}", 1)
        ids = np.ascontiguousarray(by_rank.transpose(0, 2, 1))
        return Raw(ImportedDocument(id=f"window-{index}", expert_ids=ids, token_ids=tokens))

    layers = make(0).document.expert_ids.shape[1]
    if layers > MAX_LAYERS:
        raise bad(path, f"holds {layers} layers", "[token, rank, layer] is expected")
    return Source(
        kind="olmoe",
        layers=tuple(range(layers)),
        documents=Lazy(len(records), make),
        notes=(
            "Texts were joined and cut into windows of equal length: a window may hold the end of "
            "one text and the beginning of another.",
        ),
    )
