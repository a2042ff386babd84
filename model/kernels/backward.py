"""Kernels of the backward pass: gradient through the activation, gradients of the weights.

The input gradient is `forward.rows_to_slots_kernel` followed by `forward.sum_slots_kernel`. The
rules at the head of `forward` hold here too. Nothing is added atomically: the gate gradient leaves
one partial sum a slot and block of columns, and each block of a weight gradient has one program.

Shapes: T tokens, K experts a token, S slots and rows (S = T*K), P physical experts, H hidden size,
I expert width, J = 2I, M tiles, B blocks of columns; a block is BM x BN, and BK deep.
"""

import triton
import triton.language as tl

from model.kernels.forward import expert_block, load_block


@triton.jit
def act_grad_part(
    dact: tl.tensor,
    h_SJ: tl.tensor,
    dh_SJ: tl.tensor,
    sa_SI: tl.tensor,
    s: tl.tensor,
    first: tl.tensor,
    n0: tl.tensor,
    live_M: tl.tensor,
    I: tl.constexpr,  # noqa: E741
    BM: tl.constexpr,
    BN: tl.constexpr,
) -> tl.tensor:
    """SwiGLU backward for BN columns: stores dh and s * a, returns each row's part of ds."""
    m = tl.arange(0, BM)
    n = tl.arange(0, BN)
    live = live_M[:, None] & (n0 + n < I)[None, :]
    h_local = m[:, None] * (2 * I) + n[None, :]
    h_base = first.to(tl.int64) * (2 * I) + n0
    gate = tl.load(h_SJ + h_base + h_local, mask=live, other=0.0).to(tl.float32)
    up = tl.load(h_SJ + h_base + I + h_local, mask=live, other=0.0).to(tl.float32)
    sigmoid = tl.sigmoid(gate)
    silu = gate * sigmoid
    act = silu * up
    ds = tl.sum(tl.where(live, dact * act, 0.0), 1)
    scaled = dact * s[:, None]
    dgate = scaled * up * (sigmoid + silu * (1.0 - sigmoid))
    dup = scaled * silu
    tl.store(dh_SJ + h_base + h_local, dgate.to(dh_SJ.dtype.element_ty), mask=live)
    tl.store(dh_SJ + h_base + I + h_local, dup.to(dh_SJ.dtype.element_ty), mask=live)
    sa_tile = sa_SI + first.to(tl.int64) * I + n0
    sa_local = m[:, None] * I + n[None, :]
    sa = act * s[:, None]
    tl.store(sa_tile + sa_local, sa.to(sa_SI.dtype.element_ty), mask=live)
    return ds


@triton.jit
def act_grad_parts(
    dact: tl.tensor,
    h_SJ: tl.tensor,
    dh_SJ: tl.tensor,
    sa_SI: tl.tensor,
    s: tl.tensor,
    first: tl.tensor,
    n0: tl.tensor,
    live_M: tl.tensor,
    I: tl.constexpr,  # noqa: E741
    BM: tl.constexpr,
    BN: tl.constexpr,
    PARTS: tl.constexpr,
) -> tl.tensor:
    """`act_grad_part` on one part of the columns after the other: their registers are reused."""
    if PARTS == 1:
        ds = act_grad_part(dact, h_SJ, dh_SJ, sa_SI, s, first, n0, live_M, I, BM, BN)
    else:
        HALF: tl.constexpr = BN // 2
        REST: tl.constexpr = PARTS // 2
        left, right = tl.split(tl.permute(tl.reshape(dact, (BM, 2, HALF)), (0, 2, 1)))
        ds = act_grad_parts(left, h_SJ, dh_SJ, sa_SI, s, first, n0, live_M, I, BM, HALF, REST)
        n1 = n0 + HALF
        ds += act_grad_parts(right, h_SJ, dh_SJ, sa_SI, s, first, n1, live_M, I, BM, HALF, REST)
    return ds


