"""Measure checkpoints of a training run: python -m emo_viz training-history --help"""

import re
from pathlib import Path

import click

from emo_viz.runs.training_history import KEEPS, PER_DOMAIN, measure_history
from model.cli import Several, SeveralCommand, progress_bar, say, whole_numbers, workers_option

FOLDER = click.Path(path_type=Path)
NAMED = re.compile(r"(?:step-)?([0-9]{1,12})=(.+)")


def _checkpoints(
    _: click.Context, __: click.Parameter, texts: tuple[str, ...]
) -> list[tuple[int, Path]]:
    """ "step-50=DIR", or the folder alone if it is called step-50."""
    found = []
    for text in texts:
        path = Path(text)
        match = NAMED.fullmatch(f"{path.name}={text}" if path.is_dir() else text)
        if match is None:
            raise click.BadParameter(f"{text!r} says no step; write step-50=FOLDER.")
        found.append((int(match[1]), Path(match[2])))
    return found


@click.command(cls=SeveralCommand)
@click.option(
    "--checkpoints",
    cls=Several,
    callback=_checkpoints,
    required=True,
    help="step-50=FOLDER each: checkpoints of one training run by one process, or exported ones.",
)
@click.option("--documents", type=FOLDER, required=True, help="Held-out documents with a domain.")
@click.option(
    "--calibration",
    type=FOLDER,
    required=True,
    help="Documents to choose experts on: the same domains, other parents.",
)
@click.option(
    "--out",
    type=FOLDER,
    required=True,
    help="The .npz file to write; the page reads analysis/training-*.npz.",
)
@click.option(
    "--tokenizer",
    type=FOLDER,
    help="Folder of the tokenizer, if no checkpoint has one: the corpus'.",
)
@click.option(
    "--keep",
    callback=whole_numbers,
    default=",".join(map(str, KEEPS)),
    show_default=True,
    help="Experts kept a layer, the shared one counted; all of them are measured besides.",
)
@click.option(
    "--per-domain",
    type=click.IntRange(min=1),
    default=PER_DOMAIN,
    show_default=True,
    help="Documents of each domain, the first ones.",
)
@click.option(
    "--run", "run_name", default="", help="What the run is called; by default its folder."
)
@click.option(
    "--about", default="", help="A sentence on which run it is, for whoever reads the page."
)
@workers_option
def command(
    checkpoints: list[tuple[int, Path]],
    documents: Path,
    calibration: Path,
    out: Path,
    tokenizer: Path | None,
    keep: list[int],
    per_domain: int,
    run_name: str,
    about: str,
    workers: int,
) -> None:
    """Measure how routing and keep-k curves changed during training, checkpoint by checkpoint.

    The file is written after each; what it holds already of the same weights is not measured again.
    """
    try:
        with progress_bar(f"Measuring {len(checkpoints)} checkpoints") as report:
            history = measure_history(
                checkpoints,
                documents,
                calibration,
                out,
                tokenizer,
                tuple(sorted(set(keep))),
                per_domain,
                run_name,
                about,
                report,
                workers=workers,
            )
    except KeyboardInterrupt as error:
        say("Stopped. What was measured is in the file; call again to go on.")
        raise click.Abort from error
    steps, size = ", ".join(map(str, history.steps)), out.stat().st_size / 1e6
    documents_read = len(history.documents.ids)
    say(f"{out}: {history.run} at steps {steps}, {documents_read:,} documents, {size:.2f} MB.")
