"""Write a smaller checkpoint that holds a subset's experts: python -m emo_viz cut --help"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from model.subset import ExpertSubset

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
def command(checkpoint: Path, subset_path: Path, out: Path) -> None:
    """Write a checkpoint without the experts that a subset leaves out.

    The whole model is never in memory, only the kept part of one of its files at a time.
    """
    from model.cut import cut_checkpoint

    subset = _read_subset(subset_path)
    with click.progressbar(length=1, label="Cutting") as bar:

        def show(done: int, total: int) -> None:
            bar.length = total
            bar.update(done - bar.pos)

        cut_checkpoint(checkpoint, subset, out, show)
    before, after = _megabytes(checkpoint), _megabytes(out)
    click.echo(f"{out}: {after:,.1f} MB of weights of {before:,.1f}.")


def _read_subset(path: Path) -> "ExpertSubset":
    from model.subset import ExpertSubset

    try:
        return ExpertSubset.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"The subset {path} cannot be read; check the path.") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6
