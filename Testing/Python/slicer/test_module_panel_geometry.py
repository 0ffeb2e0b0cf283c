"""The panel's geometry section: where values come from, how they are edited, kept and saved, and that DICOM is read as on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk


def test_each_geometry_value_says_where_it_comes_from(chosen: Any, phantom: Any, tmp_path: Path) -> None:
    ui = chosen.ui
    assert (ui.spacingColumnSpinBox.value, ui.spacingRowSpinBox.value) == (2.5, 2.2)
    assert ui.spacingOriginLabel.text == "the volume in the scene"
    assert ui.intensityOriginLabel.text.startswith("default: 16-bit")
    assert ui.sddOriginLabel.text == ui.principalOriginLabel.text == "edited"
    assert ui.invertedOriginLabel.text == "default: white is air"
    assert ui.mirroredOriginLabel.toolTip == "default: the image is the one seen from the source"
    ui.intensityComboBox.setCurrentIndex(ui.intensityComboBox.findText("display"))
    ui.intensityComboBox.setCurrentIndex(ui.intensityComboBox.findText("counts"))
    assert ui.intensityOriginLabel.text == "edited"
    assert "'default' are guesses" in ui.geometryWarningLabel.text, "which way round the image is"
    path = tmp_path / "geometry.json"
    ui.geometryPathLineEdit.currentPath = str(path)
    ui.saveGeometryButton.click()
    saved = json.loads(path.read_text())
    assert saved["principal_point_px"] == [50, 37]
    path.write_text(json.dumps({**saved, "sdd_mm": 1020.5}))
    ui.loadGeometryButton.click()
    assert ui.sddSpinBox.value == 1020.5
    assert (ui.sddOriginLabel.text, ui.sddOriginLabel.toolTip) == ("geometry.json", "geometry.json: sdd_mm")
    assert ui.spacingOriginLabel.text == ui.mirroredOriginLabel.text == "geometry.json"
    ui.xraySelector.setCurrentNode(phantom.ct)  # and back: what is known of an X-ray stays with it
    ui.xraySelector.setCurrentNode(phantom.xray)
    assert ui.sddSpinBox.value == 1020.5


def test_an_edit_of_the_geometry_reaches_the_placed_xray(chosen: Any) -> None:
    from SphericalRegLib.mrml.detector import placed_camera

    ui, p = chosen.ui, chosen._parameterNode
    ui.placeButton.click()
    before = placed_camera(p.placedXray)
    ui.sddSpinBox.value = 950
    ui.mirroredCheckBox.checked = True
    after, drr = placed_camera(p.placedXray), placed_camera(p.drrVolume)
    assert before is not None
    assert after is not None
    assert drr is not None
    assert after.camera.sdd_mm == drr.camera.sdd_mm == 950
    assert after.camera.principal_point_px[0] == 95 - 50
    assert after.world_from_camera == pytest.approx(before.world_from_camera, abs=1e-9)


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_a_dicom_xray_is_read_as_the_command_line_reads_it(
    slicer: ModuleType, widget: Any, phantom: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photometric: str
) -> None:
    """Radiography shows bone bright, and its header tells where the detector stands: values are edited all the same. A geometry file is about the
    image as stored, which ITK turns round where it is MONOCHROME1."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "imaging"))
    from dicom_xrays import GOOD, write

    from SphericalRegLib.imaging.radiograph import Radiograph
    from SphericalRegLib.mrml.matrices import node_from_voxel
    from SphericalRegLib.mrml.voxels import set_voxels

    tags = {**GOOD, "PhotometricInterpretation": photometric, "ViewPosition": "AP"}
    path = write(tmp_path / "x.dcm", modality="DX", **tags, PositionerPrimaryAngle=20, PositionerSecondaryAngle=5)
    xray = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "DX")
    set_voxels(xray, sitk.GetArrayFromImage(sitk.ReadImage(str(path))), node_from_voxel(phantom.xray))
    xray.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    monkeypatch.setattr(slicer, "dicomDatabase", SimpleNamespace(fileForInstance=lambda uid: str(path)), raising=False)
    ui, p = widget.ui, widget._parameterNode
    ui.xraySelector.setCurrentNode(xray)
    assert (p.intensity, p.inverted, ui.sddOriginLabel.toolTip) == ("display", True, "DistanceSourceToDetector (0018,1110)")
    assert ui.sddOriginLabel.text == "DICOM (0018,1110)"
    assert p.initial == "what the X-ray says"
    assert "LAO 20, cranial 5" in ui.startLabel.text and "(0018,1510)" in ui.startLabel.text
    read = widget.logic.readRequest(phantom.ct, xray, initial="ap").radiograph
    there = Radiograph.read(path).image
    assert np.allclose(read.image, there, atol=1e-4)
    ui.geometryPathLineEdit.currentPath = str(tmp_path / "g.json")
    ui.saveGeometryButton.click()
    with_file = Radiograph.read(path, tmp_path / "g.json").image
    assert np.corrcoef(with_file.ravel(), there.ravel())[0, 1] > 0.99
    ui.loadGeometryButton.click()
    assert (p.inverted, ui.errorLabel.text) == (True, "")
    ui.sddSpinBox.value = 1000
    assert ui.errorLabel.text == ""
    assert widget.logic.readRequest(phantom.ct, xray, initial="ap").radiograph.camera.sdd_mm == 1000


