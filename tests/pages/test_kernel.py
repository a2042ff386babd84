"""The kernel page: nothing timed is said to be timed, and what a GPU found is shown as it is."""

import json
import os
import shutil
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from emo_viz.ui import assets
from tests.pages.opened import follow_link

SECONDS = 600
BIG, SMALL = [16384, 128, 8, 2048, 1024], [16, 128, 8, 2048, 1024]
FOUND = {
    "device": "Test <b>GPU</b>",
    "torch": "2.13.0",
    "numerics": [{"sizes": SMALL, "passed": True}, {"sizes": BIG, "passed": False}],
    "determinism": [{"sizes": SMALL, "passed": True}],
    "races": {"ran": False, "reason": "compute-sanitizer is not installed"},
    "timing": [
        {"sizes": BIG, "name": "triton", "forward_ms": 2.0, "peak_bytes": 2.0**20},
        {"sizes": BIG, "name": "other", "forward_ms": 5.0},
        {"sizes": SMALL, "name": "Liger", "error": "RuntimeError: no"},
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
    parts = [*at.markdown, *at.subheader, *at.warning]
    return "\n".join(part.value for part in parts)


def test_without_a_check_nothing_was_timed(folder: Path):
    said = words(opened())
    assert "None was timed on a GPU." in said and "What was not measured" in said


def test_a_check_is_shown_with_its_failures(folder: Path):
    (folder / "kernel_check.json").write_text(json.dumps(FOUND))
    at = opened()
    said = words(at)
    assert "None was timed" not in said and "1 of 2 numeric cases" in said
    assert "Races were not looked for" in said and "<b>" not in said
    table = at.dataframe[-1].value
    assert table["Forward, triton = 1"].tolist()[:2] == [1.0, 2.5]
    assert table["Failed with"].tolist()[2] == "RuntimeError: no"


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_check_is_said(folder: Path, text: str):
    (folder / "kernel_check.json").write_text(text)
    said = words(opened())
    assert "kernel_check.json is damaged" in said and "None was timed" in said
