"""The kernels run on CPU tensors here, under Triton's interpreter with exact bf16.

The interpreter is switched on before anything imports triton; what is compiled ahead of time runs
in processes of its own (test_static.py).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.exit("triton was imported before tests/kernels could switch its interpreter on.", 2)
os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True, scope="session")
def exact_bf16():
    from tests.kernels.bf16_interpreter import install

    install()


@pytest.fixture(autouse=True, scope="session")
def report_process(request, tmp_path_factory):
    """Compiles shipped kernels beside the other tests: the report's process and its file."""
    if not any(item.path.name == "test_static.py" for item in request.session.items):
        yield None
        return
    path = tmp_path_factory.mktemp("report") / "report.json"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = [sys.executable, "-m", "tests.kernels.compiled", str(path)]
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(run, env=environment, cwd=ROOT, **options) as process:
        yield process, path
        process.kill()
