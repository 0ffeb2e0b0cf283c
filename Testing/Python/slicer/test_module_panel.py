"""The panel, clicked through from end to end with real registrations."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from SphericalRegModule import choices, layout, xray_view

ROOT = Path(__file__).resolve().parents[3]


def register(widget: Any, wait: Callable[..., float]) -> None:
    widget.ui.registerButton.click()
    wait(lambda: not widget.panel.runner.busy)
    assert widget.ui.errorLabel.text == "", widget.panel._details


def test_opening_the_panel_loads_no_torch(slicer: ModuleType) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'Testing' / 'Harness')!r})\n"
        f"from slicer_harness import boot; boot()\n"
        f"from slicer_harness.modules import open_module; open_module({str(ROOT / 'SphericalReg' / 'SphericalReg.py')!r})\n"
        "print(sorted({'torch', 'matplotlib', 'warp', 'timm', 'SimpleITK', 'pydicom'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_the_button_says_what_is_missing(widget: Any, phantom: Any) -> None:
    ui = widget.ui
    widget._parameterNode.ctVolume = None
    assert not ui.registerButton.enabled
    assert "Choose a CT" in ui.registerButton.toolTip
    ui.ctSelector.setCurrentNode(phantom.ct)
    ui.xraySelector.setCurrentNode(phantom.xray)
    assert not ui.registerButton.enabled
    assert "source-to-detector" in ui.registerButton.toolTip
    assert "source-to-detector" in ui.geometryWarningLabel.text
    ui.sddSpinBox.value = 900
    assert ui.registerButton.enabled


def test_inputs_are_guessed_among_what_the_user_loaded(slicer: ModuleType, chosen: Any, phantom: Any) -> None:
    """Not a label map for the CT, nor a placed X-ray, a DRR or the coloured comparison for the X-ray."""
    from SphericalRegLib.mrml.voxels import set_voxels, voxels

    p, made = chosen._parameterNode, xray_view.COLOURED[0]
    chosen.ui.placeButton.click()
    chosen.ui.pictureComboBox.setCurrentIndex(choices.PICTURES.index(made))
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    set_voxels(labels, np.ones(voxels(phantom.ct).shape, np.uint8), np.eye(4))
    for node in (phantom.ct, phantom.xray):
        slicer.mrmlScene.RemoveNode(node)
    chosen.exit()
    chosen.enter()
    assert (p.ctVolume, p.xrayVolume) == (None, None)


def test_a_grey_image_that_was_loaded_as_colours_can_be_chosen(slicer: ModuleType, chosen: Any, phantom: Any, wait: Callable[..., float]) -> None:
    """Slicer loads an RGB PNG as a vector volume."""
    from SphericalRegLib.mrml.matrices import node_from_voxel
    from SphericalRegLib.mrml.voxels import set_voxels, voxels

    grey = (255 * (voxels(phantom.xray) / 60000.0)).astype(np.uint8)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "screenshot")
    set_voxels(node, np.repeat(grey[..., None], 3, axis=3), node_from_voxel(phantom.xray))
    ui, p = chosen.ui, chosen._parameterNode
    ui.xraySelector.setCurrentNode(node)
    assert p.xrayVolume is node
    listed = [ui.xraySelector._box.itemText(number) for number in range(ui.xraySelector._box.count)]
    assert "screenshot" in listed
    ui.sddSpinBox.value, ui.principalColumnSpinBox.value, ui.principalRowSpinBox.value = 900, 50, 37
    register(chosen, wait)
    assert p.placedFrom is node


def test_register_by_clicks(slicer: ModuleType, chosen: Any, phantom: Any, wait: Callable[..., float]) -> None:
    """The transform moves the CT before the camera, the DRR lies on the X-ray, and the X-ray view shows both upright."""
    from SphericalRegLib.mrml.detector import placed_camera
    from SphericalRegLib.mrml.poses import pose_of
    from SphericalRegLib.mrml.provenance import result_of
    from SphericalRegLib.mrml.voxels import voxels

    ui, parameters = chosen.ui, chosen._parameterNode
    register(chosen, wait)
    result = result_of(parameters.outputTransform)
    assert result is not None
    assert result.score > 0.9
    assert ui.registerButton.text == "Register"
    assert "uncalibrated" in ui.verdictLabel.text
    placed = placed_camera(parameters.placedXray)
    assert placed is not None
    pose = pose_of(phantom.ct, placed.world_from_camera)
    assert pose == pytest.approx(result.camera_from_world, abs=1e-6)
    ball = [-15, 28, 156, 1.0]  # voxel (25, 21, 9), the brightest thing in the image
    found, true = (phantom.camera.project((matrix @ ball)[:3]) for matrix in (pose, phantom.pose))
    assert np.abs(found - true).max() < 0.7
    drr, xray = voxels(parameters.drrVolume)[0], voxels(parameters.placedXray)[0]
    assert np.corrcoef(drr.ravel(), xray.ravel())[0, 1] > 0.98

    view = slicer.app.layoutManager().sliceWidget(layout.VIEW).sliceView()
    ui.pictureComboBox.setCurrentIndex(choices.PICTURES.index(choices.XRAY))
    slice_node = slicer.app.layoutManager().sliceWidget(layout.VIEW).mrmlSliceNode()
    ball_ras = np.append((placed.world_from_pixel @ [*found, 0, 1])[:3], 1)
    to_view = np.linalg.inv(slicer.util.arrayFromVTKMatrix(slice_node.GetXYToRAS()))
    x, y = (to_view @ ball_ras)[:2]
    picture = view.picture()[..., 0].astype(float)
    row, column = picture.shape[0] - 1 - round(y), round(x)
    assert picture[row, column] > 0.95 * picture.max()
    columns, rows = phantom.camera.size_px
    scale = min(picture.shape[1] / (columns * 2.5), picture.shape[0] / (rows * 2.2))
    assert column == pytest.approx(picture.shape[1] / 2 + (found[0] - (columns - 1) / 2) * 2.5 * scale, abs=3)
    assert row == pytest.approx(picture.shape[0] / 2 + (found[1] - (rows - 1) / 2) * 2.2 * scale, abs=3)


@pytest.mark.parametrize("picture", xray_view.COLOURED)
def test_coloured_pictures(slicer: ModuleType, chosen: Any, wait: Callable[..., float], picture: str) -> None:
    register(chosen, wait)
    chosen.ui.pictureComboBox.setCurrentIndex(choices.PICTURES.index(picture))
    widget = slicer.app.layoutManager().sliceWidget(layout.VIEW)
    node = slicer.mrmlScene.GetNodeByID(widget.sliceLogic().GetSliceCompositeNode().GetBackgroundVolumeID())
    assert node.IsA("vtkMRMLVectorVolumeNode")
    assert widget.sliceView().picture().std() > 5


def test_undo_and_register_again(chosen: Any, phantom: Any, wait: Callable[..., float]) -> None:
    ui = chosen.ui
    assert not ui.undoButton.enabled
    register(chosen, wait)
    ui.undoButton.click()
    assert phantom.ct.GetParentTransformNode() is None
    assert not ui.undoButton.enabled
    register(chosen, wait)
    assert phantom.ct.GetParentTransformNode() is chosen._parameterNode.outputTransform
    assert chosen.logic.prepared is not None


def test_place_drag_and_register_from_there(slicer: ModuleType, chosen: Any, phantom: Any, wait: Callable[..., float]) -> None:
    """The live DRR follows the transform, coarse first, then in full; the registration starts where the hand left the CT."""
    from SphericalRegLib.mrml.voxels import voxels

    ui, parameters = chosen.ui, chosen._parameterNode
    ui.placeButton.click()
    assert ui.errorLabel.text == "", chosen.panel._details
    assert parameters.initial == "the CT's place in the scene"
    assert chosen.panel.initial.live.following
    before = voxels(parameters.drrVolume).copy()
    matrix = slicer.util.arrayFromTransformMatrix(parameters.outputTransform)
    matrix[:3, 3] += (6, 0, 5)
    slicer.util.updateTransformMatrixFromArray(parameters.outputTransform, matrix)
    wait(lambda: not np.array_equal(voxels(parameters.drrVolume), before), 20)
    placed = slicer.util.arrayFromVolume(parameters.placedXray).copy()
    register(chosen, wait)
    assert np.array_equal(slicer.util.arrayFromVolume(parameters.placedXray), placed)
    assert np.corrcoef(voxels(parameters.drrVolume).ravel(), placed.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("move_xray", [False, True])
def test_the_handles_stand_at_the_cts_centre(slicer: ModuleType, chosen: Any, phantom: Any, move_xray: bool) -> None:
    """Also of a CT that was moved before; Slicer takes their place as one in the frame of what hangs under the transform."""
    from SphericalRegModule.rendering import centre_of

    from SphericalRegLib.mrml.matrices import scene_from_node, scene_from_transform

    p = chosen._parameterNode
    chosen.ui.moveXrayCheckBox.checked = move_xray
    moved = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "patient")
    slicer.util.updateTransformMatrixFromArray(moved, np.array([[0, -1, 0, 30], [1, 0, 0, -20], [0, 0, 1, 50], [0, 0, 0, 1.0]]))
    phantom.ct.SetAndObserveTransformNodeID(moved.GetID())
    for _ in range(2):
        chosen.ui.placeButton.click()
        assert chosen.ui.errorLabel.text == "", chosen.panel._details
        handles = scene_from_transform(p.outputTransform) @ [*p.outputTransform.GetCenterOfTransformation(), 1]
        assert handles == pytest.approx(scene_from_node(phantom.ct) @ [*centre_of(phantom.ct), 1])


def test_placing_shows_that_it_takes_a_while(slicer: ModuleType, chosen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from PySide6.QtWidgets import QApplication

    said: list[Any] = []
    placed = chosen.logic.placeXray
    monkeypatch.setattr(chosen.logic, "placeXray", lambda *nodes, **more: said.append(QApplication.overrideCursor()) or placed(*nodes, **more))
    chosen.ui.placeButton.click()
    assert said[0] is not None and QApplication.overrideCursor() is None


def test_a_live_drr_that_fails_is_told_once(slicer: ModuleType, chosen: Any, wait: Callable[..., float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the reason: an error that leaves a timer would come at every move."""
    chosen.ui.placeButton.click()

    def fail(*_arguments: Any, **_keywords: Any) -> None:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(chosen.logic, "renderDRR", fail)
    matrix = slicer.util.arrayFromTransformMatrix(chosen._parameterNode.outputTransform)
    matrix[:3, 3] += (6, 0, 5)
    slicer.util.updateTransformMatrixFromArray(chosen._parameterNode.outputTransform, matrix)
    wait(lambda: bool(chosen.ui.errorLabel.text), 20)
    assert "CUDA out of memory" in chosen.ui.errorLabel.text
    assert not chosen._parameterNode.live
    assert not chosen.panel.initial.live.following


