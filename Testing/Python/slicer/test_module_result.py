"""The result in the panel: undo, the X-ray moved instead of the CT, blinking, the estimate of the error, export."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from SphericalRegModule import choices, layout

from SphericalRegLib.registration.result import distinct


def register(widget: Any, wait: Callable[..., float]) -> None:
    widget.ui.registerButton.click()
    wait(lambda: not widget.panel.runner.busy)
    assert widget.ui.errorLabel.text == "", widget.panel._details


def pose_in_scene(widget: Any, ct: Any) -> np.ndarray:
    from SphericalRegLib.mrml.detector import placed_camera
    from SphericalRegLib.mrml.poses import pose_of

    placed = placed_camera(widget._parameterNode.placedXray)
    assert placed is not None
    return pose_of(ct, placed.world_from_camera)


def test_undo_of_a_first_registration_leaves_nothing_behind(slicer: ModuleType, chosen: Any, phantom: Any, wait: Callable[..., float]) -> None:
    scene = slicer.mrmlScene
    layout.show_layout()
    kinds = ("vtkMRMLScalarVolumeNode", "vtkMRMLLinearTransformNode", "vtkMRMLModelNode", "vtkMRMLDisplayNode", "vtkMRMLStorageNode")
    register(chosen, wait)  # makes what stays: the CT's volume rendering, the plot
    chosen.ui.undoButton.click()
    before = [scene.GetNumberOfNodesByClass(kind) for kind in kinds]
    register(chosen, wait)
    assert scene.GetNumberOfNodesByClass(kinds[0]) == before[0] + 2
    chosen.ui.undoButton.click()
    assert [scene.GetNumberOfNodesByClass(kind) for kind in kinds] == before
    p = chosen._parameterNode
    assert (p.outputTransform, p.placedXray, p.drrVolume, p.placedFrom) == (None, None, None, None)
    assert phantom.ct.GetParentTransformNode() is None
    composite = slicer.app.layoutManager().sliceWidget(layout.VIEW).sliceLogic().GetSliceCompositeNode()
    assert not composite.GetBackgroundVolumeID()
    assert not chosen.ui.undoButton.enabled
    assert not chosen.ui.exportButton.enabled
    register(chosen, wait)
    assert p.placedXray is not None


def test_undo_goes_back_pose_by_pose(slicer: ModuleType, chosen: Any, phantom: Any, wait: Callable[..., float]) -> None:
    """Placed by hand, registered, registered again from elsewhere: undo brings back each pose, image and provenance."""
    from SphericalRegLib.mrml.provenance import result_of
    from SphericalRegLib.mrml.voxels import voxels

    p = chosen._parameterNode
    chosen.ui.placeButton.click()
    by_hand = pose_in_scene(chosen, phantom.ct)
    register(chosen, wait)
    first, score = pose_in_scene(chosen, phantom.ct), result_of(p.outputTransform).score  # type: ignore[union-attr]
    image = voxels(p.drrVolume).copy()
    assert np.abs(first - by_hand).max() > 0.01
    chosen.ui.initialComboBox.setCurrentIndex(chosen.ui.initialComboBox.findText("ap"))
    chosen.ui.seedSpinBox.value = 5
    register(chosen, wait)
    chosen.ui.undoButton.click()
    assert pose_in_scene(chosen, phantom.ct) == pytest.approx(first, abs=1e-9)
    assert np.array_equal(voxels(p.drrVolume), image)
    assert result_of(p.outputTransform).score == score  # type: ignore[union-attr]
    chosen.ui.undoButton.click()
    assert pose_in_scene(chosen, phantom.ct) == pytest.approx(by_hand, abs=1e-9)
    assert result_of(p.outputTransform) is None
    chosen.ui.undoButton.click()  # the placement
    assert (p.placedXray, p.outputTransform, phantom.ct.GetParentTransformNode()) == (None, None, None)
    assert p.initial == "ap"
    assert not chosen.ui.undoButton.enabled


@pytest.mark.parametrize("placed_first", [False, True])
def test_the_xray_can_move_instead(slicer: ModuleType, chosen: Any, phantom: Any, wait: Callable[..., float], placed_first: bool) -> None:
    """The same pose either way; who moves can be changed afterwards, and undo still works."""
    from SphericalRegLib.mrml.matrices import scene_from_node
    from SphericalRegLib.mrml.provenance import result_of

    p = chosen._parameterNode
    chosen.ui.moveXrayCheckBox.checked = True
    if placed_first:
        chosen.ui.placeButton.click()
        matrix = slicer.util.arrayFromTransformMatrix(p.outputTransform)
        matrix[:3, 3] += (4, 0, -3)
        slicer.util.updateTransformMatrixFromArray(p.outputTransform, matrix)
        assert p.placedXray.GetParentTransformNode() is p.outputTransform
    register(chosen, wait)
    found = result_of(p.outputTransform).camera_from_world  # type: ignore[union-attr]
    for moved in (True, False, True):
        chosen.ui.moveXrayCheckBox.checked = moved
        assert chosen.ui.errorLabel.text == "", chosen.panel._details
        assert pose_in_scene(chosen, phantom.ct) == pytest.approx(found, abs=1e-6)
        assert (phantom.ct.GetParentTransformNode() is None) == moved
        for image in (p.placedXray, p.drrVolume):
            assert image.GetParentTransformNode() is (p.outputTransform if moved else None)
        assert scene_from_node(p.placedXray) == pytest.approx(scene_from_node(p.drrVolume))
    assert np.array_equal(*(slicer.util.arrayFromVolume(node).shape for node in (p.placedXray, p.drrVolume)))
    chosen.ui.undoButton.click()
    assert chosen.ui.errorLabel.text == "", chosen.panel._details
    assert phantom.ct.GetParentTransformNode() is None
    assert (p.placedXray is not None) == placed_first


def test_the_live_drr_follows_a_moved_xray(slicer: ModuleType, chosen: Any, phantom: Any, wait: Callable[..., float]) -> None:
    from SphericalRegLib.mrml.detector import placed_camera
    from SphericalRegLib.mrml.voxels import voxels

    p = chosen._parameterNode
    chosen.ui.moveXrayCheckBox.checked = True
    chosen.ui.placeButton.click()
    before = voxels(p.drrVolume).copy()
    matrix = slicer.util.arrayFromTransformMatrix(p.outputTransform)
    matrix[:3, 3] += (6, 2, 5)
    slicer.util.updateTransformMatrixFromArray(p.outputTransform, matrix)
    wait(lambda: not np.array_equal(voxels(p.drrVolume), before), 20)
    xray, drr = placed_camera(p.placedXray), placed_camera(p.drrVolume)
    assert xray is not None
    assert drr is not None
    assert drr.world_from_camera == pytest.approx(xray.world_from_camera, abs=1e-9)
    assert phantom.ct.GetParentTransformNode() is None


def test_blink_shows_both_in_turn(slicer: ModuleType, chosen: Any, phantom: Any, wait: Callable[..., float]) -> None:
    ui = chosen.ui
    assert not ui.blinkButton.enabled
    register(chosen, wait)
    composite = slicer.app.layoutManager().sliceWidget(layout.VIEW).sliceLogic().GetSliceCompositeNode()
    ui.pictureComboBox.setCurrentIndex(choices.PICTURES.index(choices.XRAY))
    ui.blinkButton.click()
    for opacity in (1.0, 0.0, 1.0):
        wait(lambda opacity=opacity: composite.GetForegroundVolumeID() and composite.GetForegroundOpacity() == opacity, 10)
    ui.blinkButton.click()
    assert not chosen.panel.result.blink.on
    assert not composite.GetForegroundVolumeID(), "the chosen picture is back"
    ui.blinkButton.click()
    ui.undoButton.click()
    assert not chosen.panel.result.blink.on
    assert not ui.blinkButton.checked


def test_the_error_is_estimated_and_said_to_be_uncalibrated(chosen: Any, wait: Callable[..., float]) -> None:
    from SphericalRegLib.mrml.provenance import result_of
    from SphericalRegLib.registration.spread import spread

    register(chosen, wait)
    off = spread(result_of(chosen._parameterNode.outputTransform))  # type: ignore[arg-type]
    text = chosen.ui.verdictLabel.text
    assert f"not calibrated: {off.rotation_deg:.2f} degrees, {off.across_beam_mm:.2f} mm across the beam, {off.along_beam_mm:.2f} mm along it" in text
    assert "wrong minimum" in text


def test_the_convergence_is_plotted(slicer: ModuleType, chosen: Any, wait: Callable[..., float]) -> None:
    layout.show_layout()
    register(chosen, wait)
    curves = slicer.app.layoutManager().plotWidget(0).plotView().curves()
    stages = [stage for stage in chosen.panel.result.outcome.result.stages if stage.costs]
    names = distinct([stage.name for stage in stages])
    assert all(shown.endswith(name) for (shown, _x, _y), name in zip(curves, names)) and len(curves) == len(stages)
    for (_name, x, y), stage in zip(curves, stages):
        known = ~np.isnan(y)
        assert known.sum() == len(stage.costs) and x[0] == 0 and y[0] == 1
        assert (np.diff(y[known]) <= 0).all()
