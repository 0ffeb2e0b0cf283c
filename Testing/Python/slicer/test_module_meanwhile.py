"""What the user does meanwhile: other modules, other choices, edits; and callbacks that raise."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from SphericalRegLib.errors import InputError
from SphericalRegLib.progress import Cancelled, Progress, ProgressCallback

GEOMETRY = {"sdd_mm": 900, "pixel_spacing_mm": [2.5, 2.2], "principal_point_px": [50, 37], "intensity": "counts"}


def register(widget: Any, wait: Callable[..., float]) -> None:
    widget.ui.registerButton.click()
    wait(lambda: not widget.panel.runner.busy)
    assert widget.ui.errorLabel.text == "", widget.panel._details


def another_xray(slicer: ModuleType, like: Any) -> Any:
    from SphericalRegLib.mrml.geometry_attribute import keep_geometry, kept_geometry
    from SphericalRegLib.mrml.matrices import node_from_voxel
    from SphericalRegLib.mrml.voxels import set_voxels, voxels

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "another X-ray")
    set_voxels(node, voxels(like)[:, ::-1].copy(), node_from_voxel(like))
    keep_geometry(node, kept_geometry(like))
    return node


def test_a_registration_goes_on_while_another_module_is_shown(chosen: Any, wait: Callable[..., float]) -> None:
    chosen.ui.registerButton.click()
    chosen.exit()
    chosen.enter()
    assert chosen.panel.runner.busy
    wait(lambda: not chosen.panel.runner.busy)
    assert chosen._parameterNode.outputTransform is not None
    chosen.exit()
    chosen.enter()
    assert chosen.ui.undoButton.enabled and chosen.ui.exportButton.enabled and chosen.ui.verdictLabel.text
    chosen.ui.seedSpinBox.value = 11
    assert chosen._parameterNode.seed == 11, "the widgets are bound again"


def test_choices_are_kept_while_another_module_is_shown(chosen: Any) -> None:
    """Slicer fills a combo box anew when it is bound: bound twice, every choice would become the first one."""
    ui, p = chosen.ui, chosen._parameterNode
    ui.intensityComboBox.setCurrentIndex(ui.intensityComboBox.findText("display"))
    for _ in range(2):
        chosen.exit()
        chosen.enter()
    assert (p.intensity, p.initial) == ("display", "ap")
    assert (ui.intensityComboBox.currentText, ui.initialComboBox.currentText) == ("display", "ap")


def test_the_result_belongs_to_the_xray_that_was_registered(
    slicer: ModuleType, chosen: Any, phantom: Any, wait: Callable[..., float], tmp_path: Any
) -> None:
    other = another_xray(slicer, phantom.xray)
    chosen.ui.registerButton.click()
    chosen.ui.xraySelector.setCurrentNode(other)
    wait(lambda: not chosen.panel.runner.busy)
    assert chosen._parameterNode.placedXray is None, "what was placed is not the other X-ray"
    chosen.ui.exportPathLineEdit.currentPath = str(tmp_path / "export")
    chosen.ui.xraySelector.setCurrentNode(None)
    chosen.ui.exportButton.click()
    wait(lambda: not chosen.panel.runner.busy)
    assert chosen.ui.errorLabel.text == ""
    assert "phantom X-ray" in (tmp_path / "export" / "report.html").read_text(encoding="utf-8")


def test_a_scene_that_is_loaded_is_shown_at_once(slicer: ModuleType, chosen: Any, tmp_path: Any) -> None:
    """Without leaving the module: Slicer's own parameter node keeps what it read while the scene was half there."""
    chosen.ui.seedSpinBox.value = 7
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear()
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    assert chosen._parameterNode.ctVolume.GetName() == "phantom CT"
    assert (chosen.ui.sddSpinBox.value, chosen.ui.sddOriginLabel.text, chosen.ui.seedSpinBox.value) == (900, "edited", 7)


def test_a_scene_that_is_loaded_ends_what_runs_and_says_so(slicer: ModuleType, chosen: Any, wait: Callable[..., float], tmp_path: Any) -> None:
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    chosen.ui.loadGeometryButton.click()
    assert chosen.ui.errorLabel.text
    chosen.ui.registerButton.click()
    job = chosen.panel.runner._job
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    assert not chosen.panel.runner.busy
    assert "a scene was loaded" in chosen.ui.statusLabel.text
    wait(lambda: job.join(0))


def test_words_about_a_scene_go_with_it(slicer: ModuleType, chosen: Any, wait: Callable[..., float]) -> None:
    chosen.ui.registerButton.click()
    wait(lambda: bool(chosen.ui.statusLabel.text))
    job = chosen.panel.runner._job
    slicer.mrmlScene.Clear()
    assert chosen.ui.statusLabel.text == ""
    assert (chosen.panel._then, chosen.panel._failed, chosen.panel._stopped) == (None, None, None)
    wait(lambda: job.join(0))
    chosen.ui.loadGeometryButton.click()
    assert chosen.ui.errorLabel.text
    slicer.mrmlScene.Clear()
    assert chosen.ui.errorLabel.text == "" and chosen.ui.errorFrame.isHidden()


