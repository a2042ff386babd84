"""Products of a few rows with a large matrix: the numbers of float64."""

import pytest
import torch

from model.native import products
from model.native.products import multiply
from tests.model.helpers import needs_compiler

BARS = {torch.float32: 3e-6, torch.bfloat16: 3e-3}
SHAPES = [(512, 512), (1056, 544), (96, 4096), (4096, 96)]


def operands(rows, depth, columns, transposed, dtype):
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(rows, depth, generator=generator).to(dtype)
    shape = (columns, depth) if transposed else (depth, columns)
    b = torch.randn(shape, generator=generator).to(dtype)
    return a, b.t() if transposed else b


def product(a, b):
    out = torch.full((a.shape[0], b.shape[1]), float("nan"), dtype=a.dtype)
    multiply(a, b, out)
    return out


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize("dtype", BARS, ids=str)
@pytest.mark.parametrize("transposed", [True, False])
@pytest.mark.parametrize(("depth", "columns"), SHAPES)
def test_every_row_count_gives_the_product(depth, columns, transposed, dtype):
    for rows in (1, 2, 5, 7, 8, 31, 63, 64):
        a, b = operands(rows, depth, columns, transposed, dtype)
        want = a.double() @ b.double()
        error = (product(a, b).double() - want).norm() / want.norm()
        assert error < BARS[dtype], rows


@needs_compiler
def test_every_vector_width_gives_the_same_product(processor):
    if processor != "native":
        assert products.has_products(torch.float32) == (processor == "haswell")
        assert not products.has_products(torch.bfloat16)
    a, b = operands(31, 512, 544, True, torch.float32)
    want = a.double() @ b.double()
    error = (product(a, b).double() - want).norm() / want.norm()
    assert error < BARS[torch.float32]


@pytest.mark.parametrize(
    ("rows", "depth", "columns"),
    [(65, 512, 512), (1, 512, 512), (4, 64, 64), (4, 520, 512), (4, 512, 1000)],
)
def test_what_compiled_code_does_not_take_is_torchs(monkeypatch, rows, depth, columns):
    monkeypatch.setattr(products, "call", None)
    a, b = operands(rows, depth, columns, False, torch.float32)
    assert torch.equal(product(a, b), a @ b)


def test_without_the_library_the_product_is_torchs(monkeypatch):
    monkeypatch.setattr(products, "has_products", lambda dtype: False)
    a, b = operands(4, 512, 512, True, torch.float32)
    assert torch.equal(product(a, b), a @ b)


def test_on_several_threads_the_product_is_torchs(monkeypatch):
    monkeypatch.setattr(products, "call", None)
    torch.set_num_threads(2)
    a, b = operands(8, 512, 512, True, torch.float32)
    assert torch.equal(product(a, b), a @ b)
