"""Training checkpoints: safetensors and JSON, written to a temporary folder and renamed.

A folder named step-N is complete by construction, so that a run killed at any point continues from
the last one.
"""

import json
import shutil
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


def save(
    folder: Path, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer, run: dict
) -> Path:
    """Write step-<step> atomically, then drop all but the newest KEEP."""
    target, partial = folder / f"step-{step}", folder / f"partial-{step}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(_named_parameters(model), partial / "model.safetensors")
    save_file(_optimizer_state(model, optimizer), partial / "optimizer.safetensors")
    (partial / "run.json").write_text(json.dumps({"step": step, **run}, indent=1))
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)
    for old in sorted(folder.glob("step-*"), key=lambda p: int(p.name.split("-")[1]))[:-KEEP]:
        shutil.rmtree(old)
    return target


def restore(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Load weights and optimiser state in place; returns what `save` was given as `run`.

    Raises ValueError for a checkpoint of another geometry.
    """
    run = json.loads((path / "run.json").read_text())
    weights = load_file(path / "model.safetensors")
    named = dict(model.named_parameters())
    if {n: p.shape for n, p in named.items()} != {n: w.shape for n, w in weights.items()}:
        raise ValueError(f"{path} holds another geometry; choose another --out or remove it.")
    with torch.no_grad():
        for name, weight in weights.items():
            named[name].copy_(weight)
    _load_optimizer_state(model, optimizer, load_file(path / "optimizer.safetensors"))
    return run


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
