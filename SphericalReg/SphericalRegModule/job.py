"""One piece of long work in a thread, with progress, cancellation and failure told in messages.

The worker touches neither Qt nor MRML: whoever started it polls, and does with the result what belongs to the main thread.
"""

from __future__ import annotations

import queue
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from SphericalRegLib.errors import InputError
from SphericalRegLib.progress import Cancelled, Progress, ProgressCallback

Work = Callable[[ProgressCallback], Any]


@dataclass(frozen=True)
class Done:
    value: Any


@dataclass(frozen=True)
class Failed:
    """Why there is no result: a sentence for the user, all there is to know for a bug report, and whether the input was at fault."""

    sentence: str
    details: str
    expected: bool


@dataclass(frozen=True)
class Stopped:
    """Cancelled as asked."""


Message = Progress | Done | Failed | Stopped


class Job:
    """Work that has been started.

    Args:
        work: called in the thread with a progress callback, through which it is cancelled too.
    """

    def __init__(self, work: Work) -> None:
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._cancel = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(work,), name="SphericalReg", daemon=True)
        self._thread.start()

    def cancel(self) -> None:
        """Ask the work to stop; it does at its next report."""
        self._cancel.set()

    def messages(self) -> list[Message]:
        """What happened since the last call; of several progress reports only the newest. The last of all is Done, Failed or Stopped; after
        `cancel` it is never Done, though the work may have ended in the same moment."""
        found: list[Message] = []
        while not self._messages.empty():
            message = self._messages.get()
            if isinstance(message, Done) and self._cancel.is_set():
                message = Stopped()
            if isinstance(message, Progress) and found:
                found.pop()
            found.append(message)
        return found

    def join(self, seconds: float | None = None) -> bool:
        """Wait for the end of the thread; whether it ended in time."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self, work: Work) -> None:
        def report(progress: Progress) -> None:
            if self._cancel.is_set():
                raise Cancelled
            self._messages.put(progress)

        try:
            end: Message = Done(work(report))
        except Cancelled:
            end = Stopped()
        except Exception as error:  # the user must hear of anything that can go wrong in here
            end = failure(error)
        self._messages.put(end)


def failure(error: BaseException) -> Failed:
    """A failure in words. Must be called while the error is handled."""
    if isinstance(error, InputError):
        return Failed(str(error), traceback.format_exc(), True)
    return Failed(f"Something unexpected went wrong ({type(error).__name__}: {error}).", traceback.format_exc(), False)
