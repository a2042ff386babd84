"""What tokens say of every expert of a model: python -m emo_viz experts --help"""

from pathlib import Path

import click

from emo_viz.analysis.runs import run_id
from emo_viz.runs.experts import measure_experts
from emo_viz.trace.documents import HELP
from model.cli import progress_bar, say

FILE = click.Path(path_type=Path)


@click.command()
@click.option("--model", "checkpoint", type=FILE, required=True, help="Checkpoint folder.")
@click.option(
    "--documents",
    "documents_path",
    type=FILE,
    required=True,
    help=HELP,
)
@click.option("--out", type=FILE, required=True, help="The .npz file to write.")
def command(checkpoint: Path, documents_path: Path, out: Path) -> None:
    """Find the tokens, contexts and partners of every expert, for the pages Experts and Domains."""
    with progress_bar("Reading") as report:
        found = measure_experts(checkpoint, documents_path, out, run_id(checkpoint), report)
    say(
        f"{out}: {int(sum(found.routed)):,} experts of {len(found.numbers)} layers, from "
        f"{found.tokens:,} tokens of {found.documents:,} documents, "
        f"{out.stat().st_size / 1e3:.0f} kB."
    )
