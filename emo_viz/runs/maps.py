"""Maps of the documents recorded by one run or two: a UMAP of all layers and of each, to a file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emo_viz.analysis import projection
from emo_viz.analysis.origins import Origins, of_trace
from emo_viz.analysis.projection import FEWEST_POINTS, Maps, content_key, procrustes, save_maps
from emo_viz.analysis.runs import Run, compare, label_of, run_ids
from emo_viz.analysis.vectors import flatten_usage
from emo_viz.runs.progress import Counter, Report, unreported
from emo_viz.trace import Trace
from model.files import check_new_file

NEIGHBOURS = 30
Points = NDArray[np.float32]


def choose_neighbours(asked: int | None, points: int, what: str) -> int:
    """The neighbours of a map of so many points, called `what`; by default as many as there are.

    Raises ValueError where there are too few points.
    """
    if points < FEWEST_POINTS:
        raise ValueError(f"{points} {what} make no map; it takes at least {FEWEST_POINTS}.")
    if asked is not None and asked >= points:
        raise ValueError(
            f"{asked} neighbours need more than {points} {what}; choose fewer with --neighbours."
        )
    return asked or min(NEIGHBOURS, points - 1)


def map_documents(
    traces: Sequence[Path],
    out: Path,
    neighbours: int | None,
    min_dist: float,
    seed: int = 0,
    report: Report = unreported,
    ids: Sequence[str] = (),
) -> Maps:
    """Write the maps of one trace, or of two, to the .npz file `out`, by run id.

    ids: of the runs, if not those of the folders. neighbours, min_dist: UMAP's. report: of the maps
    laid out. Raises ValueError for traces that are not of the same documents, or of too few.
    """
    check_new_file(out)
    runs = list(ids) or run_ids(traces)
    compare([Run(run, label_of(run)) for run in runs])
    opened = dict(zip(runs, map(Trace.open, traces), strict=True))
    _check(list(opened.values()))
    documents = next(iter(opened.values())).manifest.documents
    neighbours = choose_neighbours(neighbours, documents, "documents")
    maps = _fit(opened, neighbours, min_dist, seed, report)
    save_maps(out, maps)
    return maps


def _check(traces: Sequence[Trace]) -> None:
    """Raises ValueError unless the traces hold numbers, and the same documents."""
    for trace in traces:
        if not np.isfinite(trace.usage).all():
            raise ValueError(f"{trace.path} holds NaN or infinity; record it again.")
    columns = ["id", "domain", "text"]
    for trace in traces[1:]:
        if not trace.documents[columns].equals(traces[0].documents[columns]):
            raise ValueError("The two traces hold different documents; record both from one file.")


def _fit(
    traces: Mapping[str, Trace], neighbours: int, min_dist: float, seed: int, report: Report
) -> Maps:
    """Maps of all layers and of each layer, every one turned onto the first of all."""
    step = Counter(report, sum(1 + each.manifest.model.num_layers for each in traces.values()))
    first: Points | None = None
    places = {}
    for run, trace in traces.items():
        own = []
        for layer in (None, *range(trace.manifest.model.num_layers)):
            points = _lay_out(trace, layer, neighbours, min_dist, seed)
            first = points if first is None else first
            alone = points is first or not points.any()
            own.append(points if alone else procrustes(points, first))
            step()
        places[run] = np.stack(own)
    info = {
        "origins": _origins(traces).to_dict(),
        "method": "umap",
        "neighbours": neighbours,
        "min_dist": min_dist,
        "seed": seed,
        "models": [trace.manifest.model.name for trace in traces.values()],
    }
    keys = {run: content_key(each.facts["id"], each.usage) for run, each in traces.items()}
    return Maps(keys, places, info)


def _lay_out(
    trace: Trace, layer: int | None, neighbours: int, min_dist: float, seed: int
) -> Points:
    if layer is not None and trace.manifest.model.routed[layer] < 2:
        # A single expert tells no documents apart.
        return np.zeros((trace.manifest.documents, 2), np.float32)
    return projection.umap_map(flatten_usage(trace.usage, layer), neighbours, min_dist, seed)


def _origins(traces: Mapping[str, Trace]) -> Origins:
    each = [of_trace(trace, run) for run, trace in traces.items()]
    return Origins({run: one for own in each for run, one in own.models.items()}, each[0].documents)
