"""Where the bundled models, documents, traces and analyses lie, and what they say they are.

Reads small JSON files and Parquet footers only: a page can say what is loaded before it loads it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emo_viz.analysis.widths import in_words
from model.files import num_parameters, read_json

APP_FOLDER = Path(__file__).parents[2]
MODEL_FOLDERS = {"emo": "emo-nano", "standard": "std-nano"}
MODEL_LABELS = {"emo": "EMO", "standard": "Standard MoE"}


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

    def experts_in_words(self, less: int = 0) -> str:
        """ "128", or "12 to 16" of a model that was cut unevenly; `less` of them not counted."""
        return in_words([experts - less for experts in self.experts])


Stamp = tuple[tuple[str, int, int], ...]


def stamp(*paths: Path) -> Stamp:
    """Names, sizes and times of files, and of those in folders: what caches of them go by.

    A file that is replaced is another one, even where it is replaced within a second.
    """
    files: list[Path] = []
    for path in paths:
        files += sorted(path.iterdir()) if path.is_dir() else [path]
    return tuple(_state(file) for file in files)


def _state(file: Path) -> tuple[str, int, int]:
    try:
        state = file.stat()
    except OSError:
        return str(file), -1, -1
    return str(file), state.st_size, state.st_mtime_ns


def root() -> Path:
    """The assets folder: EMO_VIZ_ASSETS, or `assets` beside app.py."""
    return Path(os.environ.get("EMO_VIZ_ASSETS") or APP_FOLDER / "assets")


def checkpoint_path(name: str) -> Path:
    """Folder of the checkpoint `name`: "emo" or "standard"."""
    return root() / "checkpoints" / MODEL_FOLDERS[name]


def trace_path(name: str) -> Path:
    """Folder of the document trace of `name`."""
    return root() / "traces" / MODEL_FOLDERS[name]


def documents_path() -> Path:
    """The bundled documents as a Parquet file."""
    return root() / "documents" / "documents.parquet"


def analysis_path(name: str) -> Path:
    """A file that one of the `python -m emo_viz` commands wrote, e.g. curves.parquet."""
    return root() / "analysis" / name


def token_clusters_path(name: str) -> Path:
    """Where `python -m emo_viz clusters` puts the token clusters of model `name`."""
    return analysis_path(f"clusters-{MODEL_FOLDERS[name]}.npz")


def model_facts(name: str) -> ModelFacts:
    """What the checkpoint `name` says of itself.

    Raises FileNotFoundError where there is none, ValueError where it cannot be read.
    """
    folder = checkpoint_path(name)
    try:
        return _facts(name, folder)
    except FileNotFoundError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise ValueError(
            f"The {MODEL_LABELS[name]} checkpoint at {folder} is damaged or of another model type."
        ) from error


def _facts(name: str, folder: Path) -> ModelFacts:
    if not (folder / "config.json").exists():
        raise FileNotFoundError(folder)
    config, training = read_json(folder / "config.json"), _training(folder / "training.json")
    layers = int(config["num_hidden_layers"])
    return ModelFacts(
        label=MODEL_LABELS[name],
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
