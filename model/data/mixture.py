"""Mixtures: how often training takes a row of each domain.

Which domain row `i` of a run is of, and which of that domain's rows, follows from the weights, the
seed and `i` alone: a run that is resumed takes exactly the rows that it would have taken. Weights
hold in every batch as nearly as whole rows can (the domains follow a golden-ratio sequence). A
domain whose rows are used up begins again in another order.
"""

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MANY = 4.0  # repeats of a text after which training gains little more from it
STEP = 0x9E3779B97F4A7C15  # the golden ratio's part behind the point, of 2**64
BLOCK = 1 << 16
SHOWN = 8  # domains that a message names


def read_mixture(text: str) -> dict[str, float]:
    """Weights by domain, from `news=2,recipes=1` or a .toml or .json file of the like.

    Raises ValueError for what is neither.
    """
    path = Path(text)
    if path.suffix in (".toml", ".json"):
        found = _read_file(path)
    else:
        pairs = [part.rpartition("=") for part in text.split(",") if part.strip()]
        names = [name.strip() for name, _, _ in pairs]
        if len(set(names)) < len(names):
            raise ValueError(f"The mixture {text!r} names a domain twice; name each once.")
        found = {name: weight for name, (_, _, weight) in zip(names, pairs, strict=True)}
    return {name: _weight(name, weight) for name, weight in found.items()} or _refuse(text)


def in_words(weights: Mapping[str, float]) -> str:
    """Weights as `read_mixture` takes them, sorted, of sum 1: equal mixtures look alike."""
    total = sum(weights.values())
    return ",".join(f"{name}={weights[name] / total:.6g}" for name in sorted(weights))


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not {path.suffix[1:].upper()}; write it again.") from error
    return found if isinstance(found, dict) else _refuse(str(path))


def _refuse(text: str) -> Any:
    raise ValueError(
        f"The mixture {text!r} gives no weights; write domain=weight,domain=weight, or name a "
        ".toml or .json file of them."
    )


def _weight(name: str, given: Any) -> float:
    try:
        weight = float(given) if not isinstance(given, bool) else math.nan
    except (TypeError, ValueError):
        weight = math.nan
    if "," in name:
        raise ValueError(f"A mixture cannot name {name!r}, for its comma; rename the domain.")
    if not name or not math.isfinite(weight) or weight <= 0:
        raise ValueError(
            f"The weight of {name or 'a domain without a name'} is {given!r}; give a number "
            "above 0."
        )
    return weight


def check_domains(weights: Mapping[str, float], present: Sequence[str]) -> None:
    """Raises ValueError for a weight of a domain that is not there."""
    if missing := sorted(set(weights) - set(present)):
        more = ", ..." if len(set(present)) > SHOWN else ""
        raise ValueError(
            f"There are no training documents of {', '.join(missing)}; choose from "
            f"{', '.join(sorted(set(present))[:SHOWN])}{more}."
        )


class Mixture:
    """Rows of several domains in one order without end.

    sizes: how many rows each domain has. Raises ValueError for a domain without any.
    """

    def __init__(self, weights: Mapping[str, float], sizes: Mapping[str, int], seed: int) -> None:
        self.domains = tuple(sorted(weights))
        if empty := [name for name in self.domains if not sizes[name]]:
            raise ValueError(
                f"The texts of {', '.join(empty)} do not fill one row; give more of them, or "
                "leave the domain out of the mixture."
            )
        self.sizes, self.seed = [sizes[name] for name in self.domains], seed
        shares = np.cumsum([weights[name] for name in self.domains])
        self._edges = [int(share / shares[-1] * 2**64) for share in shares[:-1]]
        self._start = int(np.random.default_rng(seed).integers(2**64, dtype=np.uint64))
        self._before = [np.zeros(len(self.domains), np.int64)]  # rows of each, block by block
        self._block = (-1, np.empty(0, np.int64), np.empty(0, np.int64))
        self._orders: dict[int, tuple[int, NDArray[np.int64]]] = {}

    def row(self, index: int) -> tuple[int, int]:
        """Of which domain row `index` is, by its place in `domains`, and which of its rows."""
        block, offset = divmod(index, BLOCK)
        if self._block[0] != block:
            self._block = (block, *self._dealt(block))
        domain, turn = int(self._block[1][offset]), int(self._block[2][offset])
        epoch, place = divmod(turn, self.sizes[domain])
        return domain, int(self._order(domain, epoch)[place])

    def repeats(self, rows: int) -> dict[str, float]:
        """How often a run of so many rows takes each domain's, on average."""
        counts = self._counts(rows)
        return {
            name: count / size
            for name, count, size in zip(self.domains, counts, self.sizes, strict=True)
        }

    def told(self, rows: int) -> list[str]:
        """A sentence for the domains of which a run of so many rows repeats the texts often."""
        many = {name: times for name, times in self.repeats(rows).items() if times > MANY}
        said = ", ".join(f"{name} {times:.1f} times" for name, times in many.items())
        return [
            f"The run takes the texts of {said}: more than {MANY:.0f} repeats teach little; give "
            "more texts or a smaller weight."
        ] * bool(many)

    def _counts(self, rows: int) -> NDArray[np.int64]:
        block, offset = divmod(rows, BLOCK)
        rest = np.bincount(self._domains(block)[:offset], minlength=len(self.domains))
        counts: NDArray[np.int64] = self._sums(block) + rest
        return counts

    def _domains(self, block: int) -> NDArray[np.int64]:
        """The domains of the rows of a block, without regard to those before."""
        numbers = np.arange(block * BLOCK, (block + 1) * BLOCK, dtype=np.uint64)
        points = numbers * np.uint64(STEP) + np.uint64(self._start)
        edges = np.array(self._edges, np.uint64)
        return np.searchsorted(edges, points, side="right").astype(np.int64)

    def _sums(self, block: int) -> NDArray[np.int64]:
        """Rows of each domain before a block."""
        while len(self._before) <= block:
            own = np.bincount(self._domains(len(self._before) - 1), minlength=len(self.domains))
            self._before.append(self._before[-1] + own)
        return self._before[block]

    def _dealt(self, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The domain of each row of a block, and how many rows of it came before."""
        domains, turns = self._domains(block), np.empty(BLOCK, np.int64)
        for domain, before in enumerate(self._sums(block)):
            own = np.flatnonzero(domains == domain)
            turns[own] = before + np.arange(len(own))
        return domains, turns

    def _order(self, domain: int, epoch: int) -> NDArray[np.int64]:
        known = self._orders.get(domain)
        if known is None or known[0] != epoch:
            rng = np.random.default_rng((self.seed, domain, epoch))
            known = (epoch, rng.permutation(self.sizes[domain]))
            self._orders[domain] = known
        return known[1]
