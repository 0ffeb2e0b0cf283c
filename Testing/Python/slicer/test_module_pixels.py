"""The sample case, registered by clicks: a landmark of the CT lies in the X-ray view where the geometry projects it, and on its feature."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from SphericalRegModule import layout


@pytest.fixture
def registered(slicer: ModuleType, widget: Any, wait: Callable[..., float]) -> Any:
    """The panel after Register, with a search that suits the sample's small range."""
    from SphericalRegModule.sample_data import load_sample_case

    from SphericalRegLib.registration.options import MultiStart, RegistrationOptions

    widget.logic.options = RegistrationOptions(wide_start=MultiStart(200, 60, 8.0, 20.0))
    layout.show_layout()
    ct, xray = load_sample_case()
    ui = widget.ui
    ui.ctSelector.setCurrentNode(ct)
    ui.xraySelector.setCurrentNode(xray)
    ui.initialComboBox.setCurrentIndex(ui.initialComboBox.findText("ap"))
    ui.registerButton.click()
    wait(lambda: not widget.panel.runner.busy)
    assert ui.errorLabel.text == "", widget.panel._details
    return widget


def pixel_in_view(slicer: ModuleType, landmark: np.ndarray, source: np.ndarray) -> np.ndarray:
    """(column, row) of the image that the X-ray view shows where the ray from the source through a point of the scene meets its slice.

    Slicer's own slice logic says so: from the slice's plane to view coordinates, and from there to the voxels of the layer in the background.
    """
    logic = slicer.app.layoutManager().sliceWidget(layout.VIEW).sliceLogic()
    scene_from_slice = slicer.util.arrayFromVTKMatrix(logic.GetSliceNode().GetSliceToRAS())
    normal, origin = scene_from_slice[:3, 2], scene_from_slice[:3, 3]
    along = (origin - source) @ normal / ((landmark - source) @ normal)
    hit = source + along * (landmark - source)
    xyz = np.linalg.inv(slicer.util.arrayFromVTKMatrix(logic.GetSliceNode().GetXYToRAS())) @ [*hit, 1]
    return np.array(logic.GetBackgroundLayer().GetXYToIJKTransform().TransformPoint(xyz[:3])[:2])


def test_landmarks_lie_on_their_pixels(slicer: ModuleType, registered: Any) -> None:
    from SphericalRegLib.mrml.detector import placed_camera
    from SphericalRegLib.mrml.provenance import result_of

    p = registered._parameterNode
    (truth_file,) = Path(slicer.app.temporaryPath).glob("SphericalRegSample/*/truth.json")
    truth = json.loads(truth_file.read_text(encoding="utf-8"))
    points = np.array(truth["fiducials_ras_mm"])
    markups = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "landmarks")
    slicer.util.updateMarkupsControlPointsFromArray(markups, points)
    markups.SetAndObserveTransformNodeID(p.ctVolume.GetTransformNodeID())  # as Slicer moves what belongs to the CT
    placed, result = placed_camera(p.placedXray), result_of(p.outputTransform)
    assert placed is not None
    assert result is not None
    seen, off_truth = 0, []
    for number, point in enumerate(points):
        place = [0.0, 0.0, 0.0]
        markups.GetNthControlPointPositionWorld(number, place)
        found, true = (
            placed.camera.project(pose[:3, :3] @ point + pose[:3, 3]) for pose in (result.camera_from_world, np.array(truth["camera_from_world"]))
        )
        assert pixel_in_view(slicer, np.array(place), placed.source) == pytest.approx(found, abs=0.01)
        inside = (found > 0).all() and (found < placed.camera.size_px).all()
        seen += inside
        off_truth.append(np.linalg.norm(found - true))
    assert seen >= 4
    assert np.max(off_truth) < 0.5, "pixels between where the found and the true pose have the landmarks"

    registered.ui.moveXrayCheckBox.checked = True  # now the CT stands still and the detector moves: the view turns with it
    placed = placed_camera(p.placedXray)
    assert placed is not None
    for point in points:
        found = placed.camera.project(result.camera_from_world[:3, :3] @ point + result.camera_from_world[:3, 3])
        assert pixel_in_view(slicer, point, placed.source) == pytest.approx(found, abs=0.01)