@triton.jit
def act_grad_kernel(
    dout_TH: tl.tensor,
    w2_PHI: tl.tensor,
    h_SJ: tl.tensor,
    s_S: tl.tensor,
    detach_S: tl.tensor,
    order_S: tl.tensor,
    starts_P1: tl.tensor,
    tile_expert_M: tl.tensor,
    tile_row_M: tl.tensor,
    dh_SJ: tl.tensor,
    sa_SI: tl.tensor,
    ds_SB: tl.tensor,
    H: tl.constexpr,
    I: tl.constexpr,  # noqa: E741
    K: tl.constexpr,
    DETACH: tl.constexpr,
    PARTS: tl.constexpr,
    TMA: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
) -> None:
    """dA = dout[token] @ w2 for one tile, and everything that follows from it elementwise.

    A detached slot lets no gradient into its expert or the input, only into its gate weight. The
    epilogue works on PARTS of the columns in turn: whole, it needs more registers than there are.
    """
    blocks: tl.constexpr = (I + BN - 1) // BN
    pid = tl.program_id(0)
    expert = tl.load(tile_expert_M + pid // blocks)
    if expert < 0:
        return
    first = tl.load(tile_row_M + pid // blocks)
    count = tl.load(starts_P1 + expert + 1) - first
    m = tl.arange(0, BM)
    slots = tl.load(order_S + first + tl.minimum(m, count - 1))
    n0 = (pid % blocks) * BN
    n = tl.arange(0, BN)
    k = tl.arange(0, BK)
    dout_rows = dout_TH + (slots // K).to(tl.int64)[:, None] * H + k[None, :]
    if not TMA:
        w_tile = w2_PHI + expert.to(tl.int64) * (H * I) + n0
        w_local = k[:, None] * I + n[None, :]
    K_EDGE: tl.constexpr = H if H % BK else 0
    N_EDGE: tl.constexpr = I if I % BN else 0
    dact = tl.zeros((BM, BN), tl.float32)
    for k0 in range(0, H, BK):
        dout = load_block(dout_rows + k0, m, k0 + k, 0, K_EDGE)
        if TMA:
            w = expert_block(w2_PHI, expert, k0, n0, BK, BN)
        else:
            w = load_block(w_tile + w_local + k0 * I, k0 + k, n0 + n, K_EDGE, N_EDGE)
        dact = tl.dot(dout, w, dact, input_precision="ieee")
    s = tl.load(s_S + slots).to(tl.float32)
    if DETACH:
        s = tl.where(tl.load(detach_S + slots) != 0, 0.0, s)
    live = m < count
    ds = act_grad_parts(dact, h_SJ, dh_SJ, sa_SI, s, first, n0, live, I, BM, BN, PARTS)
    tl.store(ds_SB + slots.to(tl.int64) * blocks + pid % blocks, ds, mask=live)


@triton.jit
def weight_grad_kernel(
    left: tl.tensor,
    right: tl.tensor,
    order_S: tl.tensor,
    starts_P1: tl.tensor,
    dw_P: tl.tensor,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    K: tl.constexpr,
    LEFT_IS_TOKENS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
) -> None:
    """dw[expert] = left^T @ right over the expert's rows, one HEIGHT x WIDTH block a program.

    One side holds a row a token and is gathered, the other a row a slot in expert order. Programs
    run from the last expert down: it is shared, owns an eighth of all rows and must start first.
    """
    blocks_n: tl.constexpr = (WIDTH + BN - 1) // BN
    blocks: tl.constexpr = ((HEIGHT + BM - 1) // BM) * blocks_n
    pid = tl.program_id(0)
    expert = (tl.num_programs(0) - 1 - pid) // blocks
    block = pid % blocks
    start = tl.load(starts_P1 + expert)
    total = tl.load(starts_P1 + expert + 1) - start
    m0, n0 = (block // blocks_n) * BM, (block % blocks_n) * BN
    m, n, k = tl.arange(0, BM), tl.arange(0, BN), tl.arange(0, BK)
    M_EDGE: tl.constexpr = HEIGHT if HEIGHT % BM else 0
    N_EDGE: tl.constexpr = WIDTH if WIDTH % BN else 0
    acc = tl.zeros((BM, BN), tl.float32)
    for r0 in range(0, total, BK):
        count = total - r0
        near = tl.minimum(k, count - 1)
        tokens = (tl.load(order_S + start + r0 + near) // K).to(tl.int64)
        rows = (start + r0).to(tl.int64)
        # Past the last row the token side repeats it and the other side is zero. The left block is
        # loaded as it is multiplied, BM x BK: transposed afterwards, sm_80 would not load it
        # asynchronously.
        if LEFT_IS_TOKENS:
            l_pointers = left + m0 + tokens[None, :] * HEIGHT + m[:, None]
            l_tile = load_block(l_pointers, m0 + m, k, M_EDGE, 0)
            r_pointers = right + rows * WIDTH + n0 + k[:, None] * WIDTH + n[None, :]
            r_mask = (k < count)[:, None]
            if N_EDGE > 0:
                r_mask = r_mask & (n0 + n < WIDTH)[None, :]
            r_tile = tl.load(r_pointers, mask=r_mask, other=0.0)
        else:
            r_pointers = right + n0 + tokens[:, None] * WIDTH + n[None, :]
            r_tile = load_block(r_pointers, k, n0 + n, 0, N_EDGE)
            l_pointers = left + rows * HEIGHT + m0 + k[None, :] * HEIGHT + m[:, None]
            l_mask = (k < count)[None, :]
            if M_EDGE > 0:
                l_mask = l_mask & (m0 + m < HEIGHT)[:, None]
            l_tile = tl.load(l_pointers, mask=l_mask, other=0.0)
        acc = tl.dot(l_tile, r_tile, acc, input_precision="ieee")
    dw = dw_P + expert.to(tl.int64) * (HEIGHT * WIDTH) + m0 * WIDTH + n0
    live = (m0 + m < HEIGHT)[:, None] & (n0 + n < WIDTH)[None, :]
    local = m[:, None] * WIDTH + n[None, :]
    tl.store(dw + local, acc.to(dw_P.dtype.element_ty), mask=live)
