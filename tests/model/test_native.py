"""The compiled experts and top-k against torch, for every vector width, and life without them."""

import logging
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from model import native
from model.emo.experts import _cpu_experts, native_experts, sorted_experts
from model.kernels.reference import reference_experts
from model.native import compiled
from model.native.products import has_products
from model.native.router import top_k_ids
from model.train.presets import bf16_gains
from tests.model.helpers import needs_compiler
from tests.model.test_experts import CASES, outputs_and_gradients, problem, relative_errors

CPUINFO = Path("/proc/cpuinfo")


def wide(**changes):
    tensors, ids, upstream = problem(**{"N": 37, "H": 96, "I": 32, **changes})
    return [t.detach().mul(0.3).requires_grad_() for t in tensors], ids, upstream


@needs_compiler
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_native_experts_equal_the_loop(case):
    tensors, ids, upstream = wide(**case)
    assert native.fits(tensors[1], tensors[2])
    fast = outputs_and_gradients(native_experts, tensors, ids, upstream)
    slow = outputs_and_gradients(reference_experts, tensors, ids, upstream)
    assert max(relative_errors(fast, slow)) < 2e-6


def in_bf16(tensors):
    """The tensors rounded, and those as float32."""
    halves = [tensor.detach().bfloat16().requires_grad_() for tensor in tensors]
    return halves, [tensor.detach().float().requires_grad_() for tensor in halves]


@needs_compiler
def test_small_experts_in_bf16_round_their_results_alone():
    tensors, ids, upstream = wide()
    halves, widened = in_bf16(tensors)
    fast = outputs_and_gradients(_cpu_experts, halves, ids, upstream.bfloat16())
    assert {tensor.dtype for tensor in fast} == {torch.bfloat16}
    slow = outputs_and_gradients(reference_experts, widened, ids, upstream.bfloat16().float())
    assert max(relative_errors(fast, slow)) < 2e-3


@needs_compiler
@pytest.mark.parametrize("N", [1, 37, 4500], ids=["one", "few", "more than at once"])
def test_without_gradients_bf16_is_read_as_it_is(processor, N):
    """Few rows of an expert and many. Ids outside drop their slot, whose gate weight is NaN."""
    tensors, ids, _ = wide(N=N, E=20, K=3)
    halves, widened = in_bf16(tensors)
    ids = ids.where(ids != 4, torch.tensor([-1, 99, 20]))
    with torch.no_grad():
        slow = reference_experts(*widened, ids)
        halves[3][~((ids >= 0) & (ids < 20))] = float("nan")
        fast = _cpu_experts(*halves, ids)
    assert fast.dtype == torch.bfloat16
    assert relative_errors([fast], [slow])[0] < 4e-3  # a few rows: activations are rounded too


@needs_compiler
def test_every_vector_width_gives_the_same_numbers(processor):
    """With more tokens than are worked off at once."""
    tensors, ids, upstream = wide(N=4500, E=3)
    fast = outputs_and_gradients(native_experts, tensors, ids, upstream)
    slow = outputs_and_gradients(reference_experts, tensors, ids, upstream)
    assert max(relative_errors(fast, slow)) < 3e-6


@needs_compiler
@pytest.mark.parametrize("size", [20.0, 1e4])
def test_large_activations_saturate_without_nan(size):
    (x, w13, w2, s), ids, upstream = wide()
    tensors = [(x.detach() * size).requires_grad_(), w13, w2, s]
    fast = outputs_and_gradients(native_experts, tensors, ids, upstream)
    slow = outputs_and_gradients(reference_experts, tensors, ids, upstream)
    assert all(torch.isfinite(t).all() for t in fast)
    assert max(relative_errors(fast, slow)) < 1e-5


@needs_compiler
def test_a_token_does_not_depend_on_the_others():
    tensors, ids, _ = wide(N=300)
    x, *weights, s = (t.detach() for t in tensors)
    all_rows = native_experts(x, *weights, s, ids)
    some = torch.arange(0, 300, 7)
    assert torch.equal(all_rows[some], native_experts(x[some], *weights, s[some], ids[some]))


@needs_compiler
def test_threads_do_not_disturb_each_other():
    tensors, ids, _ = wide(N=300)
    inputs = [t.detach() for t in tensors]
    expected = native_experts(*inputs, ids)
    with ThreadPoolExecutor(4) as pool:
        results = pool.map(lambda _: native_experts(*inputs, ids), range(40))
    assert all(torch.equal(result, expected) for result in results)


@needs_compiler
def test_nan_stays_visible():
    (x, w13, w2, s), ids, _ = wide()
    broken = x.detach().clone()
    broken[3, 5] = float("nan")
    out = native_experts(broken, w13.detach(), w2.detach(), s.detach(), ids)
    assert out[3].isnan().all() and not out[4].isnan().any()


