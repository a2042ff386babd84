"""Measure what each model loses with a subset of its experts: python -m emo_viz curves --help"""

from pathlib import Path

import click

from emo_viz.analysis.ablation import RANDOM_SEEDS
from emo_viz.analysis.curves import METHODS
from emo_viz.analysis.unseen import in_words
from emo_viz.runs.curves import Workers, measure, plan_files
from emo_viz.trace.documents import FORMS
from model.cli import Several, SeveralCommand, progress_bar, say, whole_numbers, workers_option


def _methods(_: click.Context, __: click.Parameter, text: str | None) -> list[str] | None:
    methods = None if text is None else text.split(",")
    if unknown := set(methods or ()) - set(METHODS):
        raise click.BadParameter(
            f"There is no method {min(unknown)!r}; choose of {', '.join(METHODS)}."
        )
    return methods


FOLDER = click.Path(path_type=Path)


@click.command(cls=SeveralCommand)
@click.option(
    "--models",
    cls=Several,
    type=FOLDER,
    required=True,
    help="Checkpoint folders of one run or more.",
)
@click.option(
    "--documents",
    "documents_path",
    type=FOLDER,
    required=True,
    help=f"Held-out documents to evaluate: {FORMS.format(', id, domain and, if known, parent')}.",
)
@click.option(
    "--calibration",
    "calibration_path",
    type=FOLDER,
    required=True,
    help="Documents to choose experts on: the same domains, other parents.",
)
@click.option(
    "--out",
    type=FOLDER,
    required=True,
    help="Parquet file to write; a JSON file of the same name goes beside it.",
)
@click.option(
    "--keep",
    callback=whole_numbers,
    help="Experts kept a layer, the shared one counted: 8,16,32. By default every doubling of "
    "the experts that a token uses.",
)
@click.option(
    "--methods",
    callback=_methods,
    help=f"How the experts are chosen, of {','.join(METHODS)}. By default all that the documents "
    "allow.",
)
@click.option(
    "--random-seeds",
    type=click.IntRange(min=1),
    default=RANDOM_SEEDS,
    show_default=True,
    help="Random subsets at each keep-k.",
)
@click.option(
    "--seen-below",
    type=click.FloatRange(0, 1, min_open=True),
    help="Measure only the documents of which training has seen a smaller share, by sequences of "
    "20 tokens: 0.01. The pages then say so, and show no others.  [default: all]",
)
@workers_option
def command(
    models: tuple[Path, ...],
    documents_path: Path,
    calibration_path: Path,
    out: Path,
    keep: list[int] | None,
    methods: list[str] | None,
    random_seeds: int,
    seen_below: float | None,
    workers: int,
) -> None:
    """Measure subset curves. If it is stopped, the next call, or the page, goes on from there.

    What the file holds of other runs on the same documents stays in it. Where these were measured
    with another --seen-below, another --out is asked for.
    """
    plan = plan_files(
        models, documents_path, calibration_path, out, keep, methods, random_seeds, seen_below
    )
    label = f"Measuring {len(plan.missing())} of {len(plan.jobs)} parts"
    try:
        with progress_bar(label) as report:
            curves = measure(plan, Workers(workers), report)
    except KeyboardInterrupt as error:
        kept = len(plan.jobs) - len(plan.missing())
        say(f"Stopped. {kept} of {len(plan.jobs)} parts are kept; call again to go on.")
        raise click.Abort from error
    runs, size = ", ".join(curves.runs), out.stat().st_size / 1e6
    number = curves.rows["document"].nunique()
    said = "" if seen_below is None else f" of which training has seen under {in_words(seen_below)}"
    say(f"{out}: {len(curves.rows):,} rows of {runs}, {size:.2f} MB; {number:,} documents{said}.")
