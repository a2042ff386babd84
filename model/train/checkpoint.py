"""Training checkpoints: safetensors and JSON, written to a temporary folder and renamed.

A folder named step-N is complete by construction, so that a run killed at any point continues from
the last one.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

KEEP = 2


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run, or None."""
    steps = sorted(folder.glob("step-*"), key=lambda path: int(path.name.split("-")[1]))
    return steps[-1] if steps else None


def partial_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is written before it is renamed."""
    return folder / f"partial-{step}"


@contextmanager
def publish(folder: Path, step: int, run: dict) -> Iterator[None]:
    """A `with` block that fills partial_folder; it ends as step-<step>, the newest KEEP stay."""
    target, partial = folder / f"step-{step}", partial_folder(folder, step)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield
    (partial / "run.json").write_text(json.dumps({"step": step, **run}, indent=1))
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)
    for old in sorted(folder.glob("step-*"), key=lambda p: int(p.name.split("-")[1]))[:-KEEP]:
        shutil.rmtree(old)


def save(
    folder: Path, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer, run: dict
) -> None:
    """Write step-<step> atomically, then drop all but the newest KEEP."""
    partial = partial_folder(folder, step)
    with publish(folder, step, run):
        save_file(_named_parameters(model), partial / "model.safetensors")
        save_file(_optimizer_state(model, optimizer), partial / "optimizer.safetensors")


def read_run(path: Path) -> dict[str, Any]:
    """What `save` was given as `run`, and the step."""
    return dict(json.loads((path / "run.json").read_text()))


def restore(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load weights and optimiser state in place.

    Raises ValueError for a checkpoint of another geometry or of several processes.
    """
    if not (path / "model.safetensors").exists():
        raise ValueError(
            f"{path} was written by several processes; continue it with torchrun or choose "
            f"another --out."
        )
    weights = load_file(path / "model.safetensors")
    named = dict(model.named_parameters())
    if {n: p.shape for n, p in named.items()} != {n: w.shape for n, w in weights.items()}:
        raise ValueError(f"{path} holds another geometry; choose another --out or remove it.")
    with torch.no_grad():
        for name, weight in weights.items():
            named[name].copy_(weight)
    _load_optimizer_state(model, optimizer, load_file(path / "optimizer.safetensors"))


def _named_parameters(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().contiguous() for name, p in model.named_parameters()}


def _optimizer_state(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            state[f"{name}/{key}"] = value.detach().clone().contiguous()
    return state


def _load_optimizer_state(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Tensor]
) -> None:
    parameters = dict(model.named_parameters())
    for full_name, value in state.items():
        name, key = full_name.rsplit("/", 1)
        optimizer.state[parameters[name]][key] = value
