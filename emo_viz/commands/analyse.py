"""Make all that the app shows of a pair of your own: python -m emo_viz analyse --help"""

import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from emo_viz.analysis.runs import safe_id
from emo_viz.runs.analyse import Analysis, analyse, begin, check_same, find_runs, in_minutes
from emo_viz.runs.progress import Report
from emo_viz.server import assets, pairs
from model.cli import Several, SeveralCommand, progress_bar, say

FOLDER = click.Path(path_type=Path)
MOST_WORKERS = 4


@click.command(cls=SeveralCommand)
@click.option(
    "--runs",
    cls=Several,
    type=FOLDER,
    required=True,
    help="Folder in which `python -m model.train.pair` trained, or one training run, or two.",
)
@click.option("--corpus", type=FOLDER, required=True, help="The corpus that they were trained on.")
@click.option(
    "--out",
    type=FOLDER,
    help="Folder for all that the app shows; corpus and runs may lie in it.  [default: pairs/NAME "
    "in the user's folder, EMO_VIZ_HOME]",
)
@click.option(
    "--name",
    default="",
    help="What the pair is called, and the runs' names begin with.  [default: --out's name, else "
    "that of the folder that the corpus lies in]",
)
@click.option(
    "--install/--no-install",
    default=True,
    help="Show it in the app's Library, beside the other runs; --no-install needs --out.  "
    "[default: install]",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=min(MOST_WORKERS, os.cpu_count() or 1),
    show_default=True,
    help="Processes that measure curves, training and experts left out, each with its own copy of "
    "a model.",
)
def command(
    runs: tuple[Path, ...],
    corpus: Path,
    out: Path | None,
    name: str,
    install: bool,
    workers: int,
) -> None:
    """Choose documents, record, cluster, map and measure: all that the app shows of a pair.

    Stopped at any point and called again, it goes on where it was; what is done is not done again.
    """
    import torch

    from model.data.shards import read_manifest

    if not install and out is None:
        raise ValueError(
            "--no-install needs --out: what lies in the user's folder is listed in the Library."
        )
    read_manifest(corpus)
    name = safe_id(name or _name_of(corpus if out is None else out))
    found = find_runs(runs, name)
    job = Analysis(found, corpus, out or pairs.usual_folder(name), workers, name)
    if out is None:
        check_same(job)
    if install:
        _install(job)
    torch.set_num_threads(1)  # one text is too little work to share (docs/log.md)
    started = time.monotonic()
    try:
        new = analyse(job, _shown, say)
    except KeyboardInterrupt as error:
        say("Stopped. What is finished is kept; the same command goes on from there.")
        raise click.Abort from error
    took = in_minutes(time.monotonic() - started)
    say(f"{job.out}: made in {took}." if new else f"{job.out}: all of it is there already.")
    if install:
        say(
            f"Next: python -m streamlit run serve.py; the Library page lists {name} beside the "
            "other runs, and puts it on all pages."
        )
        return
    where = shlex.quote(str(job.out))
    say(f"Next: EMO_VIZ_ASSETS={where} python -m streamlit run serve.py shows it alone.")


def _name_of(folder: Path) -> str:
    """What a pair is called after its folder, or after the one that its corpus lies in."""
    path = folder.resolve()
    return path.parent.name if path.name == "corpus" else path.name


def _install(job: Analysis) -> None:
    """List the pair in the Library. Raises ValueError where its names are others' there."""
    pairs.check_free(job.name, job.out, job.sources.ids, assets.ids_elsewhere(job.out))
    begin(job)
    pairs.keep(job.name, job.out)


@contextmanager
def _shown(name: str) -> Iterator[Report]:
    with progress_bar(name[:1].upper() + name[1:]) as report:
        yield report
