"""Whose nodes a result is written to: what another CT or another X-ray was registered to stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest


def register(widget: Any, wait: Callable[..., float]) -> Any:
    """The outcome."""
    widget.ui.registerButton.click()
    wait(lambda: not widget.panel.runner.busy)
    assert widget.ui.errorLabel.text == "", widget.panel._details
    return widget.panel.result.outcome


def moved_by(outcome: Any, *way: float) -> Any:
    """The same outcome with the CT elsewhere, as another registration finds it."""
    pose = outcome.result.camera_from_world.copy()
    pose[:3, 3] += way
    return replace(outcome, result=replace(outcome.result, camera_from_world=pose))


def copy_of(slicer: ModuleType, node: Any, name: str) -> Any:
    from SphericalRegLib.mrml.geometry_attribute import keep_geometry, kept_geometry
    from SphericalRegLib.mrml.matrices import node_from_voxel
    from SphericalRegLib.mrml.voxels import set_voxels, voxels

    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    set_voxels(other, voxels(node).copy(), node_from_voxel(node))
    keep_geometry(other, kept_geometry(node))
    return other


def state(ct: Any, *nodes: Any) -> tuple[list[Any], list[np.ndarray]]:
    """What a result is shown by: what stands above the CT and what nodes say; where the CT and the images lie, and their pixels."""
    from SphericalRegLib.mrml.matrices import scene_from_node, scene_from_transform, scene_from_voxel
    from SphericalRegLib.mrml.voxels import voxels

    transform, *images = nodes
    said = [{name: node.GetAttribute(name) for name in node.GetAttributeNames()} for node in nodes]
    pixels = [voxels(image).copy() for image in images]
    return [ct.GetParentTransformNode(), *said], [scene_from_node(ct), scene_from_transform(transform), *map(scene_from_voxel, images), *pixels]


def same(before: tuple[list[Any], list[np.ndarray]], now: tuple[list[Any], list[np.ndarray]]) -> bool:
    return before[0] == now[0] and all(np.allclose(one, other, rtol=0, atol=1e-9) for one, other in zip(before[1], now[1]))


@pytest.mark.parametrize("move_xray", [False, True])
def test_another_ct_leaves_the_first_where_it_was_registered(
    slicer: ModuleType, chosen: Any, phantom: Any, wait: Callable[..., float], move_xray: bool
) -> None:
    ui, p = chosen.ui, chosen._parameterNode
    ui.moveXrayCheckBox.checked = move_xray
    outcome = register(chosen, wait)
    nodes = p.outputTransform, p.placedXray, p.drrVolume
    before = state(phantom.ct, *nodes)
    other = copy_of(slicer, phantom.ct, "other CT")
    ui.ctSelector.setCurrentNode(other)
    chosen.panel.result.show_outcome(moved_by(outcome, 8.0, 5.0, 20.0), other, phantom.xray, phantom.xray)
    assert same(before, state(phantom.ct, *nodes))
    assert not {p.outputTransform, p.placedXray, p.drrVolume} & set(nodes)
    assert sorted(p.outputTransform.GetName().split(" to ")) == ["other CT", "phantom X-ray"]
    ui.undoButton.click()
    assert ui.errorLabel.text == "", chosen.panel._details
    assert (p.outputTransform, p.placedXray, p.drrVolume) == nodes
    assert other.GetParentTransformNode() is None
    assert same(before, state(phantom.ct, *nodes))


def test_another_xray_gets_a_transform_of_its_own(slicer: ModuleType, chosen: Any, phantom: Any, wait: Callable[..., float]) -> None:
    """Placed or registered; back at the first X-ray, that one's is filled again."""
    from SphericalRegLib.mrml.provenance import result_of

    ui, p = chosen.ui, chosen._parameterNode
    outcome = register(chosen, wait)
    first, said = p.outputTransform, p.outputTransform.GetDescription()
    other = copy_of(slicer, phantom.xray, "other X-ray")
    ui.xraySelector.setCurrentNode(other)
    ui.placeButton.click()
    assert ui.errorLabel.text == "", chosen.panel._details
    second = p.outputTransform
    assert (second.GetName(), result_of(second)) == ("phantom CT to other X-ray", None)
    chosen.panel.result.show_outcome(moved_by(outcome, 0.0, 5.0, 0.0), phantom.ct, other, other)
    assert p.outputTransform is second and result_of(second) is not None
    assert first.GetDescription() == said and result_of(first).camera_from_world == pytest.approx(outcome.result.camera_from_world)
    assert (phantom.ct.GetParentTransformNode(), second.GetParentTransformNode()) == (second, None)
    p.outputTransform = first
    assert chosen.panel.result.existing(phantom.ct, other).transform is None
    assert chosen.panel.result.existing(phantom.ct, phantom.xray).transform is first