def test_cancel(chosen: Any, phantom: Any, wait: Callable[..., float]) -> None:
    ui = chosen.ui
    ui.registerButton.click()
    assert ui.registerButton.text == "Cancel"
    wait(lambda: ui.statusLabel.text != "")
    ui.registerButton.click()
    assert not ui.registerButton.enabled
    wait(lambda: not chosen.panel.runner.busy)
    assert "Cancelled" in ui.statusLabel.text
    assert ui.registerButton.text == "Register"
    assert ui.registerButton.enabled
    assert phantom.ct.GetParentTransformNode() is None


@pytest.mark.parametrize(
    ("name", "dialog"),
    [
        ("geometry", "getSaveFileName"),
        ("model", "getOpenFileName"),
        ("train", "getSaveFileName"),
        ("export", "getExistingDirectory"),
        ("batchInput", "getExistingDirectory"),
        ("batchOutput", "getExistingDirectory"),
    ],
)
def test_the_dots_open_a_dialog_that_can_name_what_is_asked_for(chosen: Any, monkeypatch: pytest.MonkeyPatch, name: str, dialog: str) -> None:
    """A folder, a file that is there, or a new one."""
    from slicer_harness import ctk_standin

    class Dialog:
        """Answers, whichever is opened, with its name."""

        getExistingDirectory = staticmethod(lambda *_: "/getExistingDirectory")
        getOpenFileName = staticmethod(lambda *_: ("/getOpenFileName", ""))
        getSaveFileName = staticmethod(lambda *_: ("/getSaveFileName", ""))

    monkeypatch.setattr(ctk_standin, "QFileDialog", Dialog)
    edit = getattr(chosen.ui, f"{name}PathLineEdit")
    edit._button.click()
    assert edit.currentPath == f"/{dialog}"


