"""The kernel page: nothing timed is said to be timed, and what a GPU found is shown as it is."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from emo_viz.server import assets
from tests.pages.opened import follow_link

SECONDS = 600
BIG, SMALL = [16384, 128, 8, 2048, 1024], [16, 128, 8, 2048, 1024]


def stage(name: str, *rows: dict[str, Any], status: str = "finished", reason: str = "") -> Any:
    return {"name": name, "status": status, "reason": reason, "rows": list(rows)}


FOUND = {
    "format_version": 2,
    "exit_code": 1,
    "environment": {"device": "Test <b>GPU</b>", "torch": "2.13.0", "triton": "3.7.1"},
    "stages": [
        stage("machine and compiler", {"what": "environment"}),
        stage(
            "numbers",
            {"sizes": SMALL, "passed": True},
            {"sizes": BIG, "passed": False, "errors": {"dx": 0.5}},
        ),
        stage(
            "time of each kernel",
            {"sizes": BIG, "routing": "even", "kernel": "up", "ms": 3.1234, "tflops": 352.2},
            {"sizes": BIG, "routing": "even", "kernel": "sort slots (torch)", "ms": 0.2},
        ),
        stage(
            "time of the layer",
            {
                "sizes": BIG,
                "graph": False,
                "name": "triton",
                "forward_ms": 2.0,
                "peak_bytes": 2**20,
            },
            {"sizes": BIG, "graph": False, "name": "other", "forward_ms": 5.0},
            {"sizes": SMALL, "graph": True, "name": "Liger", "error": "RuntimeError: no"},
        ),
        stage("bits", status="died", reason="killed by SIGSEGV"),
        stage("memcheck", {"tool": "memcheck", "ran": False, "reason": "it is not installed"}),
    ],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Assets that hold the bundled kernel report alone."""
    report = assets.APP_FOLDER / "assets" / "analysis" / "kernel_report.json"
    (tmp_path / "analysis").mkdir()
    shutil.copy(report, tmp_path / "analysis")
    monkeypatch.setenv("EMO_VIZ_ASSETS", os.fspath(tmp_path))
    return tmp_path / "analysis"


def opened() -> AppTest:
    return follow_link("pages/4_Kernel.py")


def words(at: AppTest) -> str:
    """What is read: without the backslashes that keep Markdown from being one."""
    parts = [*at.markdown, *at.subheader, *at.warning]
    return "\n".join(part.value for part in parts).replace("\\", "")


def test_without_a_check_nothing_was_timed(folder: Path):
    said = words(opened())
    assert "None was timed on a GPU." in said and "What was not measured" in said


def test_a_pair_of_ones_own_has_the_kernels_of_this_code(folder: Path):
    """`python -m emo_viz analyse` writes no report: that is about the code, not about the pair."""
    bundled = words(opened())
    (folder / "kernel_report.json").unlink()
    found = words(opened())
    assert "Every kernel that ships" in found
    assert ("None was timed" in found) != (
        assets.APP_FOLDER / "assets" / "analysis" / "kernel_check.json"
    ).exists()
    assert "None was timed" in bundled, "a report of one's own has no check of another's"


def test_a_check_is_shown_with_its_failures(folder: Path):
    (folder / "kernel_check.json").write_text(json.dumps(FOUND))
    at = opened()
    said = words(at)
    assert "None was timed" not in said and "1 of 2 comparisons passed" in said
    assert "Bits: died (killed by SIGSEGV)" in said
    assert "memcheck did not run: it is not installed" in said
    assert all("<b>" not in part.value for part in at.markdown)
    assert "dx 5.0e-01" in said
    kernels, layers = (element.value for element in at.dataframe[:2])
    assert kernels["TFLOP/s"].tolist()[0] == 352 and kernels["Time (ms)"].tolist() == [3.123, 0.2]
    assert layers["Forward, triton = 1"].tolist()[:2] == [1.0, 2.5]
    assert layers["Failed with"].tolist()[2] == "RuntimeError: no"
    assert "no figure here was timed" not in said and "What was not measured" not in said


def test_the_first_line_says_how_fast_the_largest_layer_was(folder: Path):
    found = json.loads(json.dumps(FOUND))
    layer = {"sizes": BIG, "graph": False, "routing": "even"}
    found["stages"][3]["rows"] += [
        layer | {"name": "triton", "forward_ms": 4.0, "forward_tflops": 412.4},
        layer | {"name": "grouped_mm", "forward_ms": 6.0},
    ]
    (folder / "kernel_check.json").write_text(json.dumps(found))
    said = words(opened()).splitlines()[0]
    assert "16,384 tokens runs forward at 412 TFLOP/s, 1.5 times as fast" in said
    assert "1 of 2 comparisons passed" in said, "a failure is no smaller than a speed"


def test_a_check_that_got_nowhere_is_shown(folder: Path):
    """The first stage died: no device, no rows."""
    nothing = FOUND | {"environment": {}, "stages": [stage("machine", status="died", reason="x")]}
    (folder / "kernel_check.json").write_text(json.dumps(nothing))
    said = words(opened())
    assert "an unknown GPU, 0 of 0 comparisons passed" in said and "Machine: died (x)" in said


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        json.dumps(FOUND | {"format_version": 1}),
        json.dumps(FOUND | {"stages": [3]}),
    ],
)
def test_a_damaged_check_is_said(folder: Path, text: str):
    (folder / "kernel_check.json").write_text(text)
    said = words(opened())
    assert "kernel_check.json is damaged" in said and "None was timed" in said
