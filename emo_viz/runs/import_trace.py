"""A routing file of another tool as a trace, so that every page that needs no weights can show it.

Shapes: T tokens, L layers of the trace, K expert slots a token, R routed experts of a layer.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from emo_viz.runs.progress import Report, unreported
from emo_viz.trace.importers import ImportedDocument, ImportedRouting, read_routing
from emo_viz.trace.reader import Trace
from emo_viz.trace.recorded import TokenRouting
from emo_viz.trace.schema import ClustersOf, TracedModel
from emo_viz.trace.tables import shares
from emo_viz.trace.writer import TraceWriter, check_replaceable
from model.files import check_writable, read_text

Texts = str | Sequence[str] | Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a caller knows and a file may not say; what is None is taken from the file.

    kind: of file, as `emo_viz.trace.importers` lists them. top_k: experts a token.
    """

    kind: str | None = None
    name: str | None = None
    num_layers: int | None = None
    top_k: int | None = None
    num_experts: int | None = None
    texts: Texts | None = None


def import_trace(path: Path, out: Path, known: Known, report: Report = unreported) -> Trace:
    """Write the routing in a file or folder of another tool as a trace to the folder `out`.

    report: is called before the first and after each document; what it raises ends the work, and
    leaves what was at `out`. A file with counts alone becomes a trace of one document.

    Raises ValueError, one sentence, if the file is of no known form, damaged, or cannot be right,
    or if `out` is something else than a trace or cannot be written.
    """
    check_replaceable(out)
    check_writable(out)
    routing = read_routing(
        path,
        text=known.texts,
        kind=known.kind,
        num_layers=known.num_layers,
        top_k=known.top_k,
        num_experts=known.num_experts,
    )
    file = whole_text(path.resolve().name)
    name = whole_text(known.name or routing.model or file.partition(".")[0])
    source = f"{routing.kind}: {file}"
    if routing.counts is None:
        _import_tokens(routing, out, name, source, report)
    else:
        report(0, 1)
        _import_counts(routing, routing.counts, out, name, source, known.top_k or 0)
        report(1, 1)
    return Trace.open(out)


