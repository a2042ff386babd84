"""Measuring subset curves in the background, on the models that the server has in memory.

A stopped or failed measurement of all curves goes on where it was, here or by the command (see
`emo_viz.runs.curves`); more points of one curve are kept by the server alone.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from emo_viz.analysis import ablation
from emo_viz.analysis.ablation import Task
from emo_viz.analysis.checkpoints import Checkpoint
from emo_viz.analysis.curves import Measured
from emo_viz.analysis.parts import Parts
from emo_viz.analysis.runs import Comparison
from emo_viz.runs import curves
from emo_viz.runs.progress import Report
from emo_viz.server import assets, home, library
from emo_viz.server.jobs import Job, politely, registry
from emo_viz.server.library import LoadedModel, Models
from model.files import weights_digest


def why_not(runs: Comparison) -> str:
    """Why runs are not measured together, in one sentence; "" if they are."""
    if len({assets.place_of(run.id) for run in runs} - {None}) < 2:
        return ""
    return (
        f"{runs.names} lie in two folders, each with documents of its own, so what was measured of "
        "them does not compare."
    )


def find(models: Models) -> Job | None:
    """The measurement of all curves of these runs on the documents, if anybody asked for one."""
    return registry().find(_key(models))


def start(models: Models) -> None:
    """Measure every domain with every method, into the user's folder.

    Raises ValueError if the documents do not allow it, or nothing can be written there.
    """
    if said := why_not(models.comparison):
        raise ValueError(said)
    home.check()  # before the many minutes, not after them
    documents, calibration = library.documents(), library.calibration_documents()
    curves.check_disjoint(documents, calibration)

    def work(report: Report) -> None:
        for path, some in _targets(models):
            planned = curves.plan(_checkpoints(some), documents, calibration, path)
            curves.measure(planned, _loaded(some), report)

    registry().start(_key(models), work)


def passes(models: Models) -> dict[str, int]:
    """How many times each run reads a document when all curves of it are measured."""
    documents = library.documents()
    methods = ablation.default_methods(documents["domain"].nunique())
    return {
        one.run: len(documents) * _cuts(one.live.geometry, methods)
        for some in _asked(models)
        for one in some
    }


def _cuts(geometry: Any, methods: Sequence[str]) -> int:
    keep = ablation.default_keep(geometry)
    return len(ablation.plan_cuts(geometry, keep, methods, ablation.RANDOM_SEEDS))


def kept_parts(models: Models) -> int:
    """How many parts a stopped measurement has left to go on from, in this server or before."""
    try:
        targets = _targets(models)
    except ValueError:  # there is no place to keep them
        return 0
    return sum(Parts.of(path).count(map(digest, some)) for path, some in targets)


def find_points(models: Models, domain: str, method: str) -> Job | None:
    """The measurement of more points of a domain's curve, if anybody asked for it."""
    return registry().find(_points_key(models, domain, method))


def start_points(
    models: Models, domain: str, method: str, tasks: Callable[[], Mapping[str, Task]]
) -> None:
    """Measure the cuts of the runs' `tasks`, which are made in the background; the result is a
    `Measured`."""

    def work(report: Report) -> Measured:
        return Measured.of(_loaded(models).only(tasks(), report).rows)

    registry().start(_points_key(models, domain, method), work)


def digest(loaded: LoadedModel) -> str:
    """What tells the weights of a model from others."""
    return weights_digest(loaded.path)


def documents_key() -> str:
    """Tells the documents that are measured, and those that experts are chosen on, from others."""
    path = library.documents_path()
    return assets.content(path, path.with_name("calibration.parquet"))


def _loaded(models: Iterable[LoadedModel]) -> curves.Loaded:
    return curves.Loaded({one.run: (one.live, politely(one.lock)) for one in models})


def _checkpoints(models: Iterable[LoadedModel]) -> tuple[Checkpoint, ...]:
    return tuple(Checkpoint.of(one.run, one.path, one.live) for one in models)


def _targets(models: Models) -> list[tuple[Path, tuple[LoadedModel, ...]]]:
    """Where in the user's folder the curves of which runs go: those of an added run lie with it,
    those of the other runs together. Raises ValueError where there is no such folder."""
    return [
        (home.analysis_path(assets.CURVES, [one.run for one in some]), some)
        for some in _asked(models)
    ]


def _asked(models: Models) -> list[tuple[LoadedModel, ...]]:
    """What is measured into one file each: runs of the assets folder only where no other is."""
    added = [(one,) for one in models if assets.is_added(one.run)]
    return [*added] or [models.loaded]


def _key(models: Models) -> str:
    return key({one.run: one.path for some in _asked(models) for one in some})


def key(checkpoints: Mapping[str, Path]) -> str:
    """Names the measurement of all curves of some runs by what it depends on."""
    weights = map(weights_digest, checkpoints.values())
    return "|".join(["all curves", *checkpoints, *weights, documents_key()])


def _points_key(models: Models, domain: str, method: str) -> str:
    """Documents and calibration change together."""
    runs = [f"{one.run} {digest(one)}" for one in models]
    return "|".join([*runs, documents_key(), domain, method])
