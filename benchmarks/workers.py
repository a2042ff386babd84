"""Steps of `python -m emo_viz analyse` on one core, on torch's threads and by workers, in turn.

python -m benchmarks.workers         # --only curves; --workers 4; --domains 8; --rounds 5

The bundled pair with few documents; wall time, so whatever else the machine does counts. Both
ways write the same bytes, which is checked.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import pandas as pd
import torch

from benchmarks.timing import interleaved, report
from emo_viz.runs import ablate_experts, curves, training_history
from model.evaluate.measure import evaluate
from model.evaluate.subject import open_subject
from model.evaluate.texts import of_files

ASSETS = Path("assets")
MODELS = [ASSETS / "checkpoints" / name for name in ("emo-nano", "std-nano")]
Measure = Callable[[Path, int], object]
"""Writes to a file in a folder that also holds the documents, by so many workers."""


def few(folder: Path, domains: int, per_domain: int) -> None:
    """The first documents of the first domains, and their calibration documents."""
    for name in ("documents.parquet", "calibration.parquet"):
        frame = pd.read_parquet(ASSETS / "documents" / name)
        own = frame[frame["domain"].isin(sorted(set(frame["domain"]))[:domains])]
        own.groupby("domain").head(per_domain).to_parquet(folder / name)


def measure_curves(out: Path, workers: int) -> None:
    plan = curves.plan_files(MODELS, *tables(out), out.with_suffix(".parquet"))
    curves.measure(plan, curves.Workers(workers))
    out.with_suffix(".parquet").rename(out)


def measure_effects(out: Path, workers: int) -> None:
    how = {"per_domain": 2, "max_tokens": 64, "workers": workers}
    ablate_experts.measure_effects(MODELS[0], tables(out)[0], out, "run", **how)


def measure_history(out: Path, workers: int) -> None:
    moments = list(enumerate(MODELS, 1))
    training_history.measure_history(moments, *tables(out), out, run="run", workers=workers)


def measure_evaluation(out: Path, _: int) -> None:
    """Knows no workers."""
    subject = open_subject(MODELS[0], torch.device("cpu"))
    found = evaluate(subject, of_files(*map(str, tables(out)), subject, 48)[0])
    out.write_text(str(found["losses"]))


def tables(out: Path) -> tuple[Path, Path]:
    return out.parent / "documents.parquet", out.parent / "calibration.parquet"


STEPS: dict[str, Measure] = {
    "curves": measure_curves,
    "effects": measure_effects,
    "history": measure_history,
    "evaluate": measure_evaluation,
}


def once(measure: Measure, folder: Path, threads: int, workers: int, made: set[bytes]) -> None:
    torch.set_num_threads(threads)
    out = folder / "made.npz"
    measure(out, workers)
    made.add(out.read_bytes())
    for path in folder.glob("made.*"):
        path.unlink()


@click.command()
@click.option("--only", type=click.Choice(list(STEPS)), multiple=True, default=list(STEPS))
@click.option("--workers", type=click.IntRange(min=2), default=2)
@click.option("--domains", type=int, default=4)
@click.option("--per-domain", type=int, default=4)
@click.option("--rounds", type=int, default=3)
def main(only: tuple[str, ...], workers: int, domains: int, per_domain: int, rounds: int) -> None:
    """Print seconds and ratios of each step."""
    for name in only:
        ways = {"one core": (1, 1), f"{workers} threads": (workers, 1)}
        if name != "evaluate":
            ways[f"{workers} workers"] = (1, workers)
        with tempfile.TemporaryDirectory() as place:
            few(Path(place), domains, per_domain)
            made = set[bytes]()
            run = {
                way: partial(once, STEPS[name], Path(place), *how, made)
                for way, how in ways.items()
            }
            report(name, interleaved(run, rounds, wall=True), list(ways)[-1])
        click.echo("  the same bytes" if len(made) == 1 else f"  {len(made)} DIFFERENT RESULTS")


if __name__ == "__main__":
    main()
