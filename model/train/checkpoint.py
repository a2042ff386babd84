"""Training checkpoints: safetensors and JSON in folders that are whole or not there.

A folder named step-N is complete by construction, so that a run killed at any point continues from
the last one; one that was damaged later is told apart by `Damaged`.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from model.files import new_folder, read_json, write_json
from model.train.steps import newest_first as newest_first
from model.train.steps import step_of as step_of

# What a killed process leaves of its writing (`model.files` names it).
LEFT_OVER = re.compile(r"\.(step-[0-9]+|metrics\.jsonl|load\.jsonl|export)\..*\.tmp")


class Damaged(ValueError):
    """A checkpoint whose files are not what was written."""


def latest(folder: Path) -> Path | None:
    """The newest checkpoint of a run, or None."""
    return next(iter(newest_first(folder)), None)


def where_it_stands(folder: Path) -> str:
    """What a command says that was stopped."""
    newest = latest(folder)
    if newest is None:
        return f"Stopped before the first checkpoint in {folder}; the same command starts again."
    return f"Stopped; {newest} is whole, and the same command goes on from there."


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


@dataclass(frozen=True)
class Kept:
    """Which checkpoints stay when a new one is whole: the newest, and those of some steps.

    The latter say so themselves, and stay whatever a later run is told.
    """

    newest: int = 2
    at: frozenset[int] = frozenset()


NEWEST_TWO = Kept()


class State(NamedTuple):
    """Weights with persistent buffers, and the optimiser's moments, by name, on the CPU."""

    weights: dict[str, Tensor]
    moments: dict[str, Tensor]


@contextmanager
def publish(folder: Path, step: int, run: dict, kept: Kept) -> Iterator[Path]:
    """A `with` block that fills the folder it is given; then that is step-<step>.

    Only then older checkpoints go, but for those that are kept. Raises ValueError if it cannot be
    written; then all are as they were.
    """
    with new_folder(folder / f"step-{step}") as partial:
        yield partial
        for_good = {"kept": True} if step in kept.at else {}
        write_json(partial / "run.json", {"step": step, **for_good, **run}, indent=1)
    passing = [path for path in newest_first(folder) if not _is_kept(path)]
    for old in passing[kept.newest :]:
        # Under another name first: what is half removed must not look like a checkpoint.
        _remove(old.rename(folder / f".{old.name}.old.tmp"))


def _is_kept(path: Path) -> bool:
    """Whether a checkpoint was made to stay; one that cannot be read is not removed either."""
    try:
        return bool(read_run(path).get("kept"))
    except Damaged:
        return True


def copied(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> State:
    """The state of now, which training does not change any more."""
    moments = {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    return State(*({n: _copy(v) for n, v in part.items()} for part in (values_of(model), moments)))


def _copy(value: Tensor) -> Tensor:
    return torch.empty_like(value, device="cpu", memory_format=torch.contiguous_format).copy_(
        value.detach()
    )


def write(folder: Path, step: int, state: State, run: dict, kept: Kept) -> None:
    """Write step-<step>, all or nothing, then drop those that are not kept.

    Raises ValueError if it cannot be written.
    """
    with publish(folder, step, run, kept) as partial:
        save_file(state.weights, partial / "model.safetensors")
        save_file(state.moments, partial / "optimizer.safetensors")


def values_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """What a checkpoint holds of a model: its parameters and persistent buffers, by name."""
    buffers = dict(model.named_buffers())
    saved = {name: buffers[name] for name in model.state_dict() if name in buffers}
    return dict(model.named_parameters()) | saved


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
    """Load weights and optimiser state in place, or change nothing; sharded ones take their shard.

    Raises ValueError for a checkpoint of another geometry, Damaged if its files are damaged.
    """
    weights = _read(path / "model.safetensors")
    moments = _read(path / "optimizer.safetensors")
    own, named = values_of(model), dict(model.named_parameters())
    for name in (*own, *weights):
        if name not in own or name not in weights or own[name].shape != weights[name].shape:
            raise ValueError(
                f"{path} holds another geometry: {name} differs; choose another --out or remove it."
            )
    if not all(_fits(name, value, named) for name, value in moments.items()):
        raise Damaged(f"{path} is damaged: its optimizer.safetensors is of another model")
    with torch.no_grad():
        for name, weight in weights.items():
            own[name].copy_(_as(own[name], weight))
    for full_name, value in moments.items():
        name, key = full_name.rsplit("/", 1)
        optimizer.state[named[name]][key] = _as(named[name], value)


def _as(own: Tensor, value: Tensor) -> Tensor:
    """A value where `own` is, and sharded as it is unless it is a single number."""
    value = value.to(own.device)
    if isinstance(own, DTensor) and value.shape == own.shape:
        return distribute_tensor(value, own.device_mesh, own.placements, src_data_rank=None)
    return value


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise Damaged(f"{file.parent} is damaged: its {file.name} cannot be read") from error


def _fits(full_name: str, value: Tensor, named: dict[str, torch.nn.Parameter]) -> bool:
    """Whether a value of the optimiser's state belongs to a parameter: a scalar or of its shape."""
    name = full_name.rpartition("/")[0]
    return name in named and value.shape in (named[name].shape, torch.Size([]))
