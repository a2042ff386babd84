"""Where the bundled models, documents, traces and analyses lie, and what they say they are.

Reads small JSON files and Parquet footers only: a page can say what is loaded before it loads it.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

APP_FOLDER = Path(__file__).parents[2]
MODEL_FOLDERS = {"emo": "emo-nano", "standard": "std-nano"}
MODEL_LABELS = {"emo": "EMO", "standard": "Standard MoE"}


@dataclass(frozen=True)
class ModelFacts:
    """Geometry from config.json; context (tokens, EOS included) and tokens trained on from
    training.json, where there is one.
    """

    label: str
    num_layers: int
    num_experts: int
    num_shared_experts: int
    num_experts_per_tok: int
    hidden_size: int
    parameters: int
    context: int
    tokens_trained: int | None


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


def model_facts(name: str) -> ModelFacts:
    """What the checkpoint `name` says of itself.

    Raises FileNotFoundError where there is none, ValueError where it cannot be read.
    """
    folder = checkpoint_path(name)
    try:
        return _facts(name, folder)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"The {MODEL_LABELS[name]} checkpoint at {folder} is damaged or of another model type."
        ) from error


def _facts(name: str, folder: Path) -> ModelFacts:
    config, training = _json(folder / "config.json"), _training(folder / "training.json")
    return ModelFacts(
        label=MODEL_LABELS[name],
        num_layers=config["num_hidden_layers"],
        num_experts=config["num_experts"],
        num_shared_experts=config["num_shared_experts"],
        num_experts_per_tok=config["num_experts_per_tok"],
        hidden_size=config["hidden_size"],
        parameters=_parameters(folder / "model.safetensors"),
        context=training.get("context", config["max_position_embeddings"]),
        tokens_trained=training.get("tokens"),
    )


def _training(path: Path) -> dict[str, Any]:
    """What training wrote of itself; nothing of it is needed to run the model."""
    try:
        return dict(_json(path))
    except (FileNotFoundError, ValueError, TypeError):
        return {}


def _json(path: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return fields


def _parameters(path: Path) -> int:
    """Number of weights, from the shapes in the header of a safetensors file."""
    from math import prod

    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return sum(prod(entry["shape"]) for key, entry in header.items() if key != "__metadata__")