def test_white_is_bone_goes_with_the_intensity_until_somebody_chooses(chosen: Any, phantom: Any) -> None:
    ui, p = chosen.ui, chosen._parameterNode
    for intensity, inverted in (("line_integral", True), ("counts", False)):
        ui.intensityComboBox.setCurrentIndex(ui.intensityComboBox.findText(intensity))
        assert (p.intensity, p.inverted) == (intensity, inverted)
        assert chosen.logic.readRequest(phantom.ct, phantom.xray, initial="ap").radiograph.known.inverted.value is inverted
    ui.invertedCheckBox.click()
    ui.intensityComboBox.setCurrentIndex(ui.intensityComboBox.findText("display"))
    assert (p.intensity, p.inverted) == ("display", True)


def test_an_implausible_length_is_said_and_not_kept(slicer: ModuleType, chosen: Any, phantom: Any) -> None:
    """Centimetres, for instance: another X-ray is followed meanwhile, and the first one's geometry can be read again."""
    from SphericalRegLib.mrml.geometry_attribute import GEOMETRY
    from SphericalRegLib.mrml.matrices import node_from_voxel
    from SphericalRegLib.mrml.voxels import set_voxels, voxels

    ui, p, panel = chosen.ui, chosen._parameterNode, chosen.panel
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "another")
    set_voxels(other, voxels(phantom.xray).copy(), node_from_voxel(phantom.xray))
    kept = phantom.xray.GetAttribute(GEOMETRY)
    ui.sddSpinBox.value = 98
    assert "The source-to-detector distance is 98 mm, expected 100 to 5000 mm" in ui.geometryWarningLabel.text
    assert (ui.errorLabel.text, ui.registerButton.enabled) == ("", False) and "98 mm" in ui.registerButton.toolTip
    assert phantom.xray.GetAttribute(GEOMETRY) == kept
    ui.xraySelector.setCurrentNode(other)
    assert (p.sddMm, ui.errorLabel.text) == (0, "") and "98" not in ui.geometryWarningLabel.text
    ui.xraySelector.setCurrentNode(phantom.xray)
    assert (p.sddMm, ui.errorLabel.text, ui.registerButton.enabled) == (900, "", True)
    ui.sddSpinBox.value = 98
    ui.spacingRowSpinBox.value = 0.001
    assert "The pixel spacing is 2.5 x 0.001 mm, expected 0.005 to 20 mm" in ui.geometryWarningLabel.text
    ui.sddSpinBox.value, ui.spacingRowSpinBox.value = 980, 2.2
    assert ui.registerButton.enabled and panel.geometry.known.sdd_mm.value == 980
    assert "980" in phantom.xray.GetAttribute(GEOMETRY)


