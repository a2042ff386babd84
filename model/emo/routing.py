"""Routing as pure functions: document segments, document pools, top-k, the two router losses.

Vectorised, without a loop over documents or experts and without a host sync. Semantics: paper
(arXiv 2605.06663) sections 3.1-3.2 and appendix A.1, and the released training router.

Shapes: B rows, T tokens a row, N = B*T tokens, D documents a row (at most), E experts,
R routed experts (E less the shared ones, which are the last ids), K experts a token, S of them
routed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from model.native import router as compiled
from model.native.router import top_k_ids

EosSide = Literal["next", "own"]
NO_POOL = 2**31 - 1  # a pool size that no number of experts reaches


class Routed(NamedTuple):
    """What a router decided for N tokens; lse is the log-sum-exp of the (masked) routed logits."""

    gate_weights_NK: Tensor
    expert_ids_NK: Tensor
    scores_NR: Tensor
    lse_N: Tensor


def document_segments(
    input_ids_BT: Tensor,
    eos_token_id: int | Sequence[int],
    eos_side: EosSide = "next",
    real_BT: Tensor | None = None,
) -> Tensor:
    """Number the documents of each packed row, from 0: int64 [B, T].

    With `eos_side="next"` (as the released models were trained) an end-of-text token opens the
    next document, so that a row ending in one closes with a one-token segment, and one at
    position 0 opens nothing. With "own" it closes its own document. `real_BT` is false for padding,
    which is of no document, whatever its number, and opens none.
    """
    if isinstance(eos_token_id, int):
        starts_BT = input_ids_BT == eos_token_id
    else:
        starts_BT = torch.isin(input_ids_BT, input_ids_BT.new_tensor(eos_token_id))
    if eos_side == "own":
        starts_BT = torch.roll(starts_BT, 1, dims=1)
    return _number(starts_BT, real_BT)


def segments_from_positions(position_ids_BT: Tensor, real_BT: Tensor | None = None) -> Tensor:
    """The same from positions: a document opens where they do not go on by one: int64 [B, T].

    Where a row has padding (false in `real_BT`) they may jump over it, and a document opens where
    they do not grow.
    """
    if real_BT is None:
        starts_BT = position_ids_BT.diff(dim=1, prepend=position_ids_BT[:, :1]) != 1
        return _number(starts_BT, None)
    index_T = torch.arange(position_ids_BT.shape[1], device=position_ids_BT.device)
    last_real_BT = torch.where(real_BT, index_T, 0).cummax(1).values
    before_BT = last_real_BT.roll(1, dims=1)
    return _number(position_ids_BT <= position_ids_BT.gather(1, before_BT), real_BT)


def _number(starts_BT: Tensor, real_BT: Tensor | None) -> Tensor:
    """Documents opened so far; the first token of a row, or the first that is real, opens none."""
    starts_BT = starts_BT.long()
    if real_BT is not None:
        starts_BT *= real_BT & (real_BT.cumsum(1) != 1)
    starts_BT[:, 0] = 0
    return starts_BT.cumsum(1)


def is_padding(attention_mask: object) -> bool:
    """Whether a mask is one number a token, 0 for padding; another kind says who sees whom."""
    return isinstance(attention_mask, Tensor) and attention_mask.dim() == 2


def real_tokens(attention_mask: Tensor | None) -> Tensor | None:
    """Which tokens a mask [B, T] does not call padding: bool [B, T]; None if all are real."""
    if attention_mask is None or not is_padding(attention_mask):
        return None
    real_BT = attention_mask != 0
    # A compiled graph cannot ask what a tensor holds.
    return None if not torch.compiler.is_compiling() and bool(real_BT.all()) else real_BT


def positions_in_segment(segments_BT: Tensor, real_BT: Tensor | None = None) -> Tensor:
    """Position of each token inside its document, from 0 and not counting padding: int64 [B, T]."""
    index_T = torch.arange(segments_BT.shape[1], device=segments_BT.device)
    if real_BT is not None:
        count_BT = real_BT.cumsum(1) - 1
        opens_BT = real_BT & ((count_BT == 0) | (segments_BT != segments_BT.roll(1, dims=1)))
        start_BT = torch.where(opens_BT, count_BT, 0).cummax(1).values
        return (count_BT - start_BT).clamp(min=0)
    is_start_BT = torch.ones_like(segments_BT, dtype=torch.bool)
    is_start_BT[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    start_BT = torch.where(is_start_BT, index_T, 0).cummax(1).values
    return index_T - start_BT


def document_pools(scores_BTR: Tensor, segments_BT: Tensor, pool_sizes_BD: Tensor) -> Tensor:
    """Each token's document pool: bool [B, T, R], true for the experts its document may use.

    A document's pool is the `pool_size` experts with the largest router probability summed over
    the document's tokens; a size of R or more keeps all (section 3.1). Ties go to the lower id.
    """
    B, T, R = scores_BTR.shape
    segments_BTR = segments_BT.unsqueeze(-1).expand(B, T, R)
    mass_BDR = scores_BTR.new_zeros(B, pool_sizes_BD.shape[1], R)
    mass_BDR.scatter_add_(1, segments_BTR, scores_BTR)
    return pools_by_mass(mass_BDR, segments_BT, pool_sizes_BD)


def pools_by_mass(mass_BDR: Tensor, segments_BT: Tensor, pool_sizes_BD: Tensor) -> Tensor:
    """The same, given the sums over the tokens of each document."""
    B, D, R = mass_BDR.shape
    order_BDR = mass_BDR.argsort(dim=-1, descending=True, stable=True)
    rank_BDR = order_BDR.argsort(dim=-1)
    keep_BDR = rank_BDR < pool_sizes_BD.unsqueeze(-1)
    first_B1 = torch.arange(B, device=segments_BT.device).unsqueeze(1) * D
    keep_NR = keep_BDR.view(-1, R).index_select(0, (segments_BT + first_B1).flatten())
    return keep_NR.view(*segments_BT.shape, R)


@dataclass(frozen=True)
class PoolSizes:
    """How the size of a document's pool is drawn in training (section 3.1).

    Uniform over smallest..largest inclusive, or with `log_uniform` as often between 8 and 16 as
    between 64 and 128. With `per_layer` (as the released models were trained) every layer draws
    its own, so that hardly a document has small pools throughout; else one draw serves all layers.
    `free_share` of the draws give no pool: all routed experts stay. Raises ValueError for sizes
    and a share that cannot be drawn.
    """

    smallest: int
    largest: int
    log_uniform: bool = False
    per_layer: bool = True
    free_share: float = 0.0

    def __post_init__(self) -> None:
        if not (1 <= self.smallest <= self.largest and 0 <= self.free_share <= 1):
            raise ValueError(
                f"Pools of {self.smallest} to {self.largest} experts, none for a share of "
                f"{self.free_share}, cannot be drawn."
            )

    # A compiled model of texts of several lengths has no numbers for the shape while it is traced.
    @torch.compiler.disable
    def draw(self, shape: tuple[int, int, int], generator: torch.Generator | None = None) -> Tensor:
        """Sizes for (layers, rows, documents): int64, NO_POOL where all experts stay."""
        layers, *documents = shape
        drawn = (layers if self.per_layer else 1, *documents)
        sizes = self._sizes(drawn, generator)
        if self.free_share:
            free = torch.rand(drawn, generator=generator) < self.free_share
            sizes = sizes.masked_fill(free, NO_POOL)
        return sizes.expand(shape).contiguous()

    def _sizes(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        share = torch.rand(shape, generator=generator)
        ends = (self.smallest, self.largest + 1)
        if self.log_uniform:
            start, end = map(math.log, ends)
            sizes = (start + share * (end - start)).exp()
        else:
            start, end = ends
            sizes = start + share * (end - start)
        return sizes.long().clamp(self.smallest, self.largest)


def route(
    logits_NE: Tensor,
    num_shared: int,
    top_k: int,
    allowed_NR: Tensor | None = None,
    normalise: bool = False,
    bias_R: Tensor | None = None,
) -> Routed:
    """Choose K experts a token: the `top_k - num_shared` likeliest routed ones, then the shared.

    Gate weights are the softmax over the allowed routed experts, not renormalised over the chosen
    unless `normalise` says so (norm_topk_prob). A shared expert has weight 1 (appendix A.1);
    several share it by the softmax of their own logits, as the released code runs. `allowed_NR` (or
    anything that broadcasts to it) masks experts before the softmax: a document pool, an expert
    subset, or both. `bias_R` is added to the scores for the choice alone, not to the weights
    (DeepSeek-V3, arXiv 2412.19437, section 2.1.2). A token with a logit that is not a number gets
    weights that are none either.
    """
    N, E = logits_NE.shape
    num_routed = E - num_shared
    slots = top_k - num_shared
    inputs = (logits_NE, num_routed, slots, allowed_NR)
    if bias_R is None and compiled.fits(logits_NE, allowed_NR) and slots <= num_routed:
        scores_NR, weights_NS, ids_NS, lse_N = compiled.choose(*inputs)
    else:
        scores_NR, weights_NS, ids_NS, lse_N = _choose(*inputs, bias_R)
    if normalise:
        weights_NS = weights_NS / weights_NS.sum(1, keepdim=True)
    shared_ids = torch.arange(num_routed, E, device=ids_NS.device).expand(N, num_shared)
    gate_weights_NK = torch.cat([weights_NS, _shared_weights(logits_NE, num_shared)], 1)
    return Routed(gate_weights_NK, torch.cat([ids_NS, shared_ids], 1), scores_NR, lse_N)


def _choose(
    logits_NE: Tensor, num_routed: int, slots: int, allowed_NR: Tensor | None, bias_R: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores [N, R], weights and ids of the chosen [N, S], lse [N]; see `compiled.choose`."""
    logits_NR = logits_NE[:, :num_routed].float()
    if allowed_NR is not None:
        logits_NR = logits_NR.masked_fill(~allowed_NR, float("-inf"))
    scores_NR = logits_NR.softmax(-1)
    ids_NS = _chosen(scores_NR.detach(), slots, allowed_NR, bias_R)
    weights_NS = scores_NR.gather(1, ids_NS)
    if bias_R is None:  # two numbers a token give what a pass over all logits would
        lse_N = logits_NR.gather(1, ids_NS[:, :1]).squeeze(1) - weights_NS[:, 0].log()
    else:  # the chosen may have scores of 0
        lse_N = logits_NR.logsumexp(-1)
    return scores_NR, weights_NS, ids_NS, lse_N


