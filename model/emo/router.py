"""The router of one layer: which experts each token may use, which it uses, and the router losses.

Shapes: B rows, T tokens, N = B*T, D documents a row, E experts, R routed, K experts a token,
H hidden size.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from model.emo import objectives
from model.emo.config import EmoConfig
from model.emo.documents import DocumentRouting
from model.emo.restriction import active_mask
from model.emo.routing import (
    Routed,
    document_pools,
    expert_counts,
    load_balancing_loss,
    mean_of_tokens,
    pools_by_mass,
    route,
    router_entropy,
    router_z_loss,
)
from model.native import router as compiled


class EmoRouter(nn.Module):
    """Router of one layer; the row of `weight` of a lone shared expert is never used (A.1)."""

    correction_bias: Tensor | None

    def __init__(self, config: EmoConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.num_experts = config.experts_in_layer(layer_idx)
        self.num_shared = config.num_shared_experts
        self.top_k = min(config.num_experts_per_tok, self.num_experts)
        self.normalise = config.norm_topk_prob
        self.global_balancing = config.load_balancing_scope == "global"
        self.config = config
        self.weight = nn.Parameter(torch.empty(self.num_experts, config.hidden_size))
        routed = self.num_experts - self.num_shared
        self.register_buffer(
            "correction_bias",
            torch.zeros(routed, dtype=torch.float32) if config.correction_bias else None,
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "EmoRouter":
        """As any module, but the bias stays in float32: half precision would round its steps."""
        bias = self.correction_bias
        super()._apply(fn, recurse)
        moved = self.correction_bias
        if bias is not None and moved is not None and moved.dtype != bias.dtype:
            self.correction_bias = bias.to(moved.device)
        return self

    def forward(
        self, hidden_NH: Tensor, documents: DocumentRouting | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Router logits [N, E], gate weights [N, K] and expert ids [N, K]."""
        with torch.autocast(hidden_NH.device.type, enabled=False):
            logits_NE = F.linear(hidden_NH.to(self.weight.dtype), self.weight)
        allowed = self._allowed(logits_NE, documents)
        rule = (self.num_shared, self.top_k, allowed, self.normalise, self.correction_bias)
        routed = route(logits_NE, *rule)
        if documents is not None:
            self._report(documents, logits_NE, routed)
            if self.config.expert_capacity:
                routed = self._within_capacity(routed)
        return logits_NE, routed.gate_weights_NK.to(hidden_NH.dtype), routed.expert_ids_NK

    def _allowed(self, logits_NE: Tensor, documents: DocumentRouting | None) -> Tensor | None:
        """The document pools, the active expert subset, both, or None."""
        subset_R = active_mask(self)
        if documents is None or documents.pool_sizes_LBD is None:
            return subset_R
        with torch.no_grad():
            if subset_R is not None:  # a pool is chosen among the experts that are there
                cut_E = ~F.pad(subset_R, (0, self.num_shared), value=True)
                logits_NE = logits_NE.masked_fill(cut_E, float("-inf"))
            pools_NR = self._pools(logits_NE, documents, documents.pool_sizes_LBD[self.layer_idx])
        return pools_NR if subset_R is None else pools_NR & subset_R

    def _pools(self, logits_NE: Tensor, documents: DocumentRouting, sizes_BD: Tensor) -> Tensor:
        """Each token's pool, [N, R]; compiled for whole documents without padding."""
        segments_BT, real_BT = documents.segments_BT, documents.real_BT
        logits_BTE = logits_NE.view(*segments_BT.shape, -1)
        num_routed = self.num_experts - self.num_shared
        choice = documents.pool_choice or self.config.pool_choice
        if choice == "document" and logits_BTE.is_cuda and real_BT is None:
            from model.kernels import ops

            return ops.document_pools(logits_BTE, segments_BT, sizes_BD, num_routed).flatten(0, 1)
        if choice == "document" and real_BT is None and compiled.fits(logits_BTE):
            num_documents = sizes_BD.shape[1]
            mass_BDR = compiled.document_mass(logits_BTE, segments_BT, num_documents, num_routed)
            return pools_by_mass(mass_BDR, segments_BT, sizes_BD).flatten(0, 1)
        scores_BTR = logits_BTE[..., :num_routed].float().softmax(-1)
        if real_BT is not None:
            scores_BTR = scores_BTR * real_BT.unsqueeze(-1)
        inputs = (scores_BTR, segments_BT, sizes_BD)
        if choice == "causal":
            return objectives.causal_pools(*inputs).flatten(0, 1)
        if choice == "top_p":
            limits = (self.config.pool_top_p, self.config.pool_size_min)
            return objectives.top_p_pools(*inputs, *limits).flatten(0, 1)
        return document_pools(*inputs).flatten(0, 1)

    def _report(self, documents: DocumentRouting, logits_NE: Tensor, routed: Routed) -> None:
        """Add this layer's losses and counts, over all tokens but padding."""
        if documents.real_BT is not None:
            real_N = documents.real_BT.flatten()
            logits_NE, routed = logits_NE[real_N], Routed(*(part[real_N] for part in routed))
        num_routed = self.num_experts - self.num_shared
        slots = self.top_k - self.num_shared
        totals = self._totals(documents, routed, slots)
        if self.config.balancing_rows and self.training:
            balancing = self._balancing_of_groups(documents, routed, slots)
        else:
            scope = (totals[:-1], slots, totals[-1].clamp(min=1))
            balancing = load_balancing_loss(routed.scores_NR, *scope)
        extra, z_loss = self._extra_losses(routed.scores_NR), router_z_loss(routed.lse_N)
        with torch.no_grad():
            entropy_N = router_entropy(logits_NE[:, :num_routed], routed)
        if self.layer_idx in documents.reported:  # run again, for the backward pass
            return
        documents.reported.add(self.layer_idx)
        documents.balancing_losses.append(balancing)
        documents.extra_losses.extend(extra)
        documents.z_losses.append(z_loss)
        documents.counts_R.append(totals[:-1])
        documents.entropies.append(mean_of_tokens(entropy_N))

    def _totals(self, documents: DocumentRouting, routed: Routed, slots: int) -> Tensor:
        """Slots of each routed expert and, last, tokens, over all that balance is demanded of."""
        known = documents.totals.get(self.layer_idx)
        if known is not None:
            return known
        num_routed = self.num_experts - self.num_shared
        counts_R = expert_counts(routed.expert_ids_NK[:, :slots], num_routed)
        # Filled, not copied: a copy from the host would stop a CUDA graph from being captured.
        tokens_1 = counts_R.new_full((1,), routed.scores_NR.shape[0])
        totals = torch.cat([counts_R, tokens_1])
        if self.global_balancing and dist.is_available() and dist.is_initialized():
            dist.all_reduce(totals)
        documents.totals[self.layer_idx] = totals
        return totals

    def _balancing_of_groups(
        self, documents: DocumentRouting, routed: Routed, slots: int
    ) -> Tensor:
        rows, size = len(documents.segments_BT), self.config.balancing_rows
        if documents.real_BT is not None or rows % size:
            raise ValueError(
                f"balancing_rows={size} needs rows without padding, a multiple of {size} a step, "
                f"not {rows}."
            )
        ids_NS = routed.expert_ids_NK[:, :slots]
        return objectives.grouped_balancing_loss(routed.scores_NR, ids_NS, rows // size)

    def _within_capacity(self, routed: Routed) -> Routed:
        """What the experts have room for; the reports are of what was asked of them."""
        slots, num_routed = self.top_k - self.num_shared, self.num_experts - self.num_shared
        ids_NK = routed.expert_ids_NK
        kept_NS = objectives.within_capacity(
            ids_NK[:, :slots], num_routed, self.config.expert_capacity
        )
        return routed._replace(expert_ids_NK=torch.cat([kept_NS, ids_NK[:, slots:]], 1))

    def _extra_losses(self, scores_NR: Tensor) -> list[Tensor]:
        """The weighted losses of this layer that the config asks for: one number, or none."""
        weighted = (
            (self.config.expert_overlap_coef, objectives.expert_overlap),
            (self.config.lost_information_coef, objectives.lost_information),
        )
        asked = [weight * loss(scores_NR) for weight, loss in weighted if weight]
        return [torch.stack(asked).sum()] if asked else []