def test_a_length_counts_once_it_is_typed_in_full(chosen: Any) -> None:
    from PySide6.QtTest import QTest

    box = chosen.ui.sddSpinBox
    box.selectAll()
    QTest.keyClicks(box, "1020")
    assert chosen._parameterNode.sddMm == 900, "neither 1 nor 10 mm was meant"
    box.interpretText()  # as Enter, Tab or a click elsewhere do
    assert chosen._parameterNode.sddMm == 1020


def test_what_was_kept_and_is_damaged_is_replaced(chosen: Any, phantom: Any, tmp_path: Path) -> None:
    """Said beside the values; by the next entry, or by a file."""
    from SphericalRegLib.mrml.geometry_attribute import GEOMETRY, kept_geometry

    ui, kept = chosen.ui, json.loads(phantom.xray.GetAttribute("SphericalReg.Geometry"))
    damaged = json.dumps({**kept, "values": {**kept["values"], "sdd_mm": 98}})
    file = tmp_path / "geometry.json"
    file.write_text(json.dumps(kept["values"]))
    ui.geometryPathLineEdit.currentPath = str(file)

    def by_hand() -> None:
        ui.sddSpinBox.value = 900

    for replace_it in (ui.loadGeometryButton.click, by_hand):
        ui.xraySelector.setCurrentNode(None)
        phantom.xray.SetAttribute(GEOMETRY, damaged)
        ui.xraySelector.setCurrentNode(phantom.xray)
        assert "sdd_mm is 98" in ui.geometryWarningLabel.text and not ui.registerButton.enabled
        replace_it()
        assert ui.errorLabel.text == "" and "98" not in ui.geometryWarningLabel.text and ui.registerButton.enabled
        assert kept_geometry(phantom.xray).sdd_mm.value == 900  # type: ignore[union-attr]


def test_an_xray_that_cannot_be_used_takes_no_other_ones_geometry(slicer: ModuleType, chosen: Any, phantom: Any) -> None:
    from SphericalRegLib.mrml.voxels import set_voxels

    ui = chosen.ui
    ui.placeButton.click()
    coloured = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "screenshot")
    set_voxels(coloured, np.random.default_rng(0).integers(0, 255, (1, 80, 96, 3), dtype=np.uint8), np.eye(4))
    ui.xraySelector.setCurrentNode(coloured)
    assert "coloured" in ui.errorLabel.text
    assert chosen.panel.geometry.known is None and ui.sddOriginLabel.text == ""
    assert not ui.registerButton.enabled and not ui.placeButton.enabled
    assert chosen._parameterNode.placedXray is None, "what the geometry refuses, the other sections follow"
    ui.xraySelector.setCurrentNode(phantom.xray)
    assert ui.registerButton.enabled and ui.errorLabel.text == ""


def test_a_header_that_leaves_the_spacing_open_is_not_overruled_by_the_node(
    slicer: ModuleType, widget: Any, phantom: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pixel spacing that is calibrated to the patient is what ITK gives the node."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "imaging"))
    from dicom_xrays import GOOD, write

    tags = {name: value for name, value in GOOD.items() if name not in ("ImagerPixelSpacing", "DistanceSourceToPatient")}
    path = write(tmp_path / "x.dcm", modality="DX", **tags, PixelSpacing=[0.2, 0.2], PixelSpacingCalibrationType="FIDUCIAL")
    phantom.xray.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    monkeypatch.setattr(slicer, "dicomDatabase", SimpleNamespace(fileForInstance=lambda uid: str(path)), raising=False)
    widget.ui.xraySelector.setCurrentNode(phantom.xray)
    assert widget._parameterNode.spacingColumnMm == 0
    assert "calibrated to the patient" in widget.ui.geometryWarningLabel.text
