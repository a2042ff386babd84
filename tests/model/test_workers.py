"""The pool of processes: results in order, ended with the block, and a killed one said."""

import os
import signal

import pytest

from model.workers import in_workers

JOBS = [3, 1, 2, 0]


def with_process(job: int) -> tuple[int, int]:
    return job, os.getpid()


def for_ever_after_the_first(job: int) -> int:
    if job != JOBS[0]:
        signal.pause()
    return job


def failing(job: int) -> int:
    if job == JOBS[1]:
        raise ValueError(f"Job {job} cannot be done.")
    return for_ever_after_the_first(job)


def killed(job: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return job


def results(work, number):
    with in_workers(work, JOBS, number) as found:
        return list(found)


@pytest.mark.parametrize(("number", "elsewhere"), [(1, False), (2, True)])
def test_results_stand_in_the_order_of_the_jobs(number, elsewhere):
    jobs, processes = zip(*results(with_process, number), strict=True)
    assert list(jobs) == JOBS
    assert (os.getpid() not in processes) == elsewhere and len({*processes}) <= number


def test_whoever_leaves_early_waits_for_no_job():
    with pytest.raises(KeyboardInterrupt), in_workers(for_ever_after_the_first, JOBS, 2) as found:
        assert next(iter(found)) == JOBS[0]
        raise KeyboardInterrupt


def test_a_job_that_fails_ends_the_others():
    with pytest.raises(ValueError, match=f"Job {JOBS[1]} cannot be done"):
        results(failing, 2)


def test_a_killed_process_is_one_sentence():
    with pytest.raises(ValueError, match="what is finished is kept: call again with fewer --work"):
        results(killed, 2)
