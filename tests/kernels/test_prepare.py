"""Compiling before a GPU is asked: what is compiled is what the launches look for."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.kernels import flow, plans
from model.kernels.check import cases as c
from model.kernels.check import prepare
from model.kernels.check.cases import Case

ROOT = Path(__file__).resolve().parents[2]
TINY = Case(9, 4, 2, 32, 48)
FOUND_AGAIN = """
import json, os, sys
from model.kernels import flow, plans
from model.kernels.check import cases as c, prepare

def cached():
    return sorted(os.listdir(os.environ["TRITON_CACHE_DIR"]))

def bind(kernel, grid, launch, *tensors, **scalars):
    # What flow._start does, up to the launch itself.
    launch, operands = flow._describe(kernel.arg_names, launch, tensors)
    kernel.warmup(*operands, grid=grid, **scalars, **launch.constants, **launch.options())

case = c.Case(**json.loads(sys.argv[1]))
wanted = prepare.recorded([case], "sm_90")
for each in wanted:
    prepare.compile_one(each, 90)
before = cached()
flow._start, flow.table_name = bind, lambda device: "sm_90"
with plans.using(plans.on_descriptors(plans.tables()) if case.descriptors else plans.tables()):
    (c.outputs if case.backward else c.forward)(c.problem(case, "cpu"), case)
from model.kernels.check import __main__  # none of it asks for transformers, whatever its version
print(len(wanted), len(before), cached() == before, "transformers" in sys.modules)
"""


@pytest.mark.parametrize("descriptors", [False, True])
def test_every_launch_finds_what_was_compiled(tmp_path, descriptors):
    """A real launch's operands, bound by Triton's own code, lead to no further compilation."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    case = replace(TINY, descriptors=descriptors, backward=not descriptors)
    command = [sys.executable, "-c", FOUND_AGAIN, json.dumps(c.as_json([case])[0])]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr[-3000:]
    kernels, cached, same, transformers = run.stdout.split()
    assert int(kernels) == (4 if descriptors else 10) <= int(cached)
    assert same == "True" and transformers == "False"


def test_what_is_recorded_is_what_is_launched(monkeypatch):
    """The layer itself on real tensors starts the kernels that were recorded without data."""
    for case in (TINY, Case(5, 4, 2, 32, 16, dtype="float16", gates="float32", save="x")):
        wanted = {each.key for each in prepare.recorded([case], "interpreter")}
        found, launched = c.problem(case, "cpu"), []
        with prepare._recording("interpreter", launched.append):
            c.outputs(found, case)
        assert {each.key for each in launched} == wanted
    assert flow._start.__name__ == "_start"


def test_everything_that_the_check_launches_is_recorded_once():
    wanted = prepare.recorded(c.prepared()[:12], "sm_90")
    assert len({each.key for each in wanted}) == len(wanted)
    gates = {each.dtypes[1] for each in wanted if each.launch.kernel == "sum_slots_kernel"}
    assert gates == {"bfloat16", "float32"}


def test_a_kernel_that_does_not_compile_is_said_and_the_processes_go_on():
    with prepare.Processes(1) as processes:
        first, second = sorted(processes.run(int, [("3",), ("three",)]))
        assert first == (0, (3, ""))
        assert second[1][0] is None and "invalid literal" in second[1][1]
        assert list(processes.run(os._exit, [(1,)])) == []
        assert list(processes.run(int, [("4",)])) == [(0, (4, ""))]


def test_a_compiler_that_dies_ends_no_more_than_the_compiling(monkeypatch):
    monkeypatch.setattr(prepare.Processes, "run", lambda *_: iter([]))
    launch = plans.sum_launch(plans.Layer(16, 16, 1, 1), True)
    row = prepare.compile_all([prepare.Wanted(launch, ("float32",))], 90, 1)
    assert row["kernels"] == 0 and "the compiler died; 1 kernels are left" in row["error"]


def test_the_environment_comes_before_what_may_die(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(prepare, "compile_all", lambda wanted, *_: {"kernels": len(wanted)})
    first, second = prepare.prepare("cpu", c.as_json([TINY]), jobs=1)
    assert first["what"] == "environment" and first["device"] == "cpu"
    assert second == {"what": "compiled", "kernels": 10}
