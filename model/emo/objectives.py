"""What the ablations of EMO compute in a router: other pools, other losses, each a few lines.

`EmoConfig` names them (`pool_choice`, `balancing_rows`, the coefficients) and `EmoRouter` calls
them; `model.train.objectives` gives each combination a name. All are free of host synchronisation
and of branches on data, so that a training step can be captured as a CUDA graph.

Shapes: B rows, T tokens a row, N = B*T tokens, D documents a row (at most), R routed experts,
S routed slots a token, G groups of rows.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from model.emo.routing import NO_POOL


def prefix_mass(scores_BTR: Tensor, segments_BT: Tensor) -> Tensor:
    """Router probability summed over the token's document up to and with the token: [B, T, R].

    A product with a mask of zeros and ones, which gives the same bits every time; a running sum
    does not on a GPU.
    """
    same_BTT = segments_BT.unsqueeze(2) == segments_BT.unsqueeze(1)
    with torch.autocast(scores_BTR.device.type, enabled=False):
        return torch.bmm(same_BTT.to(scores_BTR.dtype).tril(), scores_BTR)


def causal_pools(scores_BTR: Tensor, segments_BT: Tensor, pool_sizes_BD: Tensor) -> Tensor:
    """Each token's pool, chosen from its document's tokens up to and with it: bool [B, T, R].

    Otherwise as `routing.document_pools`. No token sees a later one, so that a model can be run as
    it is trained.
    """
    sizes_BT = pool_sizes_BD.gather(1, segments_BT)
    return _largest(prefix_mass(scores_BTR, segments_BT), sizes_BT)


def top_p_pools(
    scores_BTR: Tensor, segments_BT: Tensor, pool_sizes_BD: Tensor, share: float, smallest: int
) -> Tensor:
    """Each token's pool: the fewest experts that hold `share` of its document's router probability.

    bool [B, T, R]; never fewer than `smallest`, and all where the drawn size is NO_POOL, the one
    thing that the sizes say here.
    """
    D = pool_sizes_BD.shape[1]
    place_D1 = torch.arange(D, device=segments_BT.device)[:, None]
    members_BDT = (segments_BT.unsqueeze(1) == place_D1).to(scores_BTR.dtype)
    with torch.autocast(scores_BTR.device.type, enabled=False):
        mass_BDR = torch.bmm(members_BDT, scores_BTR)
    falling_BDR = mass_BDR.sort(dim=-1, descending=True).values
    before_BDR = falling_BDR.cumsum(-1) - falling_BDR
    total_BD1 = falling_BDR.sum(-1, keepdim=True)
    sizes_BD = (before_BDR < share * total_BD1).sum(-1).clamp(min=smallest)
    keep_BDR = _largest(mass_BDR, torch.maximum(sizes_BD, NO_POOL * (pool_sizes_BD == NO_POOL)))
    return keep_BDR.gather(1, segments_BT.unsqueeze(-1).expand_as(scores_BTR))


def _largest(mass: Tensor, sizes: Tensor) -> Tensor:
    """The `sizes` [...] largest of mass [..., R], ties to the lower id: bool, as mass."""
    order = mass.argsort(dim=-1, descending=True, stable=True)
    among = torch.arange(mass.shape[-1], device=mass.device) < sizes.unsqueeze(-1)
    return torch.zeros_like(among).scatter_(-1, order, among)


def grouped_balancing_loss(scores_NR: Tensor, ids_NS: Tensor, groups: int) -> Tensor:
    """The balancing loss demanded of every group of N / groups tokens alone, mean over groups.

    1 for uniform routing, as `routing.load_balancing_loss`, of which this is the local scope.
    """
    N, R = scores_NR.shape
    group_N1 = torch.arange(N, device=ids_NS.device)[:, None] // (N // groups)
    flat = (group_N1 * R + ids_NS).flatten()
    counts = torch.zeros(groups * R, dtype=torch.float32, device=flat.device)
    counts.scatter_add_(0, flat, torch.ones_like(flat, dtype=counts.dtype))
    share_GR = counts.view(groups, R) / (N // groups * ids_NS.shape[1])
    return R * (share_GR * scores_NR.view(groups, -1, R).mean(1)).sum(1).mean()


def within_capacity(ids_NS: Tensor, num_routed: int, factor: float) -> Tensor:
    """The ids [N, S] with -1, no expert, for slots that come after an expert is full.

    An expert takes `factor` times its even share of the slots, the first tokens' first (Switch).
    """
    flat = ids_NS.flatten()
    most = math.ceil(factor * flat.numel() / num_routed)
    chosen_SR = flat.unsqueeze(1) == torch.arange(num_routed, device=flat.device)
    place_S = chosen_SR.int().cumsum(0).gather(1, flat.unsqueeze(1)).squeeze(1)
    return flat.masked_fill(place_S > most, -1).view_as(ids_NS)


def corrected_bias(bias_R: Tensor, counts_R: Tensor, rate: float) -> Tensor:
    """The bias of the choice after a step: `rate` more for experts with less than an even load.

    And less for those with more, by the sign of the error alone (auxiliary-loss-free balancing,
    arXiv 2408.15664).
    """
    return bias_R + rate * (counts_R.mean() - counts_R).sign()


def expert_overlap(scores_NR: Tensor) -> Tensor:
    """Mean cosine of the activations of two experts over the tokens: 0 if no token likes two.

    An expert's activation is its router probability for every token.
    """
    R = scores_NR.shape[1]
    with torch.autocast(scores_NR.device.type, enabled=False):
        unit_NR = F.normalize(scores_NR.float(), dim=0)
        return (unit_NR.sum(1).square().sum() - unit_NR.square().sum()) / (R * (R - 1))


def lost_information(scores_NR: Tensor) -> Tensor:
    """Less the mutual information of tokens and experts in nats: H(expert | token) - H(expert)."""
    return (torch.special.entr(scores_NR).sum(1)).mean() - torch.special.entr(
        scores_NR.mean(0)
    ).sum()
