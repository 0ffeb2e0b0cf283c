"""Many registrations from the panel: pairs of nodes and folders of cases."""

from __future__ import annotations

import csv
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from SphericalRegModule import batch, choices

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.starts import Start
from SphericalRegLib.progress import Progress


def cells(table: Any) -> list[list[str]]:
    return [[table.item(row, column).text() for column in range(table.columnCount)] for row in range(table.rowCount)]


class Folder:
    """Stands in for `batch_of_folders`: reports, and goes on when it is told to."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.told: dict[str, Any] = {}
        self.rows = [batch.row("one", {}, 1.0, None), batch.row("two", {}, None, "no CT")]

    def __call__(self, folders: Any, output: Any, progress: Callable[[Progress], None], **told: Any) -> list[dict[str, Any]]:
        self.told = told
        progress(Progress("register", 1, 3, "two 2.0 s each"))
        progress(Progress("refine 64 px", 0, 8))
        while not self.go_on.wait(0.01):
            progress(Progress("refine 64 px", 1, 8))
        return self.rows


@pytest.fixture
def folder(chosen: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Folder]:
    """What registers folders, with both of them chosen in the panel."""
    from SphericalRegModule import batch_section

    made = Folder()
    monkeypatch.setattr(batch_section, "batch_of_folders", made)
    chosen.ui.batchInputPathLineEdit.currentPath = str(tmp_path)
    chosen.ui.batchOutputPathLineEdit.currentPath = str(tmp_path / "out")
    yield made
    made.go_on.set()


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


def test_a_folder_of_cases(slicer: ModuleType, chosen: Any, phantom: Any, wait: Callable[..., float], tmp_path: Path) -> None:
    """The scene is left alone; the table says what the command line would from the chosen view, with the logic's options."""
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
    wait(lambda: not chosen.panel.batch.runner.busy, 600)
    assert chosen.ui.errorLabel.text == "", chosen.panel._details
    assert chosen.ui.batchLabel.text == "2 registrations, 1 failed."
    one, two = cells(chosen.ui.batchTable)
    assert (one[0], one[2]) == ("one", "")
    assert two[0] == "two"
    assert two[2]
    assert chosen._parameterNode.batchTable.GetNumberOfRows() == 2
    assert (tmp_path / "out" / "batch.csv").is_file()
    written = {path.name for path in (tmp_path / "out" / "one").iterdir()}
    assert {"result.json", "ct_to_xray.tfm", "drr.nrrd", "overlay.png", "report.html"} <= written, "as the command line's"
    result = json.loads((tmp_path / "out" / "one" / "result.json").read_text(encoding="utf-8"))
    assert any("named view ap" in note for note in result["notes"])
    assert result["options"]["wide_start"]["poses"] == chosen.logic.options.wide_start.poses
    assert phantom.ct.GetParentTransformNode() is None


def test_a_folder_of_cases_goes_on_beside_the_panel_and_without_its_scene(
    slicer: ModuleType, chosen: Any, folder: Folder, two_pairs: Any, wait: Callable[..., float], tmp_path: Path
) -> None:
    """It knows nothing of scenes: closing one or loading one ends neither it nor its progress, and what is loaded gets no table of it."""
    ui = chosen.ui
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    ui.batchButton.click()
    wait(lambda: "refining" in ui.batchLabel.text)
    assert ui.batchLabel.text == "1 of 3 cases done, two 2.0 s each, refining at 64 pixels"
    assert (ui.batchProgressBar.value, ui.batchButton.text) == (33, "Cancel")
    assert ui.registerButton.text == "Register" and ui.registerButton.enabled
    assert not ui.pairsButton.enabled
    slicer.mrmlScene.Clear()
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    assert chosen.panel.batch.runner.busy
    assert "ended" not in ui.statusLabel.text
    wait(lambda: "refining" in ui.batchLabel.text)
    folder.go_on.set()
    wait(lambda: not chosen.panel.batch.runner.busy)
    assert ui.batchLabel.text == "2 registrations, 1 failed."
    assert [line[0] for line in cells(ui.batchTable)] == ["one", "two"]
    assert chosen._parameterNode.batchTable is None
    assert (ui.batchButton.text, ui.pairsButton.enabled, ui.batchProgressBar.isHidden()) == ("Register cases", True, True)


def test_a_panel_that_goes_away_ends_a_folder_of_cases(chosen: Any, folder: Folder, wait: Callable[..., float]) -> None:
    chosen.ui.batchButton.click()
    wait(lambda: bool(folder.told))
    job = chosen.panel.batch.runner._job
    chosen.cleanup()
    assert not chosen.panel.batch.runner.busy
    assert job is not None and job.join(60)


def test_what_goes_wrong_with_a_folder_of_cases_is_said(
    chosen: Any, folder: Folder, wait: Callable[..., float], monkeypatch: pytest.MonkeyPatch
) -> None:
    from SphericalRegModule import batch_section

    def refuse(*_: Any, **__: Any) -> None:
        raise InputError("holds no case")

    monkeypatch.setattr(batch_section, "batch_of_folders", refuse)
    chosen.ui.batchButton.click()
    wait(lambda: not chosen.panel.batch.runner.busy)
    assert chosen.ui.errorLabel.text == "holds no case"
    assert chosen.ui.batchLabel.text == ""


@pytest.mark.parametrize(
    ("choice", "start"),
    [("ap", "ap"), (choices.ALL_VIEWS, None), (choices.ANGLES, Start("pa", 20.0, -10.0))],
)
def test_a_folder_of_cases_starts_as_one_case_does(chosen: Any, folder: Folder, wait: Callable[..., float], choice: str, start: Any) -> None:
    """What a case says goes before all named views, which nobody need have chosen; not before a view or angles."""
    p = chosen._parameterNode
    p.initial, p.primaryDeg, p.secondaryDeg, p.seed = choice, 20.0, -10.0, 5
    chosen.ui.batchButton.click()
    folder.go_on.set()
    wait(lambda: not chosen.panel.batch.runner.busy)
    assert folder.told == {"initial": start, "model": None, "device": "auto", "seed": 5, "options": chosen.logic.options}


def test_what_pairs_and_cases_cannot_start_from_is_refused_once(chosen: Any, folder: Folder, two_pairs: Any) -> None:
    """Not in every row."""
    ui = chosen.ui
    ui.placeButton.click()
    for button, words in ((ui.pairsButton, "Choose another start for the pairs"), (ui.batchButton, "Choose another start for the cases")):
        button.click()
        assert not chosen.panel.runner.busy and not chosen.panel.batch.runner.busy
        assert words in ui.errorLabel.text
    chosen._parameterNode.initial = "ap"
    chosen._parameterNode.model = choices.MODEL_FILE
    for button in (ui.pairsButton, ui.batchButton):
        button.click()
        assert not chosen.panel.runner.busy and not chosen.panel.batch.runner.busy
        assert ui.errorLabel.text == "Choose the model's file"
    assert cells(ui.batchTable) == [] and folder.told == {}


def test_a_folder_of_cases_that_is_cancelled_says_what_is_done(
    chosen: Any, folder: Folder, wait: Callable[..., float], tmp_path: Path
) -> None:
    chosen.ui.batchButton.click()
    wait(lambda: bool(folder.told))
    chosen.ui.batchButton.click()
    assert chosen.ui.batchButton.text == "Cancelling..."
    wait(lambda: not chosen.panel.batch.runner.busy)
    assert chosen.ui.batchLabel.text == f"Cancelled after 1 of 3 cases. Their results stay in {tmp_path / 'out'}; the next run goes on there."
    assert chosen.ui.batchButton.text == "Register cases"
