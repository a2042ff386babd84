"""Where a run goes on: from its newest checkpoint that is whole, and never as another run."""

import json
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import torch

from model.emo.modeling import EmoForCausalLM
from model.train import checkpoint, parallel, sharded
from model.train.checkpoint import Damaged
from model.train.presets import Preset

GUARDS = ("guard_sigmas", "guard_norms")
"""What a run may change as it goes on: who is stopped by a guard should not have to start anew."""
ANOTHER = "or choose another --out."


def identity(
    preset: Preset,
    corpus: str | None,
    accumulation: int = 1,
    gather: parallel.Gather = "fp32",
) -> dict[str, Any]:
    """What decides a run, as its checkpoints keep it; `corpus` is its digest, None if unknown.

    How the rows of a step are shared (processes, parts), and in which numbers weights travel
    between processes, decides no more than rounding.
    """
    settings = json.loads(json.dumps(asdict(preset)))
    return {
        "preset": settings,
        "corpus": corpus,
        "processes": parallel.world_size(),
        "accumulation": accumulation,
        "gather": gather if parallel.world_size() > 1 else "fp32",  # one process sends none
    }


def resume(
    out: Path, model: EmoForCausalLM, optimizer: torch.optim.Optimizer, wanted: dict[str, Any]
) -> dict[str, Any]:
    """Load the newest checkpoint that is whole; returns its run.json, step 0 where there is none.

    Damaged ones before it are set aside with a word. Raises ValueError if the checkpoint is of
    another run (see `identity`), or if all are damaged.
    """
    damaged: list[tuple[Path, Damaged]] = []
    for path in checkpoint.newest_first(out):
        try:
            run = _continue(path, model, optimizer, wanted)
        except Damaged as error:
            damaged.append((path, error))
            continue
        _set_aside(damaged, path)
        return run
    if damaged:
        raise ValueError(
            f"{damaged[0][1]}, and there is no other to go on from; remove it to start from the "
            f"beginning, {ANOTHER}"
        )
    return {"step": 0}


def _continue(
    path: Path, model: EmoForCausalLM, optimizer: torch.optim.Optimizer, wanted: dict[str, Any]
) -> dict[str, Any]:
    run = checkpoint.read_run(path)
    _check_preset(path, run["preset"], wanted["preset"])
    _check_corpus(path, run.get("corpus"), wanted["corpus"])
    from_shards = (path / sharded.INDEX).exists()
    (sharded if from_shards else checkpoint).restore(path, model, optimizer)
    _tell_of_sharing(path, run, wanted)
    return run


def _set_aside(damaged: list[tuple[Path, Damaged]], taken: Path) -> None:
    for path, error in damaged:
        if parallel.leads():
            aside = checkpoint.set_aside(path)
            parallel.tell(f"{error}; it is {aside.name} now, and the run goes on from {taken}.")
    parallel.wait()


def _tell_of_sharing(path: Path, run: dict[str, Any], wanted: dict[str, Any]) -> None:
    theirs, ours = _sharing(run), _sharing(wanted)
    if "processes" in run and theirs != ours:  # an older checkpoint does not say
        parallel.tell(
            f"{path} was written by {theirs} and goes on by {ours}: the same run, but for rounding."
        )


def _sharing(run: dict[str, Any]) -> str:
    """Processes and parts in words, and weights that travelled in bf16."""
    parts = _counted(run.get("accumulation", 1), "part")
    gathered = " with weights gathered in bf16" if run.get("gather") == "bf16" else ""
    return f"{_counted(run.get('processes'), 'process')} x {parts}{gathered}"


def _counted(number: int | None, what: str) -> str:
    plural = f"{what}es" if what.endswith("s") else f"{what}s"
    return f"1 {what}" if number == 1 else f"{number} {plural}"


def _check_preset(path: Path, theirs: dict[str, Any], wanted: dict[str, Any]) -> None:
    # What an older checkpoint does not name was as the default is.
    theirs = {f.name: f.default for f in fields(Preset) if f.default is not MISSING} | theirs
    other = [name for name in wanted if theirs.get(name) != wanted[name]]
    told = "; ".join(f"{name} {theirs.get(name)}, not {wanted[name]}" for name in other)
    if other and all(name in GUARDS for name in other):
        parallel.tell(f"{path} was trained with other guards ({told}); the run goes on with these.")
    elif other:
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
