"""The worker thread; needs nothing of Slicer."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from SphericalRegModule.job import Done, Failed, Job, Stopped

from SphericalRegLib.errors import InputError
from SphericalRegLib.progress import Progress, ProgressCallback


def finish(job: Job) -> list[Any]:
    assert job.join(10)
    return job.messages()


def test_the_value_comes_last() -> None:
    def work(report: ProgressCallback) -> int:
        for step in range(3):
            report(Progress("count", step, 3))
        return 42

    *progress, last = finish(Job(work))
    assert last == Done(42)
    assert progress == [Progress("count", 2, 3)], "only the newest report is of interest"


def test_cancel_stops_at_the_next_report() -> None:
    stopped_at: list[int] = []

    def work(report: ProgressCallback) -> None:
        for step in range(10_000):
            stopped_at[:] = [step]
            report(Progress("count", step, 10_000))
            time.sleep(0.001)

    job = Job(work)
    time.sleep(0.05)
    job.cancel()
    assert isinstance(finish(job)[-1], Stopped)
    assert stopped_at[0] < 9_999


@pytest.mark.parametrize(
    ("error", "sentence", "expected"),
    [
        (InputError("The CT is empty."), "The CT is empty.", True),
        (ZeroDivisionError("division by zero"), "Something unexpected went wrong (ZeroDivisionError: division by zero).", False),
    ],
)
def test_failures_are_told(error: Exception, sentence: str, expected: bool) -> None:
    def work(_: ProgressCallback) -> None:
        raise error

    (message,) = finish(Job(work))
    assert isinstance(message, Failed)
    assert (message.sentence, message.expected) == (sentence, expected)
    assert "Traceback" in message.details


def test_a_job_that_ignores_the_cancel_is_still_reported_as_stopped() -> None:
    release = threading.Event()
    job = Job(lambda _report: release.wait(10))
    job.cancel()
    release.set()
    assert finish(job) == [Stopped()]


def test_a_hundred_cancels_at_any_moment() -> None:
    def work(report: ProgressCallback) -> None:
        for step in range(200):
            report(Progress("count", step, 200))

    for number in range(100):
        job = Job(work)
        time.sleep(number * 2e-5)
        job.cancel()
        last = finish(job)[-1]
        assert isinstance(last, (Stopped, Done))
    assert not [thread for thread in threading.enumerate() if thread.name == "SphericalReg"]