def test_errors_are_words_that_can_be_copied(slicer: ModuleType, chosen: Any) -> None:
    ui = chosen.ui
    ui.loadGeometryButton.click()
    assert "geometry file" in ui.errorLabel.text
    assert not ui.errorFrame.isHidden()
    ui.copyDetailsButton.click()
    assert "Traceback" in slicer.app.clipboard().text()
    assert not chosen.panel.runner.busy


def test_what_the_library_refuses_is_shown(chosen: Any, wait: Callable[..., float]) -> None:
    chosen.ui.principalColumnSpinBox.value = 15000  # the CT's projection misses the image
    chosen.ui.registerButton.click()
    wait(lambda: not chosen.panel.runner.busy)
    assert chosen.ui.errorLabel.text
    assert "Traceback" not in chosen.ui.errorLabel.text


def test_export(slicer: ModuleType, chosen: Any, wait: Callable[..., float], tmp_path: Path) -> None:
    from SphericalRegLib.imaging.transforms import read_transform
    from SphericalRegLib.mrml.matrices import scene_from_transform

    assert not chosen.ui.exportButton.enabled
    register(chosen, wait)
    chosen.ui.exportPathLineEdit.currentPath = str(tmp_path / "result")
    chosen.ui.exportButton.click()
    wait(lambda: not chosen.panel.runner.busy)
    assert chosen.ui.errorLabel.text == "", chosen.panel._details
    names = {path.name for path in (tmp_path / "result").iterdir()}
    assert {"result.json", "ct_to_xray.tfm", "ct_to_xray.h5", "drr.nrrd", "overlay.png", "difference.png", "report.html"} <= names
    transform = scene_from_transform(chosen._parameterNode.outputTransform)
    for suffix in (".tfm", ".h5"):
        assert read_transform(tmp_path / "result" / f"ct_to_xray{suffix}") == pytest.approx(transform, abs=1e-6)
        loaded = slicer.util.loadTransform(str(tmp_path / "result" / f"ct_to_xray{suffix}"))
        assert scene_from_transform(loaded) == pytest.approx(transform, abs=1e-6)


