"""Experts larger than the cache in compiled code: the loop's numbers by any number of threads."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from model.kernels.reference import reference_experts
from model.native import threads, wide
from model.native.compiled import library
from model.native.products import has_products

pytestmark = pytest.mark.skipif(
    library() is None or not wide._gains(torch.float32), reason="no compiled library here"
)
DTYPES = [
    dtype
    for dtype in (torch.float32, torch.bfloat16)
    if library() is not None and wide._gains(dtype)
]
WORDS = 2
"""As wide.h numbers it."""
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 8e-3}


@pytest.fixture(autouse=True)
def _same_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As many as a test asks for, even for layers that are not worth it."""
    monkeypatch.setattr(threads, "FEWEST_PRODUCTS", 0)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def layer(dtype: torch.dtype, T: int, E: int = 6, K: int = 3, H: int = 96, I: int = 32) -> tuple:  # noqa: E741
    generator = torch.Generator().manual_seed(0)
    w13_EJH = torch.randn(E, 2 * I, H, generator=generator).to(dtype) * 0.2
    w2_EHI = torch.randn(E, H, I, generator=generator).to(dtype) * 0.2
    x_TH = torch.randn(T, H, generator=generator).to(dtype)
    ids_TK = torch.rand(T, E, generator=generator).argsort(-1)[:, :K]
    s_TK = torch.rand(T, K, generator=generator).to(dtype)
    return x_TH, w13_EJH, w2_EHI, s_TK, ids_TK


def exact(x: Tensor, w13: Tensor, w2: Tensor, s: Tensor, ids: Tensor) -> Tensor:
    return reference_experts(x.double(), w13.double(), w2.double(), s.double(), ids)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tokens", [1, 2, 7, 150])  # 150: more rows of an expert than a block holds
@pytest.mark.parametrize("number", [1, 3])
def test_the_sum_is_that_of_the_plain_loop(dtype: torch.dtype, tokens: int, number: int) -> None:
    torch.set_num_threads(number)
    inputs = layer(dtype, tokens)
    found, wanted = wide.wide_forward(*inputs), exact(*inputs)
    assert found.dtype == dtype
    largest = wanted.abs().max()
    assert (found - wanted).abs().max() <= TOLERANCE[dtype] * largest


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_sums_longer_than_what_the_nearest_cache_holds(dtype: torch.dtype) -> None:
    """Rows of weights in uneven shares; blocks that are full, part of one, and of few rows."""
    inputs = layer(dtype, 250, E=3, K=2, H=2144, I=544)
    inputs[-1][12:, 0], inputs[-1][4:, 1] = 0, 2
    found, wanted = wide.wide_forward(*inputs), exact(*inputs)
    assert (found - wanted).abs().max() <= TOLERANCE[dtype] * wanted.abs().max()


@pytest.mark.skipif(not has_products(torch.bfloat16), reason="no unit for bf16 here")
@pytest.mark.parametrize("tokens", [1, 7, 40, 150])
def test_a_unit_for_bf16_gives_the_same_sum(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Intel's is slower than floats and never taken: asked for here."""
    monkeypatch.setattr(wide, "_kind", lambda dtype: WORDS)
    inputs = layer(torch.bfloat16, tokens, H=1056)
    found, wanted = wide.wide_forward(*inputs), exact(*inputs)
    assert (found - wanted).abs().max() <= 1.5e-2 * wanted.abs().max()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("pool", [True, False])
def test_threads_change_no_bit(
    dtype: torch.dtype, pool: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of torch's pool, where there is one, and those that are started without."""
    if not pool:
        monkeypatch.setattr(threads, "_pool", lambda: 0)
    inputs = layer(dtype, 40)
    found = []
    for number in (1, 2, 5):
        torch.set_num_threads(number)
        found.append(wide.wide_forward(*inputs))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ids_outside_drop_their_slot_and_unused_experts_are_never_read(dtype: torch.dtype) -> None:
    x, w13, w2, s, ids = layer(dtype, 9)
    ids = ids.where(ids < 4, torch.tensor([-1, 99, 6]))
    s = s.where(ids < 4, torch.nan) if dtype == torch.float32 else s
    wanted = exact(x, w13, w2, s.nan_to_num(), ids)
    w13[4:], w2[4:] = torch.nan, torch.nan
    found = wide.wide_forward(x, w13, w2, s, ids)
    assert (found - wanted).abs().max() <= TOLERANCE[dtype] * wanted.abs().max()


def test_no_tokens_and_no_experts_give_nothing_and_zeros() -> None:
    x, w13, w2, s, ids = layer(torch.float32, 3)
    assert wide.wide_forward(x[:0], w13, w2, s[:0], ids[:0]).shape == (0, 96)
    assert not wide.wide_forward(x, w13, w2, s, torch.full_like(ids, -1)).any()


def test_inputs_that_are_views_are_read_as_they_stand() -> None:
    x, w13, w2, s, ids = layer(torch.float32, 8)
    strided = torch.stack([x, x.neg()], -1)[..., 0]
    assert not strided.is_contiguous()
    assert torch.equal(
        wide.wide_forward(strided, w13, w2, s, ids), wide.wide_forward(x, w13, w2, s, ids)
    )


def test_what_does_not_fit_is_left_to_torch() -> None:
    x, w13, w2, s, ids = layer(torch.float32, 4)
    assert wide.fits(x, w13, w2, ids)
    assert not wide.fits(x.double(), w13.double(), w2.double(), ids)
    assert not wide.fits(x, w13.transpose(1, 2), w2, ids)
    assert not wide.fits(x[:, :80], w13[..., :80], w2[:, :80], ids)
    assert not wide.fits(x, w13, w2, ids.repeat(200, 1))
