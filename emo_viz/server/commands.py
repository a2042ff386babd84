"""The command lines that make what the app shows, as pages name them; {run} is the id of a run.

What was added has its files in the user's folder, and is recorded and measured by the Library page:
for that there is no command line, "". Whatever a pair of the user's own lacks is made by the
command that made the rest.
"""

from collections.abc import Iterable
from pathlib import Path
from shlex import quote

from emo_viz.server import assets, pairs

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


def _instead(runs: Iterable[str]) -> str | None:
    """What makes something of runs that are not all bundled; None where they are."""
    kinds = {(assets.is_added(run), assets.pair_of(run)) for run in runs}
    if kinds <= {(False, None)}:
        return None
    pair = next(iter(kinds))[1] if len(kinds) == 1 else None
    return pair.command if pair else LIBRARY


def train(runs: Iterable[str]) -> str:
    """The commands that make the checkpoints."""
    instead = _instead(runs)
    return TRAIN if instead is None else instead


def documents(path: Path) -> str:
    """The command that makes a file of held-out documents, or the calibration documents beside."""
    pair = pairs.at(path.parents[1])
    return pair.command if pair else DOCUMENTS


def each(template: str, runs: Iterable[str]) -> str:
    """A command for each run, a line each; once if it names none."""
    names = list(runs)
    if (instead := _instead(names)) is not None:
        return instead
    return "\n".join(dict.fromkeys(template.format(run=run) for run in names))


def cut(run: str, file: str, out: str, same_size: int | None = None) -> str:
    """The command that keeps a slice of a run's checkpoint, its layers filled up to a size."""
    bundled = assets.is_bundled(run)
    model = f"assets/checkpoints/{run}" if bundled else quote(str(assets.checkpoint_path(run)))
    filled = "" if same_size is None else f" --same-size {same_size}"
    return f"python -m emo_viz cut --model {model} --subset {file} --out {out}{filled}"


def maps(runs: Iterable[str]) -> str:
    """The command that maps the documents recorded by one run, or by two."""
    names = list(runs)
    if (instead := _instead(names)) is not None:
        return instead
    traces = " ".join(f"assets/traces/{run}" for run in names)
    return f"python -m emo_viz map --traces {traces} --out assets/analysis/maps.npz"


def token_map(runs: Iterable[str]) -> str:
    """The command that maps a sample of tokens."""
    names = list(runs)
    if (instead := _instead(names)) is not None:
        return instead
    clusters = " ".join(f"assets/analysis/clusters-{run}.npz" for run in names)
    return (
        f"python -m emo_viz token-map {_models(names)} "
        f"--documents assets/documents/documents.parquet --clusters {clusters} "
        "--out assets/analysis/token_map.npz"
    )


def curves(runs: Iterable[str]) -> str:
    """The command that measures subset curves."""
    names = list(runs)
    if (instead := _instead(names)) is not None:
        return instead
    return (
        f"python -m emo_viz curves {_models(names)} "
        "--documents assets/documents/documents.parquet "
        "--calibration assets/documents/calibration.parquet --out assets/analysis/curves.parquet"
    )


def _models(runs: Iterable[str]) -> str:
    return f"--models {' '.join(f'assets/checkpoints/{run}' for run in runs)}"
