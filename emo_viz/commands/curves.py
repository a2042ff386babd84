"""Measure what each model loses with a subset of its experts: python -m emo_viz curves --help"""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import click

from emo_viz.analysis import ablation
from emo_viz.analysis.ablation import Part, Task
from emo_viz.analysis.curves import METHODS, check_name, write_curves
from emo_viz.analysis.origins import Origins, documents_digest
from emo_viz.analysis.pairs import Checkpoint, Pair, open_pair
from emo_viz.analysis.parts import Parts
from emo_viz.trace.documents import read_documents
from model.cli import say

if TYPE_CHECKING:
    import pandas as pd

    from model.emo.modeling import EmoForCausalLM


@dataclass(frozen=True)
class Job:
    """One model on one domain, and where its part is kept."""

    checkpoint: Checkpoint
    task: Task
    parts: Parts

    def read(self) -> Part | None:
        """The finished part, if there is one."""
        return self.parts.read(self.checkpoint.sha256, self.task)


def _numbers(_: click.Context, __: click.Parameter, text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(number) for number in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list such as 8,16,32.") from error


def _methods(_: click.Context, __: click.Parameter, text: str | None) -> list[str] | None:
    methods = None if text is None else text.split(",")
    if unknown := set(methods or ()) - set(METHODS):
        raise click.BadParameter(
            f"There is no method {min(unknown)!r}; choose of {', '.join(METHODS)}."
        )
    return methods


FOLDER = click.Path(path_type=Path)


@click.command()
@click.option(
    "--models",
    nargs=2,
    type=FOLDER,
    required=True,
    help="Checkpoint folders of an EMO and a standard model.",
)
@click.option(
    "--documents",
    "documents_path",
    type=FOLDER,
    required=True,
    help="Held-out documents to evaluate: Parquet with id, domain, text and, if there is one, "
    "parent.",
)
@click.option(
    "--calibration",
    "calibration_path",
    type=FOLDER,
    required=True,
    help="Documents to choose experts on: the same domains, other parents.",
)
@click.option(
    "--out",
    type=FOLDER,
    required=True,
    help="Parquet file to write; a JSON file of the same name goes beside it.",
)
@click.option(
    "--keep",
    callback=_numbers,
    help="Experts kept a layer, the shared one counted: 8,16,32. By default every doubling of "
    "the experts that a token uses.",
)
@click.option(
    "--methods",
    callback=_methods,
    help=f"How the experts are chosen, of {','.join(METHODS)}. By default all that the documents "
    "allow.",
)
@click.option(
    "--random-seeds",
    type=click.IntRange(min=1),
    default=ablation.RANDOM_SEEDS,
    show_default=True,
    help="Random subsets at each keep-k.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Processes, each with its own copy of the model it works on.",
)
def command(
    models: tuple[Path, Path],
    documents_path: Path,
    calibration_path: Path,
    out: Path,
    keep: list[int] | None,
    methods: list[str] | None,
    random_seeds: int,
    workers: int,
) -> None:
    """Measure subset curves. If it is stopped, the next call, or the page, goes on from there."""
    check_name(out)
    documents, calibration = _documents(documents_path), _documents(calibration_path)
    ablation.check_disjoint(documents, calibration)
    pair = open_pair(models)
    keep = keep or ablation.default_keep(pair.config)
    methods = methods or list(ablation.default_methods(documents["domain"].nunique()))
    tasks = _tasks(
        pair, documents, calibration, ablation.plan_cuts(pair.config, keep, methods, random_seeds)
    )
    parts = Parts.of(out)
    jobs = [Job(checkpoint, task, parts) for checkpoint in pair.checkpoints for task in tasks]
    _measure_all(jobs, workers)
    found = {
        c.objective: [_finished_part(j) for j in jobs if j.checkpoint is c]
        for c in pair.checkpoints
    }
    origins = Origins(pair.models, documents_digest(documents), documents_digest(calibration))
    about = ablation.describe(pair.config, origins, keep, methods, random_seeds)
    curves = ablation.collect(found, tasks, about)
    write_curves(curves, out)
    parts.clear()
    say(f"{out}: {len(curves.rows):,} rows, {out.stat().st_size / 1e6:.2f} MB.")


def _documents(path: Path) -> "pd.DataFrame":
    """Documents with a parent, "" for none: those of no parent share no text that is known of."""
    documents = read_documents(path)
    parents = documents["parent"].fillna("") if "parent" in documents else ""
    return documents.assign(parent=parents)


def _tasks(
    pair: Pair,
    documents: "pd.DataFrame",
    calibration: "pd.DataFrame",
    cuts: tuple[ablation.Cut, ...],
) -> list[Task]:
    most = min(ablation.MAX_TOKENS, pair.config.max_position_embeddings)
    held_out, few = (
        ablation.tokenise(some, pair.tokenizer, most) for some in (documents, calibration)
    )
    return ablation.plan_tasks(held_out, few, cuts)


def _measure_all(jobs: list[Job], workers: int) -> None:
    """Measure what is not there yet, with a progress bar; Ctrl-C keeps the finished parts."""
    missing = [job for job in jobs if job.read() is None]
    label = f"Measuring {len(missing)} of {len(jobs)} parts"
    try:
        with click.progressbar(length=len(missing), label=label, show_pos=True) as bar:
            for _ in _finished(missing, workers):
                bar.update(1)
    except KeyboardInterrupt as error:
        kept = sum(job.read() is not None for job in jobs)
        say(f"Stopped. {kept} of {len(jobs)} parts are kept; call again to go on.")
        raise click.Abort from error


def _finished(jobs: list[Job], workers: int) -> Iterator[None]:
    """Yields once for each measured job."""
    if workers == 1:
        yield from map(_measure, jobs)
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    # Spawned, not forked: torch's thread pool does not survive a fork.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _limit_threads, (threads,))
    try:
        for done in as_completed([pool.submit(_measure, job) for job in jobs]):
            yield done.result()
    except BrokenProcessPool as error:
        raise ValueError(
            "A worker process was killed, perhaps for want of memory; finished parts are kept: "
            "call again with fewer --workers."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _limit_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


_loaded: "dict[Path, EmoForCausalLM]" = {}  # of this worker process: the model it used last


def _measure(job: Job) -> None:
    from model.run.loading import load_model

    folder = job.checkpoint.folder
    if folder not in _loaded:
        _loaded.clear()
        _loaded[folder] = load_model(folder)
    part = ablation.measure(_loaded[folder], job.task)
    job.parts.write(job.checkpoint.sha256, job.task, part)


def _finished_part(job: Job) -> Part:
    part = job.read()
    if part is None:
        raise ValueError(
            f"Finished parts have gone from {job.parts.folder}, perhaps because another "
            "measurement ended; call again."
        )
    return part
