"""Where the runs' checkpoints, traces and analyses lie, and what they say they are.

Reads small JSON files and Parquet footers only: a page can say what is loaded before it loads it.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from emo_viz.analysis.origins import Origins, present_origins, stale
from emo_viz.analysis.runs import BUNDLED, Run, label_of, run_at, runs_in
from emo_viz.analysis.widths import in_words
from emo_viz.server import home, looks, pairs
from emo_viz.server.home import Kind
from model.files import FileState, file_digest, file_state, num_parameters, read_json, weight_files

APP_FOLDER = Path(__file__).parents[2]
CURVES = "curves.parquet"
BUNDLED_IDS = tuple(each.id for each in BUNDLED)
LARGE = 64 << 20  # bytes: of larger files the state stands for the content
LARGE_WEIGHTS = 1 << 30  # bytes: of larger checkpoints nothing is read to tell whether it is theirs


@dataclass(frozen=True)
class ModelFacts:
    """Geometry from config.json; context (tokens, EOS included) and tokens trained on from
    training.json, where there is one. experts: of every layer, shared ones included.
    """

    label: str
    num_layers: int
    experts: tuple[int, ...]
    num_shared_experts: int
    num_experts_per_tok: int
    hidden_size: int
    parameters: int
    context: int
    tokens_trained: int | None

    def experts_in_words(self, less: int) -> str:
        """ "128", or "12 to 16" of a model that was cut unevenly; `less` of them not counted."""
        return in_words([experts - less for experts in self.experts])


@looks.once
def content(*paths: Path) -> str:
    """A digest of what stands in files, and in those of folders: what caches of them go by.

    A file that is replaced is another one, whatever its name and time; one that is only touched is
    not. Files are read again only where their state has changed.
    """
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            digest.update(f"{file.name}\n{_content(file)}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _content(file: Path) -> str:
    try:
        if not file.is_file():
            return ""
        state = file_state(file)
        return repr(state) if state.size > LARGE else file_digest(state)
    except OSError:
        return ""


def root() -> Path:
    """The assets folder: EMO_VIZ_ASSETS, or `assets` beside app.py."""
    return Path(os.environ.get("EMO_VIZ_ASSETS") or APP_FOLDER / "assets")


@looks.once
def place_of(name: str) -> Path | None:
    """The folder, laid out as the assets are, that a run lies in: the assets, or a pair of the
    user's own. All of it is only read. None of a run that was added, or is nowhere."""
    if any((root() / part / name).exists() for part in ("checkpoints", "traces")):
        return root()
    pair = pairs.of(name)
    return pair.folder if pair else None


@looks.once
def pair_of(name: str) -> "pairs.Pair | None":
    """The pair of the user's own that a run lies in, listed or as the assets folder."""
    if place_of(name) == root():
        pair = pairs.at(root())
        return pair if pair and name in pair.ids else None
    return pairs.of(name)


@looks.once
def is_bundled(name: str) -> bool:
    """Whether a run came with the app, in its assets folder."""
    return place_of(name) == root() and (_came_with_app() or name in BUNDLED_IDS)


def _came_with_app() -> bool:
    """Whether the assets folder is the app's own, not another that EMO_VIZ_ASSETS names."""
    return root().resolve() == (APP_FOLDER / "assets").resolve()


@looks.once
def kind_of(name: str) -> Kind:
    """Where a run comes from."""
    if place_of(name) is not None:
        return "bundled" if is_bundled(name) else "yours"
    added = home.find(name)
    return added.kind if added else "yours"


@looks.once
def is_added(name: str) -> bool:
    """Whether a run is one that the user has added, a checkpoint or a file of another tool."""
    return place_of(name) is None and home.find(name) is not None


def runs() -> list[Run]:
    """All runs that can be opened: those of the assets folder, of the user's own pairs, then those
    that were added."""
    return list(_runs())


