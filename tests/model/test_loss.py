"""The chunked loss against torch's cross-entropy, in compiled code and without it."""

import shutil

import pytest
import torch
import torch.nn.functional as F

from model import loss
from model.loss import linear_cross_entropy
from model.native import compiled
from tests.model.test_native import PROCESSORS, fresh  # noqa: F401

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
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
@pytest.mark.parametrize("processor", PROCESSORS)
def test_compiled_loss_equals_cross_entropy(fresh, monkeypatch, processor):  # noqa: F811
    monkeypatch.setattr(compiled, "FLAGS", ["-O3", f"-march={processor}", "-fPIC", "-shared"])
    monkeypatch.setattr(loss, "_torch_chunk_loss", lambda *_: pytest.fail("torch was asked"))
    assert max(errors(problem())) < 3e-6
    # exp multiplies the rounding of logits as large as 3,000
    assert max(errors(problem(spread=200.0))) < 3e-5


@pytest.mark.parametrize("vocabulary", [96, 50])
def test_the_loss_without_compiled_code(monkeypatch, vocabulary):
    if vocabulary % 32 == 0:
        monkeypatch.setattr(loss, "library", lambda: None)
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


@pytest.mark.parametrize("label", [-100, 96])
def test_a_label_outside_the_vocabulary_is_refused(label):
    hidden_NH, head_VH, labels_N = problem()
    labels_N[-1] = label
    with pytest.raises((IndexError, RuntimeError), match="Labels must be 0 to 95|out of bounds"):
        linear_cross_entropy(hidden_NH, head_VH, labels_N)
