"""What a model loses without single experts: documents read with all of them, then without each.

An expert is left out as a subset leaves it out, as if it were deleted: its router chooses among the
others alone, so that the next best takes its place and all gate weights are those of the rest.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from emo_viz.analysis.expert_effects import Effects, save
from emo_viz.analysis.origins import Origins, Weights, documents_digest
from emo_viz.analysis.widths import routed_by_layer
from emo_viz.runs.progress import Counter, Report, unreported
from emo_viz.runs.unfinished import Unfinished
from emo_viz.trace.documents import read_documents
from model.files import check_new_file, weights_digest

if TYPE_CHECKING:
    from model.run.live import Live

BATCH_TOKENS, AT_ONCE = 2048, 8
WINDOW = 16  # experts whose losses are kept at a time
Guard = Callable[[], AbstractContextManager[None]]
Places = Sequence[tuple[int, int]]
"""Layers by their place among those with a router, and expert ids."""


class Unmeasured(Unfinished):
    """Losses without the first experts of a measurement that is not finished."""

    format = "emo-viz-unfinished-ablation"
    work, working, goal, results = "measurement", "measuring", "file", "experts"


def measure_effects(
    checkpoint: Path,
    documents_path: Path,
    out: Path,
    run: str,
    per_domain: int,
    max_tokens: int,
    report: Report = unreported,
    tell: Callable[[str], None] = lambda sentence: None,
) -> Effects:
    """Leave out every expert of a checkpoint in turn and write the losses to the .npz file `out`.

    Killed and called again, it goes on where it was and ends with the same bytes; tell gets a
    sentence of it. Raises ValueError for what cannot be read, cut or written.
    """
    from model.run.live import open_live

    check_new_file(out)
    documents = read_documents(documents_path)
    live = open_live(checkpoint)
    routed = enumerate(routed_by_layer(live.geometry))
    places = [(layer, expert) for layer, count in routed for expert in range(count)]
    weights = Weights(checkpoint.resolve().name, weights_digest(checkpoint))
    of = _decides(checkpoint, documents, run, weights, [per_domain, max_tokens])
    with Unmeasured.place(out, of) as kept:
        kept.resume(tell)
        found = effects(live, documents, run, weights, places, per_domain, max_tokens, report, kept)
        save(out, found)
        kept.clear()
    return found


def _decides(
    checkpoint: Path, documents: pd.DataFrame, run: str, weights: Weights, options: list[int]
) -> dict[str, Any]:
    """All that decides the bytes of the file, each with a word for it."""
    import torch
    import transformers

    from model.run.opening import tokenizer_digest

    return {
        "model": [run, weights.name, weights.sha256],
        "tokenizer or config": tokenizer_digest(checkpoint),
        "collection of documents": documents_digest(documents),
        "set of options": [*options, BATCH_TOKENS, AT_ONCE],
        "version of a library": [torch.__version__, transformers.__version__],
    }


def effects(
    live: "Live",
    documents: pd.DataFrame,
    run: str,
    weights: Weights,
    places: Places,
    per_domain: int,
    max_tokens: int,
    report: Report = unreported,
    kept: Unmeasured | None = None,
    guard: Guard = nullcontext,
) -> Effects:
    """Losses of the first documents of every domain (columns domain, text), with all experts and
    without each of `places`.

    kept: what is there of the same measurement; it goes on after it and keeps what it measures.
    guard: held around some documents at a time. report: steps done, of all. Raises ValueError where
    the model cannot be cut, or where a layer would have too few experts left.
    """
    _check(live, places)
    rows = documents[documents.groupby("domain").cumcount() < per_domain]
    most = live.most_tokens(max_tokens)
    texts = [live.encode(text, most).token_ids for text in rows["text"]]
    texts_at_once = [texts[at : at + AT_ONCE] for at in range(0, len(texts), AT_ONCE)]
    step = Counter(report, len(texts_at_once) * (1 + len(places)))

    def read(kept: Sequence[Sequence[int]]) -> list[float]:
        losses: list[float] = []
        for some in texts_at_once:
            with guard():
                losses += _means(live.many_losses(some, kept, BATCH_TOKENS))
            step()
        return losses

    full, routed = read(()), routed_by_layer(live.geometry)
    without = np.full((len(routed), max(routed), len(texts)), np.nan)
    if kept is not None:
        step(len(texts_at_once) * kept.done)
    left_out = (read(_all_but(live, *place)) for place in places[kept.done if kept else 0 :])
    for place, losses in zip(places, _going_on(left_out, kept), strict=True):
        without[place] = losses
    origins = Origins({run: weights}, documents_digest(documents))
    return Effects(
        run=run,
        numbers=tuple(live.own_layers),
        routed=routed,
        domains=tuple(map(str, rows["domain"])),
        tokens=np.array([len(each) - 1 for each in texts], float),
        full=np.array(full),
        without=without,
        info={"origins": origins.to_dict(), "max_tokens": most},
    )


def _going_on(measured: Iterator[list[float]], kept: Unmeasured | None) -> Iterator[Any]:
    """Losses that are kept, then those that are measured, which are kept a window at a time."""
    if kept is None:
        yield from measured
        return
    for window in list(kept.read()):
        yield from window["losses"]
    while some := list(islice(measured, WINDOW)):
        kept.write({"losses": np.array(some)})
        yield from some


def _check(live: "Live", places: Places) -> None:
    if live.why_not_cut:
        raise ValueError(live.why_not_cut)
    routed = routed_by_layer(live.geometry)
    for layer in {layer for layer, _ in places}:
        if routed[layer] <= live.geometry.num_routed_per_tok:
            raise ValueError(
                f"Layer {live.own_layers[layer]} has only the {routed[layer]} experts that every "
                "token uses, so none can be left out."
            )


def _all_but(live: "Live", layer: int, expert: int) -> list[list[int]]:
    counts = map(live.geometry.experts_in_layer, range(len(live.own_layers)))
    return [
        [one for one in range(count) if (place, one) != (layer, expert)]
        for place, count in enumerate(counts)
    ]


def _means(losses: Sequence[np.ndarray]) -> list[float]:
    return [float(np.nanmean(each, dtype=np.float64)) for each in losses]
