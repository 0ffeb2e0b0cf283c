"""Where a registration starts in Slicer: what the X-ray itself says counts as it does for a case folder on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from SphericalRegModule.choices import ALL_VIEWS, XRAY_SAYS

GEOMETRY = {"sdd_mm": 900, "pixel_spacing_mm": [2.5, 2.2], "principal_point_px": [50, 37], "intensity": "counts"}


@pytest.fixture
def says(phantom: Any) -> dict[str, Any]:
    """A geometry that knows where the X-ray was taken from."""
    return {**GEOMETRY, "initial_camera_from_world": phantom.pose.tolist()}


def test_the_console_starts_where_the_xray_says(widget: Any, phantom: Any, says: dict[str, Any]) -> None:
    start = widget.logic.readRequest(phantom.ct, phantom.xray, geometry=says).initial
    assert start == pytest.approx(phantom.pose)
    assert widget.logic.readRequest(phantom.ct, phantom.xray, geometry=GEOMETRY).initial is None
    for given in ("views", "ap"):
        asked = widget.logic.readRequest(phantom.ct, phantom.xray, geometry=says, initial=given).initial
        assert asked == (None if given == "views" else given)


def test_c_arm_angles_of_a_header_are_a_start(widget: Any, phantom: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from SphericalRegModule import rendering, xray_geometry

    from SphericalRegLib.geometry.views import c_arm_view
    from SphericalRegLib.imaging.geometry_file import parse_geometry
    from SphericalRegLib.imaging.geometry_values import GeometryValues, Sourced
    from SphericalRegLib.imaging.starts import Start
    from SphericalRegLib.mrml.geometry_attribute import keep_geometry

    keep_geometry(phantom.xray, parse_geometry(GEOMETRY))
    monkeypatch.setattr(xray_geometry, "dicom_geometry", lambda xray: GeometryValues(start=Sourced(Start("pa", 30.0, 10.0), "a header")))
    expected = c_arm_view(30.0, 10.0, phantom.camera, rendering.centre_of(phantom.ct).tolist()).numpy()
    assert widget.logic.readRequest(phantom.ct, phantom.xray).initial == pytest.approx(expected, abs=1e-9)


def test_the_panel_prefers_what_the_xray_says(slicer: ModuleType, widget: Any, phantom: Any, says: dict[str, Any], tmp_path: Path) -> None:
    from SphericalRegLib.mrml.detector import placed_camera
    from SphericalRegLib.mrml.poses import pose_of

    ui, p = widget.ui, widget._parameterNode
    ui.ctSelector.setCurrentNode(phantom.ct)
    ui.xraySelector.setCurrentNode(phantom.xray)
    assert p.initial == ALL_VIEWS and ui.startLabel.isHidden()
    ui.initialComboBox.setCurrentIndex(ui.initialComboBox.findText(XRAY_SAYS))
    ui.sddSpinBox.value = 900
    assert not ui.registerButton.enabled and "does not say" in ui.registerButton.toolTip
    assert not ui.placeButton.enabled and "does not say" in ui.placeButton.toolTip
    ui.initialComboBox.setCurrentIndex(0)
    (tmp_path / "geometry.json").write_text(json.dumps(says))
    ui.geometryPathLineEdit.currentPath = str(tmp_path / "geometry.json")
    ui.loadGeometryButton.click()
    assert ui.errorLabel.text == "", widget.panel._details
    assert p.initial == XRAY_SAYS
    assert ui.startLabel.text == "The X-ray says: a pose (geometry.json: initial_camera_from_world)."
    assert ui.registerButton.enabled
    ui.placeButton.click()
    placed = placed_camera(p.placedXray)
    assert placed is not None
    assert pose_of(phantom.ct, placed.world_from_camera) == pytest.approx(phantom.pose, abs=1e-6)
    assert "the patient's right at the left edge, head at the top" in ui.sidesLabel.text, "seen from the front, where the source is"
    ui.initialComboBox.setCurrentIndex(ui.initialComboBox.findText(XRAY_SAYS))
    asked: list[Any] = []
    read = widget.logic.readRequest
    widget.logic.readRequest = lambda *nodes, **more: asked.append(read(*nodes, **more)) or asked[-1]
    ui.registerButton.click()
    widget.panel.runner.cancel()
    assert asked[0].initial == pytest.approx(phantom.pose)


def test_a_loaded_scene_keeps_its_start(slicer: ModuleType, widget: Any, phantom: Any, says: dict[str, Any], tmp_path: Path) -> None:
    from SphericalRegLib.imaging.geometry_file import parse_geometry
    from SphericalRegLib.mrml.geometry_attribute import keep_geometry

    keep_geometry(phantom.xray, parse_geometry(says))
    ui = widget.ui
    ui.ctSelector.setCurrentNode(phantom.ct)
    ui.xraySelector.setCurrentNode(phantom.xray)
    assert widget._parameterNode.initial == XRAY_SAYS
    ui.initialComboBox.setCurrentIndex(ui.initialComboBox.findText(ALL_VIEWS))
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear()
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    assert widget._parameterNode.xrayVolume.GetName() == "phantom X-ray"
    assert widget._parameterNode.initial == ALL_VIEWS
    ui.xraySelector.setCurrentNode(None)
    other = slicer.util.getNode("phantom X-ray")
    ui.xraySelector.setCurrentNode(other)
    assert widget._parameterNode.initial == XRAY_SAYS, "chosen anew"


def test_the_sample_case_asks_its_model(slicer: ModuleType, widget: Any) -> None:
    """Its X-ray says nothing, as in a theatre."""
    from SphericalRegModule.sample_data import choose_in_panel, load_sample_case

    ct, xray = load_sample_case()
    choose_in_panel(ct, xray)
    assert widget._parameterNode.initial == "the model's regressor"
    assert np.shape(widget.logic.readRequest(ct, xray).initial) == ()
