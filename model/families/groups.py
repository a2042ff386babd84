"""Groups of experts that a router chooses among first (DeepSeek-V3, arXiv 2412.19437)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

LEAST_OF_GROUP = 2  # a group is as good as its best two


@dataclass(frozen=True)
class Groups:
    """G groups of equally many neighbouring experts, the best `kept` of which a token may use."""

    number: int = 1
    kept: int = 1
    known: bool = False

    def cut(self, kept: Sequence[Sequence[int]], experts: int) -> "Groups | None":
        """Those of a model that has some experts alone, None if none choose as the whole does.

        Either every layer has experts of `kept` groups at most, so that all of them are always
        allowed, or equally many of every group that is left, and equally many groups.
        """
        size = experts // self.number
        layers = [Counter(expert // size for expert in layer) for layer in kept]
        if all(len(layer) <= self.kept for layer in layers):
            return Groups(1, 1, self.known)
        left = {(len(layer), count) for layer in layers for count in layer.values()}
        if len(left) > 1 or min(left)[1] < LEAST_OF_GROUP:
            return None
        number = min(left)[0]
        return Groups(number, min(self.kept, number), self.known)


UNGROUPED = Groups()


def groups_of(config: Any) -> Groups:
    """The groups of experts that a config's routers choose among first."""
    told = config.get_text_config()
    number, kept = getattr(told, "n_group", None), getattr(told, "topk_group", None)
    if isinstance(number, int) and isinstance(kept, int) and number > 0 and kept > 0:
        return Groups(number, kept, True)
    return UNGROUPED
