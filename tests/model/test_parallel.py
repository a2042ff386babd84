"""Two processes train as one: the same balancing loss and gradients."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from itertools import count

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tests.model.helpers import tiny_ids, tiny_model


def as_rank(rank, store, work, args):
    """Run `work` in a process group of two; a rank that waits in vain gives up."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{store}", timedelta(seconds=30), world_size=2, rank=rank
    )
    try:
        return work(*args)
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes():
    """Calls work(rank, *args) in two processes at a time; returns what each returned.

    A process keeps its rank for all calls: DTensor caches what it derives from it.
    """
    pools = [ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) for _ in range(2)]

    def call(work, *args):
        futures = [pool.submit(work, rank, *args) for rank, pool in enumerate(pools)]
        return [future.result() for future in futures]

    yield call
    for pool in pools:
        pool.shutdown(wait=False)


@pytest.fixture
def on_two_ranks(two_processes, tmp_path_factory):
    """Calls a function in two processes of one group; returns what each returned."""
    folder = tmp_path_factory.mktemp("stores")
    stores = count()
    return lambda work, *args: two_processes(as_rank, folder / str(next(stores)), work, args)


def balancing(scope):
    """The balancing loss and its gradient in every router, on this rank's rows (all if alone)."""
    model = tiny_model(load_balancing_scope=scope).train()
    ids_BT, pool_sizes_LBD = tiny_ids(rows=4), torch.tensor([4, 6, 9, 16]).view(1, 4, 1)
    ids_BT[2:] = ids_BT[2:] % 7 + 2  # The ranks' rows differ in kind, so their balance does too.
    if dist.is_initialized():
        mine = slice(2 * dist.get_rank(), 2 * dist.get_rank() + 2)
        ids_BT, pool_sizes_LBD = ids_BT[mine], pool_sizes_LBD[:, mine]
    documents = model.document_routing(ids_BT, pool_sizes_LBD.expand(2, -1, -1))
    model.model(input_ids=ids_BT, documents=documents, use_cache=False)
    loss, _ = model.router_losses(documents)
    loss.backward()
    return loss.item(), np.stack([router.weight.grad.numpy() for router in model.routers()])


def test_global_balancing_over_two_ranks_is_that_of_the_joined_batch_and_local_is_not(on_two_ranks):
    joined_loss, joined_gradient = balancing("global")
    losses, gradients = zip(*on_two_ranks(balancing, "global"), strict=True)
    assert np.mean(losses) == pytest.approx(joined_loss, rel=1e-5)
    np.testing.assert_allclose(np.mean(gradients, 0), joined_gradient, rtol=1e-4, atol=1e-6)
    losses, gradients = zip(*on_two_ranks(balancing, "local"), strict=True)
    assert np.mean(losses) > joined_loss * 1.05
    assert np.abs(np.mean(gradients, 0) - joined_gradient).max() > 0.01
