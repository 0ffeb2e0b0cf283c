"""A training in a process of its own: `sphericalreg train`, with its progress, its end when it is cancelled, and its resume.

Touches neither Qt nor MRML: it is called in a worker thread, and the application and the training share no interpreter.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import SphericalRegLib
from SphericalRegLib.errors import InputError
from SphericalRegLib.progress import Cancelled, Progress, ProgressCallback
from SphericalRegLib.training.files import how_far

if TYPE_CHECKING:
    from SphericalRegLib.imaging.radiograph import Radiograph
    from SphericalRegLib.imaging.volume import Volume

STARTING = "starting the training"
VALIDATION = "validation"
LABELS = "labels.nrrd"
INTERRUPTED = "interrupted"  # so begins what the command says when its state is saved
POLL_S = 0.05
NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)  # on Windows a console would flash
LAST_LINES = 25

GRACE_S = 5.0
"""So long a step may take to end after a cancel. The state is saved then; a process that takes longer is ended with the state of its last save."""

# What `trainModel` takes -> the command's option.
OPTIONS = {
    "minutes": "--minutes",
    "iterations": "--iterations",
    "anatomy": "--anatomy",
    "views": "--view",
    "primaryDeg": "--primary-deg",
    "secondaryDeg": "--secondary-deg",
    "inPlaneDeg": "--in-plane-deg",
    "inPlaneMm": "--in-plane-mm",
    "depthMm": "--depth-mm",
    "base": "--base",
    "backbone": "--backbone",
    "imageSize": "--image-size",
    "batch": "--batch",
    "accumulate": "--accumulate",
    "precision": "--precision",
    "validations": "--validations",
    "stopBelowMm": "--stop-below-mm",
    "patience": "--patience",
}


@dataclass(frozen=True, eq=False)
class TrainingRequest:
    """All that a training needs; nothing in it belongs to the scene.

    Attributes:
        volume: the CT.
        radiograph: whose camera is trained with; None: the flat panel of the simulator.
        out: the model, .safetensors, an absolute path.
        options: keys of `OPTIONS`, "device" and "seed".
        resume: go on with the unfinished training of this model.
        labels: labels of the CT that DRRs show; None: all of it.
    """

    volume: Volume
    radiograph: Radiograph | None
    out: Path
    options: Mapping[str, Any]
    resume: bool = False
    labels: tuple[int, ...] | None = None


@dataclass(frozen=True)
class TrainingProgress(Progress):
    """A report of a training.

    Attributes:
        curve: its validations so far, as in a model card.
        left_s: seconds that are left, validations to come not counted; None where nobody knows yet.
    """

    curve: tuple[dict[str, float], ...] = ()
    left_s: float | None = None


def python_executable() -> str:
    """A Python for a process of its own: inside Slicer, `sys.executable` is not one."""
    return shutil.which("PythonSlicer") or sys.executable


def train(request: TrainingRequest, progress: ProgressCallback) -> Path:
    """Train beside the application; returns the model's path.

    Args:
        request: what to train.
        progress: called several times a second with `TrainingProgress`; what it raises ends the process, after its state was saved.

    Raises:
        InputError: the command refused its input.
        Cancelled: out of `progress`; `resume` goes on.
        RuntimeError: the process failed otherwise; its last lines are in the message.
    """
    progress(TrainingProgress(STARTING, 0, 1))
    with tempfile.TemporaryDirectory(prefix="SphericalReg") as folder:
        inputs = Path(folder) / "case"  # the model's card says what was trained from, by the names alone
        inputs.mkdir()
        process = _start(_command(request, write_inputs(request, inputs)))
        lines = _Lines(process)
        try:
            said = _follow(lines, request.out, progress)
            code = process.wait()
        finally:
            _end(process, lines)
    if code == 0:
        return request.out
    refused = [line.removeprefix("error: ") for line in said if line.startswith("error: ")]
    if refused:
        raise InputError(refused[-1])
    if any(line.startswith(INTERRUPTED) for line in said):
        raise Cancelled
    raise RuntimeError("\n".join([f"The training ended with code {code}. Its last lines:", *said]))


def write_inputs(request: TrainingRequest, folder: Path) -> Path:
    """The CT, and the X-ray whose camera is trained with, as a case folder; returns the CT's file, which is called as the CT is."""
    import numpy as np
    import SimpleITK as sitk

    from SphericalRegLib.imaging.geometry_file import write_geometry

    ct = folder / f"{re.sub(r'[^0-9A-Za-z_-]+', '_', request.volume.name).strip('_') or 'CT'}.nrrd"
    sitk.WriteImage(request.volume.to_sitk(), str(ct))
    if request.labels is not None:
        sitk.WriteImage(request.volume.labels_to_sitk(), str(folder / LABELS), useCompression=True)
    if request.radiograph is not None:
        np.save(folder / "xray.npy", request.radiograph.image)
        write_geometry(folder / "geometry.json", request.radiograph.camera, intensity="line_integral", notes={"collimator": False})
        (folder / "case.json").write_text(json.dumps({"ct": ct.name, "xray": "xray.npy"}), encoding="utf-8")
    return ct


