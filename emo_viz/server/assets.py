"""Where the runs' checkpoints, traces and analyses lie, and what they say they are.

Reads small JSON files and Parquet footers only: a page can say what is loaded before it loads it.
"""

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from emo_viz.analysis.runs import Run
from emo_viz.analysis.widths import in_words
from model.files import FileState, file_state, num_parameters, read_json

APP_FOLDER = Path(__file__).parents[2]
LARGE = 1 << 30  # bytes: of larger files the state stands for the content


@dataclass(frozen=True)
class ModelFacts:
    """Geometry from config.json; context (tokens, EOS included; None where that does not say) and
    tokens trained on from training.json, where there is one. experts: of every layer, shared ones
    included; of another family than EMO's those that routers choose among, 0 in a dense layer.
    """

    label: str
    num_layers: int
    experts: tuple[int, ...]
    num_shared_experts: int
    num_experts_per_tok: int
    hidden_size: int
    parameters: int
    context: int | None
    tokens_trained: int | None

    def experts_in_words(self, less: int = 0) -> str:
        """ "128", or "12 to 16" of a model that was cut unevenly; `less` of them not counted."""
        return in_words([experts - less for experts in self.experts])


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
        return _digest(file_state(file)) if file.is_file() else ""
    except OSError:
        return ""


@lru_cache(maxsize=512)
def _digest(state: FileState) -> str:
    if state.size > LARGE:
        return repr(state)
    with open(state.path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def root() -> Path:
    """The assets folder: EMO_VIZ_ASSETS, or `assets` beside app.py."""
    return Path(os.environ.get("EMO_VIZ_ASSETS") or APP_FOLDER / "assets")


def checkpoint_path(name: str) -> Path:
    """Folder of the checkpoint of a run."""
    return root() / "checkpoints" / name


def trace_path(name: str) -> Path:
    """Folder of the document trace of a run."""
    return root() / "traces" / name


def documents_path() -> Path:
    """The bundled documents as a Parquet file."""
    return root() / "documents" / "documents.parquet"


def analysis_path(name: str) -> Path:
    """A file that one of the `python -m emo_viz` commands wrote, e.g. curves.parquet."""
    return root() / "analysis" / name


def token_clusters_path(name: str) -> Path:
    """Where `python -m emo_viz clusters` puts the token clusters of a run."""
    return analysis_path(f"clusters-{name}.npz")


def model_facts(run: Run) -> ModelFacts:
    """What the checkpoint of a run says of itself.

    Raises FileNotFoundError where there is none, ValueError where it cannot be read.
    """
    folder = checkpoint_path(run.id)
    try:
        return _facts(run.label, folder)
    except FileNotFoundError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise ValueError(
            f"The {run.label} checkpoint at {folder} is damaged or of another model type."
        ) from error


def _facts(label: str, folder: Path) -> ModelFacts:
    if not (folder / "config.json").exists():
        raise FileNotFoundError(folder)
    config, training = read_json(folder / "config.json"), _training(folder / "training.json")
    if config.get("model_type", "emo") != "emo":
        return _facts_of_family(label, folder, config)
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


# What the configs of other families call the same.
_NAMES = {
    "layers": ("num_hidden_layers", "n_layers", "num_layers", "encoder_layers"),
    "experts": ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"),
    "per_token": ("num_experts_per_tok", "moe_top_k", "moe_topk", "moe_k"),
    "width": ("hidden_size", "d_model"),
    "context": ("max_position_embeddings", "max_seq_len", "n_positions"),
}
_TOP_K = {"switch_transformers": 1, "nllb-moe": 2}  # their configs do not say


def _facts_of_family(label: str, folder: Path, config: dict[str, Any]) -> ModelFacts:
    parts = [config, *(config.get(name) or {} for name in ("text_config", "ffn_config"))]

    def told(what: str) -> int | None:
        found = (part[name] for part in parts for name in _NAMES[what] if name in part)
        return next((number for number in found if isinstance(number, int)), None)

    numbers = {what: told(what) for what in ("layers", "experts", "width")}
    layers, experts, width = (int(number) for number in numbers.values() if number is not None)
    dense = {*range(int(config.get("first_k_dense_replace") or 0))}
    dense |= {*(config.get("mlp_only_layers") or ())}
    return ModelFacts(
        label=label,
        num_layers=layers,
        experts=tuple(0 if layer in dense else experts for layer in range(layers)),
        num_shared_experts=0,
        num_experts_per_tok=told("per_token") or _TOP_K[config["model_type"]],
        hidden_size=width,
        parameters=num_parameters(folder),
        context=told("context"),
        tokens_trained=None,
    )


def _training(path: Path) -> dict[str, Any]:
    """What training wrote of itself; nothing of it is needed to run the model."""
    try:
        return read_json(path)
    except ValueError:
        return {}