@looks.once
def _runs() -> tuple[Run, ...]:
    found = {run.id: run for run in runs_in(root())}
    for pair in pairs.listed().values():
        if isinstance(pair, pairs.Pair):
            for run in pair.ids:
                found.setdefault(run, run_at(pair.folder, run))
    added = [one for one in home.runs().values() if isinstance(one, home.Added)]
    return (*found.values(), *(_run(one) for one in added if one.id not in found))


def ids_elsewhere(folder: Path) -> list[str]:
    """The ids of all runs but those that lie in this folder, laid out as the assets are."""
    places = {run.id: place_of(run.id) for run in runs()}
    here = folder.resolve()
    return [run for run, place in places.items() if place is None or place.resolve() != here]


def _run(one: home.Added) -> Run:
    trace, clusters = home.trace_path(one.id), home.clusters_path(one.id)
    return Run(
        id=one.id,
        label=label_of(one.id),
        checkpoint=checkpoint_path(one.id) if one.checkpoint else None,
        trace=trace if trace.exists() else None,
        clusters=clusters if clusters.exists() else None,
    )


@looks.once
def checkpoint_path(name: str) -> Path:
    """Folder of the checkpoint of a run, there or not."""
    place = place_of(name)
    added = home.find(name) if place is None else None
    if added is None or not added.checkpoint:
        return (place or root()) / "checkpoints" / name
    return local_checkpoint(added.checkpoint) or Path(added.checkpoint)


def local_checkpoint(source: str) -> Path | None:
    """Where a checkpoint lies on this machine, by its folder or its name on the Hugging Face hub;
    None where it does not. Nothing is fetched."""
    if Path(source).exists() or not is_hub_name(source):
        return Path(source) if (Path(source) / "config.json").is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def is_hub_name(source: str) -> bool:
    """Whether this would be looked for on the Hugging Face hub: "owner/name" that is no path."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", source, re.ASCII) is not None


@looks.once
def trace_path(name: str) -> Path:
    """Folder of the document trace of a run."""
    return home.trace_path(name) if is_added(name) else _laid_out(name) / "traces" / name


def documents_path(runs: Iterable[str] = ()) -> Path:
    """The held-out documents that lie with these runs, as a Parquet file: with the first of them
    that any lie with, else the bundled ones."""
    places = (place_of(run) for run in runs)
    return next(filter(None, places), root()) / "documents" / "documents.parquet"


def analysis_path(name: str, run: str = "") -> Path:
    """A file that one of the `python -m emo_viz` commands wrote, e.g. curves.parquet: in the folder
    that this run lies in, or in the assets."""
    return _laid_out(run) / "analysis" / name


def _laid_out(run: str) -> Path:
    """The folder that a run lies in; the assets folder where it is nowhere."""
    return (place_of(run) if run else None) or root()


def measured_path(name: str, runs: Sequence[str]) -> Path:
    """Where such a file of these runs lies, or belongs: what is of added runs lies with them."""
    return _measured_path(name, tuple(runs))


@looks.once
def _measured_path(name: str, runs: tuple[str, ...]) -> Path:
    places = {place_of(run) for run in runs}
    if len(places) == 1 and None not in places:
        return analysis_path(name, runs[0])
    try:
        return next(iter(home.measured(name, runs)), home.analysis_path(name, runs))
    except ValueError:  # there is no place for what is added
        return analysis_path(name)


@looks.once
def curves_path(run: str) -> Path:
    """Where the subset curves of a run lie, or belong.

    Those of the runs in one folder are in one file, which is only read: what was measured here goes
    before it, as long as it is of the checkpoint and documents that lie here now.
    """
    if is_added(run):
        return home.analysis_path(CURVES, [run])
    try:
        own = home.measured(CURVES, [run])
    except ValueError:  # there is no place for what is measured here
        own = []
    return next((path for path in own if _is_of(path, run)), analysis_path(CURVES, run))


def _is_of(curves: Path, run: str) -> bool:
    """Whether curves, of this run among others, were measured of what lies here now: of these
    checkpoints, and on the documents of this run."""
    try:
        made_from = Origins.from_dict(read_json(curves.with_suffix(".json")))
    except (ValueError, TypeError, KeyError, AttributeError):
        return False
    now = (origins(made_from.models), origins([run]))
    return run in made_from.models and not any(stale("", made_from, each) for each in now)


def curves_paths(runs: Iterable[str]) -> tuple[Path, ...]:
    """The files that hold the curves of these runs. The one that lies with the runs is last: it may
    hold older curves of a run that was measured here."""
    ids = tuple(runs)
    beside, paths = {analysis_path(CURVES, run) for run in ids}, map(curves_path, ids)
    return tuple(sorted(dict.fromkeys(paths), key=lambda path: path in beside))


@looks.once
def token_clusters_path(name: str) -> Path:
    """Where the token clusters of a run lie, or belong."""
    if is_added(name):
        return home.clusters_path(name)
    return analysis_path(f"clusters-{name}.npz", name)


def origins(runs: Iterable[str]) -> Origins:
    """What lies here now of these runs. Which documents an added run was recorded over is its own
    affair; so is what is in weights too large to read for it."""
    return _origins(tuple(runs))


@looks.once
def _origins(ids: tuple[str, ...]) -> Origins:
    places = {place_of(run) for run in ids}
    documents = documents_path(ids) if len(places) == 1 and None not in places else None
    checkpoints = {run: checkpoint_path(run) for run in ids}
    return present_origins(
        {run: path for run, path in checkpoints.items() if is_bundled(run) or is_small(path)},
        documents,
        documents and documents.with_name("calibration.parquet"),
    )


@looks.once
def is_small(checkpoint: Path) -> bool:
    """Whether a checkpoint's weights are few enough to be read without being asked for."""
    try:
        return sum(file.stat().st_size for file in weight_files(checkpoint)) <= LARGE_WEIGHTS
    except (ValueError, OSError):
        return False


