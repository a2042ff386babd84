"""What must hold of the kernels, as functions: the tests run them, and so does the mutation check.

Each is small enough for the interpreter; together they must notice every planted fault of
test_mutations.py.
"""

import torch

from model import routing
from model.kernels import flow, plans
from model.kernels.ops import document_pools
from tests.kernels import problems
from tests.kernels.problems import BARS, assert_close, assert_same_bits, make, run, truth

# Two tiles an expert, one of them ragged: enough where a check runs the layer several times.
LEAN = {"T": 20, "E": 3}
# Three experts' weights and ids of five: the last two are dropped unless a map says otherwise.
PART = {"T": 12, "E": 3, "K": 2, "idx": torch.arange(24).view(12, 2) * 2 % 5}
EVEN = torch.arange(24).view(12, 2) % 2 == 0
SHARED_LAST = torch.tensor([[t % 4, 4] for t in range(20)])


def numerics(dtype=torch.float32, **case):
    """Odd sizes, empty tiles and ragged edges against float64, unwritten scratch being NaN."""
    problem = make(dtype=dtype, **case)
    with problems.poisoned_scratch():
        got = run(problem)
    assert_close(got, truth(problem), BARS[dtype])


def dropped_slots():
    """Ids below 0 and from E on own no row, give no gradient, and their gate weight is not read."""
    generator = torch.Generator().manual_seed(1)
    idx = torch.randint(-2, 8, (37, 3), generator=generator)
    problem = make(idx=idx)
    gone = (idx < 0) | (idx >= 5)
    want = truth(problem)
    with torch.no_grad():
        problem.tensors[3][gone] = float("nan")
    with problems.poisoned_scratch():
        got = run(problem)
    assert_close(got, want, BARS[torch.float32])
    assert torch.equal(got[4][gone], torch.zeros(int(gone.sum())))


def mask_equals_compaction():
    """Three of six experts, live on the full weights and in a buffer of three: the same bits."""
    kept = torch.tensor([4, 1, 2])
    phys = torch.full((6,), -1)
    phys[kept] = torch.arange(3)
    generator = torch.Generator().manual_seed(2)
    full = make(E=6, idx=torch.randint(0, 6, (37, 3), generator=generator))
    masked_idx = torch.where(torch.isin(full.idx, kept), full.idx, -1)
    masked = run(full._replace(idx=masked_idx))
    x, w13, w2, s = (t.detach() for t in full.tensors)
    small = [t.clone().requires_grad_() for t in (x, w13[kept], w2[kept], s)]
    compact = run(full._replace(tensors=small), phys_E=phys)
    assert_same_bits([masked[0], masked[1], masked[4]], [compact[0], compact[1], compact[4]])
    assert_same_bits([masked[2][kept], masked[3][kept]], compact[2:4])


def relabelling_changes_nothing():
    problem = make(**LEAN)
    relabelled = torch.randperm(3, generator=torch.Generator().manual_seed(3))
    x, w13, w2, s = (t.detach() for t in problem.tensors)
    moved = [torch.empty_like(w).index_copy_(0, relabelled, w) for w in (w13, w2)]
    tensors = [t.clone().requires_grad_() for t in (x, *moved, s)]
    got = run(problem._replace(tensors=tensors, idx=relabelled[problem.idx]))
    want = run(problem)
    assert_same_bits([got[0], got[1], got[4]], [want[0], want[1], want[4]])
    assert_same_bits([g[relabelled] for g in got[2:4]], want[2:4])


def two_runs_are_equal():
    problem = make(**LEAN)
    assert_same_bits(run(problem), run(problem))


def doubling_the_gate_doubles_the_output():
    """A factor of two is exact, so linearity in the gate weights must hold bit for bit."""
    problem = make(**LEAN)
    *rest, s = problem.tensors
    doubled = problem._replace(tensors=[*rest, (2 * s.detach()).requires_grad_()])
    once, twice = run(problem), run(doubled)
    assert_same_bits([2 * t for t in once[:4]], twice[:4])
    assert torch.equal(once[4], twice[4])


def recomputing_gives_the_same_bits():
    problem = make(**LEAN, dtype=torch.bfloat16)
    assert_same_bits(run(problem, save="x"), run(problem, save="xh"))


def descriptors_change_nothing(dtype=torch.bfloat16, start=0, options=None, **case):
    """Loaded through tensor descriptors, the output and every gradient have the same bits.

    The weights begin `start` elements past an aligned address.
    """
    problem = make(dtype=dtype, **case)
    x, *weights, s = problem.tensors
    problem = problem._replace(tensors=[x, *(moved(w, start) for w in weights), s])
    pointers = run(problem, **(options or {}))
    described = plans.on_descriptors(plans.tables())
    with plans.using(described), problems.poisoned_scratch():
        assert_same_bits(run(problem, **(options or {})), pointers)


