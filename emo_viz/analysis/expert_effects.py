"""What a model loses without one of its experts: measured losses, and how sure they are.

Shapes: N documents, L layers with a router, R routed experts of the largest layer.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emo_viz.analysis.arrays import (
    check_shape,
    damaged,
    load_arrays,
    read_geometry,
    save_arrays,
)
from emo_viz.analysis.bootstrap import Interval, bootstrap_interval
from emo_viz.analysis.origins import Origins

FORMAT, FORMAT_VERSION = "emo-viz-expert-effects", 1
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Effects:
    """Losses of documents with all experts and without single ones.

    numbers [L], routed [L]: as in `ExpertUse`. domains [N]: of each document. tokens [N]: those
    that have a loss. full [N]: mean loss with all experts, nats a token. without [L, R, N]: that
    without this expert alone; NaN where it was not measured.
    """

    run: str
    numbers: tuple[int, ...]
    routed: tuple[int, ...]
    domains: tuple[str, ...]
    tokens: Floats
    full: Floats
    without: Floats
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def origins(self) -> Origins:
        """The weights and documents that were measured, as far as that is known."""
        return Origins.from_dict(self.info.get("origins", {}))

    @property
    def documents(self) -> int:
        return len(self.full)

    def change(self, number: int, expert: int) -> Floats | None:
        """Loss without an expert less that with all [N]; None where it was not measured."""
        if number not in self.numbers:
            return None
        own = self.without[self.numbers.index(number), expert].astype(np.float64)
        return None if np.isnan(own).any() else own - self.full

    def mean(self, number: int, expert: int) -> float:
        """The change a token, over all documents; NaN where it was not measured."""
        found = self.change(number, expert)
        return float("nan") if found is None else float(np.average(found, weights=self.tokens))

    def overall(self, number: int, expert: int) -> Interval:
        """`mean` with its interval. Raises ValueError where it was not measured."""
        return bootstrap_interval(self._known(number, expert), self.tokens)

    def by_domain(self, number: int, expert: int) -> dict[str, Interval]:
        """The change in each domain. Raises ValueError where it was not measured."""
        found, domains = self._known(number, expert), np.asarray(self.domains)
        return {
            str(domain): bootstrap_interval(
                found[domains == domain], self.tokens[domains == domain]
            )
            for domain in np.unique(domains)
        }

    def _known(self, number: int, expert: int) -> Floats:
        found = self.change(number, expert)
        if found is None:
            raise ValueError(f"Expert {expert} of layer {number} was not measured.")
        return found


def save(path: Path, effects: Effects) -> None:
    """Write as one .npz file. Raises ValueError if it cannot be written."""
    arrays: dict[str, NDArray[Any]] = {
        "tokens": effects.tokens.astype(np.float32),
        "full": effects.full,
        # Changes are far smaller than losses: as 16 bits they are exact to one in 2,000.
        "changes": (effects.without - effects.full).astype(np.float16),
    }
    head = {"format": FORMAT, "format_version": FORMAT_VERSION, "run": effects.run}
    said = {name: list(getattr(effects, name)) for name in ("numbers", "routed", "domains")}
    save_arrays(path, arrays, head | said | {"info": effects.info})


def load(path: Path) -> Effects:
    """Read what `save` wrote.

    Raises ValueError if there is none, or it is damaged or of another format version.
    """
    arrays, info = load_arrays(path, FORMAT, FORMAT_VERSION)
    with damaged(path):
        numbers, routed = read_geometry(info)
        documents = check_shape(arrays["full"], len(info["domains"]))
        check_shape(arrays["tokens"], documents)
        if not documents or arrays["tokens"].min() <= 0:
            raise ValueError("losses are of documents with tokens")
        changes = arrays["changes"].astype(np.float64)
        check_shape(np.where(np.isnan(changes), 0, changes), len(numbers), max(routed), documents)
        found = Effects(
            run=str(info["run"]),
            numbers=numbers,
            routed=routed,
            domains=tuple(map(str, info["domains"])),
            tokens=arrays["tokens"].astype(np.float64),
            full=arrays["full"].astype(np.float64),
            without=(changes + arrays["full"]).astype(np.float64),
            info=dict(info["info"]),
        )
        _ = found.origins
        return found
