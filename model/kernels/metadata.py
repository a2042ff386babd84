"""Which rows belong to which expert: slots sorted by expert, and tiles of rows.

Everything stays on the device: no host sync, and every shape follows from T, K, P and BM alone,
never from the routing, so that activation checkpointing and CUDA graphs work.

Shapes: T tokens, K experts a token, S = T*K slots (slot = token*K + position), P rows of the weight
tensors ("physical" experts), E ids the router speaks of ("logical" experts), BM rows a tile,
M tiles (a static upper bound).
"""

from typing import NamedTuple

import torch
from torch import Tensor

DROPPED = -1


class SlotOrder(NamedTuple):
    """Slots in the order of their physical expert; dropped slots come last and own no row."""

    order_S: Tensor  # int32: slot of each row
    starts_P1: Tensor  # int32: first row of each expert, and the end of the last


class Tiles(NamedTuple):
    """Tiles of BM rows, none across two experts; tiles past the last one have expert -1."""

    expert_M: Tensor  # int32
    row_M: Tensor  # int32: first row


def physical_experts(idx_TK: Tensor, num_physical: int, phys_E: Tensor | None = None) -> Tensor:
    """The weight row each slot uses, or -1 if it is dropped: int32 [S].

    A slot is dropped when its id is negative, or not below the number of experts (transformers'
    sentinel), or of an expert whose `phys` is -1 because the weight buffer does not hold it.
    """
    idx_S = idx_TK.reshape(-1)
    num_logical = num_physical if phys_E is None else phys_E.shape[0]
    live_S = (idx_S >= 0) & (idx_S < num_logical)
    if phys_E is not None:
        idx_S = phys_E[torch.where(live_S, idx_S, 0).long()]
        live_S = live_S & (idx_S >= 0) & (idx_S < num_physical)
    return torch.where(live_S, idx_S, DROPPED).int()


def sort_slots_by_expert(bucket_S: Tensor, num_physical: int) -> SlotOrder:
    """Stable order by expert, so that a token's place in a sum never depends on the run."""
    key_S = torch.where(bucket_S < 0, num_physical, bucket_S)
    counts = torch.zeros(num_physical + 1, dtype=torch.int32, device=bucket_S.device)
    counts.scatter_add_(0, key_S.long(), torch.ones_like(key_S))
    ends_P = counts[:num_physical].cumsum(0, dtype=torch.int32)
    # A narrow key halves the passes of a radix sort.
    narrow = torch.int16 if num_physical < 2**15 else torch.int32
    order_S = key_S.to(narrow).argsort(stable=True).int()
    return SlotOrder(order_S, torch.cat([ends_P.new_zeros(1), ends_P]))


def num_tiles(num_slots: int, num_physical: int, BM: int) -> int:
    """Tiles that suffice for every routing: full ones, and one ragged one an expert in use."""
    return -(-num_slots // BM) + min(num_physical, num_slots)


def tile_map(starts_P1: Tensor, num_slots: int, BM: int) -> Tiles:
    """Cut each expert's rows into tiles of BM."""
    num_physical = starts_P1.shape[0] - 1
    counts_P = starts_P1[1:] - starts_P1[:-1]
    ends_P = ((counts_P + BM - 1) // BM).cumsum(0, dtype=torch.int32)
    tile_M = torch.arange(
        num_tiles(num_slots, num_physical, BM), dtype=torch.int32, device=starts_P1.device
    )
    expert_M = torch.searchsorted(ends_P, tile_M, right=True, out_int32=True)
    known_M = expert_M.clamp(max=num_physical - 1).long()
    first_M = (ends_P - (counts_P + BM - 1) // BM)[known_M]
    row_M = starts_P1[known_M] + (tile_M - first_M) * BM
    live_M = expert_M < num_physical
    return Tiles(torch.where(live_M, expert_M, -1), torch.where(live_M, row_M, 0).int())
