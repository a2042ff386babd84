"""Checkpoints of several processes: each writes and reads its shards, in the background.

torch.distributed.checkpoint keeps what belongs to a tensor, not to a process: any number of
processes can go on from it, one among them.
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint import state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from model.emo.modeling import EmoForCausalLM
from model.train import checkpoint, parallel
from model.train.checkpoint import Kept
from model.train.shards import read_shards

INDEX = ".metadata"
"""The file that tells a checkpoint of shards from one of safetensors."""


def start_writing(
    folder: Path,
    step: int,
    model: EmoForCausalLM,
    optimizer: torch.optim.Optimizer,
    run: dict[str, Any],
    kept: Kept,
    group: dist.ProcessGroup,
) -> Callable[[], None]:
    """Copy the state of now; returns what waits until all is written and publishes it.

    That may be called in another thread. It raises ValueError if step-<step> cannot be written by
    all processes; then all are as they were.
    """
    with ExitStack() as stack:
        leads = parallel.leads()
        made = stack.enter_context(checkpoint.publish(folder, step, run, kept)) if leads else None
        partial = [str(made)]
        dist.broadcast_object_list(partial)
        writing = state_dict_saver.async_save(
            _state(model, optimizer), checkpoint_id=partial[0], process_group=group
        )
        open_folder = stack.pop_all()

    def finish() -> None:
        with open_folder:
            try:
                writing.result()  # type: ignore[union-attr]  # the plain stager gives a future
            except CheckpointException as error:
                raise ValueError(
                    f"{folder / f'step-{step}'} cannot be written by all processes; make room or "
                    "choose another --out."
                ) from error

    return finish


def restore(path: Path, model: EmoForCausalLM, optimizer: torch.optim.Optimizer) -> None:
    """As `checkpoint.restore`; each process, or the one there is, reads what it holds."""
    state = _state(model, optimizer)
    read_shards(state, path)
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )


def _state(model: EmoForCausalLM, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    weights, moments = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": moments}