def moved(tensor, start):
    """A copy whose first element lies `start` elements into its memory."""
    copy = tensor.new_empty(tensor.numel() + start)[start:].view_as(tensor)
    return copy.copy_(tensor.detach()).requires_grad_()


def detached_slots_train_only_their_gate():
    problem = make(**LEAN)
    detach = torch.rand(20, 3, generator=torch.Generator().manual_seed(4)) < 0.4
    got, whole = run(problem, detach_TK=detach), run(problem)
    assert_close(got, truth(problem, detach_TK=detach), BARS[torch.float32])
    assert torch.equal(got[4], whole[4])
    assert not torch.equal(got[1], whole[1])


def large_tiles(arch="sm_90", dtype=torch.bfloat16):
    """The tiles that ship, on a problem that fills more than one of them and leaves edges."""
    problem = make(T=150, E=2, K=2, H=72, I=136, dtype=dtype)
    layer = plans.Layer(72, 136, 2, 2)
    assert plans.forward_plan(arch, layer, 300, True).BM == 128
    original = flow.table_name
    flow.table_name = lambda device: arch
    try:
        assert_close(run(problem), truth(problem), BARS[dtype])
    finally:
        flow.table_name = original


def pools_equal_routing(lengths=(5, 33, 1, 40), num_routed=7):
    """Packed rows of documents of these lengths, the last one cut off; other pool sizes each."""
    B, T = 2, 50
    row = torch.searchsorted(torch.tensor(lengths).cumsum(0), torch.arange(T), right=True)
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(B, T, num_routed + 1, generator=generator)
    sizes = torch.randint(1, num_routed + 3, (B, T), generator=generator)
    segments = row.expand(B, T)
    want = routing.document_pools(logits[..., :num_routed].softmax(-1), segments, sizes)
    assert torch.equal(document_pools(logits, segments, sizes, num_routed), want)


def pool_ties_go_to_the_lower_id():
    segments = torch.zeros(1, 4, dtype=torch.long)
    allowed = document_pools(torch.zeros(1, 4, 9), segments, torch.tensor([[3]]), 8)
    assert torch.equal(allowed[0, 0], torch.arange(8) < 3)


CASES = {
    "odd-sizes": {},
    "odd-widths": {"T": 5, "E": 2, "K": 1, "H": 33, "I": 17},
    "no-tokens": {"T": 0},
    "one-token": {"T": 1},
    "one-slot": {"T": 1, "K": 1, "E": 1},
    "top-1": {"K": 1},
    "one-expert": {"E": 1},
    "empty-experts": {"E": 16, "T": 3},
    "all-to-one": {"idx": torch.full((37, 3), 2)},
    "all-dropped": {"T": 3, "idx": torch.full((3, 3), -1)},
    "shared-last": {"T": 20, "K": 2, "idx": SHARED_LAST},
    "whole-tiles": {
        "T": 32,
        "H": 32,
        "I": 32,
        "K": 1,
        "E": 2,
        "idx": torch.arange(32)[:, None] % 2,
    },
    "narrow": {"H": 8, "I": 4},
    "wide": {"T": 9, "E": 3, "H": 100, "I": 52},
}

FIRST_17 = torch.arange(18)[:, None] // 17
SUBSET = torch.tensor([2, -1, 0, -1, 1])
DESCRIPTOR_CASES = {
    "several-tiles": {"T": 18, "E": 2, "K": 1, "I": 40, "idx": FIRST_17},
    "unaligned-start": {"T": 5, "E": 2, "K": 1, "start": 1},
    "five-experts": {"T": 12},
    "fp32": {"T": 5, "E": 2, "K": 1, "dtype": torch.float32},
    "fp16-empty-experts": {"T": 3, "E": 9, "dtype": torch.float16},
    "expert-subset": PART | {"options": {"phys_E": SUBSET}},
    "detached-and-dropped": PART | {"options": {"detach_TK": EVEN}},
    "recomputed": {"T": 9, "E": 2, "K": 1, "options": {"save": "x"}},
    "all-dropped": {"T": 3, "idx": torch.full((3, 3), -1)},
    "no-tokens": {"T": 0},
    "rows-of-33": {"T": 5, "E": 2, "K": 1, "H": 33, "I": 17},
    "rows-of-20": {"T": 5, "E": 2, "K": 1, "H": 20, "I": 12},
}

# In the order in which they find faults: the mutation check stops at the first that does.
PROPERTIES = {
    check.__name__: check
    for check in (
        pools_equal_routing,
        pool_ties_go_to_the_lower_id,
        dropped_slots,
        mask_equals_compaction,
        detached_slots_train_only_their_gate,
        recomputing_gives_the_same_bits,
        relabelling_changes_nothing,
        two_runs_are_equal,
        doubling_the_gate_doubles_the_output,
        large_tiles,
    )
}
