"""Kernels that sort slots by expert and cut the rows into tiles, without a host sync.

What `metadata` computes with a dozen torch operations, in one launch for few slots and in four for
many. The order is stable: a slot's rank is the number of earlier slots of its expert. Few slots are
sorted by a single program; many are shared out in runs of STEPS blocks, each counted, then every
expert's counts are summed along the runs, then each run places its slots.

Shapes: S slots, P physical experts (BP their power of two), C runs of slots, M tiles, BS slots a
block. Rows past the last expert's are not written: dropped slots own no row. No number of slots is
specialised on: every batch would be compiled anew.
"""

import triton
import triton.language as tl


@triton.jit
def chosen(bucket_S: tl.tensor, slots: tl.tensor, S: tl.tensor, BP: tl.constexpr) -> tl.tensor:
    """int32 [BS, BP]: 1 where a slot goes to an expert, 0 in the whole row of a dropped one."""
    experts = tl.load(bucket_S + slots, mask=slots < S, other=-1)
    return (experts[:, None] == tl.arange(0, BP)[None, :]).to(tl.int32)


@triton.jit
def place(
    chosen_BP: tl.tensor, slots: tl.tensor, next_P: tl.tensor, order_S: tl.tensor
) -> tl.tensor:
    """Write a block's slots to their rows, from `next` of each expert on; returns the next `next`.

    The row of a slot is the sum over a line with a single entry.
    """
    rank = tl.cumsum(chosen_BP, 0) - 1 + next_P[None, :]
    row = tl.sum(chosen_BP * rank, 1)
    tl.store(order_S + row, slots, mask=tl.sum(chosen_BP, 1) > 0)
    return next_P + tl.sum(chosen_BP, 0)


@triton.jit
def cut(
    starts_P: tl.tensor,
    counts_P: tl.tensor,
    expert_M: tl.tensor,
    row_M: tl.tensor,
    tiles: tl.tensor,
    M: tl.tensor,
    P: tl.constexpr,
    BP: tl.constexpr,
    BM: tl.constexpr,
) -> None:
    """Expert and first row of some tiles; those past the last one have expert -1 and row 0."""
    tiles_P = (counts_P + BM - 1) // BM
    ends_P = tl.cumsum(tiles_P, 0)
    expert = tl.sum((ends_P[None, :] <= tiles[:, None]).to(tl.int32), 1)
    mine = expert[:, None] == tl.arange(0, BP)[None, :]
    start = tl.sum(tl.where(mine, (starts_P - (ends_P - tiles_P) * BM)[None, :], 0), 1)
    live = expert < P
    tl.store(expert_M + tiles, tl.where(live, expert, -1), mask=tiles < M)
    tl.store(row_M + tiles, tl.where(live, start + tiles * BM, 0), mask=tiles < M)


@triton.jit
def store_starts(
    starts_P1: tl.tensor, counts_P: tl.tensor, upto: tl.tensor, BP: tl.constexpr
) -> tl.tensor:
    """Write the ends of the first `upto` experts' rows, after a 0; returns all first rows."""
    p = tl.arange(0, BP)
    ends_P = tl.cumsum(counts_P, 0)
    tl.store(starts_P1 + 1 + p, ends_P, mask=p < upto)
    tl.store(starts_P1 + p, ends_P - counts_P, mask=p < tl.minimum(upto, 1))
    return ends_P - counts_P


@triton.jit(do_not_specialize=["S", "M"])
def sort_few_kernel(
    bucket_S: tl.tensor,
    order_S: tl.tensor,
    starts_P1: tl.tensor,
    expert_M: tl.tensor,
    row_M: tl.tensor,
    S: tl.tensor,
    M: tl.tensor,
    P: tl.constexpr,
    BP: tl.constexpr,
    BS: tl.constexpr,
    BM: tl.constexpr,
) -> None:
    """All of it by one program."""
    block = tl.arange(0, BS)
    counts_P = tl.zeros((BP,), tl.int32)
    for first in range(0, S, BS):
        counts_P += tl.sum(chosen(bucket_S, first + block, S, BP), 0)
    starts_P = store_starts(starts_P1, counts_P, P, BP)
    next_P = starts_P
    for first in range(0, S, BS):
        chosen_BP = chosen(bucket_S, first + block, S, BP)
        next_P = place(chosen_BP, first + block, next_P, order_S)
    for first in range(0, M, BS):
        cut(starts_P, counts_P, expert_M, row_M, first + block, M, P, BP, BM)


