"""One document at a glance, for the first screen: python -m emo_viz glance --help"""

from pathlib import Path

import click

from emo_viz.runs.glance import make
from model.cli import Several, SeveralCommand, progress_bar, say

FILE = click.Path(path_type=Path)


@click.command(cls=SeveralCommand)
@click.option(
    "--models",
    cls=Several,
    type=FILE,
    required=True,
    help="Checkpoint folder of a run, or of two.",
)
@click.option(
    "--documents",
    "documents_path",
    type=FILE,
    required=True,
    help="The documents, one of which is shown.",
)
@click.option(
    "--calibration",
    "calibration_path",
    type=FILE,
    required=True,
    help="The documents that the kept experts are chosen on.",
)
@click.option("--out", type=FILE, required=True, help="The .npz file to write.")
@click.option("--curves", type=FILE, help="Measured curves: the most typical document is shown.")
@click.option("--domain", default="", help="Of which domain the document is; of any, if not given.")
@click.option("--document", default="", help="The id of the document, whatever is typical.")
def command(
    models: tuple[Path, ...],
    documents_path: Path,
    calibration_path: Path,
    out: Path,
    curves: Path | None,
    domain: str,
    document: str,
) -> None:
    """Record one document, and its losses at every number of experts kept."""
    with progress_bar("Reading") as report:
        made = make(models, documents_path, calibration_path, out, curves, domain, document, report)
    notches = len(next(iter(made.runs.values())).keeps)
    size = out.stat().st_size / 1e3
    say(f"{out}: {made.text.title} ({made.text.domain}), {notches} notches, {size:.0f} kB.")
