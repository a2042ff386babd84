"""Every shipped kernel, compiled without a GPU, against every static bar.

Compilation and the interpreter cannot share a process, so the commands run in their own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from model.kernels import plans

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments, interpret=False):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"OMP_NUM_THREADS": "1"} | ({"TRITON_INTERPRET": "1"} if interpret else {})
    run = [sys.executable, "-m", *arguments]
    return subprocess.run(run, env=environment, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.json"
    result = command("tests.kernels.compiled", str(path))
    assert path.exists(), result.stderr[-3000:]
    return json.loads(path.read_text())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("arch", plans.ARCHITECTURES)
def test_every_shipped_kernel_meets_every_bar(report, arch):
    rows = [row for row in report["rows"] if row["arch"] == arch]
    assert len(rows) > 20
    missed = {f"{r['size']} {r['kernel']} {r['tile']}": r["misses"] for r in rows if r["misses"]}
    assert not missed


def test_the_report_covers_every_kernel_and_says_what_was_not_measured(report):
    names = {row["kernel"] for row in report["rows"]}
    wanted = {"up", "down", "combine", "act_grad", "dw2", "dw13", "input_grad", "reduce"}
    assert names >= wanted | {"h again", "up without h", "document pool"}
    assert any("timed" in line for line in report["not_measured"])
    described = [row for row in report["rows"] if row["kernel"].endswith(", TMA")]
    assert {row["kernel"] for row in described} == {
        f"{name}, TMA" for name in plans.DESCRIBED_TILES
    }
    assert {row["arch"] for row in described} == {"sm_90", "sm_100"}
    assert all(row["tma_loads"] for row in described)
    assert report["costs"]["forward_over_bound"] <= 1.75


def test_what_is_compiled_now_is_what_the_bundled_report_says(report):
    """The Kernel page shows that report; and what of it was not compiled anew is of these files."""
    bundled = json.loads((ROOT / "assets" / "analysis" / "kernel_report.json").read_text())
    assert len(report["anew"]) > 20
    assert len(report["rows"]) == len(bundled["rows"]), "write kernel_report.json anew"
    for at in report["anew"]:
        assert report["rows"][at] == bundled["rows"][at]


def test_a_missed_bar_is_reported():
    """The bars can fail: a kernel that spills, lost its pipeline and left the tensor cores."""
    from model.kernels.report import LAYERS

    code = (
        "from model.kernels import bars, plans, aot\n"
        "from model.kernels.report import LAYERS\n"
        "launch = plans.forward_plan('sm_90', LAYERS['1B/14B'], 131072, True).down\n"
        "bad = aot.Compiled(255, 64, 12, 40000, 0, 256, 'HMMA', 0, 0, 4, 0, 1)\n"
        "print(len(bars.misses(launch, bad, 'sm_90', True, True)))\n"
        "launch.constants['TMA'] = True\n"
        "print(len(bars.misses(launch, bad, 'sm_90', True, True)))\n"
    )
    assert LAYERS["1B/14B"].H == 2048
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    run = [sys.executable, "-c", code]
    result = subprocess.run(run, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert result.stdout.split() == ["8", "9"], result.stderr[-2000:]


def test_the_report_refuses_to_run_interpreted():
    result = command("model.kernels.report", interpret=True)
    assert result.returncode == 2
    assert "TRITON_INTERPRET" in result.stderr and len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("argument", "word"),
    [
        ("--arch=sm_70", "sm_70"),
        ("--jobs=0", "--jobs"),
        ("--json=tests", "a folder"),
    ],
)
def test_bad_input_of_the_report_is_one_sentence(argument, word):
    from model.kernels import report

    result = CliRunner().invoke(report.main, [argument])
    assert result.exit_code == 2 and word in result.output and "Traceback" not in result.output


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.timeout(600)
def test_numbers_on_a_gpu(tmp_path):
    result = command("model.kernels.check", "--minutes", "9", "--out", str(tmp_path))
    assert result.returncode == 0, result.stdout[-3000:]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: run the command itself")
def test_the_gpu_check_says_when_there_is_no_gpu(tmp_path):
    result = command("model.kernels.check", "--out", str(tmp_path))
    assert result.returncode == 2 and not list(tmp_path.iterdir())
    assert "No CUDA device" in result.stderr and len(result.stderr.splitlines()) == 1
