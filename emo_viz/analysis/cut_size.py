"""How large a model is with some of its experts, and what that is worth when it writes.

Shapes: L layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

STEP_TEXTS = 64  # texts that are written at once in the modelled step


@dataclass(frozen=True)
class Weights:
    """parameters: of the whole model. expert: of one expert of each layer [L], its row of the
    router counted; 0 in a layer without a router. experts: in each layer [L], shared ones counted.
    per_token: experts that a token uses; shared: those of them that it always uses.
    """

    parameters: int
    expert: tuple[int, ...]
    experts: tuple[int, ...]
    per_token: int
    shared: int = 0

    def kept(self, keep_k: int) -> int:
        """Parameters with keep_k experts a layer; a layer that has fewer keeps all its own."""
        cut = [max(0, number - keep_k) for number in self.experts]
        return self.parameters - sum(n * size for n, size in zip(cut, self.expert, strict=True))

    def speed(self, keep_k: int, texts: int = STEP_TEXTS) -> float:
        """How many times as fast as the whole model, as modelled.

        A step that writes one token for each of some texts reads every weight that it uses once
        and is bound by that; the tokens spread evenly over the experts that are there.
        """
        return self._read(max(self.experts), texts) / self._read(keep_k, texts)

    def _read(self, keep_k: int, texts: int) -> float:
        """Parameters that one step reads."""
        outside = self.parameters - sum(
            number * size for number, size in zip(self.experts, self.expert, strict=True)
        )
        pairs = zip(self.experts, self.expert, strict=True)
        used = [self._used(min(keep_k, number), texts) * size for number, size in pairs]
        return outside + sum(used)

    def _used(self, kept: int, texts: int) -> float:
        """Experts of a layer that at least one token of the step uses, on average."""
        routed, slots = kept - self.shared, min(self.per_token, kept) - self.shared
        if routed <= 0:
            return float(kept)
        return self.shared + routed * (1 - (1 - slots / routed) ** texts)


def uniform_weights(
    parameters: int, expert: Sequence[int], experts: Sequence[int], per_token: int, shared: int
) -> Weights | None:
    """`Weights`; None where the experts were not found in all layers that have some."""
    known = len(expert) == sum(number > 0 for number in experts)
    if not known or not experts:
        return None
    sizes = iter(expert)
    by_layer = tuple(next(sizes) if number else 0 for number in experts)
    return Weights(parameters, by_layer, tuple(experts), per_token, shared)
