"""Where a run goes on: from its newest checkpoint that is whole, and never as another run."""

import json
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from model.emo.modeling import EmoForCausalLM
from model.train import checkpoint, parallel
from model.train.checkpoint import Damaged
from model.train.presets import Preset

ANOTHER = "or choose another --out."


def identity(preset: Preset, corpus: str | None) -> dict[str, Any]:
    """What decides a run, as its checkpoints keep it; `corpus` is its digest, None if unknown."""
    settings = json.loads(json.dumps(asdict(preset)))
    return {"preset": settings, "corpus": corpus, "processes": parallel.world_size()}


def keeper() -> ModuleType:
    """Who writes and reads checkpoints: one process a file, several their shards."""
    return parallel if parallel.world_size() > 1 else checkpoint


def resume(
    out: Path, model: EmoForCausalLM, optimizer: torch.optim.Optimizer, wanted: dict[str, Any]
) -> int:
    """Load the newest checkpoint that is whole; returns its step, 0 where there is none.

    Damaged ones before it are set aside with a word. Raises ValueError if the checkpoint is of
    another run (see `identity`), or if all are damaged.
    """
    damaged: list[tuple[Path, Damaged]] = []
    for path in checkpoint.newest_first(out):
        try:
            step = _continue(path, model, optimizer, wanted)
        except Damaged as error:
            damaged.append((path, error))
            continue
        _set_aside(damaged, path)
        return step
    if damaged:
        raise ValueError(
            f"{damaged[0][1]}, and there is no other to go on from; remove it to start from the "
            f"beginning, {ANOTHER}"
        )
    return 0


def _continue(
    path: Path, model: EmoForCausalLM, optimizer: torch.optim.Optimizer, wanted: dict[str, Any]
) -> int:
    run = checkpoint.read_run(path)
    _check_processes(path, run, wanted["processes"])
    _check_preset(path, run["preset"], wanted["preset"])
    _check_corpus(path, run.get("corpus"), wanted["corpus"])
    keeper().restore(path, model, optimizer)
    return int(run["step"])


def _set_aside(damaged: list[tuple[Path, Damaged]], taken: Path) -> None:
    for path, error in damaged:
        if parallel.leads():
            aside = checkpoint.set_aside(path)
            parallel.tell(f"{error}; it is {aside.name} now, and the run goes on from {taken}.")
    parallel.wait()


def _check_processes(path: Path, run: dict[str, Any], wanted: int) -> None:
    # An older checkpoint does not say; several processes wrote the file .metadata.
    count = run.get("processes", None if (path / ".metadata").exists() else 1)
    if count == wanted or (count is None and wanted > 1):
        return
    if count == 1:
        raise ValueError(
            f"{path} was written by one process; continue it without torchrun {ANOTHER}"
        )
    who, option = ("several", "") if count is None else (count, f" --nproc-per-node={count}")
    raise ValueError(
        f"{path} was written by {who} processes; continue it with torchrun{option} {ANOTHER}"
    )


def _check_preset(path: Path, theirs: dict[str, Any], wanted: dict[str, Any]) -> None:
    # What an older checkpoint does not name was as the default is.
    theirs = {f.name: f.default for f in fields(Preset) if f.default is not MISSING} | theirs
    other = [name for name in wanted if theirs.get(name) != wanted[name]]
    if other:
        told = "; ".join(f"{name} {theirs.get(name)}, not {wanted[name]}" for name in other)
        raise ValueError(
            f"{path} was trained with other settings ({told}); give the same ones, {ANOTHER}"
        )


def _check_corpus(path: Path, theirs: object, wanted: str | None) -> None:
    if wanted is None or theirs == wanted:
        return
    if theirs is None:
        parallel.tell(
            f"{path} does not say which corpus it was trained on; the run goes on with this one."
        )
        return
    raise ValueError(f"{path} was trained on another corpus; give that one as --corpus, {ANOTHER}")
