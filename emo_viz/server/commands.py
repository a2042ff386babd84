"""The command lines that make what the app shows, as pages name them; {run} is the id of a run.

What was added has its files in the user's folder, and is recorded and measured by the Library page:
for that there is no command line, "".
"""

from collections.abc import Iterable
from shlex import quote

from emo_viz.server import assets

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
KERNEL_REPORT = "python -m model.kernels.report --json assets/analysis/kernel_report.json"
LIBRARY = ""
KERNEL_CHECK = "python -m model.kernels.check --minutes 9 --out assets/analysis"


def each(template: str, runs: Iterable[str]) -> str:
    """A command for each run, a line each; once if it names none."""
    names = list(runs)
    if any(map(assets.is_added, names)):
        return LIBRARY
    return "\n".join(dict.fromkeys(template.format(run=run) for run in names))


def cut(run: str, file: str, out: str) -> str:
    """The command that keeps a slice of a run's checkpoint."""
    added = assets.is_added(run)
    model = quote(str(assets.checkpoint_path(run))) if added else f"assets/checkpoints/{run}"
    return f"python -m emo_viz cut --model {model} --subset {file} --out {out}"


def maps(runs: Iterable[str]) -> str:
    """The command that maps the documents recorded by one run, or by two."""
    names = list(runs)
    if any(map(assets.is_added, names)):
        return LIBRARY
    traces = " ".join(f"assets/traces/{run}" for run in names)
    return f"python -m emo_viz map --traces {traces} --out assets/analysis/maps.npz"


def token_map(runs: Iterable[str]) -> str:
    """The command that maps a sample of tokens."""
    names = list(runs)
    if any(map(assets.is_added, names)):
        return LIBRARY
    clusters = " ".join(f"assets/analysis/clusters-{run}.npz" for run in names)
    return (
        f"python -m emo_viz token-map {_models(names)} "
        f"--documents assets/documents/documents.parquet --clusters {clusters} "
        "--out assets/analysis/token_map.npz"
    )


def curves(runs: Iterable[str]) -> str:
    """The command that measures subset curves."""
    names = list(runs)
    if any(map(assets.is_added, names)):
        return LIBRARY
    return (
        f"python -m emo_viz curves {_models(names)} "
        "--documents assets/documents/documents.parquet "
        "--calibration assets/documents/calibration.parquet --out assets/analysis/curves.parquet"
    )


def _models(runs: Iterable[str]) -> str:
    return f"--models {' '.join(f'assets/checkpoints/{run}' for run in runs)}"
