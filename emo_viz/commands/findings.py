"""Print what was measured as Markdown, as it stands in the README: python -m emo_viz findings"""

from pathlib import Path

import click

from emo_viz.runs.findings import read_findings
from model.cli import Several, SeveralCommand, say

FILE = click.Path(path_type=Path)


@click.command(cls=SeveralCommand)
@click.option(
    "--assets",
    type=FILE,
    default=Path("assets"),
    show_default=True,
    help="Folder of the runs, their documents and what was measured on them.",
)
@click.option(
    "--curves",
    "curves_path",
    type=FILE,
    help="What `python -m emo_viz curves` wrote, if not analysis/curves.parquet in --assets.",
)
@click.option(
    "--clusters",
    "clusters_paths",
    cls=Several,
    type=FILE,
    help="What `python -m emo_viz clusters` wrote for the runs of the curves, if not "
    "analysis/clusters-*.npz in --assets.",
)
@click.option(
    "--seen-below",
    type=click.FloatRange(0, 1, min_open=True),
    help="The curves of documents of which training has seen a smaller share, by sequences of 20 "
    "tokens: 0.01.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Print each claim and whether it holds; exit code 1 if one does not.",
)
@click.option(
    "--force", is_flag=True, help="Print what was measured on other models or documents too."
)
@click.pass_context
def command(
    ctx: click.Context,
    assets: Path,
    curves_path: Path | None,
    clusters_paths: tuple[Path, ...],
    seen_below: float | None,
    check: bool,
    force: bool,
) -> None:
    """Print the results as Markdown."""
    warn = _warn if force else None
    found = read_findings(assets, curves_path, clusters_paths, warn, seen_below)
    if not check:
        say("\n".join(found.report()))
        return
    bars = list(found.bars())
    for bar in bars:
        say(str(bar))
    ctx.exit(0 if all(bar.met for bar in bars) else 1)


def _warn(sentence: str) -> None:
    say(f"Warning: {sentence}", err=True)
