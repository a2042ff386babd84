"""Measure what each model loses with a subset of its experts: python -m emo_viz curves --help"""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pandas as pd

from emo_viz.analysis import ablation
from emo_viz.analysis.ablation import Part, Task
from emo_viz.analysis.curves import METHODS, write_curves
from emo_viz.analysis.parts import Parts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from model.modeling import EmoForCausalLM


@dataclass(frozen=True)
class Checkpoint:
    """A model folder and the digest of its weights."""

    folder: Path
    objective: str
    sha256: str


@dataclass(frozen=True)
class Job:
    """One model on one domain, and where its part is kept."""

    checkpoint: Checkpoint
    task: Task
    parts: Parts

    def read(self) -> Part | None:
        """The finished part, if there is one."""
        return self.parts.read(self.checkpoint.sha256, self.task)


def _numbers(_: click.Context, __: click.Parameter, text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a list such as 8,16,32.") from error


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
    help="Held-out documents to evaluate: Parquet with id, domain, parent and text.",
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
    default="8,16,32,64,128",
    show_default=True,
    callback=_numbers,
    help="Experts kept a layer, the shared one counted.",
)
@click.option(
    "--methods", default=",".join(METHODS), show_default=True, help="How the experts are chosen."
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
    keep: list[int],
    methods: str,
    random_seeds: int,
    workers: int,
) -> None:
    """Measure subset curves. If it is stopped, the next call, or the page, goes on from there."""
    documents, calibration = _read(documents_path), _read(calibration_path)
    ablation.check_disjoint(documents, calibration)
    checkpoints, config, tokenizer = _open(models)
    tasks = ablation.plan_tasks(
        ablation.tokenise(documents, tokenizer),
        ablation.tokenise(calibration, tokenizer),
        ablation.plan_cuts(config, keep, methods.split(","), random_seeds),
    )
    parts = Parts.of(out)
    jobs = [Job(checkpoint, task, parts) for checkpoint in checkpoints for task in tasks]
    _measure_all(jobs, workers)
    found = {
        c.objective: [_finished_part(j) for j in jobs if j.checkpoint is c] for c in checkpoints
    }
    curves = ablation.collect(found, tasks, _about(checkpoints, config))
    write_curves(curves, out)
    parts.clear()
    click.echo(f"{out}: {len(curves.rows):,} rows, {out.stat().st_size / 1e6:.2f} MB.")


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path, columns=["id", "domain", "parent", "text"])
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} is not a Parquet file of documents (id, domain, parent, text)."
        ) from error


def _open(
    folders: tuple[Path, Path],
) -> tuple[list[Checkpoint], Any, "PreTrainedTokenizerBase"]:
    """The two checkpoints, the geometry that they share, and their common tokenizer."""
    from model.files import weights_digest
    from model.loading import load_model, load_tokenizer

    configs = [load_model(folder).config for folder in folders]
    if configs[0].objective == configs[1].objective:
        raise ValueError(
            f"Both checkpoints are of the {configs[0].objective} objective; name one EMO and one "
            "standard checkpoint."
        )
    if configs[0].num_experts != configs[1].num_experts:
        raise ValueError("The two models differ in their number of experts; name a matched pair.")
    tokenizers = [load_tokenizer(folder) for folder in folders]
    if tokenizers[0].get_vocab() != tokenizers[1].get_vocab():
        raise ValueError("The two models have different tokenizers; their losses do not compare.")
    pairs = zip(folders, configs, strict=True)
    checkpoints = [Checkpoint(f, c.objective, weights_digest(f)) for f, c in pairs]
    return checkpoints, configs[0], tokenizers[0]


def _about(checkpoints: list[Checkpoint], config: Any) -> dict[str, Any]:
    return {
        "num_experts": config.num_experts,
        "num_experts_per_tok": config.num_experts_per_tok,
        "models": {c.objective: {"name": c.folder.name, "sha256": c.sha256} for c in checkpoints},
    }


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
        click.echo(f"Stopped. {kept} of {len(jobs)} parts are kept; call again to go on.")
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
    finally:
        pool.shutdown(cancel_futures=True)


def _limit_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


_loaded: "dict[Path, EmoForCausalLM]" = {}  # of this worker process: the model it used last


def _measure(job: Job) -> None:
    from model.loading import load_model

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