def test_closing_the_scene_while_a_job_runs(slicer: ModuleType, chosen: Any, wait: Callable[..., float]) -> None:
    chosen.ui.registerButton.click()
    wait(lambda: chosen.ui.statusLabel.text != "")
    job = chosen.panel.runner._job
    slicer.mrmlScene.Clear()
    assert not chosen.panel.runner.busy
    wait(lambda: job.join(0))
    slicer.app.processEvents()
    assert not [name for node in slicer.util.getNodesByClass("vtkMRMLTransformNode") if "phantom" in (name := node.GetName())]
    assert chosen._parameterNode is not None
    assert not chosen.ui.registerButton.enabled


def test_the_scene_file_brings_the_panel_back(slicer: ModuleType, chosen: Any, tmp_path: Path) -> None:
    chosen.ui.seedSpinBox.value = 7
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear()
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    chosen.enter()
    assert chosen._parameterNode.ctVolume.GetName() == "phantom CT"
    assert chosen.ui.sddSpinBox.value == 900
    assert chosen.ui.sddOriginLabel.text == "edited"
    assert chosen.ui.seedSpinBox.value == 7


def test_closing_scenes_and_entering_leaves_nothing_behind(slicer: ModuleType, chosen: Any, phantom: Any, wait: Callable[..., float]) -> None:
    """Neither observers, nor parameter nodes, nor the images of scenes that are gone."""
    import weakref

    register(chosen, wait)
    observers = chosen.panel.observers
    assert observers == 5, "the parameters, the X-ray; and of the result: the DRR, the CT, the X-ray on its detector"
    image = weakref.ref(chosen._parameterNode.placedXray.GetImageData())
    for _ in range(3):
        slicer.mrmlScene.Clear()
        chosen.exit()
        chosen.enter()
    gc.collect()
    assert len([found for found in gc.get_objects() if type(found).__name__ == "SphericalRegParameterNode"]) == 1
    assert image() is None
    assert chosen.panel.observers == 1, "the parameter node's"
    chosen.cleanup()
    assert chosen.Observations == []
    assert chosen.panel.observers == 0


