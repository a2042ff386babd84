"""Training checkpoints: safetensors and JSON in folders that are whole or not there.

A folder named step-N is complete by construction, so that a run killed at any point continues from
the last one; one that was damaged later is told apart by `Damaged`.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.files import new_folder, read_json, write_json

KEEP = 2
STEP = re.compile(r"step-([0-9]+)")
# What a killed process leaves of its writing (`model.files` names it).
LEFT_OVER = re.compile(r"\.(step-[0-9]+|metrics\.jsonl|load\.jsonl|export)\..*\.tmp")


class Damaged(ValueError):
    """A checkpoint whose files are not what was written."""


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints of a run, by step; what else lies there is none of ours."""
    found = [(STEP.fullmatch(path.name), path) for path in folder.glob("step-*") if path.is_dir()]
    steps = [(int(match[1]), path) for match, path in found if match]
    return [path for _, path in sorted(steps, reverse=True)]


def latest(folder: Path) -> Path | None:
    """The newest checkpoint of a run, or None."""
    return next(iter(newest_first(folder)), None)


def tidy(folder: Path) -> None:
    """Remove what a killed process left half-written in a run's folder."""
    for path in folder.glob(".*.tmp"):
        if LEFT_OVER.fullmatch(path.name):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged checkpoint, so that it is never taken nor counted again."""
    aside = path.with_name(f"damaged-{path.name}")
    _remove(aside)
    return path.rename(aside)


@contextmanager
def publish(folder: Path, step: int, run: dict) -> Iterator[Path]:
    """A `with` block that fills the folder it is given; then that is step-<step>.

    Only then older checkpoints go, but for the newest KEEP. Raises ValueError if it cannot be
    written; then all are as they were.
    """
    with new_folder(folder / f"step-{step}") as partial:
        yield partial
        write_json(partial / "run.json", {"step": step, **run}, indent=1)
    for old in newest_first(folder)[KEEP:]:
        # Under another name first: what is half removed must not look like a checkpoint.
        _remove(old.rename(folder / f".{old.name}.old.tmp"))


def save(
    folder: Path, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer, run: dict
) -> None:
    """Write step-<step>, all or nothing, then drop all but the newest KEEP.

    Raises ValueError if it cannot be written.
    """
    with publish(folder, step, run) as partial:
        save_file(_named_parameters(model), partial / "model.safetensors")
        save_file(_optimizer_state(model, optimizer), partial / "optimizer.safetensors")


def read_run(path: Path) -> dict[str, Any]:
    """What `save` was given as `run`, and the step. Raises Damaged if it cannot be read."""
    try:
        run = read_json(path / "run.json")
    except ValueError as error:
        raise Damaged(f"{path} is damaged: its run.json cannot be read") from error
    if not isinstance(run.get("step"), int) or not isinstance(run.get("preset"), dict):
        raise Damaged(f"{path} is damaged: its run.json does not name step and preset")
    return run


def restore(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load weights and optimiser state in place, or change nothing.

    Raises ValueError for a checkpoint of another geometry, Damaged if its files are damaged.
    """
    weights = _read(path / "model.safetensors")
    moments = _read(path / "optimizer.safetensors")
    named = dict(model.named_parameters())
    if {n: p.shape for n, p in named.items()} != {n: w.shape for n, w in weights.items()}:
        raise ValueError(f"{path} holds another geometry; choose another --out or remove it.")
    if not all(_fits(name, value, named) for name, value in moments.items()):
        raise Damaged(f"{path} is damaged: its optimizer.safetensors is of another model")
    with torch.no_grad():
        for name, weight in weights.items():
            named[name].copy_(weight)
    for full_name, value in moments.items():
        name, key = full_name.rsplit("/", 1)
        optimizer.state[named[name]][key] = value.to(named[name].device)


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise Damaged(f"{file.parent} is damaged: its {file.name} cannot be read") from error


def _fits(full_name: str, value: Tensor, named: dict[str, torch.nn.Parameter]) -> bool:
    """Whether a value of the optimiser's state belongs to a parameter: a scalar or of its shape."""
    name = full_name.rpartition("/")[0]
    return name in named and value.shape in (named[name].shape, torch.Size([]))


def _named_parameters(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().contiguous() for name, p in model.named_parameters()}


def _optimizer_state(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            state[f"{name}/{key}"] = value.detach().clone().contiguous()
    return state
