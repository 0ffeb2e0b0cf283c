"""A CT that is moved or hardened between two calls: its bones and its points go along, and it is prepared anew where that is needed."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

GEOMETRY = {"sdd_mm": 900, "pixel_spacing_mm": [2.5, 2.2], "principal_point_px": [50, 37], "intensity": "counts"}
POINTS = np.array([[-15, 28, 156], [40, -20, 130.0]])


@pytest.fixture
def bones(slicer: ModuleType, chosen: Any, phantom: Any) -> Any:
    """A segmentation of the phantom's rod, drawn on nothing in particular."""
    from SphericalRegLib.imaging.volume import Volume
    from SphericalRegLib.mrml.volumes import labels_to_node, volume_from_node

    volume = volume_from_node(phantom.ct)
    labels = np.zeros(volume.shape, np.uint8)
    labels[20:23, 8:11, 4:22] = 1
    label_map = labels_to_node(slicer.mrmlScene, Volume(volume.hu, volume.world_from_voxel, labels=labels, name="phantom"))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "bones")
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(label_map, node)
    slicer.mrmlScene.RemoveNode(label_map)
    return node


@pytest.fixture
def points(slicer: ModuleType, chosen: Any) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "points")
    slicer.util.updateMarkupsControlPointsFromArray(node, POINTS)
    return node


def choose(widget: Any, bones: Any, points: Any) -> None:
    """Choose them in the panel; all bones are ticked."""
    import json

    from SphericalRegLib.mrml.parts import parts_of

    widget.ui.partsSelector.setCurrentNode(bones)
    widget._parameterNode.chosenParts = json.dumps([part.key for part in parts_of(bones)])
    widget.ui.ctPointsSelector.setCurrentNode(points)


def push(slicer: ModuleType, transform: Any, *way: float) -> None:
    matrix = slicer.util.arrayFromTransformMatrix(transform)
    matrix[:3, 3] += way
    slicer.util.updateTransformMatrixFromArray(transform, matrix)


def cut(ct: Any, bones: Any) -> np.ndarray:
    from SphericalRegLib.mrml.session import read_ct

    labels = read_ct(ct, bones)[0].labels
    assert labels is not None
    return labels


@pytest.mark.parametrize("chosen_first", [True, False])
@pytest.mark.parametrize("move_xray", [False, True])
def test_bones_and_points_go_where_the_ct_goes(
    slicer: ModuleType, chosen: Any, phantom: Any, bones: Any, points: Any, chosen_first: bool, move_xray: bool
) -> None:
    """Whether they were chosen before the X-ray was placed, or after; the hand moves the CT, and Undo takes all of it back."""
    from SphericalRegLib.mrml.landmarks import points_of_ct

    ui, p, before = chosen.ui, chosen._parameterNode, cut(phantom.ct, bones)
    ui.moveXrayCheckBox.checked = move_xray
    if chosen_first:
        choose(chosen, bones, points)
    ui.placeButton.click()
    choose(chosen, bones, points)
    chosen.panel.initial.render()
    prepared = chosen.logic.prepared
    for _ in range(2):
        push(slicer, p.outputTransform, 6, -3, 11)
        assert np.array_equal(cut(phantom.ct, bones), before)
        assert points_of_ct(points, phantom.ct) == pytest.approx(POINTS)
        chosen.panel.initial.render()
        assert chosen.logic.prepared is prepared, "a drag is not followed if the CT is prepared anew at each step"
    for node in (bones, points):
        assert node.GetParentTransformNode() is phantom.ct.GetParentTransformNode()
    ui.undoButton.click()
    assert ui.errorLabel.text == "", chosen.panel._details
    assert (bones.GetParentTransformNode(), points.GetParentTransformNode(), phantom.ct.GetParentTransformNode()) == (None, None, None)
    assert np.array_equal(cut(phantom.ct, bones), before)
    assert points_of_ct(points, phantom.ct) == pytest.approx(POINTS)


def test_one_bone_after_the_other(
    slicer: ModuleType, chosen: Any, phantom: Any, bones: Any, points: Any, wait: Callable[..., float]
) -> None:
    """The first registration moves the CT; the X-ray moved in its place, and undone, the bones lie in it as before."""
    from SphericalRegLib.mrml.landmarks import points_of_ct

    ui, before = chosen.ui, cut(phantom.ct, bones)
    ui.registerButton.click()
    choose(chosen, bones, points)  # while the whole CT is registered
    wait(lambda: not chosen.panel.runner.busy)
    assert ui.errorLabel.text == "", chosen.panel._details

    def holds() -> bool:
        same = np.array_equal(cut(phantom.ct, bones), before)
        return same and np.allclose(points_of_ct(points, phantom.ct), POINTS)

    assert holds()
    assert bones.GetParentTransformNode() is chosen._parameterNode.outputTransform
    ui.moveXrayCheckBox.checked = True
    assert holds() and bones.GetParentTransformNode() is None
    ui.moveXrayCheckBox.checked = False
    assert holds() and bones.GetParentTransformNode() is chosen._parameterNode.outputTransform
    ui.undoButton.click()
    assert holds() and bones.GetParentTransformNode() is None


