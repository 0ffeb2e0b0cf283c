"""README's tutorial, with files as a hospital gives them: a folder of CT slices, a fluoroscopy frame, and a value that its header lacks."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from SphericalRegLib.cli import load
from SphericalRegLib.evaluation.metrics import pose_errors
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.samples import sample_volume
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.simulation.cases import SimulationOptions, flat_panel, simulate_cases
from SphericalRegLib.simulation.difficulty import CLEAN


def write_dicom(path: Path, pixels: np.ndarray, kind: str, **tags: object) -> None:
    spec = importlib.util.spec_from_file_location("bad_dicom", Path(__file__).with_name("bad_dicom.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write_dicom(path, pixels, kind, **tags)


def run(*arguments: object) -> str:
    done = CliRunner().invoke(load(), [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray, Camera]:
    """A case folder of DICOM alone whose X-ray is stored mirrored and lacks its SID; the true pose, fiducials and the camera."""
    folder = tmp_path_factory.mktemp("hospital")
    volume = sample_volume("pelvis").resample(4.0)
    camera = flat_panel(160, 160)
    made = simulate_cases(volume, folder / "made", 1, SimulationOptions(level=CLEAN, camera=camera, mirrored=True, seed=2), device="cpu")[0]
    truth = json.loads((made / "truth.json").read_text(encoding="utf-8"))
    case = folder / "case"
    (case / "ct").mkdir(parents=True)
    place_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.world_from_voxel
    across, down = (place_lps[:3, axis] / np.linalg.norm(place_lps[:3, axis]) for axis in (0, 1))
    spacing = volume.spacing_mm
    for k in range(volume.shape[2]):
        write_dicom(
            case / "ct" / f"slice{k:03d}.dcm",
            np.round(volume.hu[:, :, k].T).clip(-1024, 3071),
            "CT",
            SeriesInstanceUID="1.2.826.0.1.1",
            StudyInstanceUID="1.2.826.0.1",
            InstanceNumber=k + 1,
            ImagePositionPatient=(place_lps @ [0, 0, k, 1])[:3].round(6).tolist(),
            ImageOrientationPatient=[*across.round(6), *down.round(6)],
            PixelSpacing=[float(spacing[1]), float(spacing[0])],
            RescaleSlope=1,
            RescaleIntercept=0,
        )
    pixels = np.asarray(Image.open(made / "xray.png"))
    write_dicom(case / "xray.dcm", pixels, "XA", ImagerPixelSpacing=[camera.pixel_spacing_mm[1], camera.pixel_spacing_mm[0]])
    return case, np.array(truth["camera_from_world"]), np.array(truth["fiducials_ras_mm"]), camera


def test_the_series_is_the_ct(hospital: tuple[Path, np.ndarray, np.ndarray, Camera]) -> None:
    read, original = Volume.read(hospital[0] / "ct"), sample_volume("pelvis").resample(4.0)
    np.testing.assert_allclose(read.centre_ras_mm, original.centre_ras_mm, atol=1e-3)


def test_the_tutorial(hospital: tuple[Path, np.ndarray, np.ndarray, Camera], tmp_path: Path) -> None:
    case, truth, fiducials, camera = hospital
    refused = CliRunner().invoke(load(), ["register", str(case), "-o", str(tmp_path / "out")])
    assert refused.exit_code == 2
    assert "sdd_mm" in refused.stderr
    assert "sdd_mm" in run("inspect", case / "xray.dcm")  # says what is missing

    (case / "geometry.json").write_text(json.dumps({"sdd_mm": camera.sdd_mm, "intensity": "counts", "mirrored": True}), encoding="utf-8")
    printed = json.loads(run("inspect", case, "--picture", tmp_path / "setup.png", "--json"))
    origins = {name: entry.get("origin", "") for section in printed["sections"] for name, entry in section["entries"].items()}
    assert any("geometry.json" in origin for name, origin in origins.items() if name.startswith("source to detector"))
    assert any("0018,1164" in origin for name, origin in origins.items() if name.startswith("pixel spacing"))
    assert (tmp_path / "setup.png").stat().st_size > 0

    run("register", case, "-o", tmp_path / "out", "--initial", "ap", "--device", "cpu", "-q")
    pose = np.array(json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))["camera_from_world"])
    assert pose_errors(truth, pose, fiducials, camera, sample_volume("pelvis").centre_ras_mm).mtre_3d < 2.0
