"""A training in a process of its own: what is asked of the process, and what becomes of it. Real trainings: the panel's tests, and the console's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from SphericalRegModule import training
from SphericalRegModule.training import TrainingProgress, TrainingRequest, train

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.progress import Cancelled, Progress

GEOMETRY = {"sdd_mm": 900, "pixel_spacing_mm": [2.5, 2.2], "principal_point_px": [50, 37], "intensity": "counts"}


def test_what_cannot_be_used_is_named_at_once(widget: Any, phantom: Any, tmp_path: Path) -> None:
    logic = widget.logic
    with pytest.raises(InputError, match="safetensors"):
        logic.trainModel(phantom.ct, tmp_path / "model.pt")
    with pytest.raises(InputError, match="no unfinished training"):
        logic.trainModel(phantom.ct, tmp_path / "model", resume=True)
    with pytest.raises(TypeError, match="trainModel knows no primary_deg"):
        logic.trainModel(phantom.ct, tmp_path / "model", primary_deg=3)
    with pytest.raises(InputError, match="does not exist"):
        logic.register(phantom.ct, phantom.xray, geometry=GEOMETRY, model=tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="there is no model"):
        logic.register(phantom.ct, phantom.xray, geometry=GEOMETRY, initial="regressor")
    assert not list(tmp_path.iterdir())


# The process, played by small programs -----------------------------------------------------------------------------------------------------------


def request_for(out: Path, **options: Any) -> TrainingRequest:
    hu = np.full((4, 4, 4), -1000.0, np.float32)
    hu[1:3, 1:3, 1:3] = 500
    return TrainingRequest(Volume.from_array(hu, np.diag([2.0, 2.0, 2.0, 1.0]), name="a CT, by Jönsson"), None, out, options)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[list[str]]]:
    """Puts a program in the command's place; the commands that would have been called are noted."""

    def put(code: str) -> list[list[str]]:
        asked: list[list[str]] = []
        real = training._start

        def start(command: list[str]) -> subprocess.Popen[str]:
            asked.append(command)
            return real([sys.executable, "-S", "-c", code])

        monkeypatch.setattr(training, "_start", start)
        return asked

    return put


def reports(step: dict[str, Any]) -> str:
    return f"import sys, time; print({json.dumps(step)!r}, file=sys.stderr, flush=True)"


STEP = {"stage": "training", "done": 5, "total": 10, "message": "2 X-rays/s", "cost": None}


def test_the_command_and_its_reports(program: Callable[[str], list[list[str]]], tmp_path: Path) -> None:
    asked = program(reports(STEP) + "; print('no report', file=sys.stderr)")
    seen: list[Progress] = []
    out = tmp_path / "m.safetensors"
    began = time.monotonic()
    assert train(request_for(out, views=["ap", "pa"], primaryDeg=20.0, base=None, device="cpu", seed=3), seen.append) == out
    assert time.monotonic() - began < training.GRACE_S  # what has ended is not waited for
    (command,) = asked
    assert command[1:5] == ["-u", "-m", "SphericalRegLib", "train"]
    assert command[5].endswith("a_CT_by_J_nsson.nrrd")
    words = ["--out", str(out), "--piped", "--view", "ap", "--view", "pa", "--primary-deg", "20.0", "--device", "cpu", "--seed", "3"]
    assert command[6:] == words
    assert not Path(command[5]).parent.exists()
    assert any(isinstance(step, TrainingProgress) and (step.stage, step.done, step.message) == ("training", 5, "2 X-rays/s") for step in seen)


def test_a_part_of_the_ct(program: Callable[[str], list[list[str]]], tmp_path: Path) -> None:
    asked = program("pass")
    request = request_for(tmp_path / "m.safetensors")
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[1, 1, 1] = 2
    labelled = replace(request, volume=replace(request.volume, labels=labels), labels=(2,))
    train(labelled, lambda step: None)
    assert [Path(word).name for word in asked[0][-4:]] == ["--labels", "labels.nrrd", "--label", "2"]
    ct = training.write_inputs(labelled, tmp_path)
    back = Volume.read(ct, labels=ct.parent / "labels.nrrd")
    assert back.labels is not None and np.array_equal(back.labels, labels)


def test_a_process_that_has_saved_its_state_is_not_waited_for(program: Callable[[str], list[list[str]]], tmp_path: Path) -> None:
    program(f"{reports(STEP)}; sys.stdin.read(); print('interrupted: saved', file=sys.stderr, flush=True); time.sleep(60)")
    began = time.monotonic()
    with pytest.raises(Cancelled):
        train(request_for(tmp_path / "m.safetensors"), cancel_at_training)
    assert time.monotonic() - began < training.GRACE_S


def test_a_process_that_has_not_begun_is_ended_at_once(program: Callable[[str], list[list[str]]], tmp_path: Path) -> None:
    program("import time; time.sleep(60)")
    began, calls = time.monotonic(), iter(range(5))

    def cancel(step: Progress) -> None:
        if next(calls, None) is None:
            raise Cancelled

    with pytest.raises(Cancelled):
        train(request_for(tmp_path / "m.safetensors"), cancel)
    assert time.monotonic() - began < training.GRACE_S


def test_a_refusal_is_a_sentence(program: Callable[[str], list[list[str]]], tmp_path: Path) -> None:
    program("import sys; print('error: the image size is odd', file=sys.stderr); sys.exit(2)")
    with pytest.raises(InputError, match=r"^the image size is odd$"):
        train(request_for(tmp_path / "m.safetensors"), lambda step: None)


def test_a_crash_shows_its_last_lines(program: Callable[[str], list[list[str]]], tmp_path: Path) -> None:
    program("raise ValueError('the disk is on fire')")
    with pytest.raises(RuntimeError, match=r"code 1(.|\n)*the disk is on fire"):
        train(request_for(tmp_path / "m.safetensors"), lambda step: None)


def cancel_at_training(step: Progress) -> None:
    if step.stage == "training":
        raise Cancelled


def test_cancelling_closes_the_process_s_input(program: Callable[[str], list[list[str]]], tmp_path: Path) -> None:
    mark = tmp_path / "ended"
    program(f"{reports(STEP)}; sys.stdin.read(); open({str(mark)!r}, 'w')")
    began = time.monotonic()
    with pytest.raises(Cancelled):
        train(request_for(tmp_path / "m.safetensors"), cancel_at_training)
    assert mark.exists() and time.monotonic() - began < training.GRACE_S


def test_a_process_that_does_not_end_is_ended(
    program: Callable[[str], list[list[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "GRACE_S", 0.2)
    mark = tmp_path / "pid"
    program(f"{reports(STEP)}; import os; open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    with pytest.raises(Cancelled):
        train(request_for(tmp_path / "m.safetensors"), lambda step: cancel_at_training(step) if mark.exists() and mark.read_text() else None)
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


def test_time_left() -> None:
    now = 0.0
    left = training._TimeLeft(lambda: now)
    now = 10.0
    assert left({"stage": "training", "done": 40, "total": 100}) is None  # resumed: what was done before says nothing about now
    now = 30.0
    assert left({"stage": "training", "done": 50, "total": 100}) == pytest.approx(100)
    assert left({"stage": "validation", "done": 1, "total": 9}) == pytest.approx(100)
    assert left({"stage": "training, seconds", "done": 12, "total": 60}) == 48
