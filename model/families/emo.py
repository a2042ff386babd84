"""EMO and its standard twin: softmax over the routed experts; the shared ones are the last ids."""

from dataclasses import dataclass

from torch import Tensor, nn

from model.emo.routing import route
from model.families.blocks import moe_blocks
from model.families.routed import FusedLayer, RoutedLayer
from model.families.rules import DROPPED, Chosen, Rule


@dataclass(eq=False)
class EmoLayer(FusedLayer):
    """num_experts and top_k count the shared experts, as the released configs do."""

    @property
    def num_routed(self) -> int:
        """Without the shared experts, which have the last ids."""
        return self.num_experts - self.num_shared

    @property
    def num_chosen(self) -> int:
        """Without the shared experts."""
        return self.top_k - self.num_shared

    def choose(self, logits_NE: Tensor, allowed_E: Tensor | None) -> Chosen:
        """Shared experts always stay, whatever `allowed_E` says of them."""
        num_routed = self.num_routed
        allowed_R = None if allowed_E is None else allowed_E[:num_routed]
        router = self.block.router
        rule = (self.num_shared, self.top_k, allowed_R, router.normalise, router.correction_bias)
        routed = route(logits_NE, *rule)
        if allowed_E is None:
            return Chosen(routed.expert_ids_NK, routed.gate_weights_NK)
        stays_E = allowed_E.clone()
        stays_E[num_routed:] = True
        gone_NK = ~stays_E[routed.expert_ids_NK]
        return Chosen(
            routed.expert_ids_NK.masked_fill(gone_NK, DROPPED),
            routed.gate_weights_NK.masked_fill(gone_NK, 0),
        )


def emo_layers(model: nn.Module) -> list[RoutedLayer]:
    """The layers with routers of an EmoForCausalLM."""
    return [
        EmoLayer(
            block,
            num_experts=block.experts.num_experts,
            top_k=block.router.top_k,
            num_shared=block.router.num_shared,
            rule=Rule("softmax"),
        )
        for block in moe_blocks(model)
    ]