def test_scripts_move_the_bones_that_they_name(slicer: ModuleType, widget: Any, phantom: Any, bones: Any) -> None:
    before = cut(phantom.ct, bones)
    nodes = widget.logic.register(phantom.ct, phantom.xray, geometry=GEOMETRY, initial="ap", labelsNode=bones)
    assert bones.GetParentTransformNode() is nodes.transform
    assert np.array_equal(cut(phantom.ct, bones), before)


@pytest.mark.parametrize("change", ["harden", "spacing", "labels"])
def test_a_ct_that_lies_elsewhere_is_prepared_anew(slicer: ModuleType, widget: Any, phantom: Any, bones: Any, change: str) -> None:
    """None of these touches a voxel."""
    from SphericalRegLib.imaging.volume import Volume

    logic, labels = widget.logic, bones if change == "labels" else None
    placed = logic.placeXray(phantom.ct, phantom.xray, geometry=GEOMETRY, view=phantom.pose)
    logic.renderDRR(phantom.ct, placed, labelsNode=labels)

    def read() -> Any:
        return logic.readRequest(phantom.ct, placed, initial="scene", labelsNode=labels).ct

    assert read() is logic.prepared.pyramid
    moved = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    push(slicer, moved, 12, 0, 0)
    node = bones if change == "labels" else phantom.ct
    node.SetAndObserveTransformNodeID(moved.GetID())
    if change == "harden":
        assert read() is logic.prepared.pyramid, "where the scene shows the CT is no matter"
        phantom.ct.HardenTransform()
    elif change == "spacing":
        phantom.ct.SetSpacing(2.9, 3, 4)
    volume = read()
    assert isinstance(volume, Volume)
    if change == "harden":
        assert volume.world_from_voxel[:3, 3] == pytest.approx([72, -35, 120])


def test_bones_are_let_go_with_the_ct(slicer: ModuleType, chosen: Any, phantom: Any, bones: Any, points: Any) -> None:
    """Placed with the CT to be moved, dragged, and placed again with the X-ray to be moved: the CT is where it was without the transform."""
    ui, p, before = chosen.ui, chosen._parameterNode, cut(phantom.ct, bones)
    choose(chosen, bones, points)
    ui.placeButton.click()
    push(slicer, p.outputTransform, 30, -20, 11)
    ui.moveXrayCheckBox.checked = True
    ui.placeButton.click()
    assert ui.errorLabel.text == "", chosen.panel._details
    assert (phantom.ct.GetParentTransformNode(), bones.GetParentTransformNode(), points.GetParentTransformNode()) == (None, None, None)
    assert np.array_equal(cut(phantom.ct, bones), before)


def test_undo_gives_back_what_lay_elsewhere(slicer: ModuleType, chosen: Any, phantom: Any, bones: Any, points: Any) -> None:
    """Bones that stand beside a CT that was moved are brought into its frame where it is moved again, and out of it by Undo."""
    from SphericalRegLib.mrml.matrices import placed_in

    ui, p = chosen.ui, chosen._parameterNode
    ui.placeButton.click()
    push(slicer, p.outputTransform, 6, -3, 11)
    choose(chosen, bones, points)
    beside = [placed_in(phantom.ct, node) for node in (bones, points)]
    standing, drawn = slicer.util.arrayFromMarkupsControlPoints(points), cut(phantom.ct, bones)
    assert beside[0][:3, 3] == pytest.approx([-6, 3, -11]) and bones.GetParentTransformNode() is None
    ui.placeButton.click()
    assert np.allclose(placed_in(phantom.ct, bones), np.eye(4)) and np.array_equal(cut(phantom.ct, bones), drawn)
    ui.undoButton.click()
    assert ui.errorLabel.text == "", chosen.panel._details
    for node, before in zip((bones, points), beside):
        assert node.GetParentTransformNode() is None and np.allclose(placed_in(phantom.ct, node), before)
    assert slicer.util.arrayFromMarkupsControlPoints(points) == pytest.approx(standing)
    assert np.array_equal(cut(phantom.ct, bones), drawn)
