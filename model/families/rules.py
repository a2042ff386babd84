"""From router logits to experts and gate weights: the rules that the known families follow.

A rule is data, and `choose` carries it out with any experts left out, as if these had been deleted.
With none left out it gives what the model itself gave: the tests hold every family to that.

Shapes: N tokens, E experts that the router chooses among, K experts a token, G groups of experts.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Score = Literal["softmax", "sigmoid", "softmax of chosen", "sparsemixer"]
DROPPED = -1
"""The id of a slot that no expert serves: the expert was full, or too few experts are left."""


class Chosen(NamedTuple):
    """Experts [N, K] (DROPPED where a slot is empty) and their gate weights [N, K]."""

    expert_ids_NK: Tensor
    gate_weights_NK: Tensor


@dataclass(frozen=True)
class Rule:
    """How a router chooses.

    `score`: softmax over all experts (Switch, OLMoE), a sigmoid of each (DeepSeek-V3), softmax over
    the logits of the chosen (Mixtral as published, gpt-oss), or sparsemixer (PhiMoE: each choice by
    a softmax over the experts close to it). `norm`: the p of the norm that the chosen weights are
    divided by, None for none. `bias` is added to the scores for the choice alone (DeepSeek-V3).
    Only experts of the best `groups_kept` of `groups` groups are chosen; a group is as good as its
    best two. `epsilon` guards the division, `jitter` is sparsemixer's width.
    """

    score: Score = "softmax"
    norm: float | None = None
    scale: float = 1.0
    groups: int = 1
    groups_kept: int = 1
    epsilon: float = 0.0
    jitter: float = 0.0

    def choose(
        self,
        logits_NE: Tensor,
        top_k: int,
        allowed_E: Tensor | None = None,
        bias_E: Tensor | None = None,
    ) -> Chosen:
        """The K experts of every token and their gate weights, in the logits' dtype.

        `allowed_E` (bool) leaves experts out before anything else is computed. If fewer than K are
        left, the slots over are DROPPED with weight 0.
        """
        if allowed_E is not None:
            logits_NE = logits_NE.masked_fill(~allowed_E, float("-inf"))
        if self.score == "sparsemixer":
            chosen = _sparsemixer(logits_NE, top_k, self.jitter)
        elif self.score == "softmax of chosen":
            chosen = _softmax_of_chosen(logits_NE, top_k)
        else:
            chosen = self._by_scores(logits_NE, top_k, bias_E)
        return _without_left_out(chosen, logits_NE)

    def _by_scores(self, logits_NE: Tensor, top_k: int, bias_E: Tensor | None) -> Chosen:
        softmax = self.score == "softmax"
        scores_NE = logits_NE.softmax(-1, dtype=torch.float32) if softmax else logits_NE.sigmoid()
        choice_NE = scores_NE if bias_E is None else scores_NE + bias_E
        choice_NE = choice_NE.masked_fill(logits_NE == float("-inf"), float("-inf"))
        if self.groups > 1:
            choice_NE = _best_groups(choice_NE, self.groups, self.groups_kept)
        best = choice_NE.topk(top_k, dim=-1)
        weights_NK = scores_NE.gather(1, best.indices)
        ids_NK = best.indices.masked_fill(best.values == float("-inf"), DROPPED)
        weights_NK = weights_NK.masked_fill(ids_NK == DROPPED, 0)
        if self.norm is not None:
            size_N1 = torch.linalg.vector_norm(weights_NK, self.norm, dim=-1, keepdim=True)
            weights_NK = weights_NK / (size_N1 + self.epsilon)
        return Chosen(ids_NK, weights_NK * self.scale)


def _softmax_of_chosen(logits_NE: Tensor, top_k: int) -> Chosen:
    best = logits_NE.topk(top_k, dim=-1)
    return Chosen(best.indices, best.values.softmax(-1))


def _best_groups(choice_NE: Tensor, groups: int, kept: int) -> Tensor:
    """`choice` with the experts outside the best groups left out."""
    choice_NGE = choice_NE.unflatten(1, (groups, -1))
    best_two_NG2 = choice_NGE.topk(2, dim=-1).values
    # A group with one expert left counts by that one; one with none is never chosen.
    value_NG = best_two_NG2.nan_to_num(neginf=0.0).sum(-1)
    value_NG = value_NG.masked_fill(best_two_NG2[..., 0] == float("-inf"), float("-inf"))
    chosen_NG = torch.zeros_like(value_NG, dtype=torch.bool)
    chosen_NG.scatter_(1, value_NG.topk(kept, dim=-1).indices, True)
    return choice_NGE.masked_fill(~chosen_NG.unsqueeze(-1), float("-inf")).flatten(1)


def _sparsemixer(logits_NE: Tensor, top_k: int, jitter: float) -> Chosen:
    """arXiv 2409.12136 without its training noise: the best, then the best of the rest, each
    weighted by a softmax over the experts within `2 * jitter` of it.
    """
    left_NE, ids, weights = logits_NE, [], []
    for _ in range(top_k):
        top_N1, id_N1 = left_NE.max(-1, keepdim=True)
        # As published: distances are measured in the logits of the first choice, removed or not.
        far_NE = (top_N1 - logits_NE) / logits_NE.abs().clamp(min=top_N1) > 2 * jitter
        near_NE = left_NE.masked_fill(far_NE, float("-inf")).softmax(-1)
        ids.append(id_N1)
        weights.append(near_NE.gather(1, id_N1))
        left_NE = left_NE.scatter(1, id_N1, float("-inf"))
    return Chosen(torch.cat(ids, 1), torch.cat(weights, 1))


def _without_left_out(chosen: Chosen, logits_NE: Tensor) -> Chosen:
    """Empty the slots that hold an expert which is left out."""
    ids_NK, weights_NK = chosen
    out_NK = logits_NE.gather(1, ids_NK.clamp(min=0)) == float("-inf")
    empty_NK = out_NK | (ids_NK == DROPPED)
    weights_NK = weights_NK.masked_fill(empty_NK, 0).to(logits_NE.dtype)
    return Chosen(ids_NK.masked_fill(empty_NK, DROPPED), weights_NK)
