"""The document-pool kernel against the routing function it replaces on a GPU."""

import pytest
import torch

from model.kernels.ops import document_pools
from tests.kernels import checks


@pytest.mark.parametrize("lengths", [[64], [1] * 50, [5, 33, 1, 40], [31, 32, 33]])
@pytest.mark.parametrize("num_routed", [7, 31])
def test_equal_to_the_plain_version(lengths, num_routed):
    checks.pools_equal_routing(lengths, num_routed)


def test_masked_experts_never_enter_a_pool_before_live_ones():
    logits = torch.randn(1, 6, 9, generator=torch.Generator().manual_seed(0))
    logits[..., 2:5] = float("-inf")
    segments = torch.zeros(1, 6, dtype=torch.long)
    allowed = document_pools(logits, segments, torch.tensor([[5]]), 8)
    assert allowed[0, 0].tolist() == [True, True, False, False, False, True, True, True]
