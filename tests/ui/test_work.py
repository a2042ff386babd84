"""One visitor at a time: the second waits, sees that it does, and then gets its turn."""

from pathlib import Path

from streamlit.testing.v1 import AppTest

from emo_viz.analysis.runs import Facts
from emo_viz.server.library import LoadedModel


class ScriptedLock:
    """A lock that answers each `acquire` as told; an exception among the answers is raised."""

    def __init__(self, *answers: bool | Exception) -> None:
        self.answers = list(answers)
        self.released = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def release(self) -> None:
        self.released += 1


def visit() -> None:
    """A page that works on the model it finds in its session."""
    import streamlit as st

    from emo_viz.ui.parts.work import run_exclusive

    with run_exclusive(st.session_state["loaded"]):
        st.write("worked")


def opened(lock: ScriptedLock) -> AppTest:
    at = AppTest.from_function(visit, default_timeout=600)
    at.session_state["loaded"] = LoadedModel("emo-nano", Path(), "", None, None, Facts(), lock)
    return at.run()


def test_a_free_model_is_taken_and_given_back():
    lock = ScriptedLock(True)
    at = opened(lock)
    assert at.markdown[0].value == "worked"
    assert not at.info
    assert lock.released == 1


def test_a_busy_model_is_waited_for_and_the_notice_goes():
    lock = ScriptedLock(False, False, False, True)
    at = opened(lock)
    assert at.markdown[0].value == "worked"
    assert not at.info
    assert lock.released == 1


def test_a_visitor_sees_the_wait_and_leaves_the_lock_alone_when_it_ends_early():
    lock = ScriptedLock(False, False, RuntimeError("the visitor moved on"))
    at = opened(lock)
    assert "EMO is busy with another visitor" in at.info[0].value
    assert lock.released == 0
