"""The check's stages on a CPU under the interpreter, small: each can pass, fail, and go on."""

import json
from dataclasses import replace

import pytest
import torch

from model.kernels import plans
from model.kernels.check import __main__ as command
from model.kernels.check import cases as c
from model.kernels.check import numbers, prepare, sanitize, speed, table
from model.kernels.check.cases import Case
from tests.kernels.problems import Problem as Plain
from tests.kernels.problems import assert_close, truth

TINY = Case(9, 4, 2, 32, 48, gates="float32")
LEAST = Case(5, 2, 1, 16, 16, gates="float32")
ODD = Case(5, 20, 3, 24, 16, dtype="float32", gates="float32", routing="kept")


def rows(stage, *cases, **arguments):
    """What a stage yields, as it comes out of the file between the processes."""
    sent = json.loads(json.dumps({"device": "cpu", "cases": c.as_json(cases)} | arguments))
    return json.loads(json.dumps(list(stage(**sent))))


def test_the_checks_own_truth_is_that_of_autograd():
    for call in c.CALLS:
        case = replace(TINY, routing="dropped", call=call)
        found = c.problem(case, "cpu")
        want = truth(Plain(found.tensors, found.idx_TK, found.upstream_TH), **found.options)
        assert_close(c.exact(found), want, 1e-12)


@pytest.mark.parametrize(
    "case",
    [
        TINY,
        replace(TINY, gates="bfloat16", routing="dropped", call="expert map"),
        replace(TINY, weights="float32", call="detached"),
        replace(TINY, dtype="float16", save="x"),
        ODD,
        replace(ODD, T=1, routing="skewed"),
    ],
    ids=str,
)
def test_numbers_are_compared_with_float64(case):
    (row,) = rows(numbers.compare, case)
    assert row["passed"], row
    assert set(row["errors"]) == set(row["block_errors"]) == set(c.NAMES)
    assert row["sizes"] == [case.T, case.E, case.K, case.H, case.I]


@pytest.mark.parametrize("what", ["factor", "nan", "block"])
def test_wrong_numbers_are_told(monkeypatch, what):
    """All of one gradient, one number, and 16 columns too few to move the whole."""
    right = c.outputs

    def wrong(found, case, **options):
        got = right(found, case, **options)
        place = {"factor": ..., "nan": (0, 0), "block": (..., slice(16, 32))}[what]
        got[2][place] *= {"factor": 1.1, "nan": float("nan"), "block": 1.021}[what]
        return got

    monkeypatch.setattr(c, "outputs", wrong)
    (row,) = rows(numbers.compare, TINY)
    assert row["passed"] is False
    assert row["errors"]["dw13"] > row["bar"] or what != "factor"
    printed = {"stages": [outcome("numbers", [row])], "environment": {}, "exit_code": 1}
    assert next(table.lines(printed)).startswith("FAILED numbers: [9, 4, 2, 32, 48] bfloat16")


