"""Runs a job beside the application's event loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.util import VTKObservationMixin

from SphericalRegLib.errors import InputError
from SphericalRegLib.progress import Cancelled, Progress

from .job import Done, Failed, Job, Message, Stopped, Work, failure

POLL_MS = 50


class Runner:
    """One job at a time; its messages are handed on in the main thread.

    Args:
        on_progress: takes each `Progress`.
        on_end: takes `Done`, `Failed` or `Stopped`, once; the runner is idle again by then.
    """

    def __init__(self, on_progress: Callable[[Progress], None], on_end: Callable[[Message], None]) -> None:
        self._on_progress, self._on_end = on_progress, on_end
        self._job: Job | None = None
        self._waiting: list[Message] = []
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self.poll)

    @property
    def busy(self) -> bool:
        return self._job is not None

    def start(self, work: Work) -> None:
        """Start work in a thread; nothing may be running."""
        if self._job is not None:
            raise RuntimeError("A job is running already.")
        self._job = Job(work)
        self._timer.start()

    def cancel(self) -> None:
        """Ask for the end; `on_end` tells when it came."""
        if self._job is not None:
            self._job.cancel()

    def abandon(self) -> None:
        """Ask for the end and hear no more of it: the scene or the panel goes away."""
        if self._job is not None:
            self._job.cancel()
            self._forget()

    def poll(self) -> None:
        """Hand on what happened."""
        if self._job is None:
            return
        self._waiting += self._job.messages()
        while self._waiting:  # one that raises must not take the end along
            message = self._waiting.pop(0)
            if isinstance(message, Progress):
                try:
                    self._on_progress(message)
                except Cancelled:  # as in a call that waits
                    self.cancel()
            else:
                self._forget()
                self._on_end(message)
                return

    def _forget(self) -> None:
        self._timer.stop()
        self._job = None
        self._waiting = []


class SceneClosing(VTKObservationMixin):
    """Calls back when the scene is about to close: what was read from it has no place to be written to. Ends with `removeObservers`."""

    def __init__(self, then: Callable[[], None]) -> None:
        VTKObservationMixin.__init__(self)
        self._then = then
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self._on_closing)

    def _on_closing(self, caller: Any, event: str) -> None:
        self._then()


def run_to_end(work: Work, on_progress: Callable[[Progress], None] | None = None, *, ends_with_scene: bool = False) -> Any:
    """Run work in a thread and wait, with the application alive; returns its value.

    Args:
        work: what to do.
        on_progress: called here; what it raises (Cancelled, for one) ends the work.
        ends_with_scene: closing the scene ends it too.

    Raises:
        InputError: the work refused its input.
        Cancelled: it was ended.
        RuntimeError: it failed otherwise; the details are in the message.
    """
    job = Job(work)
    closing = SceneClosing(job.cancel) if ends_with_scene else None
    try:
        while True:
            for message in job.messages():
                if isinstance(message, Progress):
                    if on_progress is not None:
                        on_progress(message)
                else:
                    return value_of(message)
            slicer.app.processEvents()
            time.sleep(POLL_MS / 2000)
    finally:
        job.cancel()
        if closing is not None:
            closing.removeObservers()


def run_work(
    work: Work,
    then: Callable[[Any], Any],
    on_progress: Callable[[Progress], None] | None,
    wait: bool,
    finished: Callable[[Any], None] | None,
    running: set[Any],
    *,
    ends_with_scene: bool,
) -> Any:
    """Run work in a thread for a script that waits for it, or does not.

    Args:
        work, on_progress, ends_with_scene: as of `run_to_end`.
        then: takes the work's value, in the main thread; what it returns is the answer.
        wait: return the answer, or at once a Runner.
        finished: without waiting: called in the main thread with the answer, or with Failed or Stopped.
        running: keeps the Runner alive until then.

    Raises:
        As `run_to_end`, when it waits.
    """
    if wait:
        return then(run_to_end(work, on_progress, ends_with_scene=ends_with_scene))

    def end(message: Message) -> None:
        running.discard(runner)
        if closing is not None:
            closing.removeObservers()
        answer: Any = message
        if isinstance(message, Done):
            try:
                answer = then(message.value)
            except Exception as error:  # whoever waits for `finished` must hear of it
                answer = failure(error)
        if finished is not None:
            finished(answer)

    runner = Runner(on_progress or (lambda _report: None), end)
    closing = SceneClosing(runner.cancel) if ends_with_scene else None
    runner.start(work)
    running.add(runner)
    return runner


def value_of(message: Message) -> Any:
    """The value of a finished job; raises what `run_to_end` raises."""
    if isinstance(message, Done):
        return message.value
    if isinstance(message, Stopped):
        raise Cancelled
    assert isinstance(message, Failed)
    if message.expected:
        raise InputError(message.sentence)
    raise RuntimeError(f"{message.sentence}\n\n{message.details}")
