"""Writes checkpoints beside the training: a copy of the state is taken, a thread writes it."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from model.emo.modeling import EmoForCausalLM
from model.train import checkpoint, parallel, sharded
from model.train.checkpoint import Kept


class Writer:
    """Writes the checkpoints of one run, one at a time.

    What goes wrong is raised by `check` after the next step, or by `wait`, which every `save`
    begins with.
    """

    def __init__(self, folder: Path, kept: Kept) -> None:
        self.folder, self.kept = folder, kept
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        # Its own group: what it says must not come between the messages of a step.
        self._group = dist.new_group(backend="gloo") if parallel.world_size() > 1 else None

    def save(
        self,
        step: int,
        model: EmoForCausalLM,
        optimizer: torch.optim.Optimizer,
        run: dict[str, Any],
    ) -> None:
        """Begin to write step-<step> as it is now. Raises ValueError if the one before failed."""
        self.wait()
        where = (self.folder, step)
        if self._group is None:
            state = checkpoint.copied(model, optimizer)
            self._writing = self._threads.submit(checkpoint.write, *where, state, run, self.kept)
            return
        asked = (*where, model, optimizer, run, self.kept, self._group)
        self._writing = self._threads.submit(sharded.start_writing(*asked))

    def check(self) -> None:
        """Raises ValueError, in all processes, if what was being written could not be in one."""
        writing = self._writing
        failed = writing is not None and writing.done() and writing.exception() is not None
        if not parallel.smallest(int(not failed)):
            self.wait()

    def wait(self) -> None:
        """Until nothing is being written. Raises as `check`."""
        error = self._finished()
        if not parallel.smallest(int(error is None)):
            raise error or ValueError(
                "Another process could not write its checkpoint; make room where it writes."
            )

    def _finished(self) -> BaseException | None:
        writing, self._writing = self._writing, None
        return writing.exception() if writing is not None else None

    def close(self) -> None:
        """Wait; what goes wrong is said and not raised, for something else may be on its way."""
        error = self._finished()
        if error is not None:
            parallel.tell(str(error))
        self._threads.shutdown()
