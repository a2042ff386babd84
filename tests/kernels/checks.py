"""What must hold of the kernels, as functions: the tests run them, and so does the mutation check.

Each is small enough for the interpreter; together they must notice every planted fault of
test_mutations.py.
"""

import contextlib
import sys

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from model.emo import routing
from model.kernels import metadata, ops, plans
from tests.kernels import problems, races
from tests.kernels.problems import BARS, assert_close, assert_same_bits, make, run, truth

# Two tiles an expert, one of them ragged: enough where a check runs the layer several times.
LEAN = {"T": 20, "E": 3}
SMALL = {"T": 5, "E": 2, "K": 2}
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


def small_numbers():
    """Two experts, one of them with a ragged tile, in float32."""
    numerics(torch.float32, **SMALL)


def numbers_of_every_tile():
    """Several tiles an expert."""
    numerics(torch.float32)


def gate_weights_in_bf16():
    """What the model passes on a GPU: the router's weights in the type of the hidden states."""
    numerics(torch.bfloat16, **SMALL, gates=torch.bfloat16)


def float32_masters():
    """Weights in float32 under a bf16 x: converted for the products, gradients in float32."""
    problem = make(**SMALL, dtype=torch.bfloat16, weights=torch.float32)
    got = run(problem)
    assert [t.dtype for t in got[1:4]] == [torch.bfloat16, torch.float32, torch.float32]
    assert_close(got, truth(problem), BARS[torch.bfloat16])
    # Sums of float32 are stored as they are, not rounded on the way.
    assert all(not torch.equal(t, t.bfloat16().float()) for t in got[2:4])


def operands_that_do_not_lie_in_order():
    """Every operand, and the upstream gradient, as a transposed view of its memory."""
    problem = make(**SMALL)
    x, *rest, s = ((t.detach().mT.contiguous().mT).requires_grad_() for t in problem.tensors)
    upstream = problem.upstream.mT.contiguous().mT
    assert not x.is_contiguous() and not upstream.is_contiguous()
    strided = problem._replace(tensors=[x, *rest, s], upstream=upstream)
    assert_same_bits(run(strided), run(problem))


def each_weight_learns_alone():
    """One operand that wants a gradient, the others frozen: the bits of the whole backward pass."""
    problem = make(**SMALL)
    want = run(problem)[1:]
    for number, name in enumerate(("x", "w13", "w2", "s")):
        tensors = [t.detach() for t in problem.tensors]
        tensors[number].requires_grad_()
        out = ops.moe(*tensors, problem.idx, backend="triton")
        try:
            out.backward(problem.upstream)
        except RuntimeError as error:  # autograd refuses an empty gradient
            raise AssertionError(f"{name} alone: {error}") from error
        got = tensors[number].grad
        assert got is not None and got.shape == want[number].shape, name
        assert torch.equal(got, want[number]), name


def inference_saves_nothing():
    """Without gradients, or with nothing that learns, no pre-activation is stored."""
    problem = make(**SMALL)
    frozen = [t.detach() for t in problem.tensors]
    kept, forward = [], flow_in_use().run_forward

    def spy(*args, **kwargs):
        out, saved = forward(*args, **kwargs)
        kept.append(saved.h_SJ.numel())
        return out, saved

    flow_in_use().run_forward = spy
    try:
        with torch.no_grad():
            ops.moe(*problem.tensors, problem.idx, backend="triton")
        ops.moe(*frozen, problem.idx, backend="triton")
        ops.moe(*problem.tensors, problem.idx, backend="triton", save="x")
        ops.moe(*problem.tensors, problem.idx, backend="triton")
    finally:
        flow_in_use().run_forward = forward
    assert kept == [0, 0, 0, problem.idx.numel() * 2 * 24]


def autocast_chooses_the_products():
    """Under bf16 autocast: bf16 products of float32 operands, and the result in x's float32."""
    problem = make(**SMALL)
    half = make(**SMALL, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        out = ops.moe(*problem.tensors, problem.idx, backend="triton")
    assert out.dtype == torch.float32
    assert torch.equal(out, run(half)[0].float())


def launches_start_on_the_tensors_device():
    """Triton launches on the current device: it must be the one that holds the tensors."""
    started, flow = [], flow_in_use()

    class Kernel:
        arg_names = ()

        def __getitem__(self, grid):
            return lambda *_, **__: started.append(current[-1])

    @contextlib.contextmanager
    def device(which):
        current.append(which)
        yield
        current.pop()

    current = [torch.device("cuda:0")]
    original, torch.cuda.device = torch.cuda.device, device
    try:
        with FakeTensorMode():
            x = torch.empty(4, device="cuda:1")
            flow._start(Kernel(), (1,), plans.sum_launch(plans.Layer(16, 16, 1, 1), True), x)
    finally:
        torch.cuda.device = original
    assert started == [torch.device("cuda:1")]


def flow_in_use():
    """The module that the operators import when they run: a planted fault may stand in for it."""
    return sys.modules["model.kernels.flow"]


def no_program_writes_what_another_touches():
    """Both passes with several tiles and column blocks each, h again, and the pools."""
    problem = make(T=18, E=2, K=2, H=72, I=72)
    detach = torch.arange(36).view(18, 2) % 3 == 0
    with races.forbidden():
        run(problem, detach_TK=detach, save="x")
    with races.forbidden():
        pools_equal_routing()
    with races.forbidden():
        slots_in_order(5, 1100, 16)


def slots_in_order(P=5, S=1100, BM=16):
    """Slots sorted by kernels lie as torch sorts them, and so do the tiles of their rows."""
    bucket = torch.randint(-1, P, (S,), generator=torch.Generator().manual_seed(P + S)).int()
    order_and_tiles_are_those_of_torch(bucket, P, BM)


def order_and_tiles_are_those_of_torch(bucket, P, BM):
    flow = flow_in_use()
    (order, starts), tiles = flow.sort_slots(bucket, P, BM)
    want = metadata.sort_slots_by_expert(bucket, P)
    wanted_tiles = metadata.tile_map(want.starts_P1, len(bucket), BM)
    live = int(want.starts_P1[-1])
    assert torch.equal(starts, want.starts_P1)
    assert torch.equal(order[:live], want.order_S[:live])
    for found in (tiles, flow.cut_tiles(starts, len(bucket), BM)):
        assert torch.equal(found.expert_M, wanted_tiles.expert_M)
        assert torch.equal(found.row_M, wanted_tiles.row_M)


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
    flow = flow_in_use()
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
    assert torch.equal(ops.document_pools(logits, segments, sizes, num_routed), want)


def pool_ties_go_to_the_lower_id():
    segments = torch.zeros(1, 4, dtype=torch.long)
    allowed = ops.document_pools(torch.zeros(1, 4, 9), segments, torch.tensor([[3]]), 8)
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

PROPERTIES = {
    check.__name__: check
    for check in (
        small_numbers,
        numbers_of_every_tile,
        pools_equal_routing,
        pool_ties_go_to_the_lower_id,
        dropped_slots,
        mask_equals_compaction,
        detached_slots_train_only_their_gate,
        gate_weights_in_bf16,
        float32_masters,
        operands_that_do_not_lie_in_order,
        each_weight_learns_alone,
        inference_saves_nothing,
        no_program_writes_what_another_touches,
        autocast_chooses_the_products,
        launches_start_on_the_tensors_device,
        recomputing_gives_the_same_bits,
        relabelling_changes_nothing,
        two_runs_are_equal,
        doubling_the_gate_doubles_the_output,
        large_tiles,
        slots_in_order,
    )
}