def _chosen(
    scores_NR: Tensor, slots: int, allowed_NR: Tensor | None, bias_R: Tensor | None
) -> Tensor:
    """Ids of the routed experts of every token by falling score, whatever the bias chose."""
    choice_NR = scores_NR if bias_R is None else scores_NR + bias_R
    if allowed_NR is not None:  # the score of one that is allowed may be 0 too
        choice_NR = choice_NR.masked_fill(~allowed_NR, float("-inf"))
    if bias_R is None:
        return top_k_ids(choice_NR, slots)
    ids = top_k_ids(choice_NR, slots)
    order = scores_NR.gather(1, ids).argsort(dim=1, descending=True, stable=True)
    return ids.gather(1, order)


def _shared_weights(logits_NE: Tensor, num_shared: int) -> Tensor:
    if num_shared > 1:
        return logits_NE[:, -num_shared:].float().softmax(-1)
    # The softmax of one logit, and its gradient: exactly 1 and 0.
    return logits_NE.new_ones(len(logits_NE), num_shared, dtype=torch.float32)


def expert_counts(routed_ids: Tensor, num_routed: int) -> Tensor:
    """Slots that each routed expert received: float32 [R]."""
    flat = routed_ids.reshape(-1)
    counts_R = torch.zeros(num_routed, dtype=torch.float32, device=flat.device)
    return counts_R.scatter_add_(0, flat, torch.ones_like(flat, dtype=counts_R.dtype))


def load_balancing_loss(
    scores_NR: Tensor, counts_R: Tensor, slots_per_token: int, num_tokens: int | Tensor
) -> Tensor:
    """Switch-style balancing loss: 1 for uniform routing (appendix A.1).

    `counts_R` and `num_tokens` cover the scope over which balance is demanded (all ranks for the
    global scope); the gradient flows through this rank's mean scores alone.
    """
    share_R = counts_R / (slots_per_token * num_tokens)
    return scores_NR.shape[-1] * torch.dot(share_R, mean_of_tokens(scores_NR))


def router_z_loss(lse_N: Tensor) -> Tensor:
    """Mean squared log-sum-exp of the (masked) routed logits (appendix A.1)."""
    return mean_of_tokens(lse_N.square())


def mean_of_tokens(values: Tensor) -> Tensor:
    """The mean over the first axis; 0 where there are no tokens, as on a rank of padding alone."""
    return values.sum(0) / max(1, len(values))


def router_entropy(logits_NR: Tensor, routed: Routed) -> Tensor:
    """Entropy of each token's scores in nats, without a second logarithm of them all: [N]."""
    return routed.lse_N - torch.linalg.vecdot(routed.scores_NR, logits_NR.float())
