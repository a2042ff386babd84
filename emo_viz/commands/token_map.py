"""Lay out single tokens on flat maps: python -m emo_viz token-map --help"""

from pathlib import Path

import click
import numpy as np

from emo_viz.commands.map import umap_options
from emo_viz.runs.token_map import map_tokens
from model.cli import progress_bar, say

FILE = click.Path(path_type=Path)


@click.command()
@click.option(
    "--models",
    nargs=2,
    type=FILE,
    required=True,
    help="Checkpoint folders of the EMO and of the standard model.",
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
    nargs=2,
    type=FILE,
    required=True,
    help="What `python -m emo_viz clusters` wrote for the EMO and the standard model.",
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
    models: tuple[Path, Path],
    documents_path: Path,
    clusters_paths: tuple[Path, Path],
    out: Path,
    per_domain: int,
    neighbours: int | None,
    min_dist: float,
    seed: int,
) -> None:
    """Fit a UMAP of the routing of the same sampled tokens in both models."""
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
