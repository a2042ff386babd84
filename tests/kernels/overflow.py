"""Run in a process of its own: every kernel with addresses past 2^31 elements.

The buffers are virtual (nothing but the touched pages is resident). A 32-bit offset wraps and reads
or writes outside of them, which kills the process; a wrong value fails an assertion.
"""

import os

os.environ["TRITON_INTERPRET"] = "1"

import torch  # noqa: E402

from model.kernels import backward, forward, pool  # noqa: E402

H, K = 2048, 1
FAR = 1_100_000  # rows; times 2048 is past 2^31
TILE = {"BM": 16, "BN": 16, "BK": 64, "num_warps": 1, "num_stages": 1}


def far_rows(width):
    return torch.empty(FAR, width, dtype=torch.float16)


def index(*values):
    return torch.tensor(values, dtype=torch.int32)


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).half()


def same(got, want):
    assert torch.allclose(got.float(), want.float(), rtol=2e-2, atol=2e-2), (got, want)


def up():
    """A token past the limit, an expert whose weights start past it, rows of h past it."""
    x, token = far_rows(H), FAR - 1
    x[token] = normal(H) / 16
    experts = 2**31 // (2 * 1024 * H) + 2
    w13 = torch.empty(experts, 2 * 1024, H, dtype=torch.float16)
    w13[-1, :16] = w13[-1, 1024:1040] = normal(16, H) / 4
    order = torch.full((FAR,), token, dtype=torch.int32)
    starts = torch.zeros(experts + 1, dtype=torch.int32)
    starts[-1] = FAR
    h, a = far_rows(2 * 1024), far_rows(1024)
    tiles = index(experts - 1), index(FAR - 1)
    sizes = {"H": H, "I": 1024, "K": K, "SAVE_H": True, "STORE_A": True, "PARTS": 1, "TMA": False}
    forward.up_kernel[(1,)](x, w13, order, starts, *tiles, h, a, **sizes, **TILE)
    same(h[FAR - 1, :16], w13[-1, :16].float() @ x[token].float())


def down():
    rows, out = far_rows(H), far_rows(H)
    rows[FAR - 1] = normal(H) / 16
    w = normal(1, H, H)
    order = torch.full((FAR,), FAR - 2, dtype=torch.int32)
    sizes = {"DEPTH": H, "WIDTH": H, "STRIDE_DEPTH": H, "STRIDE_WIDTH": 1, "TMA": False}
    operands = (rows, w, order, index(0, FAR), index(0), index(FAR - 1), out)
    forward.rows_to_slots_kernel[(1,)](*operands, **sizes, **TILE)
    same(out[FAR - 2, :16], rows[FAR - 1].float() @ w[0, :, :16].float())


def sum_slots():
    """The last of 18 tokens of 8 slots of 2^24 numbers."""
    width = 2**24
    y = torch.empty(18 * 8, width, dtype=torch.float16)
    y[-8:, :16] = normal(8, 16)
    out = torch.empty(18, width, dtype=torch.float16)
    live = torch.full((18 * 8,), -1, dtype=torch.int32)
    live[-8:] = 0
    s = torch.ones(18 * 8)
    options = {"SCALED": True, "BH": 16, "num_warps": 1}
    forward.sum_slots_kernel[(18, 1)](y, s, live, out, H=width, K=8, **options)
    same(out[-1, :16], y[-8:, :16].float().sum(0))


def act_grad():
    dout, token = far_rows(H), FAR - 1
    dout[token] = normal(H) / 16
    w2 = normal(1, H, 1024)
    h, dh, sa = far_rows(2 * 1024), far_rows(2 * 1024), far_rows(1024)
    h[FAR - 1] = 1.0
    order = torch.full((FAR,), token, dtype=torch.int32)
    ds = torch.empty(FAR * 64)
    tiles = index(0, FAR), index(0), index(FAR - 1)
    operands = (dout, w2, h, torch.ones(FAR), order, order, *tiles, dh, sa, ds)
    sizes = {"H": H, "I": 1024, "K": K, "DETACH": False, "PARTS": 2, "TMA": False}
    backward.act_grad_kernel[(1,)](*operands, **sizes, **TILE)
    silu = torch.tensor(1.0).sigmoid()
    same(dh[FAR - 1, 1024:1040], dout[token].float() @ w2[0, :, :16].float() * silu)


def weight_grad():
    """The expert's two rows are the last ones and its token is the last."""
    side, far = 1024, 2 * FAR
    x, token = torch.empty(far, side, dtype=torch.float16), far - 1
    x[token] = normal(side)
    dh = torch.empty_like(x)
    dh[-2:] = normal(2, side)
    order = torch.full((far,), token, dtype=torch.int32)
    dw = torch.empty(1, side, side, dtype=torch.float16)
    tile = TILE | {"BM": side, "BN": side, "BK": 16}
    sizes = {"HEIGHT": side, "WIDTH": side, "K": K}
    for tokens_left, operands in ((False, (dh, x)), (True, (x, dh))):
        backward.weight_grad_kernel[(1,)](
            *operands, order, index(far - 2, far), dw, LEFT_IS_TOKENS=tokens_left, **sizes, **tile
        )
        want = dh[-2:, :4].float().sum(0)[:, None] * x[token, :4].float()
        same(dw[0, :4, :4], want.t() if tokens_left else want)


def document_pool():
    """A document of the last 20 of 17 million tokens, with a pool of the 3 likeliest experts."""
    tokens, routed = 17_000_000, 127
    logits = torch.empty(1, tokens, routed + 1, dtype=torch.float16)
    logits[0, -20:] = torch.arange(routed + 1) / 16
    allowed = torch.empty(1, tokens, routed, dtype=torch.int8)
    sizes = {"ROW_STRIDE": routed + 1, "R": routed, "BR": 128, "BT": 32, "num_warps": 1}
    operands = (logits, index(tokens - 20), index(tokens), index(3), allowed, tokens, 1)
    pool.document_pool_kernel[(1,)](*operands, **sizes)
    assert torch.equal(allowed[0, -20:].bool(), (torch.arange(routed) >= 124).expand(20, -1))


if __name__ == "__main__":
    for kernel in (up, down, sum_slots, act_grad, weight_grad, document_pool):
        kernel()
        print(kernel.__name__, "ok", flush=True)
