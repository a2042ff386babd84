"""Expert backends and the fused loss against plain versions, outputs and gradients."""

import pytest
import torch

from model.emo import experts
from model.emo.experts import native_experts, sort_slots, sorted_experts
from model.emo.loss import linear_cross_entropy
from model.kernels.reference import reference_experts
from tests.model.helpers import tiny_model


def problem(N=37, E=9, K=3, H=24, I=10, dtype=torch.float32, ids=None):  # noqa: E741
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()
        for shape in ((N, H), (E, 2 * I, H), (E, H, I), (N, K))
    ]
    if ids is None:
        ids = torch.randint(0, E, (N, K), generator=generator)
    return tensors, ids, torch.randn(N, H, generator=generator, dtype=dtype)


def outputs_and_gradients(experts, tensors, ids, upstream):
    out = experts(*tensors, ids)
    return [out.detach(), *torch.autograd.grad(out, tensors, upstream)]


def relative_errors(fast, slow):
    return [
        float((a - b).norm() / b.norm().clamp(min=1e-9)) for a, b in zip(fast, slow, strict=True)
    ]


ALL_TO_ONE = torch.full((37, 3), 4)
DROPPED = torch.randint(-1, 11, (37, 3), generator=torch.Generator().manual_seed(3))
CASES = {
    "random": {},
    "one-token": {"N": 1},
    "top-1": {"K": 1},
    "one-expert": {"E": 1},
    "all-to-one": {"ids": ALL_TO_ONE},
    "dropped-slots": {"ids": DROPPED},
    "all-dropped": {"ids": torch.full((37, 3), -1)},
}


@pytest.fixture
def poisoned_scratch():
    """Every uninitialised tensor is NaN, so that a row nobody wrote cannot be read unnoticed."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=["small", "large"])
def experts_are(request, monkeypatch):
    """Both ways through the forward pass: all experts a step, and one expert after the other."""
    monkeypatch.setattr(experts, "_is_short", lambda w13: request.param == "small")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_sorted_experts_equal_the_loop(case, experts_are, poisoned_scratch):
    tensors, ids, upstream = problem(**case)
    fast = outputs_and_gradients(sorted_experts, tensors, ids, upstream)
    slow = outputs_and_gradients(reference_experts, tensors, ids, upstream)
    assert all(error < 1e-6 for error in relative_errors(fast, slow))


def test_without_gradients_the_same_bits(experts_are):
    tensors, ids, _ = problem(ids=DROPPED)
    with torch.no_grad():
        alone = sorted_experts(*tensors, ids)
    assert torch.equal(alone, sorted_experts(*tensors, ids).detach())


def test_the_gate_weight_of_a_dropped_slot_is_not_read(experts_are, poisoned_scratch):
    tensors, ids, upstream = problem(ids=DROPPED)
    want = outputs_and_gradients(sorted_experts, tensors, ids, upstream)
    with torch.no_grad():
        tensors[3][(ids < 0) | (ids >= 9)] = float("nan")
    got = outputs_and_gradients(sorted_experts, tensors, ids, upstream)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_no_tokens_give_no_rows():
    tensors, ids, upstream = problem(N=0)
    assert sorted_experts(*tensors, ids).shape == (0, 24)


def test_bf16_under_autocast_stays_close_to_float32():
    tensors, ids, upstream = problem(N=200, H=64, I=32)
    slow = outputs_and_gradients(reference_experts, tensors, ids, upstream)
    with torch.autocast("cpu", torch.bfloat16):
        fast = outputs_and_gradients(sorted_experts, tensors, ids, upstream)
    assert all(f.dtype == torch.float32 for f in fast)
    assert all(error < 1.2e-2 for error in relative_errors(fast, slow))


def test_the_reference_passes_gradcheck_in_float64():
    tensors, ids, _ = problem(N=5, E=3, K=2, H=4, I=3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *t: reference_experts(*t, ids), tensors)


def test_two_runs_are_equal_bit_for_bit():
    tensors, ids, upstream = problem(N=300)
    first, second = (outputs_and_gradients(sorted_experts, tensors, ids, upstream) for _ in "ab")
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_padding_keeps_groups_apart():
    ids = torch.tensor([[2, 0], [2, 2], [0, 9]])
    slots = sort_slots(ids, 4, multiple=4)
    assert slots.sizes == [4, 0, 4, 0, 1]
    assert slots.slot_of_row_P.tolist() == [1, 4, 6, 6, 0, 2, 3, 6, 6]
    assert slots.row_of_slot_S.tolist() == [4, 0, 5, 6, 1, 8]


@pytest.mark.parametrize("z_coef", [0.0, 1e-2])
def test_the_fused_loss_equals_cross_entropy_on_all_logits(z_coef):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2500, 16, generator=generator, requires_grad=True)
    head = torch.randn(40, 16, generator=generator, requires_grad=True)
    labels = torch.randint(0, 40, (2500,), generator=generator)
    fused = linear_cross_entropy(hidden, head, labels, z_coef)
    logits = hidden @ head.t()
    plain = torch.nn.functional.cross_entropy(logits, labels)
    plain = plain + z_coef * logits.logsumexp(1).square().mean()
    assert float(fused.detach()) == pytest.approx(float(plain.detach()), rel=1e-6)
    for a, b in zip(
        torch.autograd.grad(fused, (hidden, head)),
        torch.autograd.grad(plain, (hidden, head)),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-7)


def test_the_model_uses_our_backend_unless_told():
    assert tiny_model().config._experts_implementation == "emo_moe"


def test_ids_of_another_integer_type_are_the_same_experts():
    tensors, ids, _ = problem(H=32, I=32)
    if not experts.native.fits(*tensors[1:3]):
        pytest.skip("no C compiler")
    assert torch.equal(native_experts(*tensors, ids.int()), native_experts(*tensors, ids))
