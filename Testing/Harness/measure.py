"""What the panel takes: live DRRs, a registration, cancelling, and whether closing and reloading leave anything behind.

Run by ``python run.py slicer-demo --measure``; works on the panel as a user does, by its buttons.
"""

from __future__ import annotations

import gc
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import slicer

TARGET_RATE = 20.0
LONGEST_CANCEL_S = 1.0
LARGEST_GROWTH_MB = 0.5
"""A round, over the second half of the rounds: less than a leaked node with an image would take."""


@dataclass(frozen=True)
class Measured:
    """One line of the result, and whether it is as good as it has to be."""

    text: str
    good: bool = True


def measure(panel: Callable[[], Any], cancels: int, rounds: int, seed: int = 0) -> int:
    """Measure everything and print it; 0 if all targets were met.

    Args:
        panel: gives the module's Python widget as it is now (a reload makes another one).
        cancels: how many registrations are cancelled.
        rounds: how often the scene is closed and the module reloaded.
        seed: of the moments at which it is cancelled.
    """
    parts: list[Callable[[], list[Measured]]] = [lambda: live_rate(panel()), lambda: click_to_result(panel())]
    if cancels:
        parts.append(lambda: cancel_latency(panel(), cancels, random.Random(seed)))
    if rounds:
        parts += [lambda: scene_rounds(panel, rounds), lambda: reload_rounds(panel, rounds)]
    good = True
    for part in parts:
        for line in part():
            print(("ok   " if line.good else "FAIL ") + line.text, flush=True)
            good &= line.good
    return 0 if good else 1


# The sample case ---------------------------------------------------------------------------------------------------------------------------------


def choose_sample(widget: Any) -> tuple[Any, Any]:
    """The sample case in an empty scene, chosen in the panel, with the beam's direction."""
    from SphericalRegModule.sample_data import load_sample_case

    slicer.mrmlScene.Clear()
    widget.enter()
    ct, xray = load_sample_case()
    ui = widget.ui
    ui.ctSelector.setCurrentNode(ct)
    ui.xraySelector.setCurrentNode(xray)
    choose(ui.initialComboBox, "ap")
    return ct, xray


def choose(box: Any, text: str) -> None:
    box.setCurrentIndex(box.findText(text))


def wait(holds: Callable[[], bool]) -> None:
    while not holds():
        slicer.app.processEvents()
        time.sleep(0.001)


def register(widget: Any) -> float:
    """Click and wait; seconds until the result is in the scene and the view drawn."""
    began = time.perf_counter()
    widget.ui.registerButton.click()
    wait(lambda: not widget.panel.runner.busy)
    draw()
    if widget.ui.errorLabel.text:
        raise RuntimeError(widget.ui.errorLabel.text)
    return time.perf_counter() - began


def draw() -> None:
    from SphericalRegModule import layout

    slicer.app.layoutManager().sliceWidget(layout.VIEW).sliceView().forceRender()


# Speed -------------------------------------------------------------------------------------------------------------------------------------------


def live_rate(widget: Any, moves: int = 100) -> list[Measured]:
    """The CT's transform is changed, as a hand does, and the time taken until the X-ray view shows the DRR there."""
    from SphericalRegLib.mrml.matrices import from_vtk, to_vtk

    choose_sample(widget)
    widget.ui.placeButton.click()
    p = widget._parameterNode
    size = p.placedXray.GetImageData().GetDimensions()[:2]
    start = to_vtk(np.eye(4))
    p.outputTransform.GetMatrixTransformToParent(start)
    seconds = []
    for move in range(moves + 5):
        matrix = from_vtk(start)
        matrix[:3, 3] += (10 * np.sin(0.2 * move), 0, 10 * np.cos(0.2 * move))
        before = p.drrVolume.GetImageData().GetMTime()
        began = time.perf_counter()
        p.outputTransform.SetMatrixTransformToParent(to_vtk(matrix))
        while p.drrVolume.GetImageData().GetMTime() == before:
            slicer.app.processEvents()
        draw()
        seconds.append(time.perf_counter() - began)
    steady = sorted(seconds[5:])
    rate = 1 / statistics.median(steady)
    text = f"live DRR, {size[0]} x {size[1]} pixels, event to drawn view: {rate:.0f} frames/s ({1e3 * statistics.median(steady):.0f} ms, "
    return [Measured(text + f"95 % under {1e3 * steady[int(0.95 * len(steady))]:.0f} ms)", rate >= TARGET_RATE)]


def click_to_result(widget: Any) -> list[Measured]:
    choose_sample(widget)
    first = register(widget)
    widget.ui.undoButton.click()
    choose(widget.ui.initialComboBox, "ap")
    again = register(widget)
    return [Measured(f"click to result: {first:.1f} s; again with the CT prepared: {again:.1f} s")]


# Cancelling --------------------------------------------------------------------------------------------------------------------------------------


