"""What a model loses without single experts: documents read with all of them, then without each.

An expert is left out as a subset leaves it out, as if it were deleted: its router chooses among the
others alone, so that the next best takes its place and all gate weights are those of the rest.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emo_viz.analysis.ablation import Guard
from emo_viz.analysis.expert_effects import Effects, save
from emo_viz.analysis.origins import Origins, Weights, documents_digest
from emo_viz.analysis.widths import routed_by_layer
from emo_viz.runs.progress import Counter, Report, unreported
from emo_viz.runs.unfinished import Unfinished
from emo_viz.runs.workers import model_of, shared_out
from emo_viz.trace.documents import read_documents
from model.files import check_new_file, weights_digest

if TYPE_CHECKING:
    from model.run.live import Live

BATCH_TOKENS, AT_ONCE = 2048, 8
WINDOW = 16  # experts whose losses are kept at a time
Place = tuple[int, int]
"""A layer by its place among those with a router, and an expert id."""
Places = Sequence[Place]
Batches = Sequence[Sequence[NDArray[np.int64]]]
"""Documents as token ids, some that are read together."""
Reading = AbstractContextManager[Iterator[list[float]]]
ReadBy = Callable[[Batches, Places, Counter], Reading]
"""Reads documents without each of some places in turn, which gives losses, and counts batches."""


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
    workers: int = 1,
) -> Effects:
    """Leave out every expert of a checkpoint in turn and write the losses to the .npz file `out`.

    Killed and called again, it goes on where it was and ends with the same bytes, whatever the
    number of workers; tell gets a sentence of it. Raises ValueError for what cannot be read, cut or
    written.
    """
    from model.run.live import open_live

    check_new_file(out)
    documents = read_documents(documents_path)
    live = open_live(checkpoint)
    routed = enumerate(routed_by_layer(live.geometry))
    places = [(layer, expert) for layer, count in routed for expert in range(count)]
    weights = Weights(checkpoint.resolve().name, weights_digest(checkpoint))
    of = _decides(checkpoint, documents, run, weights, [per_domain, max_tokens])
    what = (live, documents, run, weights, places, per_domain, max_tokens, report)
    read_by = partial(_in_workers, checkpoint, workers) if workers > 1 else None
    with Unmeasured.place(out, of) as kept:
        kept.resume(tell)
        found = effects(*what, kept, read_by=read_by)
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
    read_by: ReadBy | None = None,
) -> Effects:
    """Losses of the first documents of every domain (columns domain, text), with all experts and
    without each of `places`.

    kept: what is there of the same measurement; it goes on after it and keeps what it measures.
    guard: held around some documents at a time. read_by: who reads without experts, if not `live`.
    report: steps done, of all. Raises ValueError where the model cannot be cut, or where a layer
    would have too few experts left.
    """
    _check(live, places)
    rows = documents[documents.groupby("domain").cumcount() < per_domain]
    most = live.most_tokens(max_tokens)
    texts = [live.encode(text, most).token_ids for text in rows["text"]]
    batches = [texts[at : at + AT_ONCE] for at in range(0, len(texts), AT_ONCE)]
    step = Counter(report, len(batches) * (1 + len(places)))
    full, routed = _read(live, batches, (), guard, step), routed_by_layer(live.geometry)
    without = np.full((len(routed), max(routed), len(texts)), np.nan)
    done = kept.done if kept else 0
    if kept is not None:
        step(len(batches) * done)
    read = read_by or partial(_here, live, guard)
    with read(batches, places[done:], step) as left_out:
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


def _read(
    live: "Live",
    batches: Batches,
    kept: Sequence[Sequence[int]],
    guard: Guard = nullcontext,
    step: Callable[[], None] = lambda: None,
) -> list[float]:
    """The mean loss of each document with some experts alone, () for all."""
    losses: list[float] = []
    for some in batches:
        with guard():
            losses += _means(live.many_losses(some, kept, BATCH_TOKENS))
        step()
    return losses


def _here(live: "Live", guard: Guard, batches: Batches, places: Places, step: Counter) -> Reading:
    without = (_all_but(live, *place) for place in places)
    return nullcontext(_read(live, batches, kept, guard, step) for kept in without)


@contextmanager
def _in_workers(
    checkpoint: Path, workers: int, batches: Batches, places: Places, step: Counter
) -> Iterator[Iterator[list[float]]]:
    with shared_out(partial(_without, checkpoint, batches), places, workers) as found:
        yield _counted(found, step, len(batches))


def _without(checkpoint: Path, batches: Batches, place: Place) -> list[float]:
    live = model_of(checkpoint)
    return _read(live, batches, _all_but(live, *place))


def _counted(losses: Iterable[list[float]], step: Counter, steps: int) -> Iterator[list[float]]:
    for each in losses:
        step(steps)
        yield each


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