def test_undo_leaves_what_the_user_chose_since(slicer: ModuleType, chosen: Any, wait: Callable[..., float]) -> None:
    register(chosen, wait)
    p = chosen._parameterNode
    made = p.outputTransform
    mine = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "mine")
    p.outputTransform = mine
    chosen.ui.undoButton.click()
    assert chosen.ui.errorLabel.text == ""
    assert slicer.mrmlScene.IsNodePresent(mine)
    assert not slicer.mrmlScene.IsNodePresent(made)


def test_parts_that_are_edited_meanwhile_are_read_again(slicer: ModuleType, widget: Any, phantom: Any, wait: Callable[..., float]) -> None:
    from SphericalRegLib.imaging.volume import Volume
    from SphericalRegLib.mrml.matrices import node_from_voxel
    from SphericalRegLib.mrml.voxels import set_voxels, voxels

    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "parts")
    values = np.ones(voxels(phantom.ct).shape, np.uint8)
    set_voxels(labels, values, node_from_voxel(phantom.ct))
    answers: list[Any] = []
    chosen = {"geometry": GEOMETRY, "initial": "ap", "labelsNode": labels, "labels": [1]}
    widget.logic.register(phantom.ct, phantom.xray, **chosen, waitForCompletion=False, finished=answers.append)
    values[:, :, :20] = 0
    set_voxels(labels, values, node_from_voxel(phantom.ct))
    wait(lambda: bool(answers))
    assert isinstance(widget.logic.readRequest(phantom.ct, phantom.xray, **chosen).ct, Volume), "not the one prepared with the old parts"


def test_a_placed_xray_is_registered_with_the_pixels_of_the_loaded_one(slicer: ModuleType, widget: Any, phantom: Any, wait: Any) -> None:
    """Its collimator's border and its mask, the mask being of the image as stored."""
    from SphericalRegLib.mrml.voxels import set_voxels

    mask = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "mask")
    kept = np.ones((1, 80, 96), np.uint8)
    kept[:, :, :30] = 0
    set_voxels(mask, kept, np.diag([-2.5, -2.2, 1, 1]))
    geometry = {**GEOMETRY, "mirrored": True}
    placed = widget.logic.placeXray(phantom.ct, phantom.xray, geometry=geometry)
    loaded = widget.logic.readRequest(phantom.ct, phantom.xray, geometry=geometry, maskNode=mask).radiograph
    stood = widget.logic.readRequest(phantom.ct, placed, initial="scene", maskNode=mask).radiograph
    assert np.array_equal(stood.mask, loaded.mask)
    set_voxels(mask, kept[:, :8, :9].copy(), np.eye(4))
    with pytest.raises(InputError, match=r"'mask' has 9 x 8 pixels; expected the 96 x 80 of the X-ray"):
        widget.logic.readRequest(phantom.ct, placed, initial="scene", maskNode=mask)


def test_start_by_hand_leaves_the_collimators_border_out(slicer: ModuleType, widget: Any, wait: Callable[..., float]) -> None:
    from SphericalRegModule.choices import SCENE
    from SphericalRegModule.sample_data import load_sample_case

    from SphericalRegLib.mrml import session
    from SphericalRegLib.mrml.detector import placed_camera

    ct, xray = load_sample_case()
    widget.ui.ctSelector.setCurrentNode(ct)
    widget.ui.xraySelector.setCurrentNode(xray)
    widget.ui.placeButton.click()
    p = widget._parameterNode
    assert p.initial == SCENE
    stood = placed_camera(p.placedXray).world_from_camera
    requests: list[Any] = []
    real = session.run
    session.run = lambda request, report: requests.append(request) or real(request, report)
    try:
        register(widget, wait)
    finally:
        session.run = real
    loaded = widget.logic.readRequest(ct, xray).radiograph
    assert 0.5 < loaded.mask.mean() < 0.8
    assert np.array_equal(requests[0].radiograph.mask, loaded.mask)
    assert np.allclose(requests[0].world_from_camera_reference, stood)
    assert np.allclose(placed_camera(p.placedXray).world_from_camera, stood), "the X-ray stays, and the CT moves"


def test_what_the_geometry_says_of_the_collimator_counts(slicer: ModuleType, widget: Any) -> None:
    from SphericalRegModule.geometry_section import from_parameters
    from SphericalRegModule.sample_data import load_sample_case
    from SphericalRegModule.xray_geometry import known_geometry

    from SphericalRegLib.imaging.geometry_file import parse_geometry
    from SphericalRegLib.mrml.geometry_attribute import keep_geometry

    ct, xray = load_sample_case()
    values = {"sdd_mm": 1020, "pixel_spacing_mm": [1.5625, 1.5625], "intensity": "display", "collimator": False}
    keep_geometry(xray, parse_geometry(values, "test"))
    assert widget.logic.readRequest(ct, xray).radiograph.mask.all()
    widget.ui.xraySelector.setCurrentNode(xray)
    widget.ui.sddSpinBox.value = 1000
    assert from_parameters(widget._parameterNode, known_geometry(xray)).collimator.value is False


