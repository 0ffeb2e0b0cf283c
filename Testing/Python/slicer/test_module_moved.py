"""A CT that is moved after its registration, placing again, and results of scenes that were loaded: what the panel says is what the scene shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest


def register(widget: Any, wait: Callable[..., float]) -> None:
    widget.ui.registerButton.click()
    wait(lambda: not widget.panel.runner.busy)
    assert widget.ui.errorLabel.text == "", widget.panel._details


def pose_in_scene(widget: Any) -> np.ndarray:
    from SphericalRegLib.mrml.detector import placed_camera
    from SphericalRegLib.mrml.poses import pose_of

    p = widget._parameterNode
    placed = placed_camera(p.placedXray)
    assert placed is not None
    return pose_of(p.ctVolume, placed.world_from_camera)


def push(slicer: ModuleType, transform: Any, *way: float) -> None:
    matrix = slicer.util.arrayFromTransformMatrix(transform)
    matrix[:3, 3] += way
    slicer.util.updateTransformMatrixFromArray(transform, matrix)


@pytest.mark.parametrize("move_xray", [False, True])
def test_what_is_moved_after_a_registration_is_said_and_can_be_taken_back(
    slicer: ModuleType, chosen: Any, wait: Callable[..., float], move_xray: bool
) -> None:
    from SphericalRegLib.mrml.provenance import MOVED, result_of

    ui, p = chosen.ui, chosen._parameterNode
    ui.moveXrayCheckBox.checked = move_xray
    ui.placeButton.click()
    assert p.outputTransform.GetDisplayNode().GetEditorVisibility()
    register(chosen, wait)
    assert not p.outputTransform.GetDisplayNode().GetEditorVisibility(), "no stray drag"
    found, said = pose_in_scene(chosen), p.outputTransform.GetDescription()
    assert (ui.doubtLabel.text, ui.undoButton.text, ui.exportButton.enabled) == ("", "Undo", True)
    push(slicer, p.outputTransform, 4.0, 0.9, 0.0)
    assert ui.doubtLabel.text == "Moved since the registration: 4.1 mm, 0.0 degrees."
    assert not ui.doubtLabel.isHidden()
    assert "Similarity" in ui.verdictLabel.text
    assert not ui.exportButton.enabled and "was moved" in ui.exportButton.toolTip
    for node in (p.outputTransform, p.drrVolume):
        assert node.GetAttribute(MOVED) == "1"
        assert node.GetDescription().startswith("Moved since the registration. SphericalReg")
    result = result_of(p.outputTransform)
    assert result is not None and result.camera_from_world == pytest.approx(found, abs=1e-6), "the attribute goes on naming the pose that it is of"
    assert ui.undoButton.text == "Back to the result"
    ui.undoButton.click()
    assert ui.errorLabel.text == "", chosen.panel._details
    assert pose_in_scene(chosen) == pytest.approx(found, abs=1e-6)
    assert (ui.doubtLabel.text, ui.undoButton.text, ui.exportButton.enabled) == ("", "Undo", True)
    assert p.outputTransform.GetAttribute(MOVED) is None and p.outputTransform.GetDescription() == said
    ui.undoButton.click()
    assert result_of(p.outputTransform) is None and ui.verdictLabel.text == ""
    assert p.outputTransform.GetDisplayNode().GetEditorVisibility(), "as before the registration"


def test_placing_again_keeps_the_pose_that_was_made_by_hand(slicer: ModuleType, chosen: Any, phantom: Any) -> None:
    ui, p = chosen.ui, chosen._parameterNode
    ui.placeButton.click()
    push(slicer, p.outputTransform, 6.0, -3.0, 2.0)
    by_hand = pose_in_scene(chosen)
    p.outputTransform.GetDisplayNode().SetEditorVisibility(False)
    ui.placeButton.click()
    assert pose_in_scene(chosen) == pytest.approx(by_hand, abs=1e-6)
    assert p.outputTransform.GetDisplayNode().GetEditorVisibility()
    ui.initialComboBox.setCurrentIndex(ui.initialComboBox.findText("left"))
    ui.placeButton.click()
    assert np.abs(pose_in_scene(chosen) - by_hand).max() > 1
    ui.undoButton.click()
    assert ui.errorLabel.text == "", chosen.panel._details
    assert pose_in_scene(chosen) == pytest.approx(by_hand, abs=1e-6)
    for _ in range(2):
        ui.undoButton.click()
    assert (p.placedXray, p.drrVolume, p.outputTransform, phantom.ct.GetParentTransformNode()) == (None, None, None, None)
    assert not ui.undoButton.enabled


def test_a_scene_that_is_loaded_shows_and_exports_its_result(
    slicer: ModuleType, chosen: Any, wait: Callable[..., float], tmp_path: Path
) -> None:
    from SphericalRegLib.imaging.files import read_json_object
    from SphericalRegLib.imaging.transforms import read_transform
    from SphericalRegLib.mrml.matrices import scene_from_transform

    register(chosen, wait)
    said, found = chosen.ui.verdictLabel.text, pose_in_scene(chosen)
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear()
    assert chosen.ui.verdictLabel.text == ""
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    ui, p = chosen.ui, chosen._parameterNode
    assert ui.verdictLabel.text == said
    assert (ui.doubtLabel.text, ui.exportButton.enabled, ui.undoButton.enabled) == ("", True, False)
    ui.exportPathLineEdit.currentPath = str(tmp_path / "result")
    ui.exportButton.click()
    wait(lambda: not chosen.panel.runner.busy)
    assert ui.errorLabel.text == "", chosen.panel._details
    written = read_json_object(tmp_path / "result" / "result.json", "result")
    assert np.array(written["camera_from_world"]) == pytest.approx(found, abs=1e-6)
    transform = read_transform(tmp_path / "result" / "ct_to_xray.tfm")
    assert transform == pytest.approx(scene_from_transform(p.outputTransform), abs=1e-6)
    assert (tmp_path / "result" / "report.html").is_file()
    push(slicer, p.outputTransform, 0.0, 2.0, 0.0)
    assert ui.doubtLabel.text.startswith("Moved since the registration: 2.0 mm")
    ui.undoButton.click()
    assert pose_in_scene(chosen) == pytest.approx(found, abs=1e-6)


def test_a_doubt_is_said_first(slicer: ModuleType, chosen: Any, wait: Callable[..., float]) -> None:
    from dataclasses import replace

    from SphericalRegModule.verdict import in_words

    from SphericalRegLib.mrml.provenance import describe, result_of

    register(chosen, wait)
    p, ui = chosen._parameterNode, chosen.ui
    result = result_of(p.outputTransform)
    assert result is not None
    notes = ("The result is doubtful (low similarity): look at the images before it is used.", "Mind.")
    doubtful = replace(result, doubt="low similarity", notes=notes)
    describe(p.outputTransform, "transform", doubtful, p.ctVolume, p.xrayVolume)
    chosen.panel.update()
    assert ui.doubtLabel.text == "Doubtful: low similarity. Look at the images before it is used."
    assert not ui.doubtLabel.isHidden()
    assert "doubtful" not in in_words(doubtful) and in_words(doubtful).endswith("Mind.")


def test_another_registration_of_the_ct_is_told_of(slicer: ModuleType, chosen: Any, phantom: Any, wait: Callable[..., float]) -> None:
    """Pairs have transforms of their own: what the panel said of its own is no longer what the scene shows."""
    register(chosen, wait)
    chosen.logic.register(phantom.ct, phantom.xray, initial="ap")
    assert "does not stand under" in chosen.ui.doubtLabel.text
    assert not chosen.ui.exportButton.enabled
    chosen.ui.undoButton.click()
    assert phantom.ct.GetParentTransformNode() is chosen._parameterNode.outputTransform
    assert chosen.ui.doubtLabel.text == ""


@pytest.mark.parametrize("what", ["ct", "xray"])
def test_a_node_that_was_removed_meanwhile_gets_no_result(
    slicer: ModuleType, chosen: Any, phantom: Any, wait: Callable[..., float], what: str
) -> None:
    chosen.ui.registerButton.click()
    slicer.mrmlScene.RemoveNode(getattr(phantom, what))
    before = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLLinearTransformNode")
    wait(lambda: not chosen.panel.runner.busy)
    assert "is not in the scene any more" in chosen.ui.errorLabel.text
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLLinearTransformNode") == before
    assert chosen._parameterNode.placedXray is None


def test_errors_stand_below_the_section_whose_button_was_pressed(chosen: Any) -> None:
    ui = chosen.ui
    column = ui.statusFrame.parent().layout()
    held = column.count()

    def above() -> Any:
        return column.itemAt(column.indexOf(ui.statusFrame) - 1).widget()

    assert above() is ui.registerCollapsibleButton
    ui.batchButton.click()
    assert "folder of cases" in ui.errorLabel.text
    assert above() is ui.batchCollapsibleButton
    ui.loadGeometryButton.click()
    assert above() is ui.geometryCollapsibleButton
    assert column.count() == held


def test_an_error_of_an_update_goes_with_its_reason(chosen: Any, phantom: Any) -> None:
    from SphericalRegLib.mrml.detector import CAMERA

    ui = chosen.ui
    ui.xraySelector.setCurrentNode(None)
    phantom.xray.SetAttribute(CAMERA, "{")
    ui.xraySelector.setCurrentNode(phantom.xray)
    assert "damaged" in ui.errorLabel.text
    phantom.xray.RemoveAttribute(CAMERA)
    chosen.panel.update()
    assert ui.errorLabel.text == "" and ui.errorFrame.isHidden()
    ui.batchButton.click()
    chosen.panel.update()
    assert ui.errorLabel.text, "what a button said stays"


def test_the_layout_is_in_slicers_menu(slicer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scene that was saved with the layout finds it before the panel is ever opened."""
    from PySide6 import QtWidgets
    from SphericalRegModule import layout

    window = QtWidgets.QMainWindow()
    bar = window.addToolBar("View")
    bar.setObjectName("ViewToolBar")
    button = QtWidgets.QToolButton()
    button.setMenu(QtWidgets.QMenu(button))
    bar.addWidget(button)
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: window)
    for _ in range(2):  # a reload
        layout.register_layout()
    assert [action.data() for action in button.menu().actions()] == [layout.LAYOUT_ID]
    assert slicer.app.layoutManager().layoutLogic().GetLayoutNode().IsLayoutDescription(layout.LAYOUT_ID)
    bar.clear()
    layout.register_layout()  # an application with another tool bar


def test_the_button_brings_the_views_back(slicer: ModuleType, chosen: Any) -> None:
    from SphericalRegModule import layout

    chosen.ui.placeButton.click()
    manager = slicer.app.layoutManager()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutOneUp3DView)
    chosen.ui.layoutButton.click()
    assert manager.layout == layout.LAYOUT_ID
    composite = manager.sliceWidget(layout.VIEW).sliceLogic().GetSliceCompositeNode()
    assert composite.GetBackgroundVolumeID() == chosen._parameterNode.placedXray.GetID()


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("refine 128 px", "refining at 128 pixels"),
        ("pair 2 of 3, refine 64 px", "pair 2 of 3, refining at 64 pixels"),
        ("frame 1 of 3, search", "frame 1 of 3, searching"),
        ("something else", "something else"),
    ],
)
def test_stages_are_said_in_words(slicer: ModuleType, stage: str, words: str) -> None:
    from SphericalRegModule.stages import in_words

    assert in_words(stage) == words
