"""How large a checkpoint is and whether it fits, from the headers of its files, before any load."""

from pathlib import Path

import torch

from model.files import num_parameters

OVERHEAD = 1.15
"""Of the weights: room for what loading converts at a time, and for a text's activations."""
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def needed_memory(parameters: int, dtype: torch.dtype) -> int:
    """Bytes of memory to load and run a model of so many parameters in this type."""
    return int(parameters * dtype.itemsize * OVERHEAD)


def available_memory(device: torch.device) -> int | None:
    """Free bytes of a device now; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = [_meminfo(), *map(_cgroup, CGROUP_LIMITS)]
    known = [number for number in free if number is not None]
    return min(known) if known and device.type == "cpu" else None


def _meminfo() -> int | None:
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    found = [line for line in lines if line.startswith("MemAvailable:")]
    return int(found[0].split()[1]) * 1024 if found else None


def _cgroup(limit: str) -> int | None:
    """A container's limit; what of it is in use counts as free too, it may be cache."""
    path = Path(limit)
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None


def _everywhere() -> int | None:
    """Free bytes of all devices together."""
    devices = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    free = [available_memory(device) for device in (torch.device("cpu"), *devices)]
    known = [number for number in free if number is not None]
    return sum(known) if len(known) == len(free) else None


def check_fits(folder: Path, device: torch.device | None, dtype: torch.dtype) -> None:
    """Raises ValueError if the checkpoint needs more memory than the device, or all, have free,
    or where weights are missing or damaged.

    Weights for another device pass through the CPU's memory.
    """
    needed = needed_memory(num_parameters(folder), dtype)
    cpu = torch.device("cpu")
    for place in [device] if device in (None, cpu) else [device, cpu]:
        free = _everywhere() if place is None else available_memory(place)
        if free is not None and needed > free:
            kind = str(dtype).removeprefix("torch.")
            raise ValueError(
                f"{folder} needs about {needed / 1e9:.1f} GB in {kind} and "
                f"{place or 'this machine'} has {free / 1e9:.1f} GB free; choose a smaller type, "
                "another device, or cut the checkpoint first."
            )