def _command(request: TrainingRequest, ct: Path) -> list[str]:
    words: list[Any] = ["train", ct, "--out", request.out, "--piped"]
    for name, value in request.options.items():
        option = OPTIONS.get(name, f"--{name}")
        for one in value if isinstance(value, (list, tuple)) else () if value is None else (value,):
            words += [option, one]
    words += ["--camera", ct.parent] if request.radiograph is not None else []
    if request.labels is not None:
        words += ["--labels", ct.parent / LABELS, *(word for label in request.labels for word in ("--label", label))]
    words += ["--resume"] if request.resume else []
    return [python_executable(), "-u", "-m", "SphericalRegLib", *map(str, words)]


def _start(command: list[str]) -> subprocess.Popen[str]:
    root = str(Path(SphericalRegLib.__file__).resolve().parents[1])  # module folders are not on the path of Slicer's Python
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", "PYTHONUTF8": "1"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, **pipes, text=True, encoding="utf-8", errors="replace", env=environment, creationflags=NO_WINDOW)


def _follow(lines: _Lines, out: Path, progress: ProgressCallback) -> list[str]:
    """Hand on what the process reports until it says no more; returns its last other lines."""
    said: deque[str] = deque(maxlen=LAST_LINES)
    left = _TimeLeft()
    report = TrainingProgress(STARTING, 0, 1)
    known = how_far(out)
    curve = () if known is None or known.finished else known.curve
    for line in lines:
        step = None if line is None else _parsed(line)
        if step is not None:
            if report.stage == VALIDATION != step["stage"]:  # the state was saved after it
                known = how_far(out)
                curve = curve if known is None or known.finished else known.curve
            report = TrainingProgress(**step, curve=curve, left_s=left(step))
        elif line is not None:
            said.append(line)
        progress(report)  # also when nothing was said: this is where a cancel is heard
    return list(said)


class _Lines:
    """Iterates over lines of a process's stderr as they come, with None in between; ends with the process's output.

    Attributes:
        reported: whether a report was among them.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.reported = False
        self._process = process
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, name="SphericalReg training output", daemon=True).start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr:
            for line in self._process.stderr:
                self._lines.put(line.rstrip())
        self._lines.put(None)

    def __iter__(self) -> Iterator[str | None]:
        while True:
            try:
                line = self._lines.get(timeout=POLL_S)
            except queue.Empty:
                yield None
                continue
            if line is None:
                return
            self.reported = self.reported or line.startswith("{")
            yield line


def _parsed(line: str) -> dict[str, Any] | None:
    """A report of `--piped`, or None for any other line."""
    if not line.startswith("{"):
        return None
    try:
        values = json.loads(line)
        return {name: values[name] for name in ("stage", "done", "total", "message", "cost")}
    except (ValueError, KeyError):
        return None


class _TimeLeft:
    """Seconds left of a training that counts steps or seconds, from what it did since it began here."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now, self._began, self._first = now, 0.0, 0
        self._left: float | None = None

    def __call__(self, step: dict[str, Any]) -> float | None:
        if step["stage"] == VALIDATION:
            return self._left
        if step["stage"].endswith("seconds"):
            self._left = float(step["total"] - step["done"])
        elif not self._began:
            self._began, self._first = self._now(), step["done"]
        elif step["done"] > self._first:
            each = (self._now() - self._began) / (step["done"] - self._first)
            self._left = each * (step["total"] - step["done"])
        return self._left


def _end(process: subprocess.Popen[str], lines: _Lines) -> None:
    """Close the process's input, which is Ctrl-C to it, and see to it that it ends. What Slicer's launcher started has the same input.

    Nobody waits longer than is of use: a process that has not begun has nothing to save, and one that has saved its state has only to leave.
    """
    assert process.stdin is not None
    with contextlib.suppress(OSError):  # it ended in this moment
        process.stdin.close()
    if process.poll() is not None:
        return
    until = time.monotonic() + GRACE_S
    if lines.reported:
        for line in lines:
            if time.monotonic() > until or (line is not None and line.startswith(INTERRUPTED)):
                break
    if process.poll() is None:
        process.kill()
    process.wait()
