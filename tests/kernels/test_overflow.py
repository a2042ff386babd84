"""Addresses past 2^31 elements, in a process of their own because a wrong one kills it."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from model.kernels import forward

ROOT = Path(__file__).resolve().parents[2]
KERNELS = Path(forward.__file__).parent


def run_overflow(folder=ROOT):
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    paths = [str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    script = Path(__file__).with_name("overflow.py")
    command = [sys.executable, str(script)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)


def test_every_kernel_reaches_past_two_to_the_31():
    result = run_overflow()
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.count("ok") == 6


@pytest.mark.parametrize("module", ["forward", "backward", "pool"])
def test_32_bit_addresses_are_noticed(module, tmp_path):
    shutil.copytree(KERNELS, tmp_path / "model" / "kernels")
    (tmp_path / "model" / "__init__.py").touch()
    path = tmp_path / "model" / "kernels" / f"{module}.py"
    path.write_text(path.read_text().replace(".to(tl.int64)", ".to(tl.int32)"))
    result = run_overflow(tmp_path)
    assert result.returncode != 0
    assert result.stdout.count("ok") == {"forward": 0, "backward": 3, "pool": 5}[module]


@pytest.mark.parametrize("module", ["forward", "backward"])
def test_an_experts_weights_are_addressed_in_64_bits(module):
    """What no small buffer can show: every use of `expert` in an address is widened first."""
    tree = ast.parse((KERNELS / f"{module}.py").read_text())
    products = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Mult)
        and "expert" in ast.unparse(node.left)
    ]
    assert products
    assert all(product.startswith("expert.to(tl.int64)") for product in products)
