"""How each architecture routes: where its routers are, what they chose, and how to restrict them.

`routed(model)` is the one entry: it finds the family of a loaded model and gives its layers, a tape
of what they really used, and a live restriction to some experts. Nothing else knows which family a
model has.
"""

from model.families.registry import KNOWN, routed
from model.families.routed import RoutedModel, Tape

__all__ = ["KNOWN", "RoutedModel", "Tape", "routed"]