@triton.jit(do_not_specialize=["S", "C"])
def count_slots_kernel(
    bucket_S: tl.tensor,
    counts_PC: tl.tensor,
    S: tl.tensor,
    C: tl.tensor,
    P: tl.constexpr,
    BP: tl.constexpr,
    BS: tl.constexpr,
    STEPS: tl.constexpr,
) -> None:
    """How many slots of each expert one run has."""
    run = tl.program_id(0)
    p = tl.arange(0, BP)
    counts_P = tl.zeros((BP,), tl.int32)
    for step in range(STEPS):
        slots = (run * STEPS + step) * BS + tl.arange(0, BS)
        counts_P += tl.sum(chosen(bucket_S, slots, S, BP), 0)
    tl.store(counts_PC + p * C + run, counts_P, mask=p < P)


@triton.jit(do_not_specialize=["C"])
def sum_counts_kernel(
    counts_PC: tl.tensor, counts_P: tl.tensor, C: tl.tensor, BC: tl.constexpr
) -> None:
    """One expert's counts become the counts before each run, and their sum."""
    expert = tl.program_id(0)
    line = counts_PC + expert * C
    c = tl.arange(0, BC)
    before = 0
    for first in range(0, C, BC):
        counts = tl.load(line + first + c, mask=first + c < C, other=0)
        tl.store(line + first + c, before + tl.cumsum(counts, 0) - counts, mask=first + c < C)
        before += tl.sum(counts, 0)
    tl.store(counts_P + expert, before)


@triton.jit(do_not_specialize=["S", "C"])
def place_slots_kernel(
    bucket_S: tl.tensor,
    counts_PC: tl.tensor,
    counts_P: tl.tensor,
    order_S: tl.tensor,
    starts_P1: tl.tensor,
    S: tl.tensor,
    C: tl.tensor,
    P: tl.constexpr,
    BP: tl.constexpr,
    BS: tl.constexpr,
    STEPS: tl.constexpr,
) -> None:
    """One run's slots go to their rows; the first program writes the experts' first rows too."""
    run = tl.program_id(0)
    p = tl.arange(0, BP)
    counts = tl.load(counts_P + p, mask=p < P, other=0)
    starts_P = store_starts(starts_P1, counts, tl.where(run == 0, P, 0), BP)
    next_P = starts_P + tl.load(counts_PC + p * C + run, mask=p < P, other=0)
    for step in range(STEPS):
        slots = (run * STEPS + step) * BS + tl.arange(0, BS)
        next_P = place(chosen(bucket_S, slots, S, BP), slots, next_P, order_S)


@triton.jit(do_not_specialize=["M"])
def cut_tiles_kernel(
    starts_P1: tl.tensor,
    expert_M: tl.tensor,
    row_M: tl.tensor,
    M: tl.tensor,
    P: tl.constexpr,
    BP: tl.constexpr,
    BS: tl.constexpr,
    BM: tl.constexpr,
) -> None:
    """The tiles of rows that are sorted already, BS of them a program."""
    p = tl.arange(0, BP)
    starts_P = tl.load(starts_P1 + p, mask=p < P, other=0)
    counts_P = tl.load(starts_P1 + 1 + p, mask=p < P, other=0) - starts_P
    tiles = tl.program_id(0) * BS + tl.arange(0, BS)
    cut(starts_P, counts_P, expert_M, row_M, tiles, M, P, BP, BM)
