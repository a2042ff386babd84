"""What a run writes of itself step by step: metrics.jsonl, and the same for TensorBoard."""

import json
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from model.files import write_text

Metrics = dict[str, float]
FILE = "metrics.jsonl"


class MetricsLog:
    """Metrics to a JSONL file and TensorBoard; on resume, lines past the checkpoint are dropped."""

    def __init__(self, folder: Path, first_step: int) -> None:
        self.path = folder / FILE
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        kept = [line.decode() for line in lines if _is_before(line, first_step)]
        write_text(self.path, "".join(line + "\n" for line in kept))
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def write(self, step: int, metrics: Metrics) -> None:
        """Append the metrics of one step."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        for name, value in metrics.items():
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what TensorBoard has not written yet."""
        self.board.close()


def _is_before(line: bytes, step: int) -> bool:
    """Whether a line is whole and of an earlier step; a killed process may leave half a line."""
    try:
        return bool(json.loads(line)["step"] < step)
    except (ValueError, TypeError, KeyError):
        return False
