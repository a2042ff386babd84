"""Maps of the recorded documents of a pair: a UMAP of all layers and of each, written to a file."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emo_viz.analysis import projection
from emo_viz.analysis.origins import Origins, of_trace
from emo_viz.analysis.projection import FEWEST_POINTS, Maps, content_key, procrustes, save_maps
from emo_viz.analysis.vectors import flatten_usage
from emo_viz.analysis.widths import apart
from emo_viz.runs.progress import Counter, Report, unreported
from emo_viz.trace import Trace
from model.files import check_new_file

if TYPE_CHECKING:
    from emo_viz.trace.schema import TracedModel

NEIGHBOURS = 30


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
    traces: tuple[Path, Path],
    out: Path,
    neighbours: int | None,
    min_dist: float,
    seed: int = 0,
    report: Report = unreported,
) -> Maps:
    """Write the maps of two traces, EMO's first, to the .npz file `out`.

    neighbours, min_dist: UMAP's. report: of the maps laid out. Raises ValueError for traces that
    are not of one pair on the same documents, or of too few.
    """
    check_new_file(out)
    emo, standard = (Trace.open(path) for path in traces)
    _check(emo, standard)
    neighbours = choose_neighbours(neighbours, emo.manifest.documents, "documents")
    maps = _fit(emo, standard, neighbours, min_dist, seed, report)
    save_maps(out, maps)
    return maps


def _check(emo: Trace, standard: Trace) -> None:
    """Raises ValueError unless the two traces are of one pair on the same documents."""
    for trace, role in ((emo, "emo"), (standard, "standard")):
        found = trace.manifest.model.objective
        if found not in (role, "unknown"):  # a released config does not say it
            raise ValueError(
                f"{trace.path} is of a model of the objective {found!r}, not {role!r}; name the "
                "trace of the EMO and then that of the standard model."
            )
        if not np.isfinite(trace.usage).all():
            raise ValueError(f"{trace.path} holds NaN or infinity; record it again.")
    columns = ["id", "domain", "text"]
    if not emo.documents[columns].equals(standard.documents[columns]):
        raise ValueError("The two traces hold different documents; record both from one file.")
    _check_widths(emo.manifest.model, standard.manifest.model)


def _check_widths(emo: "TracedModel", standard: "TracedModel") -> None:
    """Raises ValueError unless both models have as many routed experts in each layer."""
    if what := apart(emo.routed, standard.routed):
        raise ValueError(f"The two models differ in {what}; name a matched pair.")


def _fit(
    emo: Trace, standard: Trace, neighbours: int, min_dist: float, seed: int, report: Report
) -> Maps:
    """Maps of all layers and of each layer, every one turned onto the first."""
    layers = [None, *range(emo.manifest.model.num_layers)]
    steps = [(trace, layer) for trace in (emo, standard) for layer in layers]
    maps: list[np.ndarray] = []
    step = Counter(report, len(steps))
    for trace, layer in steps:
        if layer is not None and trace.manifest.model.routed[layer] < 2:
            maps.append(np.zeros_like(maps[0]))  # a single expert tells no documents apart
        else:
            usage = flatten_usage(trace.usage, layer)
            points = projection.umap_map(usage, neighbours, min_dist, seed)
            maps.append(procrustes(points, maps[0]) if maps else points)
        step()
    both = of_trace(emo, "emo"), of_trace(standard, "standard")
    origins = Origins({**both[0].models, **both[1].models}, both[0].documents)
    info = {
        "origins": origins.to_dict(),
        "method": "umap",
        "neighbours": neighbours,
        "min_dist": min_dist,
        "seed": seed,
        "models": [trace.manifest.model.name for trace in (emo, standard)],
    }
    key = content_key(emo.documents["id"], emo.usage, standard.usage)
    return Maps(key, np.stack(maps[: len(layers)]), np.stack(maps[len(layers) :]), info)
