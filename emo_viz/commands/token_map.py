"""Lay out single tokens on flat maps: python -m emo_viz token-map --help"""

from pathlib import Path

import click
import numpy as np

from emo_viz.commands.map import umap_options
from emo_viz.runs.token_map import map_tokens
from model.cli import Several, SeveralCommand, progress_bar, say

FILE = click.Path(path_type=Path)


@click.command(cls=SeveralCommand)
@click.option(
    "--models",
    cls=Several,
    type=FILE,
    required=True,
    help="Checkpoint folder of a run, or of two with one tokenizer.",
)
@click.option(
    "--documents",
    "documents_path",
    type=FILE,
    required=True,
    help="The Parquet file of documents that the token clusters are of.",
)
@click.option(
    "--clusters",
    "clusters_paths",
    cls=Several,
    type=FILE,
    required=True,
    help="What `python -m emo_viz clusters` wrote for these, in their order.",
)
@click.option("--out", type=FILE, required=True, help="The .npz file to write.")
@click.option(
    "--per-domain",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Tokens of every domain.",
)
@umap_options
def command(
    models: tuple[Path, ...],
    documents_path: Path,
    clusters_paths: tuple[Path, ...],
    out: Path,
    per_domain: int,
    neighbours: int | None,
    min_dist: float,
    seed: int,
) -> None:
    """Fit a UMAP of the routing of the same sampled tokens in every run."""
    with progress_bar("Recording") as report:
        made = map_tokens(
            models,
            documents_path,
            clusters_paths,
            out,
            per_domain,
            neighbours,
            min_dist,
            seed,
            report,
        )
    tokens, size = len(made.sample.documents), out.stat().st_size / 1e3
    of = len(np.unique(made.sample.documents))
    say(f"{out}: {tokens:,} tokens of {of:,} documents, {size:.0f} kB.")
