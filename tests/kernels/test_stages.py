"""The check's stages: what one of them hangs on or dies of, the others do not share.

A hanging stage waits for ever and has a small limit; every other limit is out of reach, so that no
verdict depends on how fast the machine is.
"""

import contextlib
import json
import os
import select

import pytest
from click.testing import CliRunner

from model.kernels.check import __main__ as command
from model.kernels.check import stages, table
from model.kernels.check.stages import Stage

FAR = 1e6  # seconds


def stage(name, seconds=FAR, optional=False, **arguments):
    entry = f"tests.kernels.fake_stages:{name}"
    return Stage(name, entry, seconds, arguments, optional)


def run(*chosen, minutes=FAR):
    written = []
    outcomes = stages.run_stages(chosen, minutes, lambda found: written.append(list(found)))
    assert [len(found) for found in written] == list(range(1, len(chosen) + 1))
    return outcomes


def test_rows_and_arguments_come_through():
    (outcome,) = run(stage("good", number=3))
    assert outcome["status"] == stages.FINISHED
    assert outcome["rows"] == [
        {"what": "one", "passed": True, "number": 3},
        {"what": "two", "passed": True},
    ]
    assert stages.exit_code([outcome]) == 0


@pytest.mark.parametrize(
    ("name", "seconds", "status", "reason"),
    [
        ("hangs", 3, stages.TIMED_OUT, "killed at its limit of 3 s"),
        ("exits", FAR, stages.DIED, "exit code 7: about to leave"),
        ("crashes", FAR, stages.DIED, "killed by SIGSEGV"),
        ("raises", FAR, stages.DIED, "illegal memory access"),
    ],
)
def test_a_stage_that_fails_leaves_the_others_results(name, seconds, status, reason):
    first, failed, last = run(stage("good"), stage(name, seconds), stage("good"))
    assert failed["status"] == status and reason in failed["reason"]
    # A machine so slow that the limit came before the first row leaves none.
    assert failed["rows"] in ([{"what": "before", "passed": True}], [] if name == "hangs" else None)
    assert first["status"] == last["status"] == stages.FINISHED
    assert len(first["rows"]) == len(last["rows"]) == 2
    assert stages.exit_code([first, failed, last]) == 3


def test_a_stage_that_hangs_takes_what_it_started_with_it(tmp_path):
    path = tmp_path / "pid"
    (outcome,) = run(stage("hangs_with_a_child", 4, pid_file=str(path)))
    assert outcome["status"] == stages.TIMED_OUT
    if path.exists():  # else the limit came before the child did
        with contextlib.suppress(ProcessLookupError):
            select.select([os.pidfd_open(int(path.read_text()))], [], [])  # until it has ended


def test_nothing_waits_for_a_person():
    (outcome,) = run(stage("waits_for_input"))
    assert outcome["rows"] == [{"what": "read", "passed": True}]


def test_what_the_budget_does_not_reach_is_said():
    outcomes = run(stage("good"), stage("good"), minutes=0)
    assert [outcome["status"] for outcome in outcomes] == [stages.NOT_REACHED] * 2
    assert stages.exit_code(outcomes) == 3


def test_the_budget_ends_a_stage_before_its_own_limit():
    outcomes = run(stage("hangs"), stage("good"), minutes=3 / 60)
    assert [outcome["status"] for outcome in outcomes] == [stages.TIMED_OUT, stages.NOT_REACHED]


def outcome(status=stages.FINISHED, optional=False, rows=()):
    return {
        "name": "a stage",
        "status": status,
        "seconds": 1.0,
        "optional": optional,
        "rows": list(rows),
        "reason": "",
        "log": "",
    }


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([outcome(rows=[{"passed": True}])], 0),
        ([outcome(rows=[{"passed": False}]), outcome(stages.DIED)], 1),
        ([outcome(optional=True, rows=[{"passed": False}])], 1),
        ([outcome(rows=[{"error": "out of memory"}])], 3),
        ([outcome(), outcome(stages.TIMED_OUT)], 3),
        ([outcome(), outcome(stages.DIED, optional=True)], 0),
        ([outcome(optional=True, rows=[{"error": "not installed"}])], 0),
    ],
)
def test_exit_codes_tell_failures_apart(outcomes, code):
    assert stages.exit_code(outcomes) == code


@pytest.fixture
def with_stages(monkeypatch, tmp_path):
    """The command with stages of the test's choice, as on a machine with a GPU."""
    monkeypatch.setattr(command, "require_gpu", lambda: None)
    monkeypatch.setattr(command.signal, "signal", lambda *_: None)

    def invoke(*chosen):
        monkeypatch.setattr(command, "plan", lambda: list(chosen))
        out = tmp_path / "found"
        result = CliRunner().invoke(command.main, ["--out", str(out)])
        return result, json.loads((out / command.NAME).read_text())

    return invoke


@pytest.mark.parametrize(
    ("name", "code", "word"),
    [("good", 0, "passed"), ("wrong", 1, "WRONG"), ("exits", 3, "not everything ran")],
)
def test_the_command_writes_and_prints_what_was_found(with_stages, name, code, word):
    result, found = with_stages(stage("good"), stage(name))
    assert result.exit_code == found["exit_code"] == code, result.output
    assert found["format_version"] == command.FORMAT_VERSION
    assert [outcome["name"] for outcome in found["stages"]] == ["good", name]
    verdict = result.output.splitlines()[-2]
    assert word in verdict and f"exit code {code}" in verdict


def test_failed_rows_are_printed_above_the_verdict():
    found = {"stages": [outcome(rows=[{"what": "x", "passed": False, "errors": {"dx": 0.5}}])]}
    printed = list(table.lines(found | {"environment": {"device": "a GPU"}, "exit_code": 1}))
    assert printed[0] == "FAILED a stage: x dx 5.0e-01"
    assert "device a GPU" in printed


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "--out"),
        (["--out", "{file}"], "is a file"),
        (["--out", "{file}/below"], "cannot be written"),
        (["--out", "{out}", "--minutes", "0"], "--minutes"),
        (["--out", "{out}", "--minutes", "soon"], "--minutes"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, arguments, word):
    file = tmp_path / "file"
    file.touch()
    names = {"file": file, "out": tmp_path / "out"}
    result = CliRunner().invoke(command.main, [part.format(**names) for part in arguments])
    assert result.exit_code == 2 and word in result.output
    assert "Traceback" not in result.output
