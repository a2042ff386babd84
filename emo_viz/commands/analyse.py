"""Make all that the app shows of a pair of your own: python -m emo_viz analyse --help"""

import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from emo_viz.analysis.runs import safe_id
from emo_viz.runs.analyse import Analysis, analyse, find_runs, in_minutes
from emo_viz.runs.progress import Report
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
    required=True,
    help="Folder for all that the app shows; corpus and runs may lie in it.",
)
@click.option("--name", default="", help="What the runs' names begin with.  [default: --out's]")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=min(MOST_WORKERS, os.cpu_count() or 1),
    show_default=True,
    help="Processes that measure the curves, each with its own copy of a model.",
)
def command(runs: tuple[Path, ...], corpus: Path, out: Path, name: str, workers: int) -> None:
    """Choose documents, record, cluster, map and measure: all that the app shows of a pair.

    Stopped at any point and called again, it goes on where it was; what is done is not done again.
    """
    import torch

    from model.data.shards import read_manifest

    found = find_runs(runs, safe_id(name or out.resolve().name))
    read_manifest(corpus)
    torch.set_num_threads(1)  # one text is too little work to share (docs/log.md)
    started = time.monotonic()
    try:
        new = analyse(Analysis(found, corpus, out, workers), _shown, say)
    except KeyboardInterrupt as error:
        say("Stopped. What is finished is kept; the same command goes on from there.")
        raise click.Abort from error
    say(
        f"{out}: made in {in_minutes(time.monotonic() - started)}."
        if new
        else f"{out}: all of it is there already."
    )
    say(f"Next: EMO_VIZ_ASSETS={shlex.quote(str(out))} python -m streamlit run serve.py")
    say(
        "To see one beside other runs instead, add its folder on the Library page: "
        f"{out / 'checkpoints' / found[0].id}"
    )


@contextmanager
def _shown(name: str) -> Iterator[Report]:
    with progress_bar(name[:1].upper() + name[1:]) as report:
        yield report
