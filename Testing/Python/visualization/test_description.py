"""What `inspect` says about files and cases."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import SimpleITK as sitk
from rich.console import Console

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.views import named_view
from SphericalRegLib.imaging.geometry_file import write_geometry
from SphericalRegLib.imaging.geometry_values import told
from SphericalRegLib.imaging.transforms import write_transform
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.registration.result import RegistrationResult, StageRecord
from SphericalRegLib.visualization.description import describe, describe_volume

CAMERA = Camera(1000.0, (2.0, 2.5), (96, 80), (40.0, 39.5))
AFFINE = np.diag([-3.0, 3.0, 4.0, 1.0])  # left-handed: first axis to the left
AFFINE[:3, 3] = 10, -20, 30


def volume() -> Volume:
    hu = np.full((20, 24, 16), -1000, np.float32)
    hu[5:15, 6:18, 4:12] = 40
    hu[8:12, 10:14, 4:12] = 800
    hu[0, 0] = -2048
    return Volume.from_array(hu, AFFINE, name="ct.nrrd")


@pytest.fixture
def case(tmp_path):
    folder = tmp_path / "case"
    folder.mkdir()
    sitk.WriteImage(volume().to_sitk(), str(folder / "ct.nrrd"))
    y, x = np.mgrid[:80, :96]
    grey = np.round(200 * np.exp(-2 * np.clip(1 - ((x - 50) / 40) ** 2 - ((y - 40) / 35) ** 2, 0, None)) + 20).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(grey), str(folder / "xray.png"))
    pose = named_view("ap", CAMERA, volume().centre_ras_mm.tolist()).numpy()
    write_geometry(folder / "geometry.json", CAMERA, intensity="display", initial_camera_from_world=pose)
    return folder


def entries(description) -> dict:
    return {s["title"]: {name: e["value"] for name, e in s["entries"].items()} for s in description.to_dict()["sections"]}


def edit(path, **changes):
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))


def test_ct_is_described():
    section = describe_volume(volume())
    found = {entry.name: entry.value for entry in section.entries}
    assert found["size [voxels]"] == [20, 24, 16] and found["spacing [mm]"] == [3, 3, 4]
    assert found["voxel axes run to"] == "LAH" and found["handedness"] is False
    assert found["padding"] == pytest.approx(16 / (20 * 24 * 16))
    first, last = found["body's box, RAS [mm]"]
    assert first == pytest.approx([10 - 3 * 14, -20 + 3 * 6, 30 + 4 * 4]) and last == pytest.approx([10 - 3 * 5, -20 + 3 * 17, 30 + 4 * 11])


def test_oblique_and_air_only():
    angle = np.radians(20)
    turned = AFFINE.copy()
    turned[:3, :3] = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]) @ AFFINE[:3, :3]
    text = {e.name: e.text for e in describe_volume(Volume(volume().hu, turned)).entries}
    assert "oblique by up to 20.0 degrees" in text["voxel axes run to"]
    air = describe_volume(Volume(np.full((5, 5, 5), -990, np.float32), np.eye(4)))
    assert any("no body" in note for note in air.notes)


def test_case_is_described_with_origins_and_sides(case):
    description = describe(case)
    found = entries(description)
    assert found["Geometry"]["source to detector [mm]"] == 1000.0
    assert found["X-ray"]["size [pixels]"] == [96, 80] and found["X-ray"]["frames"] == 1
    sides = found["Which side is which"]["stored image"]
    assert sides == {"left": "R", "right": "L", "top": "H", "bottom": "F"}  # an AP view from the source: the patient's left on the right
    text = description.to_text()
    assert "<- geometry.json: sdd_mm" in text and "its right is the patient's left" in text and "try both" in text
    assert "world" in text and "camera_from_world" in text
    json.dumps(description.to_dict(), allow_nan=False)


def test_mirrored_image_swaps_the_sides_of_the_stored_image(case):
    edit(case / "geometry.json", mirrored=True)
    description = describe(case)
    assert entries(description)["Which side is which"]["stored image"]["left"] == "L"
    assert '"mirrored": false' in description.to_text()
    other = describe(case, told(mirrored=False, origin="command line"))  # wins over the file
    assert entries(other)["Which side is which"]["stored image"]["left"] == "R" and "no   <- command line" in other.to_text()


def test_no_start_describes_both_frontal_views(case):
    edit(case / "geometry.json", initial_camera_from_world=None)
    sides = entries(describe(case))["Which side is which"]
    assert sides["stored image, if the view is ap"]["right"] == "L" and sides["stored image, if the view is pa"]["right"] == "R"


def test_missing_value_is_a_note_not_an_error(case):
    description = describe(case / "xray.png")
    assert "source-to-detector distance is not known" in description.to_text(400)
    assert entries(description)["Geometry"]["intensity"] == "display"


def test_a_case_without_geometry_is_described_and_what_is_missing_named(case):
    (case / "geometry.json").unlink()
    found, text = entries(describe(case)), describe(case).to_text(400)
    assert found["CT"]["file"] == "ct.nrrd" and found["X-ray"]["size [pixels]"] == [96, 80]
    assert "give sdd_mm in geometry.json" in text and "give pixel_spacing_mm [column, row] in geometry.json" in text


def test_unusual_and_misplaced_geometry_is_questioned(case):
    edit(case / "geometry.json", sdd_mm=250.0, pixel_spacing_mm=[0.01, 0.01], principal_point_px=[500, 40])
    text = describe(case).to_text(400)
    assert "250 mm is unusual: is it in mm?" in text and "detector of 1 mm is unusual" in text and "outside the image, at (500, 40)" in text


def test_start_that_misses_the_ct_is_noted(case):
    pose = np.eye(4)
    pose[2, 3] = -900
    edit(case / "geometry.json", initial_camera_from_world=pose.tolist())
    assert "behind the X-ray source" in describe(case).to_text(400)


def test_grey_image_in_colour_channels_is_told(case):
    grey = sitk.GetArrayFromImage(sitk.ReadImage(str(case / "xray.png")))
    assert "read as grey" not in describe(case).to_text(400)
    sitk.WriteImage(sitk.GetImageFromArray(np.stack([grey] * 3, -1), isVector=True), str(case / "xray.png"))
    assert "stored in 3 channels that hold one grey image: read as grey" in describe(case).to_text(400)


def test_frames_collimator_and_saturation_are_told(tmp_path):
    y, x = np.mgrid[:120, :160]
    frame = np.where((x - 80) ** 2 + (y - 60) ** 2 < 50**2, 255 - 100 * (abs(x - 80) < 12), 2).astype(np.uint8)
    path = tmp_path / "cine.nrrd"
    sitk.WriteImage(sitk.GetImageFromArray(np.stack([frame, frame])), str(path))
    description = describe(path)
    found = entries(description)["X-ray"]
    assert found["frames"] == 2 and found["collimator"].startswith("circle")
    text = description.to_text(400)
    assert '"frame" in geometry.json (0 to 1)' in text and "saturated" in text
    assert "the first is described" not in describe(path, told(frame=1)).to_text(400)


def test_single_files(case, tmp_path):
    assert entries(describe(case / "ct.nrrd"))["CT"]["size [voxels]"] == [20, 24, 16]
    assert entries(describe(case / "geometry.json"))["Geometry"]["source to detector [mm]"] == 1000
    pose = named_view("left", CAMERA, [0, 0, 0]).numpy()
    write_transform(tmp_path / "pose.tfm", pose)
    assert "Pose" in entries(describe(tmp_path / "pose.tfm"))


def result(pose, **changes) -> RegistrationResult:
    known = {"covariance": 1e-4 * np.eye(6), "centre_ras_mm": np.zeros(3), "score": 0.42, "hypotheses": (), "initial_camera_from_world": pose}
    search = StageRecord("search", "patch_gradient_ncc", ((64, 64),), 400, 0, 0.5, 0.3)
    stages = (search, StageRecord("refine 80 px", "patch_gradient_ncc", ((80, 80),), 6, 9, 1.25, 0.4))
    given = {"camera_from_world": pose, "stages": stages, "world_from_camera_reference": np.linalg.inv(pose), "seconds": 2.5}
    return RegistrationResult(**{**known, **given, **changes})


def test_a_result_says_how_far_to_trust_it_first(tmp_path):
    pose = named_view("left", CAMERA, [0, 0, 0]).numpy()
    notes = ("The result is doubtful.",)
    made = result(pose, doubt="its similarity is low", model={"file": "patient.safetensors", "sha256": "x"}, notes=notes, options={"labels": [3]})
    (tmp_path / "result.json").write_text(json.dumps(made.to_dict()))
    description = describe(tmp_path / "result.json")
    (tmp_path / "xray.nrrd").touch()  # a case has one, too
    assert describe(tmp_path).to_dict() == description.to_dict()
    found = entries(description)
    assert list(found) == ["Registration", "Pose"] and next(iter(found["Registration"])) == "doubt"
    assert found["Registration"]["doubt"] == "its similarity is low" and found["Registration"]["score"] == 0.42
    np.testing.assert_allclose(found["Pose"]["camera_from_world"], pose)
    text = description.to_text(400)
    for said in ("patient.safetensors", "labels 3 of the CT", "search 0.50 s, refine 80 px 1.25 s", "2.50", "! The result is doubtful."):
        assert said in text
    json.dumps(description.to_dict(), allow_nan=False)
    (tmp_path / "result.json").write_text(json.dumps({key: value for key, value in made.to_dict().items() if key != "score"}))
    with pytest.raises(InputError, match="score"):
        describe(tmp_path / "result.json")
    (tmp_path / "pose.json").write_text(json.dumps({"camera_from_world": pose.tolist()}))
    assert list(entries(describe(tmp_path / "pose.json"))) == ["Pose"]


def test_where_the_ct_is_placed_is_not_described_as_a_pose(tmp_path):
    pose, placed = named_view("left", CAMERA, [0, 0, 0]).numpy(), np.eye(4)
    placed[:3, 3] = 5, 6, 7
    write_transform(tmp_path / "ct_to_xray.tfm", placed)
    description = describe(tmp_path / "ct_to_xray.tfm")
    assert list(entries(description)) == ["CT to X-ray"]
    np.testing.assert_allclose(entries(description)["CT to X-ray"]["CT node's transform to its parent, RAS"], placed)
    assert "camera_from_world, is in" in description.to_text(400) and "result.json" in description.to_text(400)
    write_transform(tmp_path / "other.tfm", pose)
    assert list(entries(describe(tmp_path / "other.tfm"))) == ["Pose"]


def test_rich_rendering_shows_every_entry(case):
    description = describe(case)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(description)
    shown = console.export_text()
    assert all(entry.name in shown for section in description.sections for entry in section.entries)


@pytest.mark.parametrize("name,message", [("nothing", "does not exist"), ("empty.png", "empty"), ("text.xyz", "suffix")])
def test_what_cannot_be_described_is_named(tmp_path, name, message):
    if name == "empty.png":
        (tmp_path / name).write_bytes(b"")
    if name == "text.xyz":
        (tmp_path / name).write_text("hello")
    with pytest.raises(InputError, match=message):
        describe(tmp_path / name)
