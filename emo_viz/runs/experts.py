"""What single tokens say of a run's experts: gathered from a trace that has tokens, or from a model
that reads the documents."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from emo_viz.analysis.ablation import Guard
from emo_viz.analysis.expert_tokens import ExpertTokens, Gathering, save
from emo_viz.analysis.origins import Origins, Weights, documents_digest, of_trace
from emo_viz.analysis.widths import routed_by_layer
from emo_viz.runs.progress import Counter, Report, unreported
from emo_viz.trace.absent import Absent
from emo_viz.trace.documents import read_documents
from model.files import check_new_file, weights_digest

if TYPE_CHECKING:
    from emo_viz.trace import Trace
    from emo_viz.trace.recorded import RecordedDocument
    from model.run.live import Live

MAX_TOKENS = 256


def measure_experts(
    checkpoint: Path, documents_path: Path, out: Path, run: str, report: Report = unreported
) -> ExpertTokens:
    """Write what the tokens of documents say of a checkpoint's experts to the .npz file `out`.

    Raises ValueError for what cannot be read, run or written.
    """
    from model.run.live import open_live

    check_new_file(out)
    documents = read_documents(documents_path)
    live = open_live(checkpoint)
    weights = Weights(checkpoint.resolve().name, weights_digest(checkpoint))
    found = by_model(live, documents, run, weights, report)
    save(out, found)
    return found


def by_model(
    live: "Live",
    documents: pd.DataFrame,
    run: str,
    weights: Weights,
    report: Report = unreported,
    guard: Guard = nullcontext,
) -> ExpertTokens:
    """Have a model read documents (columns id, domain, text), up to MAX_TOKENS tokens of each.

    guard: held around each document. report: documents done; what it raises ends the work.
    """
    gathering = Gathering(live.own_layers, routed_by_layer(live.geometry))
    step = Counter(report, len(documents))
    for row, text in enumerate(documents["text"]):
        if gathering.full:
            break
        with guard():
            encoded = live.encode(text, live.most_tokens(MAX_TOKENS))
            seen = live.record(encoded.token_ids)
        gathering.add(row, seen.expert_ids, seen.gate_weights, seen.token_ids, encoded.texts)
        step()
    origins = Origins({run: weights}, documents_digest(documents))
    return gathering.finish(run, {"origins": origins.to_dict()})


def by_trace(trace: "Trace", run: str, report: Report = unreported) -> ExpertTokens:
    """Gather from the tokens of a trace. Raises Absent if it has none."""
    trace.need("tokens")
    model = trace.manifest.model
    sparse = [place for place, routed in enumerate(model.routed) if routed > 0]
    gathering = Gathering(
        [model.own_layers[place] for place in sparse], [model.routed[place] for place in sparse]
    )
    rows = _spread(trace)
    step = Counter(report, len(rows))
    for row in rows:
        if gathering.full:
            break
        seen = trace.recorded(row)
        gates = _known(seen, "gate_weights")
        gathering.add(
            row,
            seen.expert_ids[sparse],
            None if gates is None else gates[sparse],
            _known(seen, "token_ids"),
            _texts(seen),
        )
        step()
    return gathering.finish(run, {"origins": of_trace(trace, run).to_dict(), "of": "trace"})


def _spread(trace: "Trace") -> Sequence[int]:
    """Rows so that any first ones are spread evenly over the trace."""
    return [int(row) for row in np.random.default_rng(0).permutation(trace.manifest.documents)]


def _known(seen: "RecordedDocument", part: str) -> np.ndarray | None:
    try:
        values: np.ndarray = getattr(seen, part)
    except Absent:
        return None
    return values


def _texts(seen: "RecordedDocument") -> list[str] | None:
    try:
        return seen.token_texts
    except Absent:
        return None
