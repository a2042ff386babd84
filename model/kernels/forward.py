"""Kernels of the forward pass: up projection with SwiGLU, down projection, sum over slots.

Rules of every kernel here and in `backward`: a tile never crosses experts, addresses are a scalar
int64 base plus int32 offsets inside the tile (only a token's gather is int64 a row), every sum has
one fixed order, and each accumulator sees one `tl.dot` an iteration (two miscompile on sm_100).
Rows past the end of an expert repeat its last row instead of being masked: they are valid memory
and their results are never stored.

With TMA the weights, and a left operand whose rows lie together, are tensor descriptors instead of
pointers: the same blocks, so the same bits.

Shapes: T tokens, K experts a token, S slots and rows (S = T*K), P physical experts, H hidden size,
I expert width, J = 2I, M tiles; a block is BM x BN, and BK deep.
"""

import triton
import triton.language as tl


@triton.jit
def load_block(
    pointers: tl.tensor,
    rows: tl.tensor,
    cols: tl.tensor,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
) -> tl.tensor:
    """Load a block; zeros where `rows` or `cols` leave 0..ROWS-1, 0..COLS-1 (0: not checked)."""
    if ROWS > 0 and COLS > 0:
        return tl.load(pointers, mask=(rows < ROWS)[:, None] & (cols < COLS)[None, :], other=0.0)
    elif ROWS > 0:
        return tl.load(pointers, mask=(rows < ROWS)[:, None], other=0.0)
    elif COLS > 0:
        return tl.load(pointers, mask=(cols < COLS)[None, :], other=0.0)
    else:
        return tl.load(pointers)


@triton.jit
def expert_block(
    w_P: tl.tensor_descriptor,
    expert: tl.tensor,
    row: tl.tensor,
    col: tl.tensor,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
) -> tl.tensor:
    """ROWS x COLS of one expert's matrix in a [P, rows, cols] descriptor; zeros outside of it."""
    return w_P.load([expert, row, col]).reshape(ROWS, COLS)


@triton.jit
def store_up_part(
    gate: tl.tensor,
    up: tl.tensor,
    h_SJ: tl.tensor,
    a_SI: tl.tensor,
    first: tl.tensor,
    n0: tl.tensor,
    live_M: tl.tensor,
    I: tl.constexpr,  # noqa: E741
    SAVE_H: tl.constexpr,
    STORE_A: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
) -> None:
    """Store h and a = silu(gate) * up of BN columns, those of the two that are wanted."""
    m = tl.arange(0, BM)
    n = tl.arange(0, BN)
    live = live_M[:, None] & (n0 + n < I)[None, :]
    if SAVE_H:
        h_tile = h_SJ + first.to(tl.int64) * (2 * I) + n0
        h_local = m[:, None] * (2 * I) + n[None, :]
        tl.store(h_tile + h_local, gate.to(h_SJ.dtype.element_ty), mask=live)
        tl.store(h_tile + I + h_local, up.to(h_SJ.dtype.element_ty), mask=live)
    if STORE_A:
        a = gate * tl.sigmoid(gate) * up
        a_tile = a_SI + first.to(tl.int64) * I + n0
        tl.store(a_tile + m[:, None] * I + n[None, :], a.to(a_SI.dtype.element_ty), mask=live)


