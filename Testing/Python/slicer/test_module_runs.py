"""Fluoroscopy runs and parts of the CT in the panel."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def run(slicer: ModuleType, chosen: Any, phantom: Any) -> Any:
    """Three frames as a sequence: the second and third are the first, shifted by one and two pixels; the proxy is chosen in the panel."""
    from SphericalRegLib.mrml.voxels import set_voxels, voxels

    image = voxels(phantom.xray)[0]
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "run")
    sequence.SetIndexName("time")
    sequence.SetIndexUnit("s")
    for number in range(3):
        frame = slicer.vtkMRMLScalarVolumeNode()
        frame.SetName("run")
        set_voxels(frame, np.roll(image, number, axis=1)[None], np.diag([-2.5, -2.2, 1, 1]))
        sequence.SetDataNodeAtValue(frame, str(0.5 * number))
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.AddSynchronizedSequenceNode(sequence)
    browser.SetSelectedItemNumber(0)
    proxy = browser.GetProxyNode(sequence)
    chosen.ui.xraySelector.setCurrentNode(proxy)
    chosen.ui.sddSpinBox.value = 900
    chosen.ui.principalColumnSpinBox.value = 50
    chosen.ui.principalRowSpinBox.value = 37
    return proxy


def finish(widget: Any, wait: Callable[..., float]) -> None:
    widget.ui.registerButton.click()
    wait(lambda: not widget.panel.runner.busy)
    assert widget.ui.errorLabel.text == "", widget.panel._details


def browser_of(node: Any) -> Any:
    from SphericalRegLib.mrml.frames import browser_of

    return browser_of(node)[0]  # type: ignore[index]


def test_the_frame_and_the_browser_go_together(chosen: Any, run: Any, phantom: Any) -> None:
    ui, browser = chosen.ui, browser_of(run)
    assert ui.frameCountLabel.text == "of 0 to 2"
    assert ui.frameSpinBox.enabled
    assert ui.frameSpinBox.maximum == 2
    ui.frameSpinBox.value = 2
    assert browser.GetSelectedItemNumber() == 2
    browser.SetSelectedItemNumber(1)
    assert ui.frameSpinBox.value == 1
    assert ui.sddSpinBox.value == 900, "the geometry belongs to the run, not to a frame"
    ui.xraySelector.setCurrentNode(phantom.xray)
    assert not ui.frameSpinBox.enabled
    assert not ui.allFramesCheckBox.enabled
    ui.xraySelector.setCurrentNode(run)
    assert ui.frameSpinBox.value == 1
    assert ui.sddSpinBox.value == 900


def test_one_frame_is_the_one_in_sight(chosen: Any, run: Any, wait: Callable[..., float]) -> None:
    from SphericalRegLib.mrml.voxels import voxels

    chosen.ui.frameSpinBox.value = 2
    finish(chosen, wait)
    placed = voxels(chosen._parameterNode.placedXray)[0]
    lines = -np.log(voxels(run)[0] / 60000.0)
    assert np.corrcoef(placed.ravel(), lines.ravel())[0, 1] > 0.999


def test_a_placed_xray_shows_the_chosen_frame(chosen: Any, run: Any) -> None:
    from SphericalRegLib.mrml.voxels import voxels

    chosen.ui.placeButton.click()
    first = voxels(chosen._parameterNode.placedXray)[0].copy()
    chosen.ui.frameSpinBox.value = 1
    assert voxels(chosen._parameterNode.placedXray)[0][:, 1:] == pytest.approx(first[:, :-1], abs=0.05)


def test_all_frames(slicer: ModuleType, chosen: Any, run: Any, wait: Callable[..., float], tmp_path: Any) -> None:
    """Each frame gets its pose; scrubbing shows X-ray, DRR and CT of that frame, and undo takes everything back."""
    from SphericalRegLib.mrml.provenance import result_of
    from SphericalRegLib.mrml.voxels import voxels

    ui, p, browser = chosen.ui, chosen._parameterNode, browser_of(run)
    nodes_before = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSequenceNode")
    ui.allFramesCheckBox.checked = True
    assert ui.registerButton.text == "Register all frames"
    assert not ui.frameSpinBox.enabled
    finish(chosen, wait)
    assert browser_of(p.outputTransform) is browser
    assert p.framesTable.GetNumberOfRows() == 3
    places = []
    for number in range(3):
        browser.SetSelectedItemNumber(number)
        lines = -np.log(voxels(run)[0] / 60000.0)
        assert np.corrcoef(voxels(p.placedXray)[0].ravel(), lines.ravel())[0, 1] > 0.999
        assert np.corrcoef(voxels(p.drrVolume)[0].ravel(), lines.ravel())[0, 1] > 0.95
        result = result_of(p.outputTransform)
        assert result is not None
        assert f"{result.score:.3f}" in ui.verdictLabel.text
        assert ui.verdictLabel.text.startswith("3 frames registered, 0 failed")
        places.append(result.camera_from_world[0, 3])
    assert np.diff(places) == pytest.approx([2.5 * 0.75] * 2, rel=0.4), "one pixel at the CT's depth, mm"
    ui.exportPathLineEdit.currentPath = str(tmp_path / "out")
    ui.exportButton.click()
    wait(lambda: not chosen.panel.runner.busy)
    lines_of_table = (tmp_path / "out" / "frames.csv").read_text().splitlines()
    assert len(lines_of_table) == 4
    assert lines_of_table[0].startswith("frame,time [s],verdict,score,doubt,seconds,error,camera_from_world 0 0")
    ui.undoButton.click()
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSequenceNode") == nodes_before
    assert p.outputTransform is None
    assert p.placedXray is None
    assert p.framesTable is None


def test_what_comes_after_a_run_leaves_it_alone(slicer: ModuleType, chosen: Any, run: Any, phantom: Any, wait: Callable[..., float]) -> None:
    """A single X-ray, another run, and the run again: its frames and its table are written to by itself alone."""
    from dataclasses import replace

    from SphericalRegLib.mrml.provenance import result_of
    from SphericalRegLib.mrml.run_session import FrameOutcome
    from SphericalRegLib.mrml.voxels import set_voxels, voxels

    ui, p, section = chosen.ui, chosen._parameterNode, chosen.panel.result
    finish(chosen, wait)
    outcome = section.outcome
    ui.undoButton.click()

    def frames(score: float, count: int) -> tuple[FrameOutcome, ...]:
        return (FrameOutcome(replace(outcome, result=replace(outcome.result, score=score)), 1.0),) * count

    section.show_run(frames(0.5, 3), phantom.ct, run)
    first, table = p.outputTransform, p.framesTable
    ui.xraySelector.setCurrentNode(phantom.xray)
    section.show_outcome(frames(0.75, 1)[0].outcome, phantom.ct, phantom.xray, phantom.xray)
    assert p.outputTransform is not first and result_of(p.outputTransform).score == 0.75  # type: ignore[union-attr]
    slices = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "slices")
    set_voxels(slices, np.repeat(voxels(phantom.xray), 2, axis=0), np.diag([-2.5, -2.2, 1, 1]))
    ui.xraySelector.setCurrentNode(slices)
    section.show_run(frames(0.25, 2), phantom.ct, slices)
    assert p.framesTable is not table and p.framesTable.GetNumberOfRows() == 2
    ui.undoButton.click()
    assert ui.errorLabel.text == "", chosen.panel._details
    assert p.framesTable is table and table.GetNumberOfRows() == 3
    assert table.GetTable().GetColumnByName("score").GetValue(0) == 0.5
    for number in range(3):
        browser_of(run).SetSelectedItemNumber(number)
        assert result_of(first).score == 0.5  # type: ignore[union-attr]
    p.outputTransform = first
    ui.xraySelector.setCurrentNode(run)
    section.show_run(frames(0.3, 3), phantom.ct, run)
    assert (p.outputTransform, p.framesTable) == (first, table)
    assert table.GetTable().GetColumnByName("score").GetValue(0) == 0.3


def test_poses_outlast_a_run_that_is_removed_meanwhile(slicer: ModuleType, chosen: Any, run: Any, wait: Callable[..., float]) -> None:
    ui, p, browser = chosen.ui, chosen._parameterNode, browser_of(run)
    ui.allFramesCheckBox.checked = True
    ui.registerButton.click()
    slicer.mrmlScene.RemoveNode(browser)
    wait(lambda: not chosen.panel.runner.busy)
    assert "has not the 3 frames any more" in ui.errorLabel.text
    assert f"The poses are in the table {p.framesTable.GetName()}." in ui.errorLabel.text
    assert p.framesTable.GetNumberOfRows() == 3
    assert (p.outputTransform, p.placedXray) == (None, None)


def test_slices_are_frames_too(slicer: ModuleType, chosen: Any, phantom: Any, wait: Callable[..., float]) -> None:
    from SphericalRegLib.mrml.voxels import set_voxels, voxels

    image = voxels(phantom.xray)[0]
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "slices")
    set_voxels(node, np.stack([image[::-1], image]), np.diag([-2.5, -2.2, 1, 1]))
    ui = chosen.ui
    ui.xraySelector.setCurrentNode(node)
    ui.sddSpinBox.value, ui.principalColumnSpinBox.value, ui.principalRowSpinBox.value = 900, 50, 37
    ui.frameSpinBox.value = 1
    finish(chosen, wait)
    lines = -np.log(image / 60000.0)
    assert np.corrcoef(voxels(chosen._parameterNode.placedXray)[0].ravel(), lines.ravel())[0, 1] > 0.999


def test_what_is_said_and_exported_is_of_the_frame_in_sight(slicer: ModuleType, chosen: Any, phantom: Any, wait: Callable[..., float]) -> None:
    """Of slices whose first frame failed: the browser's items are the other two."""
    from dataclasses import replace

    from SphericalRegLib.mrml.run_session import FrameOutcome
    from SphericalRegLib.mrml.voxels import set_voxels, voxels

    ui, p, section = chosen.ui, chosen._parameterNode, chosen.panel.result
    finish(chosen, wait)
    outcome = section.outcome
    ui.undoButton.click()
    slices = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "slices")
    set_voxels(slices, np.repeat(voxels(phantom.xray), 3, axis=0), np.diag([-2.5, -2.2, 1, 1]))
    ui.xraySelector.setCurrentNode(slices)
    registered = [FrameOutcome(replace(outcome, result=replace(outcome.result, score=score)), 1.0) for score in (0.111, 0.222)]
    section.show_run((FrameOutcome(None, 1.0, "It is empty."), *registered), phantom.ct, slices)
    for item, frame in enumerate(registered):
        browser_of(p.outputTransform).SetSelectedItemNumber(item)
        assert section.outcome is frame.outcome
        assert f"{frame.outcome.result.score:.3f}" in ui.verdictLabel.text  # type: ignore[union-attr]
        assert "It is empty" not in ui.verdictLabel.text
        assert ui.exportButton.enabled


