"""What the commands that make a UMAP are asked alike."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
OPTIONS = (
    click.option(
        "--neighbours",
        type=click.IntRange(min=2),
        default=30,
        show_default=True,
        help="UMAP's n_neighbors: larger keeps more of the whole, smaller more of the detail.",
    ),
    click.option(
        "--min-dist",
        type=click.FloatRange(0, 1),
        default=0.9,
        show_default=True,
        help="UMAP's min_dist: smaller packs what is similar tighter.",
    ),
    click.option("--seed", type=int, default=0, show_default=True),
)


def umap_options(command: Command) -> Command:
    """The command with --neighbours, --min-dist and --seed."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def check_neighbours(neighbours: int, points: int, what: str) -> None:
    """Raises ValueError where there are too few points, called `what`, for so many neighbours."""
    if neighbours >= points:
        raise ValueError(
            f"{neighbours} neighbours need more than {points} {what}; choose fewer with "
            "--neighbours."
        )
