"""Encoder-decoder families whose experts take a limited number of tokens: Switch, NLLB-MoE.

Switch (arXiv 2101.03961): top-1, and a sequence's tokens beyond an expert's capacity are dropped.
NLLB-MoE stands for GShard (2006.16668): top-2.

Shapes: B sequences, T tokens, N = B*T, E experts.
"""

import torch
from torch import Tensor, nn

from model.families.blocks import moe_blocks
from model.families.routed import RoutedLayer, RoutedModel
from model.families.rules import DROPPED, Chosen, Rule


class SwitchLayer(RoutedLayer):
    """Experts are called with a one-hot choice [N, 1, E], zero for a dropped token."""

    def listen(self, model: RoutedModel, layer: int) -> None:
        def decide(_: nn.Module, args: tuple) -> tuple | None:
            hidden, one_hot_N1E, weights_N1 = args
            full_N1 = one_hot_N1E.sum(-1) > 0
            ids_N1 = one_hot_N1E.argmax(-1).masked_fill(~full_N1, DROPPED)
            other = model.decided(layer, Chosen(ids_N1, weights_N1.masked_fill(~full_N1, 0)))
            if other is None:
                return None
            empty_N1 = other.expert_ids_NK == DROPPED
            one_hot_N1E = nn.functional.one_hot(other.expert_ids_NK.clamp(min=0), self.num_experts)
            one_hot_N1E = one_hot_N1E.masked_fill(empty_N1.unsqueeze(-1), 0)
            return hidden, one_hot_N1E, other.gate_weights_NK.to(weights_N1.dtype)

        self.block.router.register_forward_hook(
            lambda _, __, out: model.heard_logits(layer, out[2])
        )
        self.block.experts.register_forward_pre_hook(decide)

    def choose(self, logits_BTE: Tensor, allowed_E: Tensor | None) -> Chosen:
        """Tokens of a sequence in their order; those beyond an expert's capacity are DROPPED."""
        assert self.rule is not None
        chosen = self.rule.choose(logits_BTE.flatten(0, 1), 1, allowed_E)
        one_hot_NE = nn.functional.one_hot(chosen.expert_ids_NK[:, 0], self.num_experts)
        one_hot_BTE = one_hot_NE.view(logits_BTE.shape)
        over_BTE = one_hot_BTE.cumsum(1) * one_hot_BTE > self.block.router.expert_capacity
        over_N1 = over_BTE.any(-1).view(-1, 1)
        return Chosen(
            chosen.expert_ids_NK.masked_fill(over_N1, DROPPED),
            chosen.gate_weights_NK.masked_fill(over_N1, 0),
        )


class NllbLayer(RoutedLayer):
    """As transformers runs it: the first choice goes to expert 1, the second to expert 0.

    Its router hands on a mask of zeros and ones where the experts read ids (transformers 5.23), so
    that the id of the expert that was chosen has no effect. The tape says what was really used;
    leaving experts out of it would mean nothing and is refused. An expert's capacity is that for
    all tokens of a batch, padding too.
    """

    alone = True

    def listen(self, model: RoutedModel, layer: int) -> None:
        def decide(_: nn.Module, args: tuple) -> None:
            _hidden, first_NE, weights_NE = args
            first_NE = first_NE.bool()
            weights_N2 = torch.stack(
                [(weights_NE * first_NE).sum(-1), (weights_NE * ~first_NE).sum(-1)], -1
            )
            ids_N2 = torch.tensor([1, 0], device=weights_N2.device).expand(weights_N2.shape)
            ids_N2 = ids_N2.masked_fill(weights_N2 == 0, DROPPED)
            model.decided(layer, Chosen(ids_N2, weights_N2))

        self.block.router.register_forward_hook(
            lambda _, __, out: model.heard_logits(layer, out[2])
        )
        self.block.experts.register_forward_pre_hook(decide)

    def check_restrictable(self) -> None:
        raise ValueError(
            "NLLB-MoE cannot be cut: transformers sends every token to experts 1 and 0, whatever "
            "its router chose; its routing can be recorded."
        )


def switch_layers(model: nn.Module) -> list[RoutedLayer]:
    """The sparse layers of encoder and decoder, in this order."""
    return [
        SwitchLayer(block, block.router.num_experts, 1, 0, Rule("softmax"))
        for block in moe_blocks(model)
    ]


def nllb_layers(model: nn.Module) -> list[RoutedLayer]:
    """The sparse layers of encoder and decoder, in this order."""
    rule = Rule("softmax", norm=1.0)
    return [NllbLayer(block, block.router.num_experts, 2, 0, rule) for block in moe_blocks(model)]
