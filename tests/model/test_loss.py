"""The chunked loss against torch's cross-entropy, in compiled code and without it."""

import pytest
import torch
import torch.nn.functional as F

from model.emo import loss
from model.emo.loss import linear_cross_entropy
from tests.model.helpers import needs_compiler

Z = 1e-2


def problem(tokens=150, vocabulary=96, spread=3.0):
    torch.manual_seed(0)
    hidden_NH = torch.randn(tokens, 24, requires_grad=True)
    head_VH = torch.randn(vocabulary, 24).mul(spread).requires_grad_()
    return hidden_NH, head_VH, torch.randint(vocabulary, (tokens,))


def plain_loss(hidden_NH, head_VH, labels_N, z_coef):
    logits_NV = hidden_NH @ head_VH.t()
    return F.cross_entropy(logits_NV, labels_N) + z_coef * logits_NV.logsumexp(1).square().mean()


def loss_and_gradients(function, hidden_NH, head_VH, labels_N):
    value = function(hidden_NH, head_VH, labels_N, Z)
    return [value.detach(), *torch.autograd.grad(value * 3, (hidden_NH, head_VH))]


def errors(case):
    ours, plain = (loss_and_gradients(f, *case) for f in (linear_cross_entropy, plain_loss))
    return [float((a - b).norm() / b.norm()) for a, b in zip(ours, plain, strict=True)]


@needs_compiler
def test_compiled_loss_equals_cross_entropy(processor, monkeypatch):
    monkeypatch.setattr(loss, "_torch_chunk_loss", lambda *_: pytest.fail("torch was asked"))
    assert max(errors(problem())) < 3e-6
    # exp multiplies the rounding of logits as large as 3,000
    assert max(errors(problem(spread=200.0))) < 3e-5


@pytest.mark.parametrize("vocabulary", [96, 50])
def test_the_loss_without_compiled_code(monkeypatch, vocabulary):
    if vocabulary % 32 == 0:
        monkeypatch.setattr(loss, "available", lambda: False)
    assert max(errors(problem(vocabulary=vocabulary))) < 3e-6


def test_under_bf16_the_loss_stays_near_and_gradients_are_bf16_products():
    hidden_NH, head_VH, labels_N = problem(spread=0.3)
    exact = plain_loss(hidden_NH, head_VH, labels_N, Z).detach()
    with torch.autocast("cpu", torch.bfloat16):
        value = linear_cross_entropy(hidden_NH, head_VH, labels_N, Z)
    assert value.dtype == torch.float32
    assert float(value.detach()) == pytest.approx(float(exact), rel=3e-3)


def test_a_label_that_is_certain_costs_nothing():
    hidden_NH, head_VH = torch.eye(4, 32) * 100, torch.eye(32)
    assert float(linear_cross_entropy(hidden_NH, head_VH, torch.arange(4))) == 0.0


@pytest.mark.parametrize("label", [-5, 96])
def test_a_label_outside_the_vocabulary_is_refused(label):
    hidden_NH, head_VH, labels_N = problem()
    labels_N[-1] = label
    with pytest.raises((IndexError, RuntimeError), match="Labels must be 0 to 95|out of bounds"):
        linear_cross_entropy(hidden_NH, head_VH, labels_N)


@pytest.mark.parametrize("compiled_code", [True, False])
def test_a_label_of_minus_100_has_no_loss_and_no_gradient(monkeypatch, compiled_code):
    if not compiled_code:
        monkeypatch.setattr(loss, "available", lambda: False)
    hidden_NH, head_VH, labels_N = problem(tokens=600)
    labels_N[::3], labels_N[300:560] = -100, -100
    kept_N = labels_N != -100
    case = (hidden_NH, head_VH, labels_N.int())
    ours = loss_and_gradients(linear_cross_entropy, *case)
    plain = loss_and_gradients(
        lambda h, w, labels, z: plain_loss(h[kept_N], w, labels[kept_N].long(), z), *case
    )
    for value, wanted in zip(ours, plain, strict=True):
        torch.testing.assert_close(value, wanted, atol=1e-5, rtol=1e-4)
    assert (ours[1][~kept_N] == 0).all()


def test_where_no_label_counts_there_is_nothing_to_learn():
    hidden_NH, head_VH, labels_N = problem()
    value, *gradients = loss_and_gradients(
        linear_cross_entropy, hidden_NH, head_VH, torch.full_like(labels_N, -100)
    )
    assert float(value) == 0 and not any(gradient.any() for gradient in gradients)


def test_a_model_in_bf16_adds_its_chunks_up_in_float32():
    hidden_NH, head_VH, labels_N = problem(tokens=4000, spread=0.3)
    halves = [x.detach().bfloat16().requires_grad_() for x in (hidden_NH, head_VH)]
    exact = [x.detach().float().requires_grad_() for x in halves]
    value, _, head_grad = loss_and_gradients(linear_cross_entropy, *halves, labels_N)
    wanted, _, head_wanted = loss_and_gradients(plain_loss, *exact, labels_N)
    assert value.dtype == torch.float32 and head_grad.dtype == torch.bfloat16
    assert float(value) == pytest.approx(float(wanted), rel=1e-3)
    assert float((head_grad.float() - head_wanted).norm() / head_wanted.norm()) < 5e-3
