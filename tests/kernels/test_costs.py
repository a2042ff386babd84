"""The paper model against the figures it is held to."""

import pytest

from model.kernels import costs, plans
from model.kernels.report import LAYERS, TRAINING_TOKENS

LAYER, T = LAYERS["1B/14B"], TRAINING_TOKENS


def test_bytes_stay_near_the_lower_bound():
    forward = costs.total(costs.forward_costs(LAYER, T)).bytes
    backward = costs.total(costs.backward_costs(LAYER, T)).bytes
    assert forward / costs.lower_bound(LAYER, T, False).bytes <= 1.75
    assert backward / costs.lower_bound(LAYER, T, True).bytes <= 1.9


def test_the_flow_does_the_flops_of_the_layer_and_no_more():
    for backward, parts in ((False, costs.forward_costs), (True, costs.backward_costs)):
        done = costs.total(parts(LAYER, T)).flops
        assert done == pytest.approx(costs.lower_bound(LAYER, T, backward).flops, rel=2e-3)


def test_saved_bytes_follow_the_geometry():
    assert costs.saved_bytes_per_token(LAYER) == 2 * 2048 + 4 * 8 * 1024 + 96 == 36_864 + 96
    assert costs.saved_bytes_per_token(LAYER, "x") == 4096 + 96


def test_one_token_reads_its_own_experts_and_many_read_all():
    assert costs.experts_read(LAYER, 1) == pytest.approx(8)
    assert costs.experts_read(LAYER, 10_000) == pytest.approx(128)


def test_a_mask_saves_nothing_at_batch_one_and_most_at_middling_batches():
    machine = costs.MACHINES["sm_90"]
    savings = {T: costs.mask_savings(LAYER, T, 16, machine) for T in (1, 64, 4096)}
    assert savings[1] == pytest.approx(1, abs=0.01)
    assert savings[64] > 7
    assert savings[4096] < 2


def test_tiles_waste_little_at_the_training_batch():
    """7 of 127 routed experts drawn evenly, the shared one always, as 16,384 tokens leave it."""
    import numpy as np

    rng = np.random.default_rng(0)
    counts = [*rng.multinomial(7 * T, [1 / 127] * 127), T]
    assert costs.tile_waste(counts, 128) <= 0.07
    assert costs.tile_waste([1], 128) == 127


def test_resident_blocks_are_limited_by_registers_shared_memory_and_threads():
    machine = costs.MACHINES["sm_90"]
    assert costs.blocks_per_sm(machine, 128, 96 * 1024, 256) == 2
    assert costs.blocks_per_sm(machine, 217, 144 * 1024, 256) == 1
    assert costs.blocks_per_sm(machine, 32, 0, 256) == 8


@pytest.mark.parametrize("arch", plans.ARCHITECTURES)
def test_the_table_row_follows_the_rows_an_expert_owns(arch):
    tiles = [plans.forward_plan(arch, LAYER, t * 8, True).BM for t in (1, 512, 1536, T)]
    assert tiles == [16, 32, 64, 128]
    assert plans.backward_plan(arch, LAYER, 8, False).BM == 64


def test_unknown_devices_get_the_smallest_shared_memory():
    names = [plans.architecture(major) for major in (8, 9, 10, 12)]
    assert names == ["sm_80", "sm_90", "sm_100", "sm_80"]