@triton.jit
def store_up_parts(
    gate: tl.tensor,
    up: tl.tensor,
    h_SJ: tl.tensor,
    a_SI: tl.tensor,
    first: tl.tensor,
    n0: tl.tensor,
    live_M: tl.tensor,
    I: tl.constexpr,  # noqa: E741
    SAVE_H: tl.constexpr,
    STORE_A: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    PARTS: tl.constexpr,
) -> None:
    """`store_up_part` on one part of the columns after the other: their registers are reused."""
    if PARTS == 1:
        store_up_part(gate, up, h_SJ, a_SI, first, n0, live_M, I, SAVE_H, STORE_A, BM, BN)
    else:
        B2: tl.constexpr = BN // 2
        P2: tl.constexpr = PARTS // 2
        gate0, gate1 = tl.split(tl.permute(tl.reshape(gate, (BM, 2, B2)), (0, 2, 1)))
        up0, up1 = tl.split(tl.permute(tl.reshape(up, (BM, 2, B2)), (0, 2, 1)))
        n1 = n0 + B2
        store_up_parts(gate0, up0, h_SJ, a_SI, first, n0, live_M, I, SAVE_H, STORE_A, BM, B2, P2)
        store_up_parts(gate1, up1, h_SJ, a_SI, first, n1, live_M, I, SAVE_H, STORE_A, BM, B2, P2)


