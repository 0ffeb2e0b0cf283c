"""The snippets of docs/console.md, run one after the other as somebody would type them."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "console.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
LANDMARKS = np.array([[90, 20, 40], [-90, 20, 40], [60, 60, -30], [-60, 60, -30], [0, -50, 20]], np.float64)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """What the page calls /data: a case and the CT that it is of."""
    import SimpleITK as sitk
    from SphericalRegModule.sample_data import make_sample_case

    from SphericalRegLib.resources import resource_path

    case = make_sample_case(tmp_path / "cases")
    assert case.name == "case_000"
    shutil.copy(resource_path("SampleData/pelvis.nii.gz"), tmp_path / "pelvis.nii.gz")
    sitk.WriteImage(sitk.ReadImage(str(case / "xray.png")), str(tmp_path / "xray.nrrd"))  # slicer-core, unlike Slicer, reads no PNG
    return tmp_path


def landmarks(slicer: ModuleType, data: Path) -> dict[str, Any]:
    """Points of the CT, and where the X-ray shows them: clicked by somebody who knows the truth."""
    from SphericalRegLib.geometry.camera import Camera
    from SphericalRegLib.imaging.samples import sample_volume

    geometry = json.loads((data / "cases" / "case_000" / "geometry.json").read_text())
    pose = np.array(json.loads((data / "cases" / "case_000" / "truth.json").read_text())["camera_from_world"])
    points = sample_volume("pelvis").centre_ras_mm + LANDMARKS
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "landmarks")
    slicer.util.updateMarkupsControlPointsFromArray(node, points)
    return {"ctLandmarks": node, "pixels": Camera.from_dict(geometry).project(points @ pose[:3, :3].T + pose[:3, 3]).tolist()}


def run_of_frames(slicer: ModuleType, data: Path) -> Any:
    """Two frames in one volume, as a run is loaded from a file."""
    from SphericalRegLib.imaging.pixels import read_pixels
    from SphericalRegLib.mrml.voxels import set_voxels

    stored = read_pixels(data / "cases" / "case_000" / "xray.png")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "run")
    frame = stored.grey.astype(stored.value_type)
    set_voxels(node, np.stack((frame, np.roll(frame, 2, axis=1))), np.diag([-1.0, -1.0, 1.0, 1.0]))
    return node


def test_the_page_has_snippets_for_everything() -> None:
    code = "\n".join(SNIPPETS)
    for name in ("register", "registerRun", "registerBatch", "renderDRR", "placeXray", "trainModel"):
        assert f"logic.{name}(" in code
    assert "waitForCompletion=False" in code
    assert "runner.cancel()" in code


def test_the_snippets_run(slicer: ModuleType, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    from slicer_harness.modules import load_module
    from SphericalRegModule.job import Stopped

    from SphericalRegLib.models.checkpoint import load_model
    from SphericalRegLib.mrml.provenance import result_of
    from SphericalRegLib.registration.options import MultiStart, RegistrationOptions, Stage

    module = load_module(ROOT / "SphericalReg" / "SphericalReg.py")
    slicer.mrmlScene.Clear()
    search = MultiStart(poses=100, finalists=20, rotation_deg=8.0, translation_mm=30.0, image_px=40, finalist_px=64)
    options = RegistrationOptions(stages=(Stage(64, iterations=10, hypotheses=3),), multi_start=search, wide_start=search)
    real = module.SphericalRegLogic.__init__

    def quick(logic: Any) -> None:
        real(logic)
        logic.options = options

    monkeypatch.setattr(module.SphericalRegLogic, "__init__", quick)
    names: dict[str, Any] = {"__name__": "__console__", "slicer": slicer, **landmarks(slicer, data), "runNode": run_of_frames(slicer, data)}
    answers: list[Any] = []
    poses: list[np.ndarray] = []
    for number, snippet in enumerate(SNIPPETS):
        snippet = snippet.replace("minutes=20", "iterations=3, validations=1, imageSize=32, batch=2")
        exec(compile(snippet.replace("/data", data.as_posix()), f"docs/console.md, snippet {number + 1}", "exec"), names)
        if "def finished" in snippet:
            names["finished"] = answers.append
        deadline = time.monotonic() + 120
        while "logic" in names and names["logic"]._running:
            assert time.monotonic() < deadline
            slicer.app.processEvents()
            time.sleep(0.005)
        if "nodes" in names:
            poses.append(result_of(names["nodes"].transform).camera_from_world)
    assert answers == [Stopped(), Stopped()]
    said = capsys.readouterr().out
    assert "result: ResultNodes" in said
    assert "sdd_mm" in said
    assert "residual 0.0 pixels, 0.0 mm at the landmarks. \n" in said
    truth = np.array(json.loads((data / "cases" / "case_000" / "truth.json").read_text())["camera_from_world"])
    assert np.abs(poses[0][:3, :3] - truth[:3, :3]).max() < 0.02
    assert names["pose"].camera_from_world == pytest.approx(truth, abs=1e-6)
    assert [row["error"] for row in names["rows"]] == [None]
    assert (data / "results" / "case_000" / "result.json").is_file()
    assert "uncalibrated" in (data / "results" / "batch.csv").read_text(encoding="utf-8")
    assert "2 frames; shown now: " in said
    assert "the model's regressor proposed it" in said
    model = load_model(names["path"])
    assert model.card["training"]["poses"]["primary_deg"] == 30 and model.camera.sdd_mm == pytest.approx(1020)
    assert "--camera case" in model.card["command"]
    assert model.card["command"].startswith("sphericalreg train pelvis_CT.nrrd --out patient.safetensors")
    assert model.card["cts"][0]["name"] == "pelvis_CT.nrrd" and len(model.card["curve"]) == 1
    last = result_of(names["nodes"].transform)  # with that model
    assert last is not None and "regressor" in last.notes[0]
    assert last.model == model.identity and last.model["file"] == "patient.safetensors"
    assert (data / "ct_to_xray.tfm").is_file()
    slicer.mrmlScene.Clear()
