"""Subset curves of one run or more, measured part by part: one model on one domain.

Each part is kept beside the file of the curves as soon as it is measured, so whatever was stopped
goes on from there, whoever asks: the command in processes of its own (`Workers`), the app on the
models that it has in memory (`Loaded`).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from emo_viz.analysis import ablation
from emo_viz.analysis.ablation import Guard, Part, Task
from emo_viz.analysis.checkpoints import Checkpoint, open_runs
from emo_viz.analysis.curves import SEEN_BELOW, Curves, check_name, read_curves, write_curves
from emo_viz.analysis.origins import Origins, documents_digest
from emo_viz.analysis.parts import Parts
from emo_viz.analysis.unseen import read_seen, unseen_ids, with_seen
from emo_viz.runs.progress import Counter, Report, unreported
from emo_viz.runs.workers import model_of, shared_out
from emo_viz.trace.documents import read_documents

if TYPE_CHECKING:
    from model.run.live import Live


@dataclass(frozen=True)
class Job:
    """One model on one domain, and where its part is kept."""

    checkpoint: Checkpoint
    task: Task
    parts: Parts

    def read(self) -> Part | None:
        """The finished part, if there is one."""
        return self.parts.read(self.checkpoint.sha256, self.task)

    def measure(self, live: "Live", guard: Guard, step: Callable[[], None]) -> None:
        """Measure the part and keep it; guard and step as `ablation.measure` takes them."""
        part = ablation.measure(live, self.task, guard, step)
        self.parts.write(self.checkpoint.sha256, self.task, part)


@dataclass(frozen=True)
class Plan:
    """All that is to be measured; about: what curves.json says of it; out: the .parquet file."""

    jobs: tuple[Job, ...]
    about: dict[str, Any]
    out: Path

    def missing(self) -> list[Job]:
        """The jobs whose parts are not there yet."""
        return [job for job in self.jobs if job.read() is None]


Measure = Callable[[Sequence[Job], Counter], None]
"""Measures jobs in any order, keeps their parts, and counts every cut of theirs as a step."""


def plan_files(
    models: Sequence[Path],
    documents_path: Path,
    calibration_path: Path,
    out: Path,
    keep: Sequence[int] | None = None,
    methods: Sequence[str] | None = None,
    random_seeds: int = ablation.RANDOM_SEEDS,
    seen_below: float | None = None,
) -> Plan:
    """The measurement of checkpoint folders on files of documents; see `plan`.

    seen_below: of the documents of which training has seen a smaller share alone.
    """
    check_name(out)
    documents, calibration = (
        # Ids that were made would be the same in both.
        read_documents(path, required=("id", "domain"))
        for path in (documents_path, calibration_path)
    )
    check_disjoint(documents, calibration)
    if seen_below is not None:
        documents = with_seen(documents, read_seen(documents_path))
    runs = open_runs(models)
    return plan(runs, documents, calibration, out, keep, methods, random_seeds, seen_below)


def check_disjoint(documents: pd.DataFrame, calibration: pd.DataFrame) -> None:
    """Raises ValueError for calibration documents that are evaluated too."""
    ablation.check_disjoint(_with_parents(documents), _with_parents(calibration))


def plan(
    checkpoints: Sequence[Checkpoint],
    documents: pd.DataFrame,
    calibration: pd.DataFrame,
    out: Path,
    keep: Sequence[int] | None = None,
    methods: Sequence[str] | None = None,
    random_seeds: int = ablation.RANDOM_SEEDS,
    seen_below: float | None = None,
) -> Plan:
    """Every domain of the documents: keep-ks and methods as given, or the usual ones of each run.

    Raises ValueError for a keep-k, a method or documents that cannot be measured, and where curves
    of other runs in the file would be lost.
    """
    origin = documents_digest(documents)
    if seen_below is not None:
        documents = documents[documents["id"].astype(str).isin(unseen_ids(documents, seen_below))]
    methods = methods or ablation.default_methods(documents["domain"].nunique())
    parts, jobs, asked = Parts.of(out), list[Job](), set[int]()
    for one in checkpoints:
        own = keep or ablation.default_keep(one.config)
        asked.update(own)
        cuts = ablation.plan_cuts(one.config, own, methods, random_seeds)
        held_out, few = (
            ablation.tokenise(some, partial(one.encode, most=ablation.MAX_TOKENS))
            for some in (documents, calibration)
        )
        jobs += [Job(one, task, parts) for task in ablation.plan_tasks(held_out, few, cuts)]
    models = {one.run: one.weights for one in checkpoints}
    origins = Origins(models, origin, documents_digest(calibration))
    check_others(out, origins, seen_below)
    configs = {one.run: one.config for one in checkpoints}
    about = ablation.describe(configs, origins, sorted(asked), methods, random_seeds)
    about |= {} if seen_below is None else {SEEN_BELOW: seen_below}
    return Plan(tuple(jobs), about, out)


def check_others(out: Path, origins: Origins, seen_below: float | None) -> None:
    """Raises ValueError where the file holds other runs on these documents, seen otherwise: one
    file has one limit, and they would be lost."""
    try:
        there = read_curves(out)
    except ValueError:  # there is none, or it is of no use
        return
    other = [run for run in there.runs if run not in origins.models]
    of = there.origins
    same = (of.documents, of.calibration) == (origins.documents, origins.calibration)
    if other and same and there.seen_below != seen_below:
        was = "without" if there.seen_below is None else f"with {there.seen_below:g} as"
        raise ValueError(
            f"{out} holds the curves of {', '.join(other)}, measured {was} --seen-below, which "
            "would be lost; name another --out, or measure these runs alike."
        )


def measure(plan: Plan, by: Measure, report: Report = unreported) -> Curves:
    """Measure what is not there yet and write the curves; a file that was there stays until then,
    and in it the curves of other runs on the same documents, measured alike.

    report: of the cuts measured, those of finished parts at once. What it raises stops the work;
    finished parts stay. Raises ValueError for what cannot be measured or written.
    """
    missing = plan.missing()
    step = Counter(report, sum(len(job.task.cuts) for job in plan.jobs))
    finished = step.total - sum(len(job.task.cuts) for job in missing)
    if finished:
        step(finished)
    by(missing, step)
    found: dict[str, list[Part]] = {job.checkpoint.run: [] for job in plan.jobs}
    for job in plan.jobs:
        found[job.checkpoint.run].append(_finished(job))
    curves = ablation.collect(found, [job.task for job in plan.jobs], plan.about)
    curves = _with_other_runs(curves, plan.out)
    write_curves(curves, plan.out)
    Parts.of(plan.out).clear()
    return curves


def _with_other_runs(curves: Curves, out: Path) -> Curves:
    """The curves of other runs on the same documents that the file holds are kept in it."""
    try:
        return curves.beside(read_curves(out))
    except ValueError:  # there is none, or it is of no use
        return curves


def _finished(job: Job) -> Part:
    part = job.read()
    if part is None:
        raise ValueError(
            f"Finished parts have gone from {job.parts.folder}, perhaps because another "
            "measurement ended; call again."
        )
    return part


def _with_parents(documents: pd.DataFrame) -> pd.DataFrame:
    """Documents with a parent, "" for none: those of no parent share no text that is known of."""
    parents = documents["parent"].fillna("") if "parent" in documents else ""
    return documents.assign(parent=parents)


@dataclass(frozen=True)
class Loaded:
    """Measures on models in memory, by run id; each has a guard for its single steps."""

    models: "Mapping[str, tuple[Live, Guard]]"

    def __call__(self, jobs: Sequence[Job], step: Counter) -> None:
        for job in jobs:
            live, guard = self.models[job.checkpoint.run]
            job.measure(live, guard, step)

    def only(self, tasks: Mapping[str, Task], report: Report = unreported) -> Curves:
        """One domain in every run that has a task, kept nowhere."""
        step = Counter(report, sum(len(task.cuts) for task in tasks.values()))
        parts = {
            run: [ablation.measure(self.models[run][0], task, self.models[run][1], step)]
            for run, task in tasks.items()
        }
        return ablation.collect(parts, list(tasks.values()), {})


@dataclass(frozen=True)
class Workers:
    """Measures in so many processes, each with its own copy of the model that it works on.

    One worker is this process. Raises ValueError if a process was killed.
    """

    number: int

    def __call__(self, jobs: Sequence[Job], step: Counter) -> None:
        if self.number == 1:
            for job in jobs:
                _measure(job, step)
            return
        with shared_out(_measure, jobs, self.number) as measured:
            for cuts in measured:
                step(cuts)


def _measure(job: Job, step: Callable[[], None] = lambda: None) -> int:
    """Returns the number of cuts measured."""
    job.measure(model_of(job.checkpoint.folder), nullcontext, step)
    return len(job.task.cuts)
