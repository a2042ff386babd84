"""Kernel P: each document's expert pool, and from it each token's mask, without a host sync.

A document's pool is the `size` routed experts with the largest router probability summed over its
tokens (ties go to the lower id), as `model.emo.routing.document_pools` chooses them.

Shapes: B rows of T tokens, D documents a row (at most), R routed experts, BR its power of two, BT
tokens at a time.
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["D"])
def document_pool_kernel(
    logits_BTR: tl.tensor,
    starts_BD: tl.tensor,
    ends_BD: tl.tensor,
    sizes_BD: tl.tensor,
    allowed_BTR: tl.tensor,
    T: tl.tensor,
    D: tl.tensor,
    ROW_STRIDE: tl.constexpr,
    R: tl.constexpr,
    BR: tl.constexpr,
    BT: tl.constexpr,
) -> None:
    """One program a document: sum of softmax over its tokens, rank, mask for each token.

    `logits` has ROW_STRIDE columns, of which the first R are routed. A document without tokens
    leaves at once.
    """
    document = tl.program_id(0)
    start = tl.load(starts_BD + document)
    end = tl.load(ends_BD + document)
    row = (document // D).to(tl.int64) * T
    r = tl.arange(0, BR)
    t = tl.arange(0, BT)
    mass = tl.zeros((BR,), tl.float32)
    for t0 in range(start, end, BT):
        here = (t < end - t0)[:, None] & (r < R)[None, :]
        logits = logits_BTR + (row + t0) * ROW_STRIDE + t[:, None] * ROW_STRIDE + r[None, :]
        scores = tl.load(logits, mask=here, other=float("-inf")).to(tl.float32)
        top = tl.max(tl.where(here, scores, -1e30), 1)
        odds = tl.where(here, tl.exp(scores - top[:, None]), 0.0)
        total = tl.sum(odds, 1)
        mass += tl.sum(odds / tl.where(total > 0, total, 1.0)[:, None], 0)
    mass = tl.where(r < R, mass, -1.0)
    above = mass[None, :] > mass[:, None]
    tied_lower = (mass[None, :] == mass[:, None]) & (r[None, :] < r[:, None])
    rank = tl.sum((above | tied_lower).to(tl.int32), 1)
    keep = (rank < tl.load(sizes_BD + document)).to(tl.int8)
    for t0 in range(start, end, BT):
        here = (t < end - t0)[:, None] & (r < R)[None, :]
        allowed = allowed_BTR + (row + t0) * R + t[:, None] * R + r[None, :]
        tl.store(allowed, tl.broadcast_to(keep[None, :], (BT, BR)), mask=here)
