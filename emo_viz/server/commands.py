"""The command lines that make what the app shows, as pages name them; {run} is the id of a run."""

from collections.abc import Iterable

TRAIN = "\n".join(
    f"python -m model.train --preset nano --objective {name}" for name in ("emo", "standard")
)
DOCUMENTS = "python -m emo_viz documents --corpus data/corpus --out assets/documents"
RECORD = (
    "python -m emo_viz record --model assets/checkpoints/{run} "
    "--documents assets/documents/documents.parquet --out assets/traces/{run}"
)
CLUSTERS = (
    "python -m emo_viz clusters --model assets/checkpoints/{run} "
    "--documents assets/documents/documents.parquet --out assets/analysis/clusters-{run}.npz"
)
CUT = "python -m emo_viz cut --model assets/checkpoints/{run} --subset {file} --out {out}"
KERNEL_REPORT = "python -m model.kernels.report --json assets/analysis/kernel_report.json"
KERNEL_CHECK = "python -m model.kernels.check --minutes 9 --out assets/analysis"


def each(template: str, runs: Iterable[str]) -> str:
    """A command for each run, a line each; once if it names none."""
    return "\n".join(dict.fromkeys(template.format(run=run) for run in runs))


def maps(runs: Iterable[str]) -> str:
    """The command that maps the documents recorded by one run, or by two."""
    traces = " ".join(f"assets/traces/{run}" for run in runs)
    return f"python -m emo_viz map --traces {traces} --out assets/analysis/maps.npz"


def token_map(runs: Iterable[str]) -> str:
    """The command that maps a sample of tokens."""
    names = list(runs)
    clusters = " ".join(f"assets/analysis/clusters-{run}.npz" for run in names)
    return (
        f"python -m emo_viz token-map {_models(names)} "
        f"--documents assets/documents/documents.parquet --clusters {clusters} "
        "--out assets/analysis/token_map.npz"
    )


def curves(runs: Iterable[str]) -> str:
    """The command that measures subset curves."""
    return (
        f"python -m emo_viz curves {_models(runs)} "
        "--documents assets/documents/documents.parquet "
        "--calibration assets/documents/calibration.parquet --out assets/analysis/curves.parquet"
    )


def _models(runs: Iterable[str]) -> str:
    return f"--models {' '.join(f'assets/checkpoints/{run}' for run in runs)}"
