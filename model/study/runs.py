"""The runs of the study, most telling first. Seeds are fixed here, before any result is known.

docs/study.md says what each is to find out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from model.emo.routing import PoolSizes
from model.train.start import ANNEALED

SEEDS = (0, 1, 2)
# Rotary positions for 256 tokens: at the usual 500,000 most of them hardly turn in a document.
SHORT_THETA: dict[str, Any] = {"rope_theta": 10_000.0}
ALWAYS = PoolSizes(8, 128, log_uniform=True, per_layer=False)
# From the weights of a finished run: the learning rate where that ended, in a line to 0.
ANNEAL = ANNEALED | {"learning_rate": 4e-4}
ANNEAL_SHARE = 0.2  # of the steps of a whole run


@dataclass(frozen=True)
class Run:
    """One training run. `start` names the run of the same seed whose weights it starts from."""

    name: str
    objective: str
    seed: int
    changes: dict[str, Any] = field(default_factory=dict)
    start: str | None = None

    @property
    def key(self) -> str:
        """Its name in files and tables."""
        return f"{self.name}-s{self.seed}"

    @property
    def start_key(self) -> str | None:
        """The key of the run that must be finished before."""
        return f"{self.start}-s{self.seed}" if self.start else None


def _one(name: str, seed: int = 0, objective: str = "", **changes: Any) -> Run:
    return Run(name, objective or name, seed, changes)


RUNS: tuple[Run, ...] = (
    _one("emo"),
    _one("standard"),
    _one("emo", 1),
    _one("standard", 1),
    _one("fixed-pool"),
    _one("causal"),
    _one("per-layer"),
    _one("local-balancing"),
    _one("dense"),
    _one("standard-32"),
    _one("overlap"),
    _one("emo-theta", objective="emo", **SHORT_THETA),
    _one("standard-theta", objective="standard", **SHORT_THETA),
    _one("emo", 2),
    _one("standard", 2),
    Run("emo-anneal", "emo", 0, ANNEAL, start="standard"),
    Run("standard-anneal", "standard", 0, ANNEAL, start="standard"),
    _one("emo-theta", 1, objective="emo", **SHORT_THETA),
    _one("standard-theta", 1, objective="standard", **SHORT_THETA),
    # The two halves of what the nano preset's draw changes at once.
    _one("always-pooled", objective="emo", pools=ALWAYS),
    _one(
        "uniform-pools",
        objective="emo",
        pools=PoolSizes(8, 128, per_layer=False, free_share=0.4),
    ),
    _one("top-p"),
    _one("pool-schedule"),
    _one("standard-local-balancing"),
    _one("overlap-strong", objective="overlap", overlap_coef=0.5),
    _one("mutual-information"),
    _one("mixtral"),
    _one("switch"),
    _one("gshard"),
    _one("causal", 1),
    _one("fixed-pool", 1),
    _one("per-layer", 1),
    # Added once the first seeds were known, to see whether what looked better then is so again.
    _one("causal", 2),
    _one("always-pooled", 1, objective="emo", pools=ALWAYS),
    _one("always-pooled", 2, objective="emo", pools=ALWAYS),
)


def chosen(names: Sequence[str] = (), seeds: int = len(SEEDS)) -> list[Run]:
    """The runs of these names (all if none) and of the first so many seeds, in their order.

    A name may be a run's or its key. Raises ValueError for one that no run has.
    """
    known = {run.name for run in RUNS} | {run.key for run in RUNS}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(
            f"The study has no run {unknown[0]!r}; choose of "
            f"{', '.join(dict.fromkeys(run.name for run in RUNS))}."
        )
    return [
        run
        for run in RUNS
        if run.seed in SEEDS[:seeds] and (not names or {run.name, run.key} & set(names))
    ]
