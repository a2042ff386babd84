"""The compiled norm against torch's, forward and backward."""

import pytest
import torch
import torch.nn.functional as F

from model.emo import norm
from model.emo.norm import EmoRMSNorm
from tests.model.helpers import needs_compiler

EPS = 1e-6


def outputs_and_gradients(function, x, weight, upstream):
    out = function(x)
    return [out.detach(), *torch.autograd.grad(out, (x, weight), upstream)]


def problem(width=64, scale=1.0):
    torch.manual_seed(0)
    layer = EmoRMSNorm(width, EPS)
    layer.weight.data.normal_()
    x = (torch.randn(3, 5, width) * scale).requires_grad_()
    return layer, x, torch.randn(3, 5, width)


def errors(layer, x, upstream):
    ours = outputs_and_gradients(layer, x, layer.weight, upstream)
    plain = outputs_and_gradients(
        lambda x: F.rms_norm(x, (x.shape[-1],), layer.weight, EPS), x, layer.weight, upstream
    )
    return [float((a - b).norm() / b.norm()) for a, b in zip(ours, plain, strict=True)]


@needs_compiler
def test_the_compiled_norm_equals_torch(processor, monkeypatch):
    called, call = [], norm.call
    monkeypatch.setattr(norm, "call", lambda *a: [called.append(a[0]), call(*a)])
    assert max(errors(*problem())) < 1e-6
    assert called == ["emo_norm_forward", "emo_norm_backward"]
    assert max(errors(*problem(scale=1e-4))) < 1e-6


@pytest.mark.parametrize("width", [64, 24])
def test_the_norm_without_compiled_code(monkeypatch, width):
    if width == 64:
        monkeypatch.setattr(norm, "available", lambda: False)
    assert max(errors(*problem(width=width))) < 1e-6


def test_a_row_of_zeros_stays_zero_and_finite():
    layer, x, upstream = problem()
    x.data.zero_()
    out, dx, dweight = outputs_and_gradients(layer, x, layer.weight, upstream)
    assert not out.any() and dx.isfinite().all() and not dweight.any()