@needs_compiler
@pytest.mark.parametrize("k", [1, 7, 127])
def test_top_k_agrees_with_a_stable_sort(k):
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 40, (50, 127), generator=generator).float()
    scores[7] = float("-inf")
    expected = scores.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    assert torch.equal(top_k_ids(scores, k), expected)


def test_sizes_that_do_not_fit_take_the_torch_path():
    for H, I in ((24, 32), (64, 10), (1024, 512)):  # noqa: E741
        w13, w2 = torch.zeros(2, 2 * I, H), torch.zeros(2, H, I)
        assert not native.fits(w13, w2)


def test_without_a_compiler_the_numbers_are_the_same(fresh, monkeypatch, caplog):
    tensors, ids, upstream = wide()
    with caplog.at_level(logging.INFO):
        monkeypatch.setenv("CC", "no-such-compiler")
        plain = outputs_and_gradients(sorted_experts, tensors, ids, upstream)
        top = top_k_ids(torch.tensor([[0.1, 0.7, 0.2]]), 2)
    assert compiled.library() is None and "No C compiler" in caplog.text
    slow = outputs_and_gradients(reference_experts, tensors, ids, upstream)
    assert max(relative_errors(plain, slow)) < 2e-6
    assert top.tolist() == [[1, 2]]


def test_a_compiler_that_fails_is_reported_once_and_leaves_nothing(fresh, monkeypatch, caplog):
    broken = fresh / "cc"
    broken.write_text("#!/bin/sh\n[ $1 = --version ] && exit 0\nexit 1\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CC", str(broken))
    assert compiled.library() is None and compiled.library() is None
    assert caplog.text.count("did not compile") == 1
    assert list((fresh / "emo-viz").iterdir()) == []


def rounded(tensor):
    return tensor.bfloat16().double()


def half_products(x, w13, w2, s, ids, upstream):
    """Output and gradients of one-expert rows, each product's operands rounded, in float64."""
    gradients = [torch.zeros_like(t, dtype=torch.float64) for t in (x, x, w13, w2, s)]
    out, dx, dw13, dw2, ds = gradients
    for n, k in torch.cartesian_prod(*map(torch.arange, ids.shape)).tolist():
        e, gate_weight = ids[n, k], s[n, k].double()
        gate, up = (rounded(w13[e]) @ rounded(x[n])).float().double().chunk(2)
        sigmoid = gate.sigmoid()
        act = gate * sigmoid * up
        out[n] += rounded(w2[e]) @ rounded(act * gate_weight)
        dact = rounded(w2[e]).t() @ rounded(upstream[n])
        ds[n, k] = dact @ act
        dup = dact * gate_weight * gate * sigmoid
        dgate = dact * gate_weight * up * sigmoid * (1 + gate * (1 - sigmoid))
        dh = rounded(torch.cat([dgate, dup]))
        dx[n] += rounded(w13[e]).t() @ dh
        dw13[e] += torch.outer(dh, rounded(x[n]))
        dw2[e] += torch.outer(rounded(upstream[n]), rounded(act * gate_weight))
    return gradients


@needs_compiler
@pytest.mark.skipif(not has_products(torch.bfloat16), reason="this processor has no bf16 products")
def test_under_autocast_products_are_those_of_bf16_where_that_gains(monkeypatch):
    """An odd number of rows for some expert, so that a pair of rows is half empty."""
    monkeypatch.setattr(native, "half_gains", lambda: True)
    tensors, ids, upstream = wide(N=67, E=3)
    assert (ids.flatten().bincount() % 2).any()
    with torch.autocast("cpu", torch.bfloat16):
        half = outputs_and_gradients(native_experts, tensors, ids, upstream)
    want = half_products(*(t.detach() for t in tensors), ids, upstream)
    exact = outputs_and_gradients(native_experts, tensors, ids, upstream)
    # A number next to a rounding border falls to either side: a few units of bf16 in a few places.
    assert max(relative_errors(half, want)) < 5e-4
    assert min(relative_errors(exact, want)[:4]) > 1e-3


@needs_compiler
@pytest.mark.skipif(not CPUINFO.exists(), reason="no list of what the processor has")
def test_training_takes_bf16_where_its_products_are_the_faster_ones():
    """Matrix units, or AMD's vectors. Intel's multiply floats no slower, without any rounding."""
    text = CPUINFO.read_text()
    amd = "AuthenticAMD" in text and " avx512_bf16" in text
    assert bf16_gains(torch.device("cpu")) == (amd or " amx_tile" in text)