def test_too_little_memory_is_said_and_not_died_of(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.")

    monkeypatch.setattr(c, "exact", full)
    (row,) = rows(numbers.compare, TINY)
    assert "passed" not in row and row["error"].startswith("out of memory: CUDA")


def test_bits_are_compared_four_ways():
    found = rows(numbers.bits, LEAST, repeats=1)
    assert [row["passed"] for row in found] == [True] * 4
    kinds = ["1 more runs", "scratch full of NaN", "tensor descriptors", "h computed again"]
    assert [row["what"] for row in found] == kinds


def test_other_bits_are_told(monkeypatch):
    calls = []
    monkeypatch.setattr(
        c, "outputs", lambda *_, **__: calls.append(0) or [torch.ones(2) * len(calls)]
    )
    monkeypatch.setattr(c, "NAMES", ("out",))
    assert not any(row["passed"] for row in rows(numbers.bits, LEAST, repeats=1))


def test_pools_are_compared_with_routing(monkeypatch):
    (row,) = numbers.pools("cpu", [[1, 40, 7]])
    assert row["passed"]
    monkeypatch.setattr(numbers, "document_pools", lambda x, *_: torch.zeros(1, 40, 7).bool())
    (row,) = numbers.pools("cpu", [[1, 40, 7]])
    assert not row["passed"]


def test_the_layer_is_timed_with_its_variants(monkeypatch):
    monkeypatch.setattr(speed, "GRAPH_TOKENS", 4)
    few, many = replace(LEAST, T=3, routing="kept"), LEAST
    found = rows(speed.layer, few, many)
    assert [row["name"] for row in found] == ["triton", "grouped_mm", *speed.VARIANTS]
    for row in found:
        assert "error" not in row, row
        assert row["forward_ms"] > 0 and row["forward_backward_tflops"] > 0


def test_each_kernel_is_timed():
    found = rows(speed.kernels, TINY)
    assert [row["kernel"] for row in found] == [*speed.KERNELS, "sort slots", "sort slots (torch)"]
    assert all(row["ms"] > 0 for row in found)
    assert all(row["tflops"] > 0 and row["gb_per_s"] > 0 for row in found[:-2])


def test_rates_count_the_products():
    assert speed.rate(6 * 131_072 * 2048 * 1024, 5.0) == pytest.approx(329.85, abs=0.01)


def test_a_peer_that_fails_says_why_and_the_rest_goes_on():
    found = {row["name"]: row for row in rows(speed.peers, TINY)}
    assert found["transformers grouped_mm"]["forward_ms"] > 0
    assert "error" in found["transformers sonicmoe"]


MEMCHECK = """========= COMPUTE-SANITIZER
========= Invalid __global__ read of size 2 bytes
=========     at act_grad_kernel+0x1a0 in backward.py:120
========= ERROR SUMMARY: 2 errors
"""
CLEAN = "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n"
RACECHECK = """========= Error: Race reported between Write access at up_kernel+0x10 in forward.py:9
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""


def test_the_sanitizers_summary_decides():
    assert sanitize.judge("memcheck", CLEAN)["passed"] is True
    bad = sanitize.judge("memcheck", MEMCHECK)
    assert bad["passed"] is False and bad["kernels"] == {"act_grad_kernel": 1}
    # What torch asks the driver in vain is no fault of a kernel.
    asked = sanitize.judge(
        "memcheck", "========= Program hit X\n========= ERROR SUMMARY: 1 error\n"
    )
    assert asked["passed"] is True and asked["reports"] == 1
    race = sanitize.judge("racecheck", RACECHECK)
    assert race["reports"] == 1 and race["kernels"] == {"up_kernel": 1} and "passed" not in race
    refused = sanitize.judge("memcheck", "========= Error: Device not supported\n")
    assert refused["ran"] is False and "Device not supported" in refused["reason"]


def test_a_missing_sanitizer_is_said(monkeypatch):
    monkeypatch.setattr(sanitize.shutil, "which", lambda name: None)
    (row,) = sanitize.sanitize("cpu", [])
    assert row == {
        "tool": "memcheck",
        "ran": False,
        "reason": "compute-sanitizer is not installed",
    }


def test_the_sanitizer_runs_the_comparison(monkeypatch, tmp_path):
    tool = tmp_path / "tool"
    tool.write_text('#!/bin/sh\necho "$@"\necho "========= ERROR SUMMARY: 0 errors"\n')
    tool.chmod(0o755)
    monkeypatch.setattr(sanitize.shutil, "which", lambda name: str(tool))
    (row,) = sanitize.sanitize("cpu", c.as_json([TINY]))
    assert row["ran"] and row["passed"]


def test_every_stage_of_the_plan_is_there_and_its_cases_are_prepared():
    import importlib

    prepared = set(c.prepared())
    for stage in command.plan():
        module, name = stage.entry.split(":")
        assert callable(getattr(importlib.import_module(module), name))
        json.dumps(stage.arguments)
        if not stage.optional:
            assert set(c.from_json(stage.arguments.get("cases", []))) <= prepared, stage.name
    # What decides comes before what need not finish.
    optional = [stage.optional for stage in command.plan()]
    assert optional == sorted(optional)


def test_the_shipped_size_is_compared_in_every_tile():
    tiles = set()
    for case in c.SHIPPED:
        layer = plans.Layer(case.H, case.I, case.K, case.E)
        for arch in plans.ARCHITECTURES:
            tiles.add(plans.forward_plan(arch, layer, case.T * case.K, True, case.live).BM)
    assert tiles == {16, 32, 64, 128}
    assert {case.gates for case in c.SHIPPED} == {"bfloat16", "float32"}


def test_what_the_machine_is():
    facts = prepare.environment("cpu")
    assert facts["torch"] == torch.__version__.split("+")[0] or facts["torch"] == torch.__version__
    assert facts["triton"] and facts["python"] and len(facts["source"]) == 16


def outcome(name, found):
    return {
        "name": name,
        "status": "finished",
        "seconds": 1.0,
        "optional": False,
        "rows": found,
        "reason": "",
        "log": "",
    }


def test_passing_is_said_of_what_was_done_alone():
    done = outcome("numbers", [])
    cut_off = outcome("memcheck", []) | {"optional": True, "status": "timed out"}
    for stages_, said in (([done], "Everything passed."), ([done, cut_off], "not done: memcheck.")):
        found = {"stages": stages_, "environment": {}, "exit_code": 0}
        assert said in list(table.lines(found))[-1]


def test_the_table_shows_times_and_rates():
    kernel = TINY.row() | {"kernel": "up", "ms": 3.1, "tflops": 354.2, "gb_per_s": 600.0}
    layer = TINY.row() | {"name": "triton", "graph": False, "peak_bytes": 2**31}
    layer |= {"forward_ms": 5.0, "forward_tflops": 330.0}
    layer |= {"forward_backward_ms": 15.0, "forward_backward_tflops": 329.0}
    lost = TINY.row() | {"name": "Liger", "graph": False, "error": "RuntimeError: no"}
    ran = {"tool": "memcheck", "ran": True, "reports": 0, "kernels": {}, "passed": True}
    found = [outcome("times", [kernel, layer, lost, ran])]
    printed = "\n".join(table.lines({"stages": found, "environment": {}, "exit_code": 0}))
    for part in ("354", "330", "5.000", "2.0", "RuntimeError: no", "memcheck: 0 reports"):
        assert part in printed
    assert "times: finished in 1 s, 1 of 1 passed, 1 could not run" in printed
