"""Jobs on models, shared out to processes that each keep the model they work on."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from model.workers import in_workers

if TYPE_CHECKING:
    from model.run.live import Live

Job = TypeVar("Job")
Result = TypeVar("Result")

_model: "dict[Path, Live]" = {}  # of this process: the one it used last


@contextmanager
def shared_out(
    work: Callable[[Job], Result], jobs: Sequence[Job], workers: int
) -> Iterator[Iterable[Result]]:
    """`in_workers`, where each process takes its share of the cores for torch: one of two, and more
    where there are more, for which a large model's batches are work enough."""
    workers = max(1, min(workers, len(jobs)))
    try:
        with in_workers(work, jobs, workers, partial(_take_cores, workers)) as found:
            yield found
    finally:
        _model.clear()  # of this process, where it did the work itself


def _take_cores(workers: int) -> None:
    import torch

    share = max(1, (os.cpu_count() or 1) // workers)
    torch.set_num_threads(min(share, torch.get_num_threads()))  # fewer where OMP_NUM_THREADS says


def model_of(folder: Path) -> "Live":
    """The model of a checkpoint folder, opened unless it is the one that was asked for last."""
    from model.run.live import open_live

    if folder not in _model:
        _model.clear()
        _model[folder] = open_live(folder)
    return _model[folder]
