"""Jobs beside the event loop: waiting, cancelling, closing the scene, letting go of the runner."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from SphericalRegLib.errors import InputError
from SphericalRegLib.progress import Cancelled, Progress, ProgressCallback


def endless(report: ProgressCallback) -> None:
    while True:
        report(Progress("count", 0, 1))
        time.sleep(0.002)


def no_worker_left() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name == "SphericalReg"]


def observers(slicer: ModuleType) -> bool:
    return bool(slicer.mrmlScene.HasObserver(slicer.mrmlScene.StartCloseEvent))


def test_waiting_returns_the_value_and_keeps_the_application_alive(slicer: ModuleType) -> None:
    import qt
    from SphericalRegModule.runner import run_to_end

    ticks: list[int] = []
    timer = qt.QTimer()
    timer.connect("timeout()", lambda: ticks.append(1))
    timer.start(5)
    assert run_to_end(lambda report: time.sleep(0.3) or 42) == 42
    timer.stop()
    assert len(ticks) >= 3


def test_what_the_callback_raises_ends_the_work(slicer: ModuleType, wait: Callable[..., float]) -> None:
    from SphericalRegModule.runner import run_to_end

    def stop(report: Progress) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        run_to_end(endless, stop)
    wait(no_worker_left, 10)


def test_failures_come_out_as_what_they_are(slicer: ModuleType) -> None:
    from SphericalRegModule.runner import run_to_end

    def refuse(report: ProgressCallback) -> None:
        raise InputError("The CT is empty.")

    with pytest.raises(InputError, match=r"The CT is empty\."):
        run_to_end(refuse)
    with pytest.raises(RuntimeError, match=r"ZeroDivisionError(.|\n)*Traceback"):
        run_to_end(lambda report: 1 // 0)


def test_closing_the_scene_ends_what_somebody_waits_for(slicer: ModuleType, wait: Callable[..., float]) -> None:
    from SphericalRegModule.runner import run_to_end

    slicer.mrmlScene.Clear()
    watched = observers(slicer)
    with pytest.raises(Cancelled):
        run_to_end(endless, lambda report: slicer.mrmlScene.Clear(), ends_with_scene=True)
    wait(no_worker_left, 10)
    assert observers(slicer) == watched, "the observer is gone"


def test_a_registration_that_nobody_holds_on_to_is_finished(
    slicer: ModuleType, widget: Any, phantom: Any, wait: Callable[..., float], monkeypatch: pytest.MonkeyPatch
) -> None:
    from SphericalRegLib.mrml import session

    answers: list[Any] = []

    def refuse(request: Any, report: ProgressCallback) -> None:
        time.sleep(0.1)
        raise InputError("No.")

    monkeypatch.setattr(session, "run", refuse)
    geometry = {"sdd_mm": 900, "pixel_spacing_mm": [2.5, 2.2], "intensity": "counts"}
    widget.logic.register(phantom.ct, phantom.xray, geometry=geometry, waitForCompletion=False, finished=answers.append)
    gc.collect()
    wait(lambda: bool(answers), 10)
    assert answers[0].sentence == "No."
    assert not widget.logic._running
