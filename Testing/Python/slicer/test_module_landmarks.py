"""Paired landmarks in the panel: points in the CT and on the X-ray give the pose."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

CT_POINTS = np.array([[-15, 28, 156], [40, -20, 130], [-20, -25, 200], [35, 30, 180], [5, 0, 210.0]])


@pytest.fixture
def landmarks(slicer: ModuleType, chosen: Any, phantom: Any) -> Any:
    """Five points of the phantom, in the CT and where its X-ray shows them; returns their true pixels as well."""
    from SphericalRegLib.mrml.landmarks import put_on

    pixels = phantom.camera.project(CT_POINTS @ phantom.pose[:3, :3].T + phantom.pose[:3, 3])
    ct_points, xray_points = (slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name) for name in ("in CT", "in X-ray"))
    slicer.util.updateMarkupsControlPointsFromArray(ct_points, CT_POINTS)
    slicer.util.updateMarkupsControlPointsFromArray(xray_points, np.zeros((len(pixels), 3)))
    put_on(xray_points, phantom.xray, pixels)
    assert not chosen.ui.landmarksButton.enabled
    chosen.ui.ctPointsSelector.setCurrentNode(ct_points)
    chosen.ui.xrayPointsSelector.setCurrentNode(xray_points)
    assert chosen.ui.landmarksButton.enabled
    return ct_points, xray_points, pixels


def pose_in_scene(widget: Any, ct: Any) -> np.ndarray:
    from SphericalRegLib.mrml.detector import placed_camera
    from SphericalRegLib.mrml.poses import pose_of

    placed = placed_camera(widget._parameterNode.placedXray)
    assert placed is not None
    return pose_of(ct, placed.world_from_camera)


@pytest.mark.parametrize("move_xray", [False, True])
def test_the_true_pose_comes_out(slicer: ModuleType, chosen: Any, phantom: Any, landmarks: Any, move_xray: bool) -> None:
    """Of points on the X-ray as it was loaded, and then again of the same points on the detector, after one of them was moved away."""
    ui, p = chosen.ui, chosen._parameterNode
    ui.moveXrayCheckBox.checked = move_xray
    ui.landmarksButton.click()
    assert ui.errorLabel.text == "", chosen.panel._details
    assert pose_in_scene(chosen, phantom.ct) == pytest.approx(phantom.pose, abs=1e-6)
    assert ui.landmarksLabel.text.startswith("Landmarks fit to 0.0 px, 0.0 mm")
    assert p.initial == "the CT's place in the scene"
    assert chosen.panel.initial.live.following

    from SphericalRegLib.mrml.landmarks import pixels_on, put_on

    _ct_points, xray_points, pixels = landmarks
    put_on(xray_points, p.placedXray, pixels)
    matrix = slicer.util.arrayFromTransformMatrix(p.outputTransform)
    matrix[:3, 3] += (20, -10, 5)
    slicer.util.updateTransformMatrixFromArray(p.outputTransform, matrix)
    if move_xray:
        xray_points.SetAndObserveTransformNodeID(p.outputTransform.GetID())  # as a user does who moves both; points in the CT go along by themselves
    ui.landmarksButton.click()
    assert ui.errorLabel.text == "", chosen.panel._details
    assert pose_in_scene(chosen, phantom.ct) == pytest.approx(phantom.pose, abs=1e-6)
    assert pixels_on(xray_points, p.placedXray) == pytest.approx(pixels, abs=1e-6)


def test_a_mirrored_xray_has_mirrored_points(slicer: ModuleType, chosen: Any, phantom: Any, landmarks: Any) -> None:
    from SphericalRegLib.mrml.landmarks import put_on
    from SphericalRegLib.mrml.voxels import set_voxels, voxels

    _ct_points, xray_points, pixels = landmarks
    set_voxels(phantom.xray, voxels(phantom.xray)[:, :, ::-1], np.diag([-2.5, -2.2, 1, 1]))
    put_on(xray_points, phantom.xray, np.column_stack((phantom.camera.columns - 1 - pixels[:, 0], pixels[:, 1])))
    ui = chosen.ui
    ui.landmarksButton.click()
    assert "mirrored X-ray fits" in ui.landmarksLabel.text
    ui.mirroredCheckBox.checked = True
    ui.principalColumnSpinBox.value = phantom.camera.columns - 1 - phantom.camera.principal_point_px[0]
    ui.landmarksButton.click()
    assert ui.errorLabel.text == "", chosen.panel._details
    assert pose_in_scene(chosen, phantom.ct) == pytest.approx(phantom.pose, abs=1e-6)


def test_the_residual_of_a_wrong_point_shows(slicer: ModuleType, chosen: Any, phantom: Any, landmarks: Any) -> None:
    from SphericalRegLib.mrml.landmarks import put_on

    ct_points, xray_points, pixels = landmarks
    for number in range(5):
        ct_points.SetNthControlPointLabel(number, "ABCDE"[number])
    wrong = pixels.copy()
    wrong[2] += (4, 3)
    put_on(xray_points, phantom.xray, wrong)
    chosen.ui.landmarksButton.click()
    words = chosen.ui.landmarksLabel.text
    assert "0.0 px" not in words
    assert all(f"{name} " in words for name in "ABCDE")


def test_what_is_wrong_with_the_points_is_said(slicer: ModuleType, chosen: Any, phantom: Any, landmarks: Any) -> None:
    ct_points, xray_points, _pixels = landmarks
    xray_points.SetNthControlPointPositionWorld(1, 500, 500, 500)
    chosen.ui.landmarksButton.click()
    assert "do not all lie on the X-ray phantom X-ray" in chosen.ui.errorLabel.text
    assert chosen._parameterNode.placedXray is None
    xray_points.RemoveNthControlPoint(1)
    chosen.ui.landmarksButton.click()
    assert "5 in the CT and 4 in the X-ray" in chosen.ui.errorLabel.text
    ct_points.UnsetNthControlPointPosition(0)
    chosen.ui.landmarksButton.click()
    assert "has no place yet" in chosen.ui.errorLabel.text


def test_points_may_lie_on_any_frame(slicer: ModuleType, chosen: Any, phantom: Any, landmarks: Any) -> None:
    """Of slices that are frames the chosen one counts, however far it is from the first."""
    from SphericalRegLib.mrml.voxels import set_voxels, voxels

    _ct_points, xray_points, pixels = landmarks
    slices = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "slices")
    set_voxels(slices, np.repeat(voxels(phantom.xray), 9, axis=0), np.diag([-2.5, -2.2, 1, 1]))
    for number, (column, row) in enumerate(pixels):
        xray_points.SetNthControlPointPositionWorld(number, -2.5 * column, -2.2 * row, 7.2)
    ui = chosen.ui
    ui.xraySelector.setCurrentNode(slices)
    ui.sddSpinBox.value, ui.principalColumnSpinBox.value, ui.principalRowSpinBox.value = 900, 50, 37
    ui.frameSpinBox.value = 6
    ui.landmarksButton.click()
    assert "do not all lie on frame 6 of the X-ray slices" in ui.errorLabel.text
    ui.frameSpinBox.value = 7
    ui.landmarksButton.click()
    assert ui.errorLabel.text == "", chosen.panel._details
    assert pose_in_scene(chosen, phantom.ct) == pytest.approx(phantom.pose, abs=1e-6)
