"""The names of what lies in a run's folder, for whoever only looks for it: no torch."""

import re
from pathlib import Path

METRICS, LOADS = "metrics.jsonl", "load.jsonl"
STEP = re.compile(r"step-([0-9]+)")


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints of a run, by step; what else lies there is none of ours."""
    found = [path for path in folder.glob("step-*") if path.is_dir() and step_of(path) >= 0]
    return sorted(found, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The step in a checkpoint's name."""
    found = STEP.fullmatch(path.name)
    return int(found[1]) if found else -1