@pytest.fixture
def breathing(slicer: ModuleType) -> Any:
    """A transform that is not linear."""
    warp = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "breathing")
    warp.SetAndObserveTransformToParent(slicer.vtkOrientedGridTransform())
    return warp


def test_a_warped_ct_is_refused_at_once_and_leaves_nothing_behind(slicer: ModuleType, chosen: Any, phantom: Any, breathing: Any) -> None:
    phantom.ct.SetAndObserveTransformNodeID(breathing.GetID())
    before = slicer.mrmlScene.GetNumberOfNodes()
    for button in (chosen.ui.registerButton, chosen.ui.placeButton):
        button.click()
        assert not chosen.panel.runner.busy
        assert "not linear" in chosen.ui.errorLabel.text
    with pytest.raises(InputError, match="not linear"):
        chosen.logic.register(phantom.ct, phantom.xray, geometry=GEOMETRY, initial="ap")
    assert slicer.mrmlScene.GetNumberOfNodes() == before


def test_an_output_transform_above_the_ct_is_refused_at_once(slicer: ModuleType, chosen: Any, phantom: Any) -> None:
    above, below = (slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name) for name in ("above", "below"))
    below.SetAndObserveTransformNodeID(above.GetID())
    phantom.ct.SetAndObserveTransformNodeID(below.GetID())
    chosen._parameterNode.outputTransform = above
    chosen.ui.registerButton.click()
    assert not chosen.panel.runner.busy
    assert "'above' stands above" in chosen.ui.errorLabel.text
    with pytest.raises(InputError, match="'above' stands above"):
        chosen.logic.register(phantom.ct, phantom.xray, geometry=GEOMETRY, initial="ap", outputTransform=above)


def test_a_result_that_cannot_be_written_leaves_the_panel_alive(
    slicer: ModuleType, chosen: Any, phantom: Any, breathing: Any, wait: Callable[..., float]
) -> None:
    """The CT is warped while it is registered: a sentence, no node, and the next choice is followed."""
    chosen.ui.registerButton.click()
    phantom.ct.SetAndObserveTransformNodeID(breathing.GetID())
    before = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLLinearTransformNode")
    wait(lambda: not chosen.panel.runner.busy)
    assert "not linear" in chosen.ui.errorLabel.text
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLLinearTransformNode") == before
    assert not chosen._parameterNode.parameterNode.GetDisableModifiedEvent()
    chosen._parameterNode.sddMm = 950.0
    assert chosen.ui.sddSpinBox.value == 950
    phantom.ct.SetAndObserveTransformNodeID(None)
    register(chosen, wait)


def test_who_waits_for_an_answer_hears_of_every_failure(widget: Any, phantom: Any, wait: Callable[..., float], monkeypatch: Any) -> None:
    from SphericalRegLib.mrml import session

    def refuse(*_arguments: Any, **_keywords: Any) -> None:
        raise ValueError("the CT is gone")

    monkeypatch.setattr(session, "write_outcome", refuse)
    answers: list[Any] = []
    widget.logic.register(phantom.ct, phantom.xray, geometry=GEOMETRY, initial="ap", waitForCompletion=False, finished=answers.append)
    wait(lambda: bool(answers))
    assert "the CT is gone" in answers[0].sentence


@pytest.mark.parametrize("error", [ValueError, Cancelled])
def test_a_progress_callback_that_raises_does_not_keep_the_end_from_coming(slicer: ModuleType, error: type[Exception]) -> None:
    from SphericalRegModule.job import Done, Stopped
    from SphericalRegModule.runner import Runner

    def work(report: ProgressCallback) -> int:
        report(Progress("a", 0, 1))
        return 1

    def fail(_progress: Progress) -> None:
        raise error

    ends: list[Any] = []
    runner = Runner(fail, ends.append)
    runner.start(work)
    runner._timer.stop()
    assert runner._job is not None and runner._job.join(10)
    if error is Cancelled:
        runner.poll()
    else:
        with pytest.raises(error):
            runner.poll()
        runner.poll()
    assert not runner.busy
    assert ends in ([Done(1)], [Stopped()])


def test_a_batch_of_folders_refuses_what_it_does_not_know(widget: Any, tmp_path: Any) -> None:
    with pytest.raises(TypeError, match="labels"):
        widget.logic.registerBatch(tmp_path, tmp_path / "out", labels=[1])


def test_the_sample_case_asks_for_its_packages(slicer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line that docs/console.md lets somebody type in a new Slicer."""
    from SphericalRegModule import dependencies, sample_data

    monkeypatch.setattr(dependencies, "missing", lambda: ["roma>=1.5"])
    with pytest.raises(InputError, match="nobody can be asked"):
        sample_data.load_sample_case()


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "gpu"])
def test_a_device_that_is_not_there_is_refused_in_words(widget: Any, phantom: Any, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="The device is"):
        widget.logic.register(phantom.ct, phantom.xray, geometry=GEOMETRY, initial="ap", device=device)
