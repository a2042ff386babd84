"""Measuring all subset curves anew, in the background, into the file that the pages read.

Finished parts (one model on one domain) are kept beside that file until the whole is written, so
that a stopped or failed measurement goes on where it was, here or by `python -m emo_viz curves`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from emo_viz.analysis import ablation
from emo_viz.analysis.ablation import Part, Task
from emo_viz.analysis.curves import METHODS, write_curves
from emo_viz.analysis.origins import Origins, Weights, documents_digest
from emo_viz.analysis.parts import Parts
from emo_viz.server import assets, library
from emo_viz.server.jobs import Job, Report, politely, registry
from emo_viz.server.library import LoadedModel, Pair


def find(pair: Pair) -> Job | None:
    """The measurement of all curves of this pair on these documents, if anybody asked for one."""
    return registry().find(_key(pair))


def start(pair: Pair) -> None:
    """Measure every domain with every method. ValueError if the documents do not allow it."""
    documents, calibration = library.documents(), library.calibration_documents()
    ablation.check_disjoint(documents, calibration)
    path, parts = _path(), Parts.of(_path())
    about = _about(pair, documents, calibration)

    def work(report: Report) -> None:
        tasks = plan(pair, documents, calibration)
        step = counter(report, total=2 * sum(len(task.cuts) for task in tasks))
        found = {one.name: [_part(one, task, parts, step) for task in tasks] for one in pair}
        write_curves(ablation.collect(found, tasks, about), path)
        parts.clear()

    registry().start(_key(pair), work)


def kept_parts(pair: Pair) -> int:
    """How many parts a stopped measurement has left to go on from, in this server or before."""
    return Parts.of(_path()).count(map(digest, pair))


def plan(pair: Pair, documents: pd.DataFrame, calibration: pd.DataFrame) -> list[Task]:
    """Every domain: all methods, at each doubling of the experts that a token uses."""
    config, tokenizer = pair.emo.model.config, pair.emo.tokenizer
    return ablation.plan_tasks(
        ablation.tokenise(documents, tokenizer),
        ablation.tokenise(calibration, tokenizer),
        ablation.plan_cuts(config, ablation.default_keep(config), METHODS, ablation.RANDOM_SEEDS),
    )


def counter(report: Report, total: int) -> Callable[[], None]:
    """A function that counts one more step of `total` as done and reports it."""
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        report(done, total)

    return step


def digest(loaded: LoadedModel) -> str:
    """What tells the weights of a model from others."""
    from model.files import weights_digest

    return weights_digest(loaded.path)


def _part(loaded: LoadedModel, task: Task, parts: Parts, step: Callable[[], None]) -> Part:
    found = parts.read(digest(loaded), task)
    if found is None:
        found = ablation.measure(loaded.model, task, politely(loaded.lock), step)
        parts.write(digest(loaded), task, found)
    else:
        for _ in task.cuts:
            step()
    return found


def _about(pair: Pair, documents: pd.DataFrame, calibration: pd.DataFrame) -> dict[str, Any]:
    config = pair.emo.model.config
    models = {one.name: Weights(one.path.resolve().name, digest(one)) for one in pair}
    texts = (documents_digest(each) for each in (documents, calibration))
    return ablation.describe(
        config,
        Origins(models, *texts),
        ablation.default_keep(config),
        METHODS,
        ablation.RANDOM_SEEDS,
    )


def _key(pair: Pair) -> str:
    """Names the measurement by what it depends on."""
    return "|".join(["all curves", *map(digest, pair), documents_key()])


def documents_key() -> str:
    """Tells the documents that are measured, and those that experts are chosen on, from others."""
    path = assets.documents_path()
    return repr(assets.stamp(path, path.with_name("calibration.parquet")))


def _path() -> Path:
    return assets.analysis_path("curves.parquet")
