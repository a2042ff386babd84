"""What a model loses without each of its experts: python -m emo_viz ablate-experts --help"""

from pathlib import Path

import click

from emo_viz.analysis.runs import run_id
from emo_viz.runs.ablate_experts import measure_effects
from emo_viz.trace.documents import HELP
from model.cli import progress_bar, say, workers_option

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
    "--per-domain", type=click.IntRange(min=1), default=2, show_default=True, help="Documents."
)
@click.option(
    "--max-tokens", type=click.IntRange(min=2), default=64, show_default=True, help="A document."
)
@workers_option
def command(
    checkpoint: Path,
    documents_path: Path,
    out: Path,
    per_domain: int,
    max_tokens: int,
    workers: int,
) -> None:
    """Leave out every expert in turn and measure the loss of each domain.

    Stopped at any point and started again with the same options, it goes on where it was.
    """
    run = run_id(checkpoint)
    try:
        with progress_bar("Leaving out") as report:
            found = measure_effects(
                checkpoint,
                documents_path,
                out,
                run,
                per_domain,
                max_tokens,
                report,
                lambda sentence: say(sentence, err=True),
                workers,
            )
    except KeyboardInterrupt as error:
        say("Stopped; call again to go on from what is kept.")
        raise click.Abort from error
    say(
        f"{out}: {int(sum(found.routed)):,} experts, each left out of {found.documents:,} "
        f"documents ({int(found.tokens.sum()):,} tokens), {out.stat().st_size / 1e3:.0f} kB."
    )
