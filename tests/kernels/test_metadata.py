"""Sorting slots and cutting tiles, without a host sync and with shapes fixed in advance."""

import ast
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from model.kernels import flow, metadata

KERNELS = Path(metadata.__file__).parent
SYNCS = {"item", "tolist", "cpu", "numpy", "nonzero", "bincount", "unique", "masked_select"}


def sort(idx, P):
    bucket = metadata.physical_experts(idx, P)
    return bucket, metadata.sort_slots_by_expert(bucket, P)


def test_slots_are_sorted_stably_and_dropped_ones_come_last():
    bucket, slots = sort(torch.tensor([[2, 0], [-1, 2], [4, 0]]), 4)
    assert bucket.tolist() == [2, 0, -1, 2, -1, 0]
    assert slots.order_S.tolist() == [1, 5, 0, 3, 2, 4]
    assert slots.starts_P1.tolist() == [0, 2, 2, 4, 4]


def test_tiles_cover_every_row_once_and_never_cross_experts():
    generator = torch.Generator().manual_seed(0)
    for P, S in ((1, 1), (5, 40), (30, 7), (7, 333)):
        _, slots = sort(torch.randint(-1, P, (S, 1), generator=generator), P)
        tiles = metadata.tile_map(slots.starts_P1, S, 16)
        assert tiles.expert_M.shape == (metadata.num_tiles(S, P, 16),)
        covered = []
        for expert, row in zip(tiles.expert_M.tolist(), tiles.row_M.tolist(), strict=True):
            if expert >= 0:
                end = int(slots.starts_P1[expert + 1])
                assert int(slots.starts_P1[expert]) <= row < end
                covered += range(row, min(row + 16, end))
        assert covered == list(range(int(slots.starts_P1[-1])))


def test_the_static_bound_is_reached_but_never_passed():
    # One row more than a whole number of tiles for every expert: the worst case.
    idx = torch.arange(4).repeat_interleave(17)[:, None]
    _, slots = sort(idx, 4)
    tiles = metadata.tile_map(slots.starts_P1, 68, 16)
    assert int((tiles.expert_M >= 0).sum()) == 8 <= metadata.num_tiles(68, 4, 16)


def test_no_slots_give_no_tiles():
    _, slots = sort(torch.zeros(0, 3, dtype=torch.long), 4)
    assert metadata.tile_map(slots.starts_P1, 0, 16).expert_M.shape == (0,)


def test_logical_experts_map_to_rows_of_a_smaller_buffer():
    phys = torch.tensor([1, -1, 0, 5])
    bucket = metadata.physical_experts(torch.tensor([[0, 1, 2, 3, 4, -7]]), 2, phys)
    assert bucket.tolist() == [1, -1, 0, -1, -1, -1]


def test_nothing_is_read_back_to_the_host():
    with FakeTensorMode():
        idx = torch.zeros(64, 8, dtype=torch.long)
        phys = torch.zeros(128, dtype=torch.long)
        bucket = metadata.physical_experts(idx, 16, phys)
        slots = metadata.sort_slots_by_expert(bucket, 16)
        tiles = metadata.tile_map(slots.starts_P1, 512, 128)
    assert tiles.expert_M.shape == (4 + 16,)


@pytest.mark.parametrize("save_h", [True, False])
def test_both_passes_and_the_pools_read_nothing_back_to_the_host(monkeypatch, save_h):
    """Tensors without data, kernels that do nothing: whatever is left cannot wait for a GPU."""
    started = []
    monkeypatch.setattr(flow, "_start", lambda kernel, *_, **__: started.append(kernel))
    T, K, P, H, I = 64, 8, 16, 32, 16  # noqa: E741
    with FakeTensorMode():
        x, s = torch.zeros(T, H), torch.zeros(T, K)
        w13, w2 = torch.zeros(P, 2 * I, H), torch.zeros(P, H, I)
        bucket = metadata.physical_experts(torch.zeros(T, K, dtype=torch.long), P)
        out, saved = flow.run_forward(x, w13, w2, s, bucket, save_h)
        detach = torch.zeros(T * K, dtype=torch.int8)
        got = flow.run_backward(out, x, w13, w2, s, bucket, detach, saved, True, True)
        logits, segments = torch.zeros(2, T, P), torch.zeros(2, T, dtype=torch.long)
        allowed = flow.run_document_pools(logits, segments, segments, P - 1)
    assert [t.shape for t in got] == [x.shape, w13.shape, w2.shape, s.shape]
    assert allowed.shape == (2, T, P - 1)
    # sort, up, down, combine; tiles, h again, act_grad, dw2, dw13, dx, reduce; pools
    assert len(started) == 11 + (not save_h)


def test_a_host_read_would_be_noticed():
    with FakeTensorMode(), pytest.raises(Exception, match="data-dependent|dynamic shape|bincount"):
        torch.bincount(torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize("module", ["metadata", "flow", "ops"])
def test_the_hot_path_calls_nothing_that_waits(module):
    tree = ast.parse((KERNELS / f"{module}.py").read_text())
    called = {
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert not called & SYNCS


@pytest.mark.parametrize("module", ["forward", "backward"])
def test_an_accumulator_sees_one_product_an_iteration(module):
    """Two `tl.dot` into one accumulator in one iteration miscompile silently on sm_100."""
    tree = ast.parse((KERNELS / f"{module}.py").read_text())
    loops = [node for node in ast.walk(tree) if isinstance(node, ast.For)]
    found = 0
    for loop in loops:
        accumulators = [
            ast.unparse(node.args[2])
            for node in ast.walk(loop)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "tl.dot"
        ]
        assert len(accumulators) == len(set(accumulators))
        found += len(accumulators)
    assert found == {"forward": 3, "backward": 2}[module]
