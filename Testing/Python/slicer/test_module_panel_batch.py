"""Many registrations from the panel: pairs of nodes and folders of cases."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest


def cells(table: Any) -> list[list[str]]:
    return [[table.item(row, column).text() for column in range(table.columnCount)] for row in range(table.rowCount)]


@pytest.fixture
def quick_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of cases is registered with the library's options, as on the command line: replaced by quicker ones."""
    from SphericalRegLib.evaluation import registrar
    from SphericalRegLib.registration.options import MultiStart, RegistrationOptions, Stage

    search = MultiStart(poses=30, finalists=0, image_px=32)
    options = RegistrationOptions(stages=(Stage(48, iterations=6),), multi_start=search, wide_start=search)
    monkeypatch.setattr(registrar, "RegistrationOptions", lambda: options)


@pytest.fixture
def two_pairs(slicer: ModuleType, chosen: Any, phantom: Any) -> Any:
    """The phantom twice: its X-ray, and the same shifted by four pixels, whose geometry is entered as well."""
    from SphericalRegLib.mrml.voxels import set_voxels, voxels

    chosen.ui.addPairButton.click()
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "shifted X-ray")
    set_voxels(other, np.roll(voxels(phantom.xray), 4, axis=2), np.diag([-2.5, -2.2, 1, 1]))
    chosen.ui.xraySelector.setCurrentNode(other)
    chosen.ui.sddSpinBox.value, chosen.ui.principalColumnSpinBox.value, chosen.ui.principalRowSpinBox.value = 900, 50, 37
    chosen.ui.addPairButton.click()
    return other


def test_pairs_are_registered_one_after_the_other(
    slicer: ModuleType, chosen: Any, phantom: Any, two_pairs: Any, wait: Callable[..., float], tmp_path: Path
) -> None:
    """Each pair gets a transform of its own that says where the CT belongs; the table is in the panel, in the scene and in a file."""
    from SphericalRegLib.mrml.matrices import scene_from_transform
    from SphericalRegLib.mrml.provenance import result_of, transform_of
    from SphericalRegLib.mrml.tables import POSE_COLUMNS

    ui = chosen.ui
    assert cells(ui.pairsTable) == [["phantom CT", "phantom X-ray"], ["phantom CT", "shifted X-ray"]]
    ui.batchOutputPathLineEdit.currentPath = str(tmp_path / "out")
    ui.pairsButton.click()
    assert ui.registerButton.text == "Cancel"
    wait(lambda: not chosen.panel.runner.busy)
    assert ui.errorLabel.text == "", chosen.panel._details
    assert [line[0] for line in cells(ui.batchTable)] == ["phantom CT, phantom X-ray", "phantom CT, shifted X-ray"]
    assert all(line[2] == "" for line in cells(ui.batchTable))
    transforms = [slicer.util.getNode(name) for name in ("phantom CT to phantom X-ray", "phantom CT to shifted X-ray")]
    results = [result_of(node) for node in transforms]
    for node, result in zip(transforms, results):
        assert result is not None
        assert scene_from_transform(node) == pytest.approx(transform_of(result), abs=1e-6), "not stacked on the other pair's"
    assert phantom.ct.GetParentTransformNode() is transforms[1]
    shift = (results[1].camera_from_world - results[0].camera_from_world)[0, 3]  # type: ignore[union-attr]
    assert shift == pytest.approx(4 * 2.5 * 0.75, rel=0.2)
    table = chosen._parameterNode.batchTable.GetTable()
    rows = list(csv.DictReader((tmp_path / "out" / "pairs.csv").open()))
    for number, (row, result) in enumerate(zip(rows, results)):
        expected = result.camera_from_world[:3].ravel()  # type: ignore[union-attr]
        assert [float(row[title]) for title in POSE_COLUMNS] == pytest.approx(expected, abs=1e-9)
        assert [table.GetValueByName(number, title).ToDouble() for title in POSE_COLUMNS] == pytest.approx(expected, abs=1e-9)


def test_a_pair_that_fails_does_not_stop_the_others(
    slicer: ModuleType, chosen: Any, phantom: Any, two_pairs: Any, wait: Callable[..., float]
) -> None:
    from SphericalRegLib.mrml.geometry_attribute import GEOMETRY

    phantom.xray.RemoveAttribute(GEOMETRY)
    chosen.ui.pairsButton.click()
    wait(lambda: not chosen.panel.runner.busy)
    assert chosen.ui.errorLabel.text == "", chosen.panel._details
    first, second = cells(chosen.ui.batchTable)
    assert "source-to-detector" in first[2]
    assert second[2] == ""
    assert "2 registrations, 1 failed" in chosen.ui.statusLabel.text