def cancel_latency(widget: Any, count: int, moments: random.Random) -> list[Measured]:
    """Registrations are cancelled at random moments, the later half of them with the model of the sample; nothing may have changed, and everything
    must work afterwards."""
    from SphericalRegModule.choices import ASK_MODEL, NO_MODEL, SHIPPED_MODEL

    ct, _xray = choose_sample(widget)
    ui, longest = widget.ui, {}
    for start, model in (("ap", NO_MODEL), (ASK_MODEL, SHIPPED_MODEL)):
        choose(ui.modelComboBox, model)
        wait(lambda: not widget.panel.model.looker.busy)
        for _ in range(2):  # the first one also makes what stays, and takes longer
            choose(ui.initialComboBox, start)
            longest[start] = register(widget)
            ui.undoButton.click()
    choose(ui.modelComboBox, NO_MODEL)
    start = "ap"
    choose(ui.initialComboBox, start)
    observers = _observers(widget)
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    latencies: list[tuple[float, str]] = []
    finished, broken = 0, 0
    for number in range(3 * count):
        if len(latencies) == count:
            break
        if len(latencies) == (count + 1) // 2 and start != ASK_MODEL:
            start = ASK_MODEL
            choose(ui.modelComboBox, SHIPPED_MODEL)
            choose(ui.initialComboBox, start)
            wait(lambda: not widget.panel.model.looker.busy)
            observers = _observers(widget)
        if number % 2:
            widget.logic.forgetPrepared()  # half of them prepare the CT as well
        widget.ui.registerButton.click()
        due = time.perf_counter() + moments.uniform(0, longest[start])
        wait(lambda due=due: time.perf_counter() >= due or not widget.panel.runner.busy)
        if not widget.panel.runner.busy:  # quicker than the last time
            finished += 1
            widget.ui.undoButton.click()
            choose(widget.ui.initialComboBox, start)
            continue
        stage = widget.panel.stage or "start"
        began = time.perf_counter()
        widget.ui.registerButton.click()
        wait(lambda: not widget.panel.runner.busy)
        latencies.append((time.perf_counter() - began, stage))
        same = ct.GetParentTransformNode() is None and slicer.mrmlScene.GetNumberOfNodes() == nodes and _observers(widget) == observers
        broken += not (same and widget.ui.registerButton.enabled and widget.ui.registerButton.text == "Register")
    slow, stage = max(latencies)
    worst: dict[str, list[float]] = {}
    for seconds, name in latencies:
        worst.setdefault(name, []).append(seconds)
    over = Counter(stage for seconds, stage in latencies if seconds > LONGEST_CANCEL_S)
    median = statistics.median(seconds for seconds, _ in latencies)
    found = [
        Measured(
            f"cancel, {len(latencies)} times ({finished} were done before): median {1e3 * median:.0f} ms, longest {1e3 * slow:.0f} ms ({stage})",
            slow <= LONGEST_CANCEL_S,
        ),
        Measured("longest of each stage: " + ", ".join(f"{name} {1e3 * max(all_):.0f} ms of {len(all_)}" for name, all_ in sorted(worst.items()))),
        Measured(f"states that a cancel left broken, nodes and observers included: {broken}", not broken),
    ]
    if over:
        found.append(Measured(f"over {LONGEST_CANCEL_S:.0f} s: {', '.join(f'{name} {times} times' for name, times in over.items())}", False))
    register(widget)
    return found


# Leaks -------------------------------------------------------------------------------------------------------------------------------------------


def scene_rounds(panel: Callable[[], Any], rounds: int) -> list[Measured]:
    """A scene with a result is closed and opened again."""
    widget = panel()
    choose_sample(widget)
    register(widget)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "scene.mrb")
        slicer.util.saveScene(path)

        def once() -> None:
            slicer.mrmlScene.Clear()
            slicer.util.loadScene(path)
            widget.enter()
            if widget._parameterNode.ctVolume is None or not widget.ui.registerButton.enabled:
                raise RuntimeError("the scene did not come back")

        return _rounds("scene closed and opened", once, panel, rounds)


def reload_rounds(panel: Callable[[], Any], rounds: int) -> list[Measured]:
    """The module is reloaded, with the sample case chosen and a live DRR."""
    choose_sample(panel())
    panel().ui.placeButton.click()

    def once() -> None:
        panel().onReload()
        widget = panel()
        widget.enter()
        if widget._parameterNode.placedXray is None or not widget.panel.initial.live.following:
            raise RuntimeError("the reloaded panel does not follow the scene")

    return _rounds("module reloaded", once, panel, rounds)


def _rounds(title: str, once: Callable[[], None], panel: Callable[[], Any], rounds: int) -> list[Measured]:
    first: dict[str, int] = {}
    memory = []
    for number in range(rounds):
        once()
        slicer.app.processEvents()
        gc.collect()
        memory.append(memory_mb())
        now = _alive(panel())
        if number == min(2, rounds - 1):
            first = now
    last = _alive(panel())
    half = np.array(memory[rounds // 2 :])
    growth = float(np.polyfit(np.arange(len(half)), half, 1)[0]) if len(half) > 1 else 0.0
    grown = ", ".join(f"{name} {first.get(name, 0)} -> {count}" for name, count in last.items() if count > first.get(name, 0))
    return [
        Measured(f"{title} {rounds} times: nodes, observers, threads and objects {'as before' if not grown else 'grew: ' + grown}", not grown),
        Measured(
            f"{title} {rounds} times: memory {memory[0]:.0f} -> {memory[-1]:.0f} MB, {growth:+.2f} MB a round at the end", growth < LARGEST_GROWTH_MB
        ),
    ]


def _alive(widget: Any) -> dict[str, int]:
    """How many there are of what could be left behind."""
    kinds = [type(thing) for thing in gc.get_objects()]
    ours = Counter(kind.__name__ for kind in kinds if str(kind.__module__).partition(".")[0] in ("SphericalReg", "SphericalRegModule"))
    return {
        "nodes": slicer.mrmlScene.GetNumberOfNodes(),
        "observers": _observers(widget),
        "threads": threading.active_count(),
        "timers": sum(kind.__name__ == "QTimer" for kind in kinds),
        **ours,
    }


def _observers(widget: Any) -> int:
    """Observers that the widget, the panel and its parts hold."""
    return len(widget.Observations) + int(widget.panel.observers)


def memory_mb() -> float:
    """Resident memory of this process, MB; NaN where the system does not tell as Linux does."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return float("nan")
    return pages * 4096 / 1e6


if __name__ == "__main__":
    sys.exit("Run it with: python run.py slicer-demo --measure")
