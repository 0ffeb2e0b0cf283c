"""The module's own test, for the real application and for the harness: each check takes a `SphericalRegLogic` and an empty scene.

All of them raise AssertionError where something is not as it should be.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import slicer

from SphericalRegLib.mrml.detector import placed_camera
from SphericalRegLib.mrml.poses import pose_of
from SphericalRegLib.mrml.provenance import result_of
from SphericalRegLib.mrml.voxels import voxels

LARGEST_ERROR_MM = 2.0
"""On the detector's side of the CT; the start is some 60 mm off. A wrong frame or direction is off by far more."""

PATIENCE_SECONDS = 60.0
"""For what should take one second."""


def check_registers_the_sample_case(logic: Any) -> None:
    """Register the sample case from its view's name and compare with the truth, which nothing here but this comparison reads."""
    folder, ct, nodes = _registered(logic)
    result = result_of(nodes.transform)
    assert result is not None
    placed = placed_camera(nodes.xray)
    assert placed is not None
    assert np.abs(pose_of(ct, placed.world_from_camera) - result.camera_from_world).max() < 1e-6
    truth = json.loads(next(folder.glob("*/truth.json")).read_text(encoding="utf-8"))
    fiducials = np.c_[np.array(truth["fiducials_ras_mm"]), np.ones(len(truth["fiducials_ras_mm"]))]
    moved = fiducials @ (result.camera_from_world - np.array(truth["camera_from_world"])).T
    error = float(np.linalg.norm(moved[:, :2], axis=1).mean())
    assert error < LARGEST_ERROR_MM, f"the fiducials are off by {error:.1f} mm across the beam"


def check_saved_transform(logic: Any) -> None:
    """The transform, saved as ITK has it (fromParent, LPS) and read by SimpleITK, puts the CT where the DRR of the scene was rendered."""
    _, ct, nodes = _registered(logic)
    path = Path(slicer.app.temporaryPath) / "SphericalRegTest.tfm"
    assert slicer.util.saveNode(nodes.transform, str(path))
    itk = sitk.AffineTransform(sitk.ReadTransform(str(path)))
    from_parent = np.eye(4)
    from_parent[:3, :3] = np.array(itk.GetMatrix()).reshape(3, 3)
    from_parent[:3, 3] = np.array(itk.TransformPoint((0.0, 0.0, 0.0)))
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    to_parent = np.linalg.inv(flip @ from_parent @ flip)
    placed = placed_camera(nodes.xray)
    assert placed is not None
    shown = voxels(nodes.drr)[0]
    assert _likeness(_rendered(ct, placed, to_parent), shown) > 0.999
    assert _likeness(_rendered(ct, placed, np.linalg.inv(to_parent)), shown) < 0.99, "the inverse must not look the same"


def check_cancel(logic: Any) -> None:
    """A cancelled registration says so, and leaves the scene as it was."""
    from .job import Stopped

    _, ct, xray = _sample()
    before = slicer.mrmlScene.GetNumberOfNodes()
    answers: list[Any] = []
    runner = logic.register(ct, xray, initial="ap", device="cpu", waitForCompletion=False, finished=answers.append)
    _process_events(0.3)
    runner.cancel()
    _wait(answers)
    assert answers == [Stopped()]
    assert not runner.busy
    assert ct.GetParentTransformNode() is None
    assert slicer.mrmlScene.GetNumberOfNodes() == before


def check_scene_close(logic: Any) -> None:
    """Closing the scene ends the registration, and nothing of it comes into the next scene."""
    from .job import Stopped

    _, ct, xray = _sample()
    answers: list[Any] = []
    logic.register(ct, xray, initial="ap", device="cpu", waitForCompletion=False, finished=answers.append)
    _process_events(0.3)
    slicer.mrmlScene.Clear()
    after = slicer.mrmlScene.GetNumberOfNodes()
    _wait(answers)
    _process_events(0.3)
    assert answers == [Stopped()]
    assert slicer.mrmlScene.GetNumberOfNodes() == after


def _sample() -> tuple[Path, Any, Any]:
    from .sample_data import load_sample_case

    folder = Path(slicer.app.temporaryPath) / "SphericalRegSample"
    return folder, *load_sample_case(folder)


def _registered(logic: Any) -> tuple[Path, Any, Any]:
    folder, ct, xray = _sample()
    return folder, ct, logic.register(ct, xray, initial="ap", device="cpu", options=_quick_options())


def _quick_options() -> Any:
    """Enough to find the sample case's pose, not to refine it."""
    from SphericalRegLib.registration.options import MultiStart, RegistrationOptions, Stage

    search = MultiStart(poses=200, finalists=60, rotation_deg=8.0, translation_mm=30.0, image_px=48, finalist_px=80)
    return RegistrationOptions(stages=(Stage(80, iterations=8, hypotheses=4), Stage(128, iterations=10)), multi_start=search, wide_start=search)


def _rendered(ct: Any, placed: Any, scene_from_ct: np.ndarray) -> np.ndarray:
    """The CT, read from its node anew, on a detector."""
    from SphericalRegLib.mrml.session import render
    from SphericalRegLib.mrml.volumes import volume_from_node
    from SphericalRegLib.registration.pipeline import prepare

    return render(prepare(volume_from_node(ct)), placed.camera, np.linalg.inv(placed.world_from_camera) @ scene_from_ct)


def _likeness(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def _wait(answers: list[Any]) -> None:
    began = time.monotonic()
    while not answers:
        assert time.monotonic() - began < PATIENCE_SECONDS, "it did not end"
        _process_events(0.01)


def _process_events(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        slicer.app.processEvents()
        time.sleep(0.005)
