"""Cluster the tokens of documents by their routing: python -m emo_viz clusters --help"""

from pathlib import Path

import click

from emo_viz.analysis.tokens import TokenClusters
from emo_viz.runs.clusters import cluster_tokens
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
@click.option(
    "--clusters", type=click.IntRange(min=2), default=32, show_default=True, help="How many."
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=2),
    default=256,
    show_default=True,
    help="Tokens a document, the opening end-of-text token among them.",
)
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Of the first centroids and of the intervals' resamples.",
)
def command(
    checkpoint: Path, documents_path: Path, out: Path, clusters: int, max_tokens: int, seed: int
) -> None:
    """Fit token clusters and measure how well they follow domains, token ids and documents."""
    with progress_bar("Recording") as report:
        fitted = cluster_tokens(
            checkpoint, documents_path, out, clusters, max_tokens, seed, report, say
        )
    say(_summary(out, fitted))


def _summary(out: Path, fitted: TokenClusters) -> str:
    lines = [
        f"{out}: {len(fitted.centroids)} clusters of {fitted.tokens:,} tokens in "
        f"{fitted.documents:,} documents, {len(fitted.pca.components)} components, "
        f"{out.stat().st_size / 1e3:.0f} kB."
    ]
    for name, agreement in fitted.agreements.items():
        nmi = agreement.nmi
        lines.append(
            f"NMI with {name}: {nmi.mean:.4f} [{nmi.low:.4f}, {nmi.high:.4f}], "
            f"by chance {agreement.chance:.4f}"
        )
    return "\n".join(lines)
