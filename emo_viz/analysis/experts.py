"""What every expert of a run is used for: its load, and how it divides over domains.

Everything here is of a document-level recording: for each document the share of its expert choices
that an expert has. The model is not needed.

Shapes: D documents, L layers, R routed experts of the largest layer, G domains.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from emo_viz.trace import Trace

Floats = NDArray[np.float64]
SHUFFLES = 200
SEED = 0
CONFIDENCE = 0.95


@dataclass(frozen=True)
class ExpertUse:
    """How one run's experts are used.

    numbers [L]: the model's own number of each layer. routed [L]: its experts. shares [D, L, R]:
    of a document's expert choices in a layer; each layer sums to 1 (0 throughout where it has no
    router). weights [D]: the document's tokens, or 1 where they are not known. of_choices: the
    shares are of choices, else of router probability. domain_of [D]: a place in `domains`, which
    is empty where the recording has none.
    """

    numbers: tuple[int, ...]
    routed: tuple[int, ...]
    shares: NDArray[np.float32]
    weights: Floats
    of_choices: bool
    domains: tuple[str, ...]
    domain_of: NDArray[np.int64]
    ids: tuple[str, ...]

    @cached_property
    def load(self) -> Floats:
        """Share of all choices of a layer [L, R], documents weighed by their tokens."""
        flat = self.shares.reshape(len(self.shares), -1)
        load: Floats = self.weights @ flat / self.weights.sum()
        return load.reshape(self.shares.shape[1:])

    @property
    def times_even(self) -> Floats:
        """Load over that of even use [L, R]: 1 where all experts of a layer serve as much."""
        times: Floats = self.load * np.asarray(self.routed, np.float64)[:, None]
        return times

    @cached_property
    def affinity(self) -> Floats:
        """Share of a domain's choices in a layer that an expert has [G, L, R]."""
        return self._by_domain(self.domain_of)

    @cached_property
    def domain_shares(self) -> Floats:
        """How an expert's choices divide over the domains, all domains weighed the same
        [G, L, R]; 0 throughout for an expert that nothing chose."""
        return over_domains(self.affinity)

    @property
    def entropy(self) -> Floats:
        """Of `domain_shares`, in nats [L, R]: 0 for an expert of one domain, ln G for one that
        serves all alike, NaN for one that nothing chose."""
        return entropy(self.domain_shares)

    def spread_by_chance(self, shuffles: int = 20) -> float:
        """Median `entropy` of the experts, in nats, where whole documents are dealt to domains at
        random: what it would be if an expert knew documents but no domains."""
        rng = np.random.default_rng(SEED)
        found = [
            entropy(over_domains(self._by_domain(rng.permutation(self.domain_of))))
            for _ in range(shuffles)
        ]
        return float(np.nanmedian(np.stack(found)[:, self.there]))

    def null(self, layer: int, expert: int, shuffles: int = SHUFFLES) -> Floats:
        """`affinity` of one expert where whole documents are dealt to domains at random
        [shuffles, G]."""
        rng = np.random.default_rng(SEED)
        own = self.shares[:, layer, expert] * self.weights
        dealt = [rng.permutation(self.domain_of) for _ in range(shuffles)]
        groups = len(self.domains)
        sums = [np.bincount(each, own, groups) for each in dealt]
        totals = [np.bincount(each, self.weights, groups) for each in dealt]
        return np.stack(sums) / np.stack(totals)

    def alike(self, layer: int, expert: int) -> Floats:
        """What one expert has in common with every other one [L, R], 0 to 1: how the choices of
        both divide over the documents."""
        own = self.shares * self.weights.astype(np.float32)[:, None, None]
        sums = own.sum(axis=0)
        own /= np.where(sums > 0, sums, 1)
        common: Floats = np.minimum(own[:, layer, expert, None, None], own).sum(axis=0, dtype=float)
        return common

    @cached_property
    def there(self) -> NDArray[np.bool_]:
        """Which experts there are [L, R]: layers may have fewer than R."""
        return np.arange(self.shares.shape[2]) < np.asarray(self.routed)[:, None]

    @property
    def documents(self) -> int:
        return len(self.shares)

    def place(self, number: int) -> int:
        """Of the layer of this number in the arrays. Raises ValueError if it is not recorded."""
        return self.numbers.index(number)

    def _by_domain(self, domain_of: NDArray[np.int64]) -> Floats:
        member = np.zeros((len(self.domains), len(self.shares)))
        member[domain_of, np.arange(len(self.shares))] = self.weights
        member /= np.maximum(member.sum(axis=1, keepdims=True), 1e-12)
        flat = member.astype(np.float32) @ self.shares.reshape(len(self.shares), -1)
        return flat.astype(np.float64).reshape(-1, *self.shares.shape[1:])


def over_domains(affinity: Floats) -> Floats:
    """Affinities [G, L, R] scaled so that every expert's sum to 1 over the domains."""
    sums = affinity.sum(axis=0, keepdims=True)
    scaled: Floats = affinity / np.where(sums > 0, sums, 1)
    return scaled


def entropy(shares: Floats) -> Floats:
    """Entropy in nats over the first axis; NaN where all shares are 0."""
    logs = np.log(np.where(shares > 0, shares, 1))
    found: Floats = np.where(shares.sum(axis=0) > 0, -(shares * logs).sum(axis=0), np.nan)
    return found


def use_of(trace: "Trace") -> ExpertUse:
    """What a trace says of its experts. Raises Absent if it has neither choices nor usage."""
    facts, model = trace.facts, trace.manifest.model
    of_choices = trace.has("activation")
    raw = np.asarray(trace.activation if of_choices else trace.usage, np.float32)
    sums = raw.sum(axis=2, keepdims=True)
    known = trace.has("n_tokens")
    weights = facts["n_tokens"].fillna(0).to_numpy(float) if known else np.ones(len(facts))
    names = [str(name) for name in facts["domain"].fillna("")] if trace.has("domain") else []
    domains, domain_of = np.unique(np.array(names, str), return_inverse=True)
    return ExpertUse(
        numbers=tuple(model.own_layers),
        routed=tuple(model.routed),
        shares=(raw / np.where(sums > 0, sums, 1)).astype(np.float32),
        weights=weights if weights.sum() > 0 else np.ones(len(facts)),
        of_choices=of_choices or trace.manifest.usage_of == "choices",
        domains=tuple(map(str, domains)),
        domain_of=np.asarray(domain_of, np.int64),
        ids=tuple(map(str, facts["id"])),
    )


def top(values: NDArray[Any], most: int) -> NDArray[np.int64]:
    """Places of the largest values of a row, falling; those of 0 or less are left out."""
    order = np.argsort(-values, kind="stable")[:most]
    kept: NDArray[np.int64] = order[values[order] > 0]
    return kept


def profile_overlap(profile: Floats, shares: Floats) -> Floats:
    """What a profile over domains [G] has in common with each of `shares` [G, L, R], 0 to 1."""
    common: Floats = np.minimum(profile[:, None, None], shares).sum(axis=0)
    return common