def test_a_table_that_cannot_be_written_is_shown_all_the_same(chosen: Any, two_pairs: Any, wait: Callable[..., float], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    chosen.ui.batchOutputPathLineEdit.currentPath = str(tmp_path / "file")
    chosen.ui.pairsButton.click()
    assert "is a file" in chosen.ui.errorLabel.text and not chosen.panel.runner.busy, "what is known before the work is said before it"
    chosen.ui.batchOutputPathLineEdit.currentPath = str(tmp_path / "out")
    chosen.ui.pairsButton.click()
    (tmp_path / "out").write_text("no folder, either")
    wait(lambda: not chosen.panel.runner.busy)
    assert "cannot be written" in chosen.ui.errorLabel.text
    assert len(cells(chosen.ui.batchTable)) == chosen._parameterNode.batchTable.GetNumberOfRows() == 2


def test_cancel_keeps_what_is_done(chosen: Any, two_pairs: Any, wait: Callable[..., float]) -> None:
    chosen.ui.pairsButton.click()
    wait(lambda: "pair 2 of 2" in chosen.ui.statusLabel.text or not chosen.panel.runner.busy)
    chosen.ui.registerButton.click()
    wait(lambda: not chosen.panel.runner.busy)
    assert "Cancelled after 1 of 2" in chosen.ui.statusLabel.text
    assert len(cells(chosen.ui.batchTable)) == 1


def test_a_pair_leaves_with_its_node_and_comes_back_with_the_scene(
    slicer: ModuleType, chosen: Any, phantom: Any, two_pairs: Any, tmp_path: Path
) -> None:
    chosen.ui.addPairButton.click()
    assert "already" in chosen.ui.statusLabel.text
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.RemoveNode(phantom.xray)
    chosen.panel.update()
    assert cells(chosen.ui.pairsTable) == [["phantom CT", "shifted X-ray"]]
    chosen.ui.removePairButton.click()
    assert cells(chosen.ui.pairsTable) == []
    assert not chosen.ui.pairsButton.enabled
    slicer.mrmlScene.Clear()
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    chosen.enter()
    assert cells(chosen.ui.pairsTable) == [["phantom CT", "phantom X-ray"], ["phantom CT", "shifted X-ray"]]


def test_a_folder_of_cases(
    slicer: ModuleType, chosen: Any, phantom: Any, quick_folders: None, wait: Callable[..., float], tmp_path: Path
) -> None:
    """The scene is left alone; the table says what the command line would."""
    from SphericalRegLib.imaging.geometry_file import write_geometry
    from SphericalRegLib.mrml.volumes import volume_from_node
    from SphericalRegLib.mrml.voxels import voxels

    for name in ("one", "two"):
        case = tmp_path / "cases" / name
        case.mkdir(parents=True)
        volume_from_node(phantom.ct).write(case / "ct.nii.gz")
        np.save(case / "xray.npy", voxels(phantom.xray)[0])
        write_geometry(case / "geometry.json", phantom.camera, intensity="counts")
    (tmp_path / "cases" / "two" / "xray.npy").write_bytes(b"broken")
    chosen.ui.batchInputPathLineEdit.currentPath = str(tmp_path / "cases")
    chosen.ui.batchButton.click()
    assert "folder for the results" in chosen.ui.errorLabel.text
    chosen.ui.batchOutputPathLineEdit.currentPath = str(tmp_path / "out")
    chosen.ui.batchButton.click()
    wait(lambda: not chosen.panel.runner.busy, 600)
    assert chosen.ui.errorLabel.text == "", chosen.panel._details
    one, two = cells(chosen.ui.batchTable)
    assert (one[0], one[2]) == ("one", "")
    assert two[0] == "two"
    assert two[2]
    assert chosen._parameterNode.batchTable.GetNumberOfRows() == 2
    assert (tmp_path / "out" / "batch.csv").is_file()
    written = {path.name for path in (tmp_path / "out" / "one").iterdir()}
    assert {"result.json", "ct_to_xray.tfm", "drr.nrrd", "overlay.png", "report.html"} <= written, "as the command line's"
    assert phantom.ct.GetParentTransformNode() is None


def test_pairs_need_a_start_that_all_of_them_have(chosen: Any, two_pairs: Any) -> None:
    """Refused once, not in every row."""
    chosen.ui.placeButton.click()
    chosen.ui.pairsButton.click()
    assert not chosen.panel.runner.busy
    assert "Choose another start for the pairs" in chosen.ui.errorLabel.text
    assert cells(chosen.ui.batchTable) == []


def test_a_folder_of_cases_that_is_cancelled_says_what_is_done(
    slicer: ModuleType, chosen: Any, phantom: Any, quick_folders: None, wait: Callable[..., float], tmp_path: Path
) -> None:
    from SphericalRegLib.imaging.geometry_file import write_geometry
    from SphericalRegLib.mrml.volumes import volume_from_node
    from SphericalRegLib.mrml.voxels import voxels

    for name in ("one", "two", "three"):
        case = tmp_path / "cases" / name
        case.mkdir(parents=True)
        volume_from_node(phantom.ct).write(case / "ct.nii.gz")
        np.save(case / "xray.npy", voxels(phantom.xray)[0])
        write_geometry(case / "geometry.json", phantom.camera, intensity="counts")
    chosen.ui.batchInputPathLineEdit.currentPath = str(tmp_path / "cases")
    chosen.ui.batchOutputPathLineEdit.currentPath = str(tmp_path / "out")
    chosen.ui.batchButton.click()
    wait(lambda: (tmp_path / "out" / "one" / "record.json").is_file(), 600)
    chosen.ui.registerButton.click()
    wait(lambda: not chosen.panel.runner.busy)
    said = chosen.ui.statusLabel.text
    assert said.startswith("Cancelled after ")
    assert said.endswith(f" of 3 cases. Their results stay in {tmp_path / 'out'}; the next run goes on there.")
