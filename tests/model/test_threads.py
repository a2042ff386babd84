"""Compiled layers on several threads give the numbers of one, by torch's pool and by new ones."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from model.emo.attention import _DocumentAttention
from model.emo.experts import native_experts
from model.emo.loss import linear_cross_entropy
from model.emo.norm import EmoRMSNorm
from model.native import threads
from model.native.compiled import library
from model.native.router import choose, document_mass, top_k_ids

pytestmark = pytest.mark.skipif(library() is None, reason="no compiled library here")
NUMBERS = (1, 2, 5)
TOKENS = 500
"""Of experts: shares that fewer threads have work for than are asked for, and of uneven size."""


@pytest.fixture(autouse=True, params=["pool", "own"])
def _threads_that_are_asked_for(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Even for layers that are not worth it, from torch's pool and without one."""
    monkeypatch.setattr(threads, "FEWEST_PRODUCTS", 0)
    if request.param == "own":
        monkeypatch.setattr(threads, "_pool", lambda: 0)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_threads(run: Callable[[], tuple[Tensor, ...]]) -> list[tuple[Tensor, ...]]:
    found = []
    for number in NUMBERS:
        torch.set_num_threads(number)
        found.append(run())
    return found


def assert_equal_bits(run: Callable[[], tuple[Tensor, ...]]) -> None:
    one, *more = by_threads(run)
    for found in more:
        assert all(torch.equal(a, b) for a, b in zip(found, one, strict=True))


def with_gradients(run: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    out = run(*leaves)
    weights = numbers(*out.shape, seed=9)
    return out.detach(), *torch.autograd.grad((out * weights).sum(), leaves)


def test_attention() -> None:
    B, T, A, D = 3, 70, 2, 32
    first_BT = torch.zeros(B, T, dtype=torch.int32)
    first_BT[1, 33:], first_BT[2, 5:] = 33, 5
    angles = (numbers(B, T, D, seed=1), numbers(B, T, D, seed=2))
    assert_equal_bits(
        lambda: with_gradients(
            lambda qkv: _DocumentAttention.apply(qkv, *angles, first_BT), numbers(B, T, 3, A, D)
        )
    )


def test_loss() -> None:
    labels_N = torch.arange(301) % 64

    def loss(hidden_NH: Tensor, head_VH: Tensor) -> Tensor:
        return linear_cross_entropy(hidden_NH, head_VH, labels_N, 0.1)

    one, *more = by_threads(lambda: with_gradients(loss, numbers(301, 32), numbers(64, 32)))
    for found in more:  # its products are torch's, whose last bits depend on threads
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, one, strict=True))


def test_norm() -> None:
    norm = EmoRMSNorm(32, 1e-6)

    def normed(x: Tensor, weight: Tensor) -> Tensor:
        return torch.func.functional_call(norm, {"weight": weight}, x)

    assert_equal_bits(lambda: with_gradients(normed, numbers(600, 32), numbers(32)))


def test_router() -> None:
    allowed = numbers(600, 41, seed=3) > -1
    allowed[:, :5] = True

    def chosen() -> tuple[Tensor, ...]:
        logits = numbers(600, 42).requires_grad_()
        scores, weights, ids, lse = choose(logits, 41, 5, allowed)
        total = (scores * numbers(600, 41, seed=4)).sum() + weights.sum() + lse.sum()
        return scores.detach(), ids, *torch.autograd.grad(total, logits)

    assert_equal_bits(chosen)
    assert_equal_bits(lambda: (top_k_ids(numbers(600, 41), 5),))


def test_mass_of_documents() -> None:
    segments_BT = torch.arange(70).expand(6, 70) // 30
    assert_equal_bits(lambda: (document_mass(numbers(6, 70, 42), segments_BT, 3, 41),))
    for B, T in ((0, 70), (6, 0)):
        assert not document_mass(numbers(B, T, 42), segments_BT[:B, :T], 3, 41).any()


def experts_problem() -> tuple[tuple[Tensor, ...], Tensor]:
    """Seven experts of which one has no slot, and one those of the last tokens alone."""
    ids = torch.rand(TOKENS, 5, generator=torch.Generator().manual_seed(5)).argsort(-1)[:, :3]
    ids[TOKENS - 40 :, 1] = 6
    weights = (numbers(7, 64, 96) * 0.2, numbers(7, 96, 32) * 0.2)
    return (numbers(TOKENS, 96), *weights, numbers(TOKENS, 3).abs()), ids


def test_experts() -> None:
    inputs, ids = experts_problem()
    one, *more = by_threads(lambda: with_gradients(lambda *x: native_experts(*x, ids), *inputs))
    for found in more:
        out, dx, dw13, dw2, dgate = found
        assert all(
            torch.equal(a, b) for a, b in zip((out, dx, dgate), (*one[:2], one[4]), strict=True)
        )
        assert torch.allclose(dw13, one[2], rtol=1e-4, atol=1e-4)
        assert torch.allclose(dw2, one[3], rtol=1e-4, atol=1e-4)
        assert not dw13[5].any() and dw13[6].any()


def test_the_same_number_of_threads_gives_the_same_bits() -> None:
    inputs, ids = experts_problem()
    torch.set_num_threads(5)
    one, other = (with_gradients(lambda *x: native_experts(*x, ids), *inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_experts_without_gradients_in_bf16() -> None:
    inputs, ids = experts_problem()
    half = [tensor.bfloat16() for tensor in inputs]
    assert_equal_bits(lambda: (native_experts(*half, ids),))


def test_small_work_wakes_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "FEWEST_PRODUCTS", 1000)
    torch.set_num_threads(3)
    assert threads.threads_for(999)[1] == 1 and threads.threads_for(1000)[1] == 3
