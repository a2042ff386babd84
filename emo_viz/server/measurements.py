"""Measuring subset curves in the background, on the models that the server has in memory.

A stopped or failed measurement of all curves goes on where it was, here or by the command (see
`emo_viz.runs.curves`); more points of one curve are kept by the server alone.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from emo_viz.analysis.ablation import Task
from emo_viz.analysis.checkpoints import Checkpoint
from emo_viz.analysis.curves import Measured
from emo_viz.analysis.parts import Parts
from emo_viz.runs import curves
from emo_viz.runs.progress import Report
from emo_viz.server import assets, library
from emo_viz.server.jobs import Job, politely, registry
from emo_viz.server.library import LoadedModel, Models


def find(models: Models) -> Job | None:
    """The measurement of all curves of this pair on these documents, if anybody asked for one."""
    return registry().find(_key(models))


def start(models: Models) -> None:
    """Measure every domain with every method. ValueError if the documents do not allow it."""
    documents, calibration = library.documents(), library.calibration_documents()
    curves.check_disjoint(documents, calibration)

    def work(report: Report) -> None:
        planned = curves.plan(_checkpoints(models), documents, calibration, _path())
        curves.measure(planned, _loaded(models), report)

    registry().start(_key(models), work)


def kept_parts(models: Models) -> int:
    """How many parts a stopped measurement has left to go on from, in this server or before."""
    return Parts.of(_path()).count(map(digest, models))


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
    from model.files import weights_digest

    return weights_digest(loaded.path)


def documents_key() -> str:
    """Tells the documents that are measured, and those that experts are chosen on, from others."""
    path = assets.documents_path()
    return assets.content(path, path.with_name("calibration.parquet"))


def _loaded(models: Models) -> curves.Loaded:
    return curves.Loaded({one.run: (one.live, politely(one.lock)) for one in models})


def _checkpoints(models: Models) -> tuple[Checkpoint, ...]:
    return tuple(Checkpoint.of(one.run, one.path, one.live) for one in models)


def _key(models: Models) -> str:
    """Names the measurement by what it depends on."""
    return "|".join(["all curves", *map(digest, models), documents_key()])


def _points_key(models: Models, domain: str, method: str) -> str:
    """Documents and calibration change together."""
    return "|".join([*map(digest, models), documents_key(), domain, method])


def _path() -> Path:
    return assets.analysis_path("curves.parquet")