def test_a_transform_that_was_made_for_the_result_is_filled(slicer: ModuleType, chosen: Any, phantom: Any, wait: Callable[..., float]) -> None:
    """And is anybody's again once that is undone."""
    from SphericalRegLib.mrml.provenance import pair_of

    p = chosen._parameterNode
    mine = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "mine")
    p.outputTransform = mine
    register(chosen, wait)
    assert p.outputTransform is mine and pair_of(mine) == (phantom.ct, phantom.xray)
    chosen.ui.undoButton.click()
    assert p.outputTransform is mine and pair_of(mine) == (None, None)


def test_the_live_drr_follows_another_ct_that_is_chosen(slicer: ModuleType, chosen: Any, phantom: Any, wait: Callable[..., float]) -> None:
    from SphericalRegLib.mrml.voxels import voxels

    ui, p = chosen.ui, chosen._parameterNode
    ui.placeButton.click()
    assert chosen.panel.initial.live.following
    first, seen = p.drrVolume, voxels(p.drrVolume).copy()
    other, shift = copy_of(slicer, phantom.ct, "other CT"), slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "shift")
    other.SetAndObserveTransformNodeID(shift.GetID())
    ui.ctSelector.setCurrentNode(other)
    slicer.util.updateTransformMatrixFromArray(shift, np.array([[1.0, 0, 0, 9], [0, 1, 0, 0], [0, 0, 1, 6], [0, 0, 0, 1]]))
    wait(lambda: p.drrVolume is not first, 20)
    assert p.drrVolume.GetName() == "DRR of other CT"
    assert np.array_equal(voxels(first), seen)
    ui.ctSelector.setCurrentNode(phantom.ct)
    assert chosen.panel.initial.live.following
    assert chosen.panel.observers == 2 + 1 + 2, "the parameters, the X-ray; the DRR; and live the CT and the X-ray on its detector"


def test_sides_are_those_of_the_xray_that_is_chosen(slicer: ModuleType, chosen: Any, phantom: Any) -> None:
    other = copy_of(slicer, phantom.xray, "other X-ray")
    chosen.ui.placeButton.click()
    assert "left edge" in chosen.ui.sidesLabel.text
    chosen.ui.xraySelector.setCurrentNode(other)
    assert chosen.ui.sidesLabel.text == "" and chosen.ui.sidesLabel.isHidden()


def test_coloured_pictures_follow_the_drr_of_a_loaded_scene(slicer: ModuleType, chosen: Any, tmp_path: Any) -> None:
    from SphericalRegModule import xray_view
    from SphericalRegModule.result_section import COLOURED

    from SphericalRegLib.mrml.voxels import voxels

    chosen.ui.placeButton.click()
    chosen.ui.pictureComboBox.setCurrentIndex(chosen.ui.pictureComboBox.findText(xray_view.COLOURED[0]))
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear()
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    coloured = slicer.mrmlScene.GetFirstNodeByName(COLOURED)
    before, drr = voxels(coloured).copy(), chosen._parameterNode.drrVolume
    slicer.util.updateVolumeFromArray(drr, np.ascontiguousarray(voxels(drr)[:, ::-1]))  # as a sequence shows another frame
    assert not np.array_equal(voxels(coloured), before)
