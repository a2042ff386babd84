"""Choose the documents that the app comes with: python -m emo_viz documents --help"""

from pathlib import Path

import click

from emo_viz.trace.selection import RIGHTS
from model.cli import say

MAX_MEGABYTES = 3  # of the bundled tables, which everyone downloads


@click.command()
@click.option(
    "--corpus",
    type=click.Path(path_type=Path),
    default=Path("data/corpus"),
    show_default=True,
    help="Folder made by python -m model.data build.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("assets/documents"),
    show_default=True,
    help="Folder for documents.parquet, calibration.parquet and ATTRIBUTION.md.",
)
@click.option(
    "--per-domain",
    type=click.IntRange(min=1),
    help="Documents of every domain; by default the number, of at most 48, that keeps the most.",
)
@click.option(
    "--calibration-per-domain",
    type=click.IntRange(min=1),
    help="Calibration documents of every domain; by default a third of --per-domain.",
)
@click.option(
    "--rights",
    default=",".join(RIGHTS),
    show_default=True,
    help="Which documents may be shown, by the column rights of the corpus. Your own are shown to "
    "you: do not pass the folder on unless you may.",
)
@click.option(
    "--max-megabytes",
    type=click.FloatRange(min=0, min_open=True),
    default=MAX_MEGABYTES,
    show_default=True,
    help="Of both tables together.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of which documents of a domain are chosen.",
)
def command(
    corpus: Path,
    out: Path,
    per_domain: int | None,
    calibration_per_domain: int | None,
    rights: str,
    max_megabytes: float,
    seed: int,
) -> None:
    """Choose held-out documents that may be shown, as many of each domain."""
    from emo_viz.runs.documents import choose

    allowed = [name.strip() for name in rights.split(",")]
    chosen = choose(corpus, out, per_domain, calibration_per_domain, allowed, max_megabytes, seed)
    say("\n".join(chosen.sentences()))
