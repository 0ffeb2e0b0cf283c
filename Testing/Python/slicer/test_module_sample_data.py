"""The sample case, from Slicer's Sample Data module to a registration, without a network."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

# SLICER_PY is <Slicer>/Base/Python/slicer: then the genuine module may be at hand
SOURCE = Path(os.environ.get("SLICER_PY", "none/of/these/here")).resolve().parents[2]
GENUINE = SOURCE / "Modules" / "Scripted" / "SampleData" / "SampleData.py"


class SampleDataLogic:
    """Takes registrations as Slicer's does: the lists are of one length, and what reads the same is the same."""

    sources: list[dict[str, Any]]

    @staticmethod
    def registerCustomSampleDataSource(
        category: str,
        sampleName: str,
        uris: list[str],
        fileNames: list[str],
        nodeNames: list[str],
        customDownloader: Callable[[Any], Any] | None = None,
        thumbnailFileName: str | None = None,
    ) -> None:
        assert len(uris) == len(fileNames) == len(nodeNames)
        source = {"category": category, "sampleName": sampleName, "customDownloader": customDownloader, "thumbnailFileName": thumbnailFileName}
        if str(source) not in map(str, SampleDataLogic.sources):
            SampleDataLogic.sources.append(source)


@pytest.fixture
def sources(slicer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Any]]:
    """The registered sources, of the genuine Sample Data module where it is at hand."""
    if GENUINE.is_file():
        spec = importlib.util.spec_from_file_location("SampleData", GENUINE)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "SampleData", module)
        spec.loader.exec_module(module)
        monkeypatch.setattr(slicer.modules, "sampleDataSources", {}, raising=False)
        return lambda: [vars(source) for source in slicer.modules.sampleDataSources["SphericalReg"]]
    module = ModuleType("SampleData")
    module.SampleDataLogic = SampleDataLogic  # type: ignore[attr-defined]
    SampleDataLogic.sources = []
    monkeypatch.setitem(sys.modules, "SampleData", module)
    return lambda: SampleDataLogic.sources


def test_it_is_listed_once(sources: Callable[[], list[Any]]) -> None:
    from SphericalRegModule.sample_data import register_sample_data

    register_sample_data()
    register_sample_data()  # as after a reload
    (source,) = sources()
    assert source["sampleName"] == "SphericalRegPelvis"
    assert Path(source["thumbnailFileName"]).is_file()


def test_without_the_module_nothing_happens(slicer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from SphericalRegModule.sample_data import register_sample_data

    monkeypatch.setitem(sys.modules, "SampleData", None)
    register_sample_data()


def test_from_sample_data_to_a_registration(
    slicer: ModuleType, sources: Callable[[], list[Any]], widget: Any, wait: Callable[..., float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chosen in Sample Data, the case is loaded and shown; the panel finds CT, X-ray and geometry; one click registers."""
    import socket

    from SphericalRegModule import selftest
    from SphericalRegModule.sample_data import register_sample_data

    from SphericalRegLib.mrml.provenance import result_of

    def offline(*_: Any) -> None:
        raise AssertionError("no network")

    monkeypatch.setattr(socket.socket, "connect", offline)
    register_sample_data()
    (source,) = sources()
    ct, xray = source["customDownloader"](source)
    assert slicer.app.applicationLogic().GetSelectionNode().GetActiveVolumeID() == ct.GetID()
    assert ct.GetImageData().GetDimensions()[2] > 1
    assert xray.GetImageData().GetDimensions() == (256, 256, 1)
    widget.enter()
    ui = widget.ui
    assert ui.ctSelector.currentNode() is ct
    assert ui.xraySelector.currentNode() is xray
    assert ui.sddSpinBox.value > 900
    widget.logic.options = selftest._quick_options()
    ui.initialComboBox.setCurrentIndex(ui.initialComboBox.findText("ap"))
    ui.registerButton.click()
    wait(lambda: not widget.panel.runner.busy)
    assert ui.errorLabel.text == ""
    truth = json.loads((Path(slicer.app.temporaryPath) / "SphericalRegSample" / "case_000" / "truth.json").read_text())["camera_from_world"]
    found = result_of(ct.GetParentTransformNode())
    assert found is not None
    assert np.abs(found.camera_from_world[:3, :3] - np.array(truth)[:3, :3]).max() < 0.01


def test_a_case_of_another_version_is_made_anew(slicer: ModuleType) -> None:
    from SphericalRegModule.sample_data import load_sample_case

    load_sample_case()
    folder = Path(slicer.app.temporaryPath) / "SphericalRegSample"
    for path in folder.rglob("case.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "ct": "gone.nii.gz"}))
    ct, _ = load_sample_case()
    assert ct.GetImageData().GetDimensions()[2] > 1
    shutil.rmtree(folder)
    slicer.mrmlScene.Clear()
