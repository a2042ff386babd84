"""Write a smaller checkpoint that holds a subset's experts: python -m emo_viz cut --help"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from model.cli import progress_bar, say

if TYPE_CHECKING:
    from model.run.subset import ExpertSubset

PATH = click.Path(path_type=Path)


@click.command()
@click.option("--model", "checkpoint", type=PATH, required=True, help="Checkpoint folder to cut.")
@click.option(
    "--subset",
    "subset_path",
    type=PATH,
    required=True,
    help="JSON file of a subset, from python -m emo_viz subset or the Subset ablation page.",
)
@click.option("--out", type=PATH, required=True, help="New folder for the smaller checkpoint.")
@click.option(
    "--force",
    is_flag=True,
    help="Cut even if the subset was made for another model, or does not say for which.",
)
@click.option(
    "--same-size",
    type=click.IntRange(min=1),
    help="Keep so many experts in every layer: those of the subset, and where these are fewer the "
    "first others. For families whose config has one number for all layers.",
)
def command(
    checkpoint: Path, subset_path: Path, out: Path, force: bool, same_size: int | None
) -> None:
    """Write a checkpoint without the experts that a subset leaves out, of any family.

    The whole model is never in memory, only one of its files at a time. The result is of the same
    format, and opens as the whole checkpoint does.
    """
    from model.run.cut import check_out, plan_cut, write_cut

    check_out(checkpoint, out)
    subset = _read_subset(subset_path)
    plan = plan_cut(checkpoint, subset, same_size)
    if not force:
        _check_made_for(subset_path, subset, checkpoint)
    with progress_bar("Cutting") as show:
        write_cut(plan, out, show)
    before, after = _megabytes(checkpoint), _megabytes(out)
    say(f"{click.format_filename(out)}: {after:,.1f} MB of weights of {before:,.1f}.")
    if plan.left_out:
        say(
            f"{len(plan.left_out)} tensors stayed behind, for which the model has no place "
            f"({plan.left_out[0]}, ..)."
        )


def _read_subset(path: Path) -> "ExpertSubset":
    from model.files import read_text
    from model.run.subset import ExpertSubset

    text = read_text(path)
    try:
        return ExpertSubset.from_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _check_made_for(path: Path, subset: "ExpertSubset", checkpoint: Path) -> None:
    from model.run.cut import check_made_for

    try:
        check_made_for(subset, checkpoint)
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removesuffix('.')}, or cut with --force.") from error


def _megabytes(folder: Path) -> float:
    from model.files import weight_files

    return sum(file.stat().st_size for file in weight_files(folder)) / 1e6
