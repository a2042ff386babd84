"""Lay out the recorded documents on flat maps: python -m emo_viz map --help"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from emo_viz.runs.maps import NEIGHBOURS, map_documents
from model.cli import Several, SeveralCommand, progress_bar, say

FOLDER = click.Path(path_type=Path)
Command = TypeVar("Command", bound=Callable[..., Any])
OPTIONS = (
    click.option(
        "--neighbours",
        type=click.IntRange(min=2),
        help="UMAP's n_neighbors: larger keeps more of the whole, smaller more of the detail. By "
        f"default {NEIGHBOURS}, or all there are.",
    ),
    click.option(
        "--min-dist",
        type=click.FloatRange(0, 1),
        default=0.9,
        show_default=True,
        help="UMAP's min_dist: smaller packs what is similar tighter.",
    ),
    click.option(
        "--seed",
        type=int,
        default=0,
        show_default=True,
        help="Of UMAP, and of what is drawn for it.",
    ),
)


def umap_options(command: Command) -> Command:
    """The command with --neighbours, --min-dist and --seed."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@click.command(cls=SeveralCommand)
@click.option(
    "--traces",
    cls=Several,
    type=FOLDER,
    required=True,
    help="The trace of a run, or those of two, of the same documents.",
)
@click.option("--out", type=FOLDER, required=True, help="The .npz file to write.")
@umap_options
def command(
    traces: tuple[Path, ...], out: Path, neighbours: int | None, min_dist: float, seed: int
) -> None:
    """Fit UMAPs to the traces, of all layers and of each one, and turn them onto the first."""
    with progress_bar("Laying out") as report:
        maps = map_documents(traces, out, neighbours, min_dist, seed, report)
    number = sum(map(len, maps.places.values()))
    documents, size = next(iter(maps.places.values())).shape[1], out.stat().st_size / 1e3
    say(
        f"{out}: {number} maps of {', '.join(maps.places)}, {documents:,} documents, {size:.0f} kB."
    )
