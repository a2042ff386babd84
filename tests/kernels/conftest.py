"""The kernels run on CPU tensors here, under Triton's interpreter with exact bf16.

The interpreter is switched on before anything imports triton; what is compiled ahead of time runs
in processes of its own (test_static.py).
"""

import os
import sys

import pytest

if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.exit("triton was imported before tests/kernels could switch its interpreter on.", 2)
os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True, scope="session")
def exact_bf16():
    from tests.kernels.bf16_interpreter import install

    install()