@triton.jit
def up_kernel(
    x_TH: tl.tensor,
    w13_PJH: tl.tensor,
    order_S: tl.tensor,
    starts_P1: tl.tensor,
    tile_expert_M: tl.tensor,
    tile_row_M: tl.tensor,
    h_SJ: tl.tensor,
    a_SI: tl.tensor,
    H: tl.constexpr,
    I: tl.constexpr,  # noqa: E741
    K: tl.constexpr,
    SAVE_H: tl.constexpr,
    STORE_A: tl.constexpr,
    PARTS: tl.constexpr,
    TMA: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
) -> None:
    """h = x[token] @ w13^T, a = silu(gate) * up, for one tile of gathered rows and BN columns.

    Both are stored in PARTS: whole, Triton 3.6 needs more registers than there are.
    """
    blocks: tl.constexpr = (I + BN - 1) // BN
    pid = tl.program_id(0)
    expert = tl.load(tile_expert_M + pid // blocks)
    if expert < 0:
        return
    first = tl.load(tile_row_M + pid // blocks)
    count = tl.load(starts_P1 + expert + 1) - first
    m, n, k = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BK)
    slots = tl.load(order_S + first + tl.minimum(m, count - 1))
    n0 = (pid % blocks) * BN
    x_rows = x_TH + (slots // K).to(tl.int64)[:, None] * H + k[None, :]
    if not TMA:
        w_base = w13_PJH + expert.to(tl.int64) * (2 * I * H) + n0 * H
        w_local = n[None, :] * H + k[:, None]
    K_EDGE: tl.constexpr = H if H % BK else 0
    N_EDGE: tl.constexpr = I if I % BN else 0
    gate = tl.zeros((BM, BN), tl.float32)
    up = tl.zeros((BM, BN), tl.float32)
    for k0 in range(0, H, BK):
        x = load_block(x_rows + k0, m, k0 + k, 0, K_EDGE)
        if TMA:
            w_gate = expert_block(w13_PJH, expert, n0, k0, BN, BK).T
            w_up = expert_block(w13_PJH, expert, I + n0, k0, BN, BK).T
        else:
            w_gate = load_block(w_base + w_local + k0, k0 + k, n0 + n, K_EDGE, N_EDGE)
            w_up = load_block(w_base + I * H + w_local + k0, k0 + k, n0 + n, K_EDGE, N_EDGE)
        gate = tl.dot(x, w_gate, gate, input_precision="ieee")
        up = tl.dot(x, w_up, up, input_precision="ieee")
    live = m < count
    store_up_parts(gate, up, h_SJ, a_SI, first, n0, live, I, SAVE_H, STORE_A, BM, BN, PARTS)


@triton.jit
def rows_to_slots_kernel(
    rows_SD: tl.tensor,
    w_P: tl.tensor,
    order_S: tl.tensor,
    starts_P1: tl.tensor,
    tile_expert_M: tl.tensor,
    tile_row_M: tl.tensor,
    out_SN: tl.tensor,
    DEPTH: tl.constexpr,
    WIDTH: tl.constexpr,
    STRIDE_DEPTH: tl.constexpr,
    STRIDE_WIDTH: tl.constexpr,
    TMA: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
) -> None:
    """out[slot] = rows @ w[expert], rows in expert order, results in slot order.

    The down projection (depth I, width H) and the input gradient (depth J, width H, one product
    over gate and up together). The weight block is `DEPTH x WIDTH` with the given strides.
    """
    blocks: tl.constexpr = (WIDTH + BN - 1) // BN
    pid = tl.program_id(0)
    expert = tl.load(tile_expert_M + pid // blocks)
    if expert < 0:
        return
    first = tl.load(tile_row_M + pid // blocks)
    count = tl.load(starts_P1 + expert + 1) - first
    m = tl.arange(0, BM)
    near = tl.minimum(m, count - 1)
    n0 = (pid % blocks) * BN
    n = tl.arange(0, BN)
    k = tl.arange(0, BK)
    if not TMA:
        rows_tile = rows_SD + first.to(tl.int64) * DEPTH
        rows_local = near[:, None] * DEPTH + k[None, :]
        w_tile = w_P + expert.to(tl.int64) * (DEPTH * WIDTH) + n0 * STRIDE_WIDTH
        w_local = k[:, None] * STRIDE_DEPTH + n[None, :] * STRIDE_WIDTH
    K_EDGE: tl.constexpr = DEPTH if DEPTH % BK else 0
    N_EDGE: tl.constexpr = WIDTH if WIDTH % BN else 0
    acc = tl.zeros((BM, BN), tl.float32)
    for k0 in range(0, DEPTH, BK):
        if TMA:
            # Rows past the expert's end are the next one's or unwritten: no result is stored.
            rows = rows_SD.load([first, k0])
            if STRIDE_WIDTH == 1:
                w = expert_block(w_P, expert, k0, n0, BK, BN)
            else:
                w = expert_block(w_P, expert, n0, k0, BN, BK).T
        else:
            rows = load_block(rows_tile + rows_local + k0, m, k0 + k, 0, K_EDGE)
            w = load_block(w_tile + w_local + k0 * STRIDE_DEPTH, k0 + k, n0 + n, K_EDGE, N_EDGE)
        acc = tl.dot(rows, w, acc, input_precision="ieee")
    slots = tl.load(order_S + first + near)
    live = (m < count)[:, None]
    if N_EDGE > 0:
        live = live & (n0 + n < WIDTH)[None, :]
    out_rows = out_SN + slots.to(tl.int64)[:, None] * WIDTH + n0
    tl.store(out_rows + n[None, :], acc.to(out_SN.dtype.element_ty), mask=live)


@triton.jit
def sum_slots_kernel(
    y_SH: tl.tensor,
    s_S: tl.tensor,
    bucket_S: tl.tensor,
    out_TH: tl.tensor,
    H: tl.constexpr,
    K: tl.constexpr,
    SCALED: tl.constexpr,
    BH: tl.constexpr,
) -> None:
    """out[token] = sum over its live slots of (gate weight *) y[slot], in slot order, in float32.

    The output (scaled) and the input gradient (not scaled). Dropped slots were never written:
    neither their row nor their gate weight is read into the sum.
    """
    token = tl.program_id(0)
    n = tl.program_id(1) * BH + tl.arange(0, BH)
    y_token = y_SH + token.to(tl.int64) * (K * H)
    acc = tl.zeros((BH,), tl.float32)
    for j in tl.static_range(K):
        slot = token.to(tl.int64) * K + j
        live = tl.load(bucket_S + slot) >= 0
        y = tl.load(y_token + j * H + n, mask=n < tl.where(live, H, 0), other=0.0).to(tl.float32)
        if SCALED:
            y = y * tl.where(live, tl.load(s_S + slot).to(tl.float32), 0.0)
        acc += y
    tl.store(out_TH + token.to(tl.int64) * H + n, acc.to(out_TH.dtype.element_ty), mask=n < H)
