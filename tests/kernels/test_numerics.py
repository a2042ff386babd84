"""Every kernel under the interpreter against float64, and the properties it must keep."""

import numpy as np
import pytest
import torch

from model.kernels.ops import moe
from tests.kernels import checks
from tests.kernels.bf16_interpreter import narrow
from tests.kernels.problems import make, run, truth
from tests.kernels.test_mutations import NAMED

HALF_CASES = ("odd-sizes", "odd-widths", "no-tokens", "one-token", "empty-experts", "all-to-one")
HALF_CASES += ("all-dropped", "shared-last", "wide")


@pytest.mark.parametrize("case", checks.CASES.values(), ids=checks.CASES.keys())
def test_float32_equals_float64(case):
    checks.numerics(torch.float32, **case)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", HALF_CASES)
def test_half_precision_stays_close(case, dtype):
    checks.numerics(dtype, **checks.CASES[case])


@pytest.mark.parametrize("name", sorted(set(checks.PROPERTIES) - set(NAMED)))
def test_property(name):
    """Those that test_mutations.py does not run already."""
    checks.PROPERTIES[name]()


def test_the_shim_rounds_as_torch_does():
    values = torch.randn(65_536, generator=torch.Generator().manual_seed(0))
    rounded = torch.from_numpy(narrow(values.numpy()).view(np.int16))
    assert torch.equal(rounded, values.bfloat16().view(torch.int16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_grouped_mm_equals_the_kernels(dtype):
    idx = torch.randint(-1, 7, (37, 3), generator=torch.Generator().manual_seed(5))
    problem = make(idx=idx, dtype=dtype)
    got, bar = run(problem, "grouped_mm"), 2 * checks.BARS[dtype]
    checks.assert_close(got, truth(problem), bar)
    checks.assert_close(got, [t.double() for t in run(problem)], bar)


def test_the_reference_passes_gradcheck_with_dropped_slots():
    problem = make(
        T=5, E=3, K=2, H=4, I=3, idx=torch.tensor([[0, 1], [2, -1], [1, 1], [3, 0], [2, 2]])
    )
    tensors = [t.detach().double().requires_grad_() for t in problem.tensors]
    assert torch.autograd.gradcheck(lambda *t: moe(*t, problem.idx, backend="reference"), tensors)