@pytest.fixture
def bones(slicer: ModuleType, chosen: Any, phantom: Any) -> Any:
    """A segmentation of the phantom: a rod, a ball."""
    from SphericalRegLib.imaging.volume import Volume
    from SphericalRegLib.mrml.parts import parts_of
    from SphericalRegLib.mrml.volumes import labels_to_node, volume_from_node

    volume = volume_from_node(phantom.ct)
    labels = np.zeros(volume.shape, np.uint8)
    labels[20:23, 8:11, 4:22] = 1
    labels[25, 21, 9] = 2
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "bones")
    label_map = labels_to_node(slicer.mrmlScene, Volume(volume.hu, volume.world_from_voxel, labels=labels, name="phantom"))
    slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(label_map, node)
    for part, name in zip(parts_of(node), ("rod", "ball")):
        node.GetSegmentation().GetSegment(part.key).SetName(name)
    return node, label_map


def tick(widget: Any, name: str) -> None:
    import qt

    parts = widget.ui.partsListWidget
    (item,) = [parts.item(row) for row in range(parts.count) if parts.item(row).text().split(":")[0] == name]
    item.setCheckState(qt.Qt.Checked)


@pytest.mark.parametrize(("kind", "name"), [(0, "ball"), (1, "2")])
def test_only_the_ticked_part_is_rendered(slicer: ModuleType, chosen: Any, phantom: Any, bones: Any, kind: int, name: str) -> None:
    from SphericalRegLib.mrml.voxels import voxels

    ui = chosen.ui
    ui.partsSelector.setCurrentNode(bones[kind])
    assert ui.partsListWidget.count == 2
    assert "Tick" in ui.registerButton.toolTip
    assert not ui.registerButton.enabled
    tick(chosen, name)
    assert ui.registerButton.enabled
    ui.placeButton.click()
    assert ui.errorLabel.text == "", chosen.panel._details
    drr = voxels(chosen._parameterNode.drrVolume)[0]
    assert (drr > 0.05 * drr.max()).mean() < 0.02, "more than the ball is in the image"
    ui.partsSelector.setCurrentNode(None)
    assert ui.partsListWidget.count == 0
    slicer.mrmlScene.RemoveNode(bones[kind])
    chosen.panel.initial.render()
    assert (voxels(chosen._parameterNode.drrVolume)[0] > 0.05).mean() > 0.1


def test_the_ticks_come_back_with_the_scene(slicer: ModuleType, chosen: Any, bones: Any, tmp_path: Any) -> None:
    import qt

    chosen.ui.partsSelector.setCurrentNode(bones[0])
    tick(chosen, "ball")
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear()
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    chosen.enter()
    parts = chosen.ui.partsListWidget
    states = {parts.item(row).text(): parts.item(row).checkState() == qt.Qt.Checked for row in range(parts.count)}
    assert states == {"rod": False, "ball": True}
