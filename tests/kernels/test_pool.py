"""The document-pool kernel against the routing function it replaces on a GPU."""

import pytest
import torch

from model.kernels.ops import document_pools
from model.routing import document_pools as plain_pools


def documents(B, T, lengths, seed=0):
    """Packed rows: consecutive documents of the given lengths, the last one cut off."""
    ends = torch.tensor(lengths).cumsum(0)
    row = torch.searchsorted(ends, torch.arange(T), right=True)
    generator = torch.Generator().manual_seed(seed)
    return row.expand(B, T), generator


@pytest.mark.parametrize("lengths", [[64], [1] * 50, [5, 33, 1, 40], [31, 32, 33]])
@pytest.mark.parametrize("num_routed", [7, 31])
def test_equal_to_the_plain_version(lengths, num_routed):
    B, T = 2, 50
    segments, generator = documents(B, T, lengths)
    logits = 3 * torch.randn(B, T, num_routed + 1, generator=generator)
    sizes = torch.randint(1, num_routed + 3, (B, T), generator=generator)
    scores = logits[..., :num_routed].softmax(-1)
    want = plain_pools(scores, segments, sizes)
    assert torch.equal(document_pools(logits, segments, sizes, num_routed), want)


def test_ties_go_to_the_lower_id():
    segments = torch.zeros(1, 4, dtype=torch.long)
    allowed = document_pools(torch.zeros(1, 4, 9), segments, torch.tensor([[3]]), 8)
    assert torch.equal(allowed[0, 0], torch.arange(8) < 3)


def test_masked_experts_never_enter_a_pool_before_live_ones():
    logits = torch.randn(1, 6, 9, generator=torch.Generator().manual_seed(0))
    logits[..., 2:5] = float("-inf")
    segments = torch.zeros(1, 6, dtype=torch.long)
    allowed = document_pools(logits, segments, torch.tensor([[5]]), 8)
    assert allowed[0, 0].tolist() == [True, True, False, False, False, True, True, True]
