"""The sorting kernels against the torch operations that they stand for: the same integers."""

import pytest
import torch

from model.kernels import flow, plans
from tests.kernels import checks

CASES = [  # experts, slots, rows a tile
    *((1, 1, 16), (5, 40, 16), (30, 7, 32), (128, 8, 16), (4, 0, 16), (300, 1100, 16)),
    *((128, plans.FEW_SLOTS, 16), (128, plans.FEW_SLOTS + 1, 64), (127, 3000, 128)),
]


@pytest.mark.parametrize(("P", "S", "BM"), CASES)
def test_slots_and_tiles_are_those_of_torch(P, S, BM):
    checks.slots_in_order(P, S, BM)


@pytest.mark.parametrize("S", [40, 1100])
@pytest.mark.parametrize("expert", [-1, 0, 6])
def test_all_slots_to_one_expert_or_to_none(S, expert):
    bucket = torch.full((S,), expert, dtype=torch.int32)
    checks.order_and_tiles_are_those_of_torch(bucket, 7, 16)


@pytest.mark.parametrize("S", [64, 1100])
def test_rows_that_no_expert_owns_are_not_written(monkeypatch, S):
    empty = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda t: empty(t).fill_(-77))
    bucket = torch.arange(S).remainder(5).int() - 1
    (order, starts), _ = flow.sort_slots(bucket, 4, 16)
    live = int(starts[-1])
    assert order[:live].ge(0).all() and order[live:].eq(-77).all() and live < S
