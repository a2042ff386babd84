"""Lay out the recorded documents on flat maps: python -m emo_viz map --help"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from model.cli import say

if TYPE_CHECKING:
    from emo_viz.analysis.projection import Maps
    from emo_viz.trace import Trace
    from emo_viz.trace.schema import TracedModel

FOLDER = click.Path(path_type=Path)
Command = TypeVar("Command", bound=Callable[..., Any])
NEIGHBOURS = 30
OPTIONS = (
    click.option(
        "--neighbours",
        type=click.IntRange(min=2),
        help="UMAP's n_neighbors: larger keeps more of the whole, smaller more of the detail. By "
        f"default {NEIGHBOURS}, or all there are.",
    ),
    click.option(
        "--min-dist",
        type=click.FloatRange(0, 1),
        default=0.9,
        show_default=True,
        help="UMAP's min_dist: smaller packs what is similar tighter.",
    ),
    click.option("--seed", type=int, default=0, show_default=True),
)


def umap_options(command: Command) -> Command:
    """The command with --neighbours, --min-dist and --seed."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def choose_neighbours(asked: int | None, points: int, what: str) -> int:
    """The neighbours of a map of so many points, called `what`; by default as many as there are.

    Raises ValueError where there are too few points.
    """
    from emo_viz.analysis.projection import FEWEST_POINTS

    if points < FEWEST_POINTS:
        raise ValueError(f"{points} {what} make no map; it takes at least {FEWEST_POINTS}.")
    if asked is not None and asked >= points:
        raise ValueError(
            f"{asked} neighbours need more than {points} {what}; choose fewer with --neighbours."
        )
    return asked or min(NEIGHBOURS, points - 1)


@click.command()
@click.option(
    "--traces",
    nargs=2,
    type=FOLDER,
    required=True,
    help="Traces of the EMO and of the standard model, of the same documents.",
)
@click.option("--out", type=FOLDER, required=True, help="The .npz file to write.")
@umap_options
def command(
    traces: tuple[Path, Path], out: Path, neighbours: int | None, min_dist: float, seed: int
) -> None:
    """Fit UMAPs to both traces, of all layers and of each one, and turn them onto the first."""
    from emo_viz.analysis.projection import save_maps
    from emo_viz.trace import Trace
    from model.files import check_new_file

    check_new_file(out)
    emo, standard = (Trace.open(path) for path in traces)
    _check(emo, standard)
    neighbours = choose_neighbours(neighbours, emo.manifest.documents, "documents")
    maps = _fit(emo, standard, neighbours, min_dist, seed)
    save_maps(out, maps)
    documents, size = emo.manifest.documents, out.stat().st_size / 1e3
    say(f"{out}: {len(maps.emo)} maps a model, {documents:,} documents, {size:.0f} kB.")


def _check(emo: "Trace", standard: "Trace") -> None:
    """Raises ValueError unless the two traces are of one pair on the same documents."""
    import numpy as np

    for trace, role in ((emo, "emo"), (standard, "standard")):
        found = trace.manifest.model.objective
        if found not in (role, "unknown"):  # a released config does not say it
            raise ValueError(
                f"{trace.path} is of a model of the objective {found!r}, not {role!r}; name the "
                "trace of the EMO and then that of the standard model."
            )
        if not np.isfinite(trace.usage).all():
            raise ValueError(f"{trace.path} holds NaN or infinity; record it again.")
    columns = ["id", "domain", "text"]
    if not emo.documents[columns].equals(standard.documents[columns]):
        raise ValueError("The two traces hold different documents; record both from one file.")
    _check_widths(emo.manifest.model, standard.manifest.model)


def _check_widths(emo: "TracedModel", standard: "TracedModel") -> None:
    """Raises ValueError unless both models have as many routed experts in each layer."""
    from emo_viz.analysis.widths import apart

    if what := apart(emo.routed, standard.routed):
        raise ValueError(f"The two models differ in {what}; name a matched pair.")


def _fit(emo: "Trace", standard: "Trace", neighbours: int, min_dist: float, seed: int) -> "Maps":
    """Maps of all layers and of each layer, every one turned onto the first."""
    import numpy as np

    from emo_viz.analysis.origins import Origins, of_trace
    from emo_viz.analysis.projection import Maps, content_key, procrustes, umap_map
    from emo_viz.analysis.vectors import flatten_usage

    layers = [None, *range(emo.manifest.model.num_layers)]
    steps = [(trace, layer) for trace in (emo, standard) for layer in layers]
    maps: list[np.ndarray] = []
    with click.progressbar(steps, label="Laying out", show_pos=True) as bar:
        for trace, layer in bar:
            if layer is not None and trace.manifest.model.routed[layer] < 2:
                maps.append(np.zeros_like(maps[0]))  # a single expert tells no documents apart
                continue
            points = umap_map(flatten_usage(trace.usage, layer), neighbours, min_dist, seed)
            maps.append(procrustes(points, maps[0]) if maps else points)
    both = of_trace(emo, "emo"), of_trace(standard, "standard")
    origins = Origins({**both[0].models, **both[1].models}, both[0].documents)
    info = {
        "origins": origins.to_dict(),
        "method": "umap",
        "neighbours": neighbours,
        "min_dist": min_dist,
        "seed": seed,
        "models": [trace.manifest.model.name for trace in (emo, standard)],
    }
    key = content_key(emo.documents["id"], emo.usage, standard.usage)
    return Maps(key, np.stack(maps[: len(layers)]), np.stack(maps[len(layers) :]), info)
