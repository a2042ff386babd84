"""JetMoE (arXiv 2404.07413): its router hands the experts sorted rows instead of ids.

Its attention has routers too (mixture of attention heads); the layers here are the feed-forward
ones, the attention routers are neither recorded nor restricted.
"""

from typing import Any

import torch
from torch import Tensor, nn

from model.families.blocks import Block
from model.families.routed import RoutedLayer, RoutedModel, served_ids
from model.families.rules import Chosen, Rule


class JetMoeLayer(RoutedLayer):
    """Listens to the router alone: what it returns says it all."""

    def listen(self, model: RoutedModel, layer: int) -> None:
        def decide(_: nn.Module, __: tuple, output: tuple) -> tuple | None:
            order_S, _rows, gates_S, sizes, logits_NE = output
            model.heard_logits(layer, logits_NE)
            other = model.decided(layer, self._used(order_S, gates_S, sizes))
            return None if other is None else self._as_rows(other, gates_S, logits_NE)

        self.block.router.register_forward_hook(decide)

    def _used(self, order_S: Tensor, gates_S: Tensor, sizes: list[int]) -> Chosen:
        """Ids and weights by token, out of rows that are sorted by expert."""
        counts = torch.tensor(sizes, device=order_S.device)
        sorted_ids_S = torch.repeat_interleave(counts)
        ids_S, weights_S = torch.empty_like(order_S), torch.empty_like(gates_S)
        ids_S[order_S], weights_S[order_S] = sorted_ids_S, gates_S
        return Chosen(ids_S.view(-1, self.top_k), weights_S.view(-1, self.top_k))

    def _as_rows(self, chosen: Chosen, gates_S: Tensor, logits_NE: Tensor) -> tuple:
        """What the router would have returned for this choice."""
        ids_S = served_ids(chosen, chosen.expert_ids_NK).flatten()
        order_S = ids_S.argsort(stable=True)
        sizes = torch.bincount(ids_S, minlength=self.num_experts).tolist()
        weights_S = chosen.gate_weights_NK.flatten()[order_S].to(gates_S.dtype)
        return order_S, order_S // self.top_k, weights_S, sizes, logits_NE


def jetmoe_layers(model: nn.Module) -> list[RoutedLayer]:
    """The feed-forward layers of a JetMoE model."""
    config: Any = model.config
    return [
        JetMoeLayer(
            Block(name, block, block.router, block),
            num_experts=config.num_local_experts,
            top_k=config.num_experts_per_tok,
            num_shared=0,
            rule=Rule("softmax of chosen"),
        )
        for name, block in model.named_modules()
        if type(block).__name__ == "JetMoeMoE"
    ]
