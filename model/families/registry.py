"""The family of a model, by its config's model_type."""

from collections.abc import Callable
from typing import Any

from torch import nn

from model.families.capacity import nllb_layers, switch_layers
from model.families.emo import emo_layers
from model.families.fused import RULES, fused_layers
from model.families.guess import find_rules, guessed_layers
from model.families.jetmoe import jetmoe_layers
from model.families.routed import RoutedLayer, RoutedModel

KNOWN: dict[str, Callable[[nn.Module], list[RoutedLayer]]] = {
    **dict.fromkeys(RULES, fused_layers),
    "emo": emo_layers,
    "jetmoe": jetmoe_layers,
    "switch_transformers": switch_layers,
    "nllb-moe": nllb_layers,
}


def routed(model: nn.Module) -> RoutedModel:
    """A loaded transformers model as its routers. Call it once for a model: it sets hooks.

    Raises ValueError if the model has no layer with a router that can be found.
    """
    config: Any = model.config
    family = str(config.model_type)
    if family in KNOWN:
        return RoutedModel(model, family, _some(KNOWN[family](model), family))
    found = RoutedModel(model, family, _some(guessed_layers(model), family), guessed=True)
    find_rules(found)
    return found


def _some(layers: list[RoutedLayer], family: str) -> list[RoutedLayer]:
    if not layers:
        raise ValueError(
            f"No layer with a router was found in this model of type {family!r}; known families "
            f"are {', '.join(sorted(KNOWN))}, others need blocks with a gate and fused experts."
        )
    return layers
