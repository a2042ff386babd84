"""What a run writes of itself: metrics.jsonl and the same for TensorBoard, and load.jsonl."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from model.files import write_text
from model.train.steps import LOADS, METRICS

Metrics = dict[str, float]
DIGITS = 5  # of a share in load.jsonl


class Lines:
    """A JSONL file of steps; on resume, lines of steps past the checkpoint are dropped."""

    def __init__(self, path: Path, first_step: int) -> None:
        self.path = path
        lines = path.read_bytes().splitlines() if path.exists() else []
        kept = [line.decode() for line in lines if _is_before(line, first_step)]
        write_text(path, "".join(line + "\n" for line in kept))

    def append(self, step: int, content: dict[str, Any]) -> None:
        """One line more."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **content}) + "\n")


class MetricsLog:
    """Metrics of every step to a JSONL file and TensorBoard; the load of the experts to another.

    load.jsonl holds {"step": int, "load": [[share of an expert, ..] of a layer, ..]}: of the slots
    that the routed experts of every layer with a router got in that step, all processes together.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        self.metrics = Lines(folder / METRICS, first_step)
        self.load = Lines(folder / LOADS, first_step)
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def write(self, step: int, metrics: Metrics, counts_LR: Tensor | None = None) -> None:
        """Append the metrics of one step and, where counts are given, each expert's share."""
        self.metrics.append(step, metrics)
        for name, value in metrics.items():
            self.board.add_scalar(name, value, step)
        if counts_LR is None:
            return
        shares_LR = (counts_LR / counts_LR.sum(1, keepdim=True)).tolist()
        load = [[round(share, DIGITS) for share in layer] for layer in shares_LR]
        self.load.append(step, {"load": load})

    def close(self) -> None:
        """Write what TensorBoard has not written yet."""
        self.board.close()


def _is_before(line: bytes, step: int) -> bool:
    """Whether a line is whole and of an earlier step; a killed process may leave half a line."""
    try:
        return bool(json.loads(line)["step"] < step)
    except (ValueError, TypeError, KeyError):
        return False
