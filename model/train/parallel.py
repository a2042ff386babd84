"""Training by several processes: each takes its rows of every step and holds its shard of weights.

`torchrun --nproc-per-node=2 -m model.train` starts them. Weights and optimiser state are sharded
and gradients averaged by FSDP2, so that a step is that of one process on the whole batch, but for
rounding. In a process that torchrun did not start, every function here changes nothing.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import click
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from model.emo.modeling import EmoForCausalLM
from model.train.batches import Batch
from model.train.presets import Preset

Gather = Literal["fp32", "bf16"]
BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


def own_device(name: str) -> torch.device:
    """The device of this process: of several on one machine each has a GPU of its own.

    "auto" is the GPU where there is one. Raises ValueError for a device that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"There is no device {name!r} here; choose cpu, cuda or auto, and no more processes "
            "than there are GPUs."
        ) from error
    if device.type not in BACKENDS:
        raise ValueError(f"Training runs on cpu and cuda, not on {device.type!r}.")
    return device


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started, for the length of a `with` block.

    Inside another such block nothing is left to join. torchrun's store outlives a group, and a
    second one would find the addresses of the first in it.
    """
    if device.index is not None:  # torch refuses "cuda" alone, which is the current one
        torch.cuda.set_device(device)
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    dist.init_process_group(BACKENDS[device.type])
    try:
        yield
    finally:
        dist.destroy_process_group()


def check_alone(kind: str) -> None:
    """Raises ValueError if torchrun started this process beside others, for what takes one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(f"{kind} runs in one process; start it without torchrun.")


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def leads() -> bool:
    """Whether this process writes what is written once: metrics, progress, the export."""
    if dist.is_initialized():
        return dist.get_rank() == 0
    return os.environ.get("RANK", "0") == "0"


def tell(sentence: str) -> None:
    """Say something once, however many processes there are."""
    if leads():
        click.echo(sentence, err=True)


def wait() -> None:
    """Until all processes are here."""
    if world_size() > 1:
        dist.barrier()


def smallest(number: int) -> int:
    """The smallest of all processes' numbers, the same on all of them."""
    if world_size() == 1:
        return number
    numbers = torch.tensor(number, device=_meeting_device())
    dist.all_reduce(numbers, dist.ReduceOp.MIN)
    return int(numbers)


def total(number: int) -> int:
    """The sum of all processes' numbers, the same on all of them."""
    if world_size() == 1:
        return number
    numbers = torch.tensor(number, device=_meeting_device())
    dist.all_reduce(numbers)
    return int(numbers)


def _meeting_device() -> torch.device:
    """Where the processes exchange numbers: NCCL knows none but GPUs."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def share(batch: Batch) -> Batch:
    """This process's rows of a step's batch, with the pool sizes of their documents."""
    if world_size() == 1:
        return batch
    mine = slice(dist.get_rank(), None, world_size())
    return Batch(batch.input_ids_BT[mine], batch.labels_BT[mine], batch.pool_sizes_LBD[:, mine])


def check_rows(preset: Preset, parts: int) -> None:
    """Raises ValueError if the processes, each in so many parts, cannot share a step evenly."""
    count = world_size() * parts
    who = f"{world_size()} processes" if parts == 1 else f"{world_size()} x {parts} parts"
    if parts > 1 and world_size() == 1:
        who = f"{parts} parts"
    if preset.rows % count:
        raise ValueError(
            f"The {preset.rows} rows of a step cannot be shared evenly by {who}; choose --rows as "
            f"a multiple of {count}."
        )
    together = preset.rows // count
    if preset.balancing_rows and together % preset.balancing_rows:
        raise ValueError(
            f"The objective balances every {preset.balancing_rows} rows alone, and {who} take "
            f"{together} at once; choose --rows as a multiple of {count * preset.balancing_rows}."
        )


def shard(model: EmoForCausalLM, preset: Preset, gather: Gather = "fp32") -> None:
    """Shard the weights in place, layer by layer. Call before the optimiser is made.

    gather: in which numbers weights travel to where they are used. With "bf16" half the bytes do,
    and activations between the parts are bf16 too; routers stay in float32, gradients are summed in
    float32, and so are the weights that the optimiser changes. Raises ValueError for bf16 in a run
    that multiplies in float32.
    """
    if gather == "bf16" and not preset.bf16:
        raise ValueError("Weights gathered in bf16 need --bf16; or gather them in fp32.")
    if world_size() == 1:
        return
    mesh = init_device_mesh(model.device.type, (world_size(),))
    sums = MixedPrecisionPolicy(reduce_dtype=torch.float32)
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    policy = half if gather == "bf16" else sums
    for router in model.routers() if gather == "bf16" else ():
        fully_shard(router, mesh=mesh, mp_policy=sums)
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    # The root too gives its weights back after the forward: on held-out documents no backward
    # follows that would.
    fully_shard(model, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    for method in ("next_token_loss", "report_routing"):
        register_fsdp_forward_method(model, method)


def clip_gradients(model: EmoForCausalLM, max_norm: float) -> Tensor:
    """Clip to `max_norm` the gradient of the whole model; returns its norm before."""
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def average(metrics: dict[str, float]) -> dict[str, float]:
    """The mean of every metric over the processes, the same on all of them."""
    if world_size() == 1:
        return metrics
    values = torch.tensor(list(metrics.values()), dtype=torch.float64, device=_meeting_device())
    dist.all_reduce(values)
    return dict(zip(metrics, (values / world_size()).tolist(), strict=True))


def whole_model(model: EmoForCausalLM) -> EmoForCausalLM | None:
    """The model with all its weights in the leading process, None in the others."""
    if world_size() == 1:
        return model
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(model, options=options)
    if not leads():
        return None
    whole = EmoForCausalLM(model.config)
    whole.load_state_dict(weights)
    return whole
