"""How modular routing is: do clusters of tokens follow domains, and domains have own experts?

A token's vector is its router probabilities of all layers, mean-centred, in the PCA that holds 95 %
of the variance, at unit length; spherical k-means makes CLUSTERS of them. All on the model's
device.

Shapes: N tokens, F features (layers times experts), C components, K clusters, D documents,
M domains, L layers, R routed experts.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from model.evaluate.intervals import Span, pooled_mean

CLUSTERS = 32
VARIANCE = 0.95
RESTARTS, STEPS = 3, 25
SHUFFLES = 10

Array = NDArray[np.float64]


@torch.inference_mode()
def token_clusters(rows_NF: Tensor, clusters: int = CLUSTERS, seed: int = 0) -> NDArray[np.int64]:
    """The cluster of every token [N]. Raises ValueError for fewer tokens than clusters."""
    if len(rows_NF) < clusters:
        raise ValueError(f"{len(rows_NF)} tokens cannot make {clusters} clusters.")
    unit_NC = F.normalize(_principal(rows_NF), dim=1)
    rng = np.random.default_rng(seed)
    runs = [_spherical_kmeans(unit_NC, clusters, rng) for _ in range(RESTARTS)]
    return max(runs, key=lambda run: run[0])[1].cpu().numpy()


def _principal(rows_NF: Tensor) -> Tensor:
    """Coordinates [N, C] in the fewest components that hold VARIANCE."""
    centred_NF = rows_NF - rows_NF.mean(0)
    covariance_FF = (centred_NF.T @ centred_NF).double().cpu()
    variances, vectors = torch.linalg.eigh(covariance_FF)
    share = variances.flip(0).clamp(min=0).cumsum(0)
    kept = int((share < VARIANCE * share[-1]).sum()) + 1
    return centred_NF @ vectors.flip(1)[:, :kept].to(rows_NF)


def _spherical_kmeans(unit_NC: Tensor, K: int, rng: np.random.Generator) -> tuple[float, Tensor]:
    """The summed cosine to the own centroid, and labels [N]."""
    centroids_KC = _spread_seeds(unit_NC, K, rng)
    for _ in range(STEPS):
        cosine_NK = unit_NC @ centroids_KC.T
        members_NK = F.one_hot(cosine_NK.argmax(1), K).to(unit_NC)
        sums_KC = members_NK.T @ unit_NC
        empty_K1 = members_NK.sum(0)[:, None] == 0
        centroids_KC = F.normalize(torch.where(empty_K1, centroids_KC, sums_KC), dim=1)
    best = (unit_NC @ centroids_KC.T).max(1)
    return float(best.values.sum()), best.indices


def _spread_seeds(unit_NC: Tensor, K: int, rng: np.random.Generator) -> Tensor:
    """k-means++ in the cosine: rows that are far from those chosen before."""
    chosen = [unit_NC[int(rng.integers(len(unit_NC)))]]
    distance_N = unit_NC.new_full((len(unit_NC),), 2.0)
    for _ in range(K - 1):
        distance_N = torch.minimum(distance_N, (1 - unit_NC @ chosen[-1]).clamp(min=0))
        reach_N = distance_N.double().cumsum(0)
        place = torch.searchsorted(reach_N, reach_N[-1] * rng.random())
        chosen.append(unit_NC[int(place.clamp(max=len(unit_NC) - 1))])
    return torch.stack(chosen)


def agreement(
    labels_N: NDArray[np.int64], documents_N: NDArray[np.int64], domains_D: NDArray[np.int64]
) -> dict[str, Any]:
    """NMI of token clusters with the domain of the token's document, and the modal share.

    The interval of the NMI is over documents: what is resampled is each document's contribution,
    its jackknife pseudo-value. `nmi_chance` is the NMI with shuffled domains of documents.
    """
    D, K, M = len(domains_D), int(labels_N.max()) + 1, int(domains_D.max()) + 1
    counts_DK = np.bincount(documents_N * K + labels_N, minlength=D * K).reshape(D, K)
    rng = np.random.default_rng(0)
    chance = [nmi(_table(counts_DK, rng.permutation(domains_D), M)) for _ in range(SHUFFLES)]
    table_MK = _table(counts_DK, domains_D, M)
    without = [_without(table_MK, counts_DK[d], domains_D[d]) for d in range(D)]
    found = nmi(table_MK)
    pseudo_D = D * found - (D - 1) * np.array(without)
    # About the measured value, off which the pseudo-values' mean lies by an estimate of the bias.
    interval = pooled_mean(pseudo_D - pseudo_D.mean() + found, np.ones(D))
    modal_D = counts_DK.max(1) / np.maximum(counts_DK.sum(1), 1)
    return {
        "nmi": interval,
        "nmi_chance": round(float(np.mean(chance)), 5),
        "modal_share": pooled_mean(modal_D, np.ones(D)),
    }


def _table(counts_DK: NDArray[np.int64], domains_D: NDArray[np.int64], M: int) -> Array:
    table_MK = np.zeros((M, counts_DK.shape[1]))
    np.add.at(table_MK, domains_D, counts_DK)
    return table_MK


def _without(table_MK: Array, counts_K: NDArray[np.int64], domain: int) -> float:
    rest_MK = table_MK.copy()
    rest_MK[domain] -= counts_K
    return nmi(rest_MK)


def nmi(table: Array) -> float:
    """Mutual information over the mean of the two entropies, of a table of counts."""
    joint = table / table.sum()
    both = _entropy(joint.sum(0)), _entropy(joint.sum(1))
    information = sum(both) - _entropy(joint.ravel())
    return float(2 * information / sum(both)) if sum(both) > 0 else 0.0


def _entropy(shares: Array) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def keep_overlap(masks_MLR: NDArray[np.bool_]) -> Span:
    """Jaccard of the experts that two domains keep: mean over pairs and layers, least, most.

    The ends are over pairs of domains, not an interval.
    """
    flat = masks_MLR.astype(np.float64)
    shared_MM = np.einsum("mlr,nlr->mnl", flat, flat)
    size_ML = flat.sum(2)
    union = size_ML[:, None] + size_ML[None] - shared_MM
    jaccard_MM = (shared_MM / union).mean(2)
    pairs = jaccard_MM[np.triu_indices(len(flat), 1)]
    return [round(float(value), 5) for value in (pairs.mean(), pairs.min(), pairs.max())]
