"""For a program that runs a command: progress as JSON lines, and an end when that program wants one, or is gone."""

from __future__ import annotations

import _thread
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from SphericalRegLib.progress import Progress, ProgressCallback

SHORTEST_S = 0.1


@contextmanager
def progress_lines() -> Iterator[ProgressCallback]:
    """A callback for long work that writes a line to stderr for each report, ten a second at most; nothing on stdout."""
    last, stage = 0.0, ""

    def report(progress: Progress) -> None:
        nonlocal last, stage
        now = time.perf_counter()
        if progress.stage == stage and progress.done < progress.total and now - last < SHORTEST_S:
            return
        last, stage = now, progress.stage
        words = {"stage": stage, "done": progress.done, "total": progress.total, "message": progress.message, "cost": progress.cost}
        print(json.dumps(words), file=sys.stderr, flush=True)

    yield report


def stop_when_input_ends() -> None:
    """From now on the end of standard input is what Ctrl-C is at a terminal: a program can close it on every system, and its death does too."""

    def watch() -> None:
        while os.read(descriptor, 4096):
            pass
        _thread.interrupt_main()

    descriptor = sys.stdin.fileno()
    # os.read and not sys.stdin.read, whose lock the interpreter would wait for when it ends.
    threading.Thread(target=watch, name="end of input", daemon=True).start()
