"""The folder of a result: all of it or nothing, and its transform and images where Slicer will put them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.se3 import retract
from SphericalRegLib.geometry.views import named_view
from SphericalRegLib.imaging.attenuation import Attenuation
from SphericalRegLib.imaging.case import View
from SphericalRegLib.imaging.radiograph import Radiograph
from SphericalRegLib.imaging.transforms import read_transform
from SphericalRegLib.registration.resolution import VolumePyramid
from SphericalRegLib.registration.result import Hypothesis, RegistrationResult, StageRecord
from SphericalRegLib.visualization import output
from SphericalRegLib.visualization.result_folder import RESULT_FILES, forget_results, whole_or_nothing

CAMERA = Camera(900.0, (5.0, 4.0), (48, 60), (20.0, 33.5))
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def pyramid() -> VolumePyramid:
    mu = np.zeros((20, 24, 28), np.float32)
    mu[6:14, 8:16, 10:18] = 0.03
    mu[8:10, 9:11, 12:14] = 0.06
    affine = np.diag([6.0, 5.0, 4.0, 1.0])
    affine[:3, 3] = (-40.0, 10.0, 70.0)
    return VolumePyramid(Attenuation(mu, affine))


def result(ct: VolumePyramid) -> RegistrationResult:
    start = named_view("ap", CAMERA, ct.centre)
    pose = retract(start, torch.tensor([0.1, -0.05, 0.2, 5.0, -7.0, 12.0], dtype=torch.float64), ct.centre).numpy()
    stage = StageRecord("refine 80 px", "ncc", ((48, 60),), 1, 2, 0.1, 0.9, (3.0, 2.0, 1.0), (start.numpy(), pose, pose))
    reference = np.linalg.inv(start.numpy())
    return RegistrationResult(
        pose, np.eye(6) * 1e-4, ct.centre.numpy(), 0.9, (Hypothesis(pose, 0.9),), (stage,), start.numpy(), reference, notes=("a note",)
    )


def views(ct: VolumePyramid, found: RegistrationResult, mirrored: bool = False) -> list[View]:
    relation = named_view("left", CAMERA, ct.centre).numpy() @ np.linalg.inv(named_view("ap", CAMERA, ct.centre).numpy())
    made = []
    for number, camera_from_camera1 in enumerate((np.eye(4), relation), start=1):
        pose = torch.from_numpy(camera_from_camera1 @ found.camera_from_world)[None]
        image = ct.projector(CAMERA, 0.0).project(pose)[0].numpy()
        made.append(View(Radiograph(image, np.ones(image.shape, bool), CAMERA, mirrored=mirrored, name=f"xray{number}.png"), camera_from_camera1))
    return made


def test_the_folder_is_complete_and_reads_back(tmp_path: Path) -> None:
    ct = pyramid()
    found = result(ct)
    output.write_result_folder(found, ct, views(ct, found), tmp_path / "deep" / "out", command="sphericalreg register <case>", inputs={"CT": "a box"})
    names = {path.name for path in (tmp_path / "deep" / "out").iterdir()}
    single = {"result.json", "ct_to_xray.tfm", "drr.nrrd", "xray.nrrd", "overlay.png", "difference.png", "convergence.png", "report.html"}
    assert names == single | {"drr_2.nrrd", "xray_2.nrrd", "overlay_2.png", "difference_2.png"}
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"out"}
    report = (tmp_path / "deep" / "out" / "report.html").read_text(encoding="utf-8")
    assert "&lt;case&gt;" in report
    assert "<case>" not in report
    assert all(RESULT_FILES.fullmatch(name) for name in names)
    (tmp_path / "deep" / "out" / "drr_mine.nrrd").write_text("mine", encoding="utf-8")
    single_view = views(ct, found)[:1]
    output.write_result_folder(found, ct, single_view, tmp_path / "deep" / "out")
    assert {path.name for path in (tmp_path / "deep" / "out").iterdir()} == single | {"drr_mine.nrrd"}, "nothing of the second view is left"
    forget_results(tmp_path / "deep" / "out")
    assert [path.name for path in (tmp_path / "deep" / "out").iterdir()] == ["drr_mine.nrrd"]


def test_the_transform_and_the_placed_images_show_the_registered_scene(tmp_path: Path) -> None:
    """A CT point, moved as Slicer moves it, must lie on the straight line from the source to the pixel of drr.nrrd that the pose projects it to."""
    ct = pyramid()
    found = result(ct)
    given = views(ct, found)
    output.write_result_folder(found, ct, given, tmp_path)
    scene_from_ct = read_transform(tmp_path / "ct_to_xray.tfm")
    np.testing.assert_allclose(scene_from_ct, found.world_from_camera_reference @ found.camera_from_world, atol=1e-9)
    point = np.array([10.0, 60.0, 120.0, 1.0])
    for number, view in enumerate(given, start=1):
        suffix = "" if number == 1 else "_2"
        camera_from_scene = view.camera_from_camera1 @ np.linalg.inv(found.world_from_camera_reference)
        source = np.linalg.inv(camera_from_scene)[:3, 3]
        in_camera = view.camera_from_camera1 @ found.camera_from_world @ point
        column, row = CAMERA.project(torch.from_numpy(in_camera[:3])).tolist()
        for name in ("drr", "xray"):
            image = sitk.ReadImage(str(tmp_path / f"{name}{suffix}.nrrd"))
            on_detector = LPS[:3, :3] @ np.array(image.TransformContinuousIndexToPhysicalPoint((column, row, 0.0)))
            moved = (scene_from_ct @ point)[:3]
            across = np.cross(moved - source, on_detector - source)
            assert np.linalg.norm(across) / np.linalg.norm(on_detector - source) < 1e-6
            assert np.isclose(np.linalg.det(np.reshape(image.GetDirection(), (3, 3))), 1.0)
            assert image.GetSize() == (48, 60, 1)
        np.testing.assert_allclose(sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / f"drr{suffix}.nrrd")))[0], view.radiograph.image, atol=1e-5)


def test_the_truth_changes_nothing_but_the_report(tmp_path: Path) -> None:
    ct = pyramid()
    found = result(ct)
    given = views(ct, found)
    output.write_result_folder(found, ct, given, tmp_path / "a")
    truth = output.ShownTruth(found.initial_camera_from_world, {"mtre_3d": 12.34})
    shown = output.write_result_folder(found, ct, given, tmp_path / "b", truth=truth)
    assert (tmp_path / "a" / "result.json").read_bytes() == (tmp_path / "b" / "result.json").read_bytes()
    assert "12.34" in (tmp_path / "b" / "report.html").read_text(encoding="utf-8")
    assert shown[0].truth_drr is not None
    np.testing.assert_array_equal(shown[0].truth_drr, shown[0].initial_drr)


def test_a_mirrored_xray_is_shown_as_it_was_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    real = output.overlay_figure
    monkeypatch.setattr(output, "overlay_figure", lambda row: drawn.append(row) or real(row))
    ct = pyramid()
    found = result(ct)
    given = views(ct, found, mirrored=True)[:1]
    output.write_result_folder(found, ct, given, tmp_path)
    np.testing.assert_array_equal(drawn[0].xray, given[0].radiograph.image[:, ::-1])
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "xray.nrrd")))[0]
    np.testing.assert_array_equal(stored, given[0].radiograph.image)  # the scene is what is seen from the source, never mirrored


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), whole_or_nothing(tmp_path / "new" / "out") as folder:
        (folder / "half").write_text("x", encoding="utf-8")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_what_goes_wrong_while_files_are_moved_is_what_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.replace

    def full(path: Path, target: Path) -> Path:
        if path.name == "b":
            raise OSError("no space left")
        return real(path, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space left"), whole_or_nothing(tmp_path / "new" / "out") as folder:
        for name in ("a", "b"):
            (folder / name).write_text("x", encoding="utf-8")


def test_an_interruption_keeps_the_earlier_result(tmp_path: Path) -> None:
    with whole_or_nothing(tmp_path / "out") as folder:
        (folder / "result.json").write_text("old", encoding="utf-8")
    with pytest.raises(KeyboardInterrupt), whole_or_nothing(tmp_path / "out") as folder:
        (folder / "result.json").write_text("new", encoding="utf-8")
        raise KeyboardInterrupt
    assert (tmp_path / "out" / "result.json").read_text(encoding="utf-8") == "old"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["result.json"]
    with whole_or_nothing(tmp_path / "out") as folder:
        (folder / "result.json").write_text("new", encoding="utf-8")
        assert [path.name for path in tmp_path.iterdir()] == ["out"], "a folder that is there is written to alone"
    assert (tmp_path / "out" / "result.json").read_text(encoding="utf-8") == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_case_is_no_folder_for_results(tmp_path: Path) -> None:
    (tmp_path / "xray.nrrd").write_text("raw", encoding="utf-8")
    (tmp_path / "geometry.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="is a case folder"), whole_or_nothing(tmp_path) as folder:
        (folder / "xray.nrrd").write_text("line integrals", encoding="utf-8")
    forget_results(tmp_path)
    assert (tmp_path / "xray.nrrd").read_text(encoding="utf-8") == "raw"


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x", encoding="utf-8")
    for out in (tmp_path / "out", tmp_path / "out" / "below"):
        with pytest.raises(InputError, match="out"), whole_or_nothing(out):
            pass
