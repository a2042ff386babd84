"""The GPU check itself, on a CPU under the interpreter with small sizes: it can pass and fail."""

import json

import pytest
import torch
from click.testing import CliRunner

from model.kernels import check

SIZES = ((9, 4, 2, 32, 64),)


@pytest.fixture
def small(monkeypatch):
    """No GPU is here: the same code on CPU tensors, with a clock that runs everything once."""
    monkeypatch.setattr(check, "DEVICE", "cpu")
    monkeypatch.setattr(check, "NUMERIC_SIZES", SIZES)
    monkeypatch.setattr(check, "TIMED_SIZES", SIZES)
    monkeypatch.setattr(check, "POOL_SIZES", (1, 40, 7))
    monkeypatch.setattr(check, "REPEATS", 2)
    monkeypatch.setattr("triton.testing.do_bench", lambda run, **_: (run(), 1.0)[1])
    answers = {"is_available": True, "get_device_name": "none", "max_memory_allocated": 1}
    for name, value in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)


def run(*arguments):
    return CliRunner().invoke(check.main, arguments, catch_exceptions=False)


def test_it_writes_what_the_kernel_page_shows(small, tmp_path):
    path = tmp_path / "check.json"
    result = run("--out", str(path))
    assert result.exit_code == 0, result.output
    found = json.loads(path.read_text())
    assert found["format_version"] == check.FORMAT_VERSION
    assert {row["options"] for row in found["numerics"]} == {"plain", "expert map", "detached"}
    assert all(row["passed"] for row in (*found["numerics"], *found["determinism"]))
    assert [row["passed"] for row in found["descriptors"]] == [True]
    assert found["device"] == "none" and found["pools"]["passed"]
    times = {row["name"]: row for row in found["timing"]}
    ours = ("triton", "triton, descriptors", "triton, save x", "grouped_mm")
    for name in (*ours, "transformers grouped_mm"):
        assert times[name]["forward_backward_ms"] == 1.0
    # What cannot run here says why, and the rest goes on.
    assert "error" in times["transformers sonicmoe"]


def test_descriptors_that_give_other_bits_make_it_fail(small, monkeypatch):
    calls = []
    monkeypatch.setattr(check, "numerics", list)
    monkeypatch.setattr(check, "outputs", lambda *_: calls.append(0) or [torch.tensor(len(calls))])
    assert run("--numerics-only").exit_code == 1


def test_a_wrong_number_makes_it_fail(small, monkeypatch):
    monkeypatch.setattr(check, "BARS", {torch.float32: 1e-12})
    assert run("--numerics-only").exit_code == 1