def whole_text(text: str) -> str:
    """A text without halves of characters, which JSON can hold and no file of text can: U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _import_tokens(
    routing: ImportedRouting, out: Path, name: str, source: str, report: Report
) -> None:
    documents, clusters = routing.documents, routing.clusters
    model = _model(routing, name, slots=documents[0].expert_ids.shape[2])
    named = clusters.labels.items() if clusters else ()
    labels = {str(number): whole_text(label) for number, label in named}
    with TraceWriter(
        out,
        model,
        "tokens",
        opening_eos=False,
        source=source,
        notes=_notes(routing),
        clusters_of=cast("ClustersOf", clusters.of) if clusters else "",
        cluster_labels=labels,
    ) as writer:
        report(0, len(documents))
        for done, (row, document, of_tokens) in enumerate(_rows(routing, writer.notes), start=1):
            if len(document.expert_ids):
                texts = document.token_texts and [*map(whole_text, document.token_texts)]
                writer.add(row, texts, _recording(document), clusters=of_tokens)
            report(done, len(documents))


def _rows(
    routing: ImportedRouting, notes: list[str]
) -> Iterator[tuple[dict[str, object], ImportedDocument, np.ndarray | None]]:
    """Every document with its row of the documents table and the clusters of its tokens."""
    clusters = routing.clusters
    ids: Counter[str] = Counter()
    start = empty = again = 0
    for number, document in enumerate(routing.documents):
        ids[document.id] += 1
        again += ids[document.id] > 1
        own = document.id if ids[document.id] == 1 else f"{document.id} ({ids[document.id]})"
        told = {"id": own, "domain": document.domain, "text": document.text}
        row: dict[str, object] = {k: v if v is None else whole_text(v) for k, v in told.items()}
        of_tokens, count = None, len(document.expert_ids)
        empty += not count
        if clusters is not None and clusters.of == "documents":
            row["cluster"] = int(clusters.assignments[number])
        elif clusters is not None:
            of_tokens = clusters.assignments[start : start + count]
        start += count
        yield row, document, of_tokens
    if empty:
        notes.append(f"{empty} of {len(routing.documents)} documents have no tokens: left out.")
    if again:
        notes.append(f"{again} documents have the id of an earlier one: they were numbered.")


def _recording(document: ImportedDocument) -> TokenRouting:
    """In the shapes of a recording; by falling gate weight where there are weights."""
    ids, weights, logits = document.expert_ids, document.gate_weights, document.router_logits
    if weights is not None:
        order = np.argsort(np.where(ids < 0, np.inf, -weights), axis=2, kind="stable")
        ids, weights = (np.take_along_axis(each, order, axis=2) for each in (ids, weights))
    probs = None if logits is None else _softmax(logits.swapaxes(0, 1))
    return TokenRouting(
        expert_ids=ids.swapaxes(0, 1),
        token_ids=document.token_ids,
        router_probs=probs,
        gate_weights=None if weights is None else weights.swapaxes(0, 1),
        entropy=None if probs is None else _entropy(probs),
    )


def _softmax(logits: np.ndarray) -> np.ndarray:
    """float32 [L, T, R]; NaN for a token with a logit that is not finite."""
    finite = np.isfinite(logits).all(axis=2, keepdims=True)
    safe = np.where(finite, logits, 0).astype(np.float32)
    scores = np.exp(safe - safe.max(axis=2, keepdims=True))
    return np.where(finite, scores / scores.sum(axis=2, keepdims=True), np.float32(np.nan))


def _entropy(probs: np.ndarray) -> np.ndarray:
    """[L, T] in nats."""
    found: np.ndarray = -(probs * np.log(np.maximum(probs, 1e-30))).sum(axis=2)
    return found


def _import_counts(
    routing: ImportedRouting, counts: np.ndarray, out: Path, name: str, source: str, top_k: int
) -> None:
    """counts [L, R]; with top_k they tell the number of tokens, and the share that chose each."""
    model = _model(routing, name, slots=top_k)
    tokens = int(counts.sum(axis=1).max()) // top_k if top_k else 0
    notes = [*_notes(routing), "The file counts experts over all texts: it is one document here."]
    writer = TraceWriter(out, model, "documents", opening_eos=False, source=source, notes=notes)
    with writer:
        writer.add_shares(
            {"id": "all texts"},
            shares(counts.astype(np.float64)),
            counts / tokens if tokens else None,
            tokens or None,
        )


def _model(routing: ImportedRouting, name: str, slots: int) -> TracedModel:
    """slots: of a token in a layer, 0 if that is not known."""
    layers = len(routing.layers)
    counts = routing.num_experts or (max(routing.experts_seen),) * layers
    model = TracedModel(
        name=name,
        objective="unknown",
        num_layers=layers,
        num_experts=max(counts),
        num_shared_experts=0,
        num_experts_per_tok=slots,
        checkpoint_sha256="",
        num_experts_per_layer=None if len(set(counts)) == 1 else tuple(counts),
        layer_numbers=None if routing.layers == tuple(range(layers)) else routing.layers,
        experts_known=routing.num_experts is not None,
    )
    # A file may name an expert twice: then a layer has more slots than experts.
    few = min(counts) < slots
    return replace(model, slots_per_layer=(slots,) * layers) if few else model


def _notes(routing: ImportedRouting) -> list[str]:
    if routing.num_experts is not None:
        return [*map(whole_text, routing.notes)]
    seen = max(routing.experts_seen)
    said = (
        f"The file does not say how many experts a layer has: {seen} is the highest id seen, plus "
        "1 (--experts gives the number)."
    )
    return [*map(whole_text, routing.notes), said]


def read_texts(path: Path) -> Texts:
    """The texts of a file's documents, out of JSON, JSON lines or one plain text.

    JSON: an object from ids to texts, or a list of texts. JSON lines: strings, or objects with text
    and, for all or none, id. Raises ValueError, naming the file, for anything else.
    """
    if path.suffix.lower() == ".jsonl":
        return _of_lines(path)
    if path.suffix.lower() != ".json":
        return read_text(path)
    found = _json(path, read_text(path))
    texts = list(found.values()) if isinstance(found, dict) else found
    return cast("Texts", found) if _are_texts(texts) else _unfit(path)


def _of_lines(path: Path) -> Texts:
    records = [_json(path, line) for line in read_text(path).splitlines() if line.strip()]
    texts = [record.get("text") if isinstance(record, dict) else record for record in records]
    if not _are_texts(texts):
        return _unfit(path)
    ids = [record["id"] for record in records if isinstance(record, dict) and "id" in record]
    if not ids:
        return cast("list[str]", texts)
    if len(ids) < len(texts) or len(set(map(str, ids))) < len(ids):
        raise ValueError(f"{path} has lines without an id or with the same; give each its own.")
    return dict(zip(map(str, ids), cast("list[str]", texts), strict=True))


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON; write it again.") from error


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _unfit(path: Path) -> Texts:
    raise ValueError(
        f"{path} holds no texts; write a JSON object from ids to texts, a list of texts, or lines "
        "with id and text."
    )
