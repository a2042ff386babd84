"""Models of families that nobody has described: routers found by their place and shape.

The rule is found by trial: the one that gives the experts and gate weights that the model itself
used on a few random tokens. Where none does, the routing can be recorded and not restricted.
"""

from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from model.families.blocks import count_experts, moe_blocks
from model.families.groups import groups_of
from model.families.routed import FusedLayer, RoutedLayer, RoutedModel, Tape
from model.families.rules import Rule, Score

SCORES: tuple[Score, ...] = ("softmax", "sigmoid", "softmax of chosen")
PROBE_TOKENS = 16
TOLERANCE = 1e-4


def guessed_layers(model: nn.Module) -> list[RoutedLayer]:
    """Blocks whose router's weight has a row for each of their fused experts; rules not known."""
    layers: list[RoutedLayer] = []
    for block in moe_blocks(model):
        count = count_experts(block.experts)
        if count and any(weight.shape[0] == count for weight in block.router.parameters()):
            layers.append(FusedLayer(block, count, 0, 0, None))
    return layers


def find_rules(routed: RoutedModel) -> None:
    """Set top_k and rule of every layer by what the model does with a few random tokens."""
    tape = _probe(routed)
    for number, layer in enumerate(routed.layers):
        if number in tape.expert_ids:
            layer.top_k = tape.expert_ids[number].shape[1]
            layer.rule = _fitting(layer, tape, number, routed.model.config)


@torch.no_grad()
def _probe(routed: RoutedModel) -> Tape:
    generator = torch.Generator().manual_seed(0)
    model: Any = routed.model
    weight_VH = model.get_input_embeddings().weight
    ids_1T = torch.randint(len(weight_VH), (1, PROBE_TOKENS), generator=generator)
    training = model.training
    model.eval()
    try:
        with routed.recorded() as tape:
            model(input_ids=ids_1T.to(weight_VH.device), use_cache=False)
    finally:
        model.train(training)
    return tape


def _fitting(layer: RoutedLayer, tape: Tape, number: int, config: Any) -> Rule | None:
    """The first candidate that repeats what the layer did."""
    logits_NE = tape.router_logits.get(number)
    if logits_NE is None or logits_NE.shape[-1] != layer.num_experts:
        return None
    wanted = _dense(tape.expert_ids[number], tape.gate_weights[number], layer.num_experts)
    for rule in _candidates(config):
        chosen = rule.choose(logits_NE, layer.top_k, None, layer.bias())
        found = _dense(chosen.expert_ids_NK, chosen.gate_weights_NK, layer.num_experts)
        if torch.allclose(found, wanted, atol=TOLERANCE, rtol=TOLERANCE):
            return rule
    return None


def _candidates(config: Any) -> list[Rule]:
    scale = float(getattr(config, "routed_scaling_factor", None) or 1.0)
    groups = groups_of(config)
    plain = [Rule(score, norm) for score, norm in product(SCORES, (None, 1.0))]
    grouped = [replace(rule, groups=groups.number, groups_kept=groups.kept) for rule in plain]
    return [*plain, *(replace(rule, scale=scale) for rule in (*plain, *grouped))]


def _dense(ids_NK: Tensor, weights_NK: Tensor, num_experts: int) -> Tensor:
    """Gate weight of every expert [N, E]: the same for the same choice in any order."""
    dense_NE = weights_NK.new_zeros(len(ids_NK), num_experts, dtype=torch.float32)
    return dense_NE.scatter_add_(1, ids_NK.clamp(min=0).long(), weights_NK.float())