def model_facts(run: Run) -> ModelFacts:
    """What the checkpoint of a run says of itself.

    Raises FileNotFoundError where there is none, ValueError where it cannot be read.
    """
    folder = checkpoint_path(run.id)
    try:
        return _facts(run.label, folder, content_state(folder))
    except FileNotFoundError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise ValueError(
            f"The {run.label} checkpoint at {folder} is damaged or of another model type."
        ) from error


def content_state(folder: Path) -> tuple[FileState, ...]:
    """The states of the files that say what a checkpoint is: another one has others.

    Raises FileNotFoundError where there is none, ValueError where it has no weights.
    """
    config, training = folder / "config.json", folder / "training.json"
    if not config.exists():
        raise FileNotFoundError(folder)
    beside = [training] if training.is_file() else []
    return tuple(map(file_state, (config, *weight_files(folder), *beside)))


@lru_cache(maxsize=64)
def _facts(label: str, folder: Path, states: tuple[FileState, ...]) -> ModelFacts:
    """The states of the files are the key: what is replaced is read again."""
    config, training = read_json(folder / "config.json"), _training(folder / "training.json")
    layers = int(config["num_hidden_layers"])
    return ModelFacts(
        label=label,
        num_layers=layers,
        experts=tuple(config.get("num_experts_per_layer") or [int(config["num_experts"])] * layers),
        num_shared_experts=config["num_shared_experts"],
        num_experts_per_tok=config["num_experts_per_tok"],
        hidden_size=config["hidden_size"],
        parameters=num_parameters(folder),
        context=training.get("context", config["max_position_embeddings"]),
        tokens_trained=training.get("tokens"),
    )


def _training(path: Path) -> dict[str, Any]:
    """What training wrote of itself; nothing of it is needed to run the model."""
    try:
        return read_json(path)
    except ValueError:
        return {}
