"""Choose a domain's experts: python -m emo_viz subset --help"""

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from emo_viz.analysis.ablation import MAX_TOKENS
from emo_viz.analysis.curves import GREEDY, ROUTER_PROBABILITY
from emo_viz.runs.subset import choose_subset
from emo_viz.trace.documents import HELP

if TYPE_CHECKING:
    from model.run.subset import ExpertSubset, Method

FILE = click.Path(path_type=Path)
METHODS = (ROUTER_PROBABILITY, GREEDY)


@click.command()
@click.option(
    "--model",
    "checkpoint",
    type=FILE,
    required=True,
    help="Checkpoint folder, of any family whose experts can be left out.",
)
@click.option(
    "--documents",
    "documents_path",
    type=FILE,
    required=True,
    help=f"Calibration documents: {HELP}",
)
@click.option("--domain", help="Only the documents of this domain.")
@click.option(
    "--keep",
    "keep_k",
    type=click.IntRange(min=1),
    required=True,
    help="Experts kept a layer, the shared one counted: from as many as a token uses to all.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default=METHODS[0],
    show_default=True,
    help="By router probabilities of the whole model, or greedily: layer by layer, with those "
    "below already cut.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=2),
    default=MAX_TOKENS,
    show_default=True,
    help="Tokens a document, the opening end-of-text token among them.",
)
@click.option(
    "--per-group",
    is_flag=True,
    help="Equally many of each group of experts, as `cut` needs of a model that chooses among "
    "groups first (DeepSeek-V3).",
)
@click.option("--out", type=FILE, required=True, help="The JSON file to write.")
def command(
    checkpoint: Path,
    documents_path: Path,
    domain: str | None,
    keep_k: int,
    method: str,
    max_tokens: int,
    per_group: bool,
    out: Path,
) -> None:
    """Choose the experts that a domain's documents prefer, and write their ids to a file.

    `cut` makes a smaller checkpoint of it.
    """
    how = (keep_k, cast("Method", method), max_tokens, domain, per_group)
    subset = choose_subset(checkpoint, documents_path, out, *how)
    click.echo(
        f"{click.format_filename(out)}: {_kept(subset)} experts in each of "
        f"{len(subset.experts)} layers, chosen on {len(subset.calibration)} documents."
    )


def _kept(subset: "ExpertSubset") -> str:
    counts = {len(layer) for layer in subset.experts}
    return f"{min(counts)} to {max(counts)}" if len(counts) > 1 else f"{min(counts)}"
