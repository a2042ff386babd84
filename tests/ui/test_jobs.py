"""Background jobs: they end, fail and stop as they say, and are shared by their key."""

import threading

import pytest

from emo_viz.server import jobs
from emo_viz.server.jobs import Job, Registry, politely

SECONDS = 600


def finished(job: Job) -> Job:
    job.wait(SECONDS)
    assert not job.running
    return job


def test_a_job_gives_what_its_work_returns_and_counts_its_steps():
    def work(report):
        for done in range(1, 5):
            report(done, 4)
        return "found"

    job = finished(Job(work))
    assert (job.result, job.error, job.cancelled) == ("found", None, False)
    assert (job.done, job.total, job.share) == (4, 4, 1.0)
    assert job.seconds_left == 0


def test_progress_shows_while_it_runs():
    reported, go_on = threading.Event(), threading.Event()

    def work(report):
        report(1, 4)
        reported.set()
        go_on.wait(SECONDS)
        return True

    job = Job(work)
    assert reported.wait(SECONDS)
    assert job.running and job.share == 0.25 and job.seconds_left > 0
    assert job.result is None
    go_on.set()
    finished(job)


def test_a_job_that_was_called_off_ends_at_its_next_step():
    started, go_on, steps = threading.Event(), threading.Event(), []

    def work(report):
        started.set()
        go_on.wait(SECONDS)
        for done in range(100):
            report(done, 100)
            steps.append(done)
        return "never"

    job = Job(work)
    assert started.wait(SECONDS)
    job.cancel()
    go_on.set()
    finished(job)
    assert job.cancelled and job.result is None and job.error is None
    assert steps == []


def test_an_error_is_kept_for_the_page(caplog):
    def work(report):
        raise ValueError("The document is too long.")

    job = finished(Job(work))
    assert isinstance(job.error, ValueError) and str(job.error) == "The document is too long."
    assert job.result is None
    assert "A background job failed" in caplog.text


def test_the_same_work_is_done_once_for_everybody():
    registry, calls = Registry(), []

    def work(report):
        calls.append(1)
        return len(calls)

    first = finished(registry.start("curve", work))
    assert registry.start("curve", work) is first is registry.find("curve")
    assert finished(registry.start("another curve", work)).result == 2
    assert registry.find("unknown") is None
    assert len(calls) == 2


def test_work_that_runs_is_joined_not_started_again():
    registry, go_on = Registry(), threading.Event()

    def work(report):
        go_on.wait(SECONDS)
        return True

    job = registry.start("curve", work)
    assert registry.start("curve", work) is job
    go_on.set()
    finished(job)


@pytest.mark.parametrize("end", ["fails", "is called off"])
def test_work_without_a_result_can_be_started_again(end):
    registry = Registry()

    def work(report):
        raise ValueError if end == "fails" else jobs.Cancelled

    first = finished(registry.start("curve", work))
    again = finished(registry.start("curve", lambda report: "found"))
    assert again is not first and again.result == "found"


def test_only_the_latest_finished_jobs_are_kept(monkeypatch):
    monkeypatch.setattr(jobs, "MAX_JOBS", 2)
    registry = Registry()
    for name in "abcd":
        finished(registry.start(name, lambda report: True))
    registry.start("d", lambda report: True)
    assert [name for name in "abcd" if registry.find(name)] == ["c", "d"]


def test_a_guard_holds_the_lock_and_pauses_without_it(monkeypatch):
    lock, pauses = threading.Lock(), []
    monkeypatch.setattr(jobs.time, "sleep", lambda seconds: pauses.append((seconds, lock.locked())))
    with politely(lock)():
        assert lock.locked() and not pauses
    assert pauses == [(jobs.HAND_OVER_SECONDS, False)]


def test_a_guard_releases_the_lock_after_an_error():
    lock = threading.Lock()
    with pytest.raises(ValueError), politely(lock)():
        raise ValueError
    assert not lock.locked()