@pytest.fixture
def same_modules() -> Iterator[None]:
    """A reload imports the library anew: the other tests get back the modules that they know."""

    def ours() -> list[str]:
        return [name for name in sys.modules if name.partition(".")[0] in ("SphericalReg", "SphericalRegLib", "SphericalRegModule")]

    known = {name: sys.modules[name] for name in ours()}
    yield
    for name in ours():
        del sys.modules[name]
    sys.modules.update(known)


def test_reloading_makes_a_new_panel_and_lets_the_old_one_go(
    slicer: ModuleType, same_modules: None, chosen: Any, phantom: Any, wait: Callable[..., float]
) -> None:
    import weakref

    chosen.ui.placeButton.click()
    old = weakref.ref(chosen.panel)
    options = chosen.logic.options
    for _ in range(2):
        slicer.modules.SphericalRegWidget.onReload()
        slicer.app.processEvents()
    new = slicer.modules.SphericalRegWidget
    new.logic.options = options
    assert type(new) is not type(chosen)
    assert new._parameterNode.ctVolume is phantom.ct
    assert new.panel.initial.live.following
    new.ui.registerButton.click()
    wait(lambda: not new.panel.runner.busy)
    assert new.ui.errorLabel.text == ""
    chosen.panel = None
    gc.collect()
    assert old() is None
    new.cleanup()


def test_packages_that_were_brought_are_listed_and_removed(slicer: ModuleType, chosen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what the module's own list names; removed once, after a question."""
    from SphericalRegModule import dependencies

    panel, ui, there, asked, removed = chosen.panel, chosen.ui, {"roma": "1.5.4", "timm": "1.0.20"}, [], []
    monkeypatch.setattr(dependencies, "installed", lambda: dict(there))
    monkeypatch.setattr(dependencies, "remove_installed", lambda: (removed.extend(there), there.clear()))
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, **_keywords: asked.append(text) or len(asked) > 1)
    assert ui.packagesLabel.text == ""
    ui.advancedCollapsibleButton.collapsed = False
    assert ui.packagesLabel.text == "roma 1.5.4, timm 1.0.20"
    for runner in (panel.runner, panel.model.trainer, panel.batch.runner):  # what runs needs them
        with monkeypatch.context() as working:
            working.setattr(type(runner), "busy", property(lambda self, runner=runner: self is runner))
            panel.show_state()
            assert not ui.removePackagesButton.enabled
    panel.show_state()
    ui.removePackagesButton.click()
    assert removed == []
    ui.removePackagesButton.click()
    assert removed == ["roma", "timm"]
    assert "roma\ntimm" in asked[1]
    assert "Restart Slicer" in ui.statusLabel.text
    assert not ui.removePackagesButton.enabled


def test_cancel_in_the_moment_of_the_result(chosen: Any, phantom: Any, wait: Callable[..., float]) -> None:
    """The work is done, its result not shown yet: Cancel still changes nothing."""
    chosen.ui.registerButton.click()
    job = chosen.panel.runner._job
    assert job.join(60)
    chosen.ui.registerButton.click()
    wait(lambda: not chosen.panel.runner.busy)
    assert "Cancelled" in chosen.ui.statusLabel.text
    assert phantom.ct.GetParentTransformNode() is None
    assert chosen._parameterNode.placedXray is None
