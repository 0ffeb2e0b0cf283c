"""The panel's model: the one that comes along, a file, and one that is trained here, clicked through with a real training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from SphericalRegModule import choices

from SphericalRegLib.mrml.provenance import result_of


def choose(box: Any, text: str) -> None:
    assert box.findText(text) >= 0
    box.setCurrentIndex(box.findText(text))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this file's models go."""
    return tmp_path_factory.mktemp("models")


def test_with_the_shipped_model_no_initial_pose_is_needed(slicer: ModuleType, widget: Any, wait: Callable[..., float], tmp_path: Path) -> None:
    """The sample case as Sample Data loads it, and one click; the pose is that of the console with the same model."""
    from SphericalRegModule.sample_data import choose_in_panel, load_sample_case

    ui = widget.ui
    ct, xray = load_sample_case(tmp_path)
    choose_in_panel(ct, xray)
    assert (ui.ctSelector.currentNode(), ui.xraySelector.currentNode()) == (ct, xray)
    assert (ui.modelComboBox.currentText, ui.initialComboBox.currentText) == (choices.SHIPPED_MODEL, choices.ASK_MODEL)
    wait(lambda: not widget.panel.model.looker.busy)
    assert "A model of: pelvis." in ui.modelLabel.text and "It is a model of this CT." in ui.modelLabel.text
    ui.registerButton.click()
    wait(lambda: not widget.panel.runner.busy)
    assert ui.errorLabel.text == "", widget.panel._details
    found = result_of(widget._parameterNode.outputTransform)
    assert found is not None
    assert [stage.name for stage in found.stages][:2] == ["regressor", "spherical LM"]
    assert "regressor proposed it" in ui.verdictLabel.text

    nodes = widget.logic.register(ct, xray, model="shipped", initial="regressor")
    again = result_of(nodes.transform)
    assert again is not None
    assert again.camera_from_world == pytest.approx(found.camera_from_world, abs=1e-6)

    (row,) = widget.logic.registerBatch(tmp_path, tmp_path / "out", model="shipped", initial="regressor")  # as `sphericalreg batch --model`
    assert row["error"] is None
    assert np.array(row["camera_from_world"]) == pytest.approx(found.camera_from_world, abs=1e-6)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["options"]["model"]["file"] == "pelvis.safetensors"

    # the regressor's pose can be looked at, too
    choose(ui.initialComboBox, choices.ASK_MODEL)
    ui.placeButton.click()
    assert ui.errorLabel.text == ""
    assert ui.initialComboBox.currentText == choices.SCENE
    choose(ui.modelComboBox, choices.NO_MODEL)
    assert ui.modelLabel.text == ""


def test_a_model_of_another_ct_is_told_before_it_is_used(chosen: Any, wait: Callable[..., float], tmp_path: Path) -> None:
    ui = chosen.ui
    choose(ui.modelComboBox, choices.SHIPPED_MODEL)
    assert ui.initialComboBox.currentText == "ap"  # a start that was chosen stays
    wait(lambda: not chosen.panel.model.looker.busy)
    assert "not the one that the model was trained on" in ui.modelLabel.text
    choose(ui.initialComboBox, choices.ALL_VIEWS)
    assert ui.initialComboBox.currentText == choices.ASK_MODEL
    choose(ui.modelComboBox, choices.NO_MODEL)
    assert ui.initialComboBox.currentText == choices.ALL_VIEWS
    choose(ui.initialComboBox, choices.ASK_MODEL)
    assert not ui.registerButton.enabled and "Choose a model" in ui.registerButton.toolTip
    choose(ui.modelComboBox, choices.MODEL_FILE)
    assert "model's file" in ui.registerButton.toolTip
    ui.modelPathLineEdit.currentPath = str(tmp_path / "no.safetensors")
    assert chosen._parameterNode.modelPath == str(tmp_path / "no.safetensors")
    wait(lambda: not chosen.panel.model.looker.busy)
    assert "does not exist" in ui.modelLabel.text
    ui.registerButton.click()
    assert "does not exist" in ui.errorLabel.text


def test_train_cancel_resume_and_register_by_clicks(slicer: ModuleType, chosen: Any, wait: Callable[..., float], trained: Path) -> None:
    ui, section = chosen.ui, chosen.panel.model
    section.options = {"imageSize": 32, "batch": 2, "validations": 10}
    choose(ui.modelComboBox, choices.OWN_MODEL)
    assert not ui.trainButton.enabled and "where the model" in ui.trainButton.toolTip
    ui.trainPathLineEdit.currentPath = str(trained / "phantom")
    assert not ui.registerButton.enabled and "Train the model first" in ui.registerButton.toolTip
    ui.anatomyLineEdit.setText("phantom")
    ui.trainPrimarySpinBox.value = 15
    ui.trainMinutesSpinBox.value = 0.3
    assert ui.trainButton.text == "Train"
    ui.trainButton.click()
    assert ui.trainButton.text == "Cancel" and not ui.trainPathLineEdit.enabled
    assert ui.registerButton.text == "Register"  # the rest of the panel is free meanwhile
    wait(lambda: not section.trainer.busy or len(section._curve) >= 2)
    assert ui.errorLabel.text == "", chosen.panel._details
    assert "X-rays/s" in ui.trainLabel.text and "left" in ui.trainLabel.text
    assert 0 < ui.trainProgressBar.value < 100
    chart = slicer.app.layoutManager().plotWidget(0).mrmlPlotViewNode().GetPlotChartNode()
    assert chart.GetTitle() == "Validation: median error" and chart.GetNumberOfPlotSeriesNodes() == 2

    ui.trainButton.click()
    assert wait(lambda: not section.trainer.busy) < 5
    assert ui.trainButton.text.startswith("Resume (") and ui.trainAnewButton.enabled
    assert "Resume goes on" in ui.trainLabel.text

    section.options["minutes"] = section._curve[-1]["seconds"] / 60 + 0.05  # a few seconds more, of which the encoder has its part
    ui.trainButton.click()
    wait(lambda: not section.trainer.busy)
    assert ui.errorLabel.text == "", chosen.panel._details
    assert "Trained:" in ui.trainLabel.text
    assert sorted(path.name for path in trained.iterdir()) == ["phantom.json", "phantom.safetensors"]
    wait(lambda: not section.looker.busy)
    assert "A model of: phantom." in ui.modelLabel.text and "It is a model of this CT." in ui.modelLabel.text

    assert ui.registerButton.enabled
    choose(ui.initialComboBox, choices.ASK_MODEL)
    ui.registerButton.click()
    wait(lambda: not chosen.panel.runner.busy)
    assert ui.errorLabel.text == "", chosen.panel._details
    found = result_of(chosen._parameterNode.outputTransform)
    assert found is not None
    assert found.stages[0].name == "regressor"
    assert np.isfinite(found.score)


def test_a_path_is_typed_letter_by_letter_and_cleared(chosen: Any, tmp_path: Path) -> None:
    """The suffix may be left out; CTK's own signal tells of no path that lacks it, and of none that was cleared."""
    ui, p = chosen.ui, chosen._parameterNode
    for kind, edit, kept in ((choices.OWN_MODEL, ui.trainPathLineEdit, "trainPath"), (choices.MODEL_FILE, ui.modelPathLineEdit, "modelPath")):
        choose(ui.modelComboBox, kind)
        for length in range(1, 8):
            edit.comboBox().lineEdit().setText("/patient"[:length])
            chosen.panel.update()
            assert edit.currentPath == getattr(p, kept) == "/patient"[:length]
        assert ui.trainButton.enabled
        edit.comboBox().lineEdit().setText("")
        chosen.panel.update()
        assert (edit.currentPath, getattr(p, kept)) == ("", "")
        p.trainPath = str(tmp_path / "mine")


def test_an_unfinished_training_can_be_thrown_away(
    slicer: ModuleType, chosen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ui = chosen.ui
    state = tmp_path / "mine.state"
    state.write_text("no state")
    choose(ui.modelComboBox, choices.OWN_MODEL)
    ui.trainPathLineEdit.currentPath = str(tmp_path / "mine.safetensors")
    assert ui.trainButton.text == "Resume (0 % done)"
    answers = [False, True]
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, **_keywords: answers.pop(0))
    ui.trainAnewButton.click()
    assert state.exists()
    ui.trainAnewButton.click()
    assert not state.exists() and ui.trainButton.text == "Train" and not ui.trainAnewButton.enabled


def test_the_choice_is_saved_with_the_scene(slicer: ModuleType, chosen: Any, tmp_path: Path) -> None:
    choose(chosen.ui.modelComboBox, choices.OWN_MODEL)
    chosen.ui.trainPathLineEdit.currentPath = str(tmp_path / "mine.safetensors")
    path = str(tmp_path / "scene.mrb")
    slicer.util.saveScene(path)
    slicer.mrmlScene.Clear()
    chosen.enter()
    assert chosen.ui.modelComboBox.currentText == choices.NO_MODEL
    slicer.util.loadScene(path)
    chosen.enter()
    assert chosen.ui.modelComboBox.currentText == choices.OWN_MODEL
    assert chosen.ui.trainPathLineEdit.currentPath == str(tmp_path / "mine.safetensors")
