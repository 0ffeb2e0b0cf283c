"""Case folders and geometry files: what they hold, and every way in which they can be wrong."""

from __future__ import annotations

import builtins
import io
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.views import c_arm_view
from SphericalRegLib.imaging.case import check_start, find_case_files, load_case, overlap_problem, pose_to_start_from
from SphericalRegLib.imaging.geometry_file import parse_geometry, read_geometry, write_geometry
from SphericalRegLib.imaging.geometry_values import Sourced, told
from SphericalRegLib.imaging.radiograph import Radiograph
from SphericalRegLib.imaging.starts import Start
from SphericalRegLib.imaging.volume import Volume

CAMERA = Camera(1020.0, (1.5, 1.25), (40, 32), (18.0, 17.25))
ROTATION = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
POSE = np.block([[ROTATION, np.array([[1.0], [2.0], [700.0]])], [np.zeros((1, 3)), np.ones((1, 1))]])


def write_ct(path: Path) -> None:
    rng = np.random.default_rng(0)
    hu = rng.normal(40, 30, (12, 14, 16)).astype(np.float32)
    hu[3:9, 4:10, 5:11] += 600
    hu[:, :2] = hu[:, -2:] = -1000
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing((2.0, 2.0, 3.0))
    sitk.WriteImage(image, str(path))


def write_xray(path: Path, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1000, 60000, (32, 40)).astype(np.uint16)
    sitk.WriteImage(sitk.GetImageFromArray(counts), str(path))
    return counts


@pytest.fixture
def case(tmp_path) -> Path:
    folder = tmp_path / "case"
    folder.mkdir()
    write_ct(folder / "ct.nii.gz")
    write_xray(folder / "xray.png")
    write_geometry(folder / "geometry.json", CAMERA, initial_camera_from_world=POSE, notes={"note": "made by a test"})
    return folder


def edit(path: Path, **changes) -> None:
    content = json.loads(path.read_text())
    for key, value in changes.items():
        if value is ...:
            del content[key]
        else:
            content[key] = value
    path.write_text(json.dumps(content))


def test_case_folder_is_read(case):
    loaded = load_case(case)
    assert loaded.volume.hu.shape == (16, 14, 12)
    assert loaded.name == "case" and len(loaded.views) == 1
    assert loaded.views[0].radiograph.camera == CAMERA and loaded.views[0].radiograph.intensity == "counts"
    np.testing.assert_array_equal(loaded.views[0].camera_from_camera1, np.eye(4))
    np.testing.assert_allclose(loaded.initial_camera_from_world, POSE, atol=1e-12)


def test_a_case_is_named_after_its_folder(case, monkeypatch):
    (case / "below").mkdir()
    for start, path in ((case, "."), (case / "below", ".."), (case.parent, "case")):
        monkeypatch.chdir(start)
        assert load_case(path).name == "case"


def test_what_is_said_wins_over_the_geometry_file(case):
    stored = sitk.GetArrayFromImage(sitk.ReadImage(str(case / "xray.png")))
    sitk.WriteImage(sitk.GetImageFromArray(np.stack([stored, stored[::-1]])), str(case / "xray.nrrd"))
    (case / "xray.png").unlink()
    edit(case / "geometry.json", frame=0, mirrored=True)
    plain, other = (load_case(case, said).views[0].radiograph for said in (told(), told(mirrored=False, frame=1, origin="me")))
    assert plain.mirrored and not other.mirrored and plain.camera == CAMERA.flip_columns() and other.camera == CAMERA
    np.testing.assert_array_equal(other.image, plain.image[::-1, ::-1])
    assert other.known.mirrored == Sourced(False, "me") and other.known.frame == Sourced(1, "me")


def test_suffixes_may_be_written_in_capitals(case):
    (case / "xray.png").rename(case / "xray.PNG")
    (case / "ct.nii.gz").rename(case / "ct.NII.GZ")
    assert load_case(case).views[0].radiograph.name == "xray.PNG"
    write_xray(case / "xray.tif")
    with pytest.raises(InputError, match=r"several files for xray: xray\.PNG, xray\.tif"):
        load_case(case)


def test_a_long_ct_may_be_empty_where_it_reaches_behind_the_source(case):
    """A patient in the middle of 1.9 m of table: from cranial 45 degrees the empty end of the grid lies behind the source."""
    image = sitk.ReadImage(str(case / "ct.nii.gz"))
    image = sitk.ConstantPad(image, (0, 0, 310), (0, 0, 310), -1000.0)
    sitk.WriteImage(image, str(case / "ct.nii.gz"))
    volume = Volume.read(case / "ct.nii.gz")
    pose = c_arm_view(0, 45, CAMERA, volume.centre_ras_mm.tolist(), 0.6).numpy()
    assert (volume.box_corners_ras() @ pose[2, :3] + pose[2, 3]).min() < 0
    edit(case / "geometry.json", initial_camera_from_world=pose.tolist())
    assert pose_to_start_from(None, load_case(case)) == pytest.approx(pose)


def test_a_long_ct_may_reach_behind_the_source():
    """As a registration takes it (`registration.region`): a body of 1.9 m from cranial 45 degrees. It is refused where none of it can be seen."""
    volume = Volume(np.full((6, 6, 36), 40.0, np.float32), np.diag([53.0, 53.0, 53.0, 1.0]))
    pose = c_arm_view(0, 45, CAMERA, volume.centre_ras_mm.tolist(), 0.6).numpy()
    assert (volume.box_corners_ras() @ pose[2, :3] + pose[2, 3]).min() < 0
    assert overlap_problem(CAMERA, pose, volume) is None
    away = pose.copy()
    away[0, 3] += 3000.0
    assert "beside the X-ray: is the matrix the inverse" in str(overlap_problem(CAMERA, away, volume))


def test_the_inverse_of_a_view_is_told():
    """Of a CT about the world's origin, whatever the view: the source ends up beside it, and some of the CT behind the source."""
    affine = np.diag([53.0, 53.0, 53.0, 1.0])
    affine[:3, 3] = -120.0, -140.0, -130.0
    volume = Volume(np.full((6, 6, 6), 40.0, np.float32), affine)
    for primary in range(-180, 180, 30):
        for secondary in (-40, 0, 25):
            pose = c_arm_view(primary, secondary, CAMERA, volume.centre_ras_mm.tolist()).numpy()
            assert overlap_problem(CAMERA, pose, volume) is None
            assert overlap_problem(CAMERA, np.linalg.inv(pose), volume) is not None


def test_an_unusable_start_of_the_case_counts_only_where_it_is_used(case):
    edit(case / "geometry.json", initial_camera_from_world=_shift(0, 0, -500).tolist())
    loaded = load_case(case)
    with pytest.raises(InputError, match=f"case {case}: at the initial pose .*geometry.json.* lies behind the X-ray source.*inverse"):
        pose_to_start_from(None, loaded)
    assert pose_to_start_from("ap", loaded) == "ap" and pose_to_start_from(POSE, loaded) is POSE
    assert pose_to_start_from("regressor", loaded) is None and pose_to_start_from("views", loaded) is None
    view = c_arm_view(20, -10, CAMERA, loaded.volume.centre_ras_mm.tolist()).numpy()
    np.testing.assert_allclose(pose_to_start_from(Start("pa", 20, -10), loaded), view, atol=1e-9)


class Network:
    """A model; its regressor may be missing."""

    def __init__(self, regressor=None):
        self.regressor = regressor


@pytest.mark.parametrize("start", [None, "ap", "views", POSE, POSE.tolist(), Start("pa", 20, -10)])
def test_what_a_registration_can_start_from(start):
    check_start(start, None)


@pytest.mark.parametrize(
    ("start", "model", "message"),
    [
        ("scene", None, "'scene'; expected one of ap, pa, left, right, regressor, views"),
        ("regressor", None, "there is no model"),
        ("regressor", Network(), "the model has none"),
        (np.eye(3), None, "initial pose has shape"),
        (np.diag([2.0, 1, 1, 1]), None, "not rigid"),
        ({"camera_from_world": POSE}, None, "not a matrix"),
    ],
)
def test_what_no_registration_can_start_from(start, model, message):
    with pytest.raises(InputError, match=message):
        check_start(start, model)
    check_start("regressor", Network(object()))


def test_truth_is_never_opened(case, monkeypatch):
    (case / "truth.json").write_text("this is not even JSON")
    opened: list[str] = []

    def spy(function):
        def watched(file, *args, **kwargs):
            opened.append(Path(str(file)).name)
            return function(file, *args, **kwargs)

        return watched

    monkeypatch.setattr(builtins, "open", spy(builtins.open))
    monkeypatch.setattr(io, "open", spy(io.open))
    load_case(case)
    assert "geometry.json" in opened  # the spy sees what is read
    assert "truth.json" not in opened


def test_two_views_share_a_ct_through_case_json(case, tmp_path):
    write_xray(case / "xray_2.png", seed=1)
    write_geometry(case / "geometry_2.json", CAMERA, camera_from_camera1=POSE, view=2)
    (case / "ct.nii.gz").rename(tmp_path / "shared.nii.gz")
    (case / "case.json").write_text(json.dumps({"ct": "../shared.nii.gz", "note": "unknown keys are notes"}))
    mask = np.ones((32, 40), np.uint8)
    mask[:4] = 0
    sitk.WriteImage(sitk.GetImageFromArray(mask), str(case / "mask_2.png"))
    loaded = load_case(case)
    assert len(loaded.views) == 2
    np.testing.assert_allclose(loaded.views[1].camera_from_camera1, POSE, atol=1e-12)
    assert not loaded.views[1].radiograph.mask[:4].any() and loaded.views[0].radiograph.mask.all()


def test_geometry_file_round_trip(tmp_path):
    path = tmp_path / "geometry.json"
    write_geometry(path, CAMERA, intensity="display", inverted=True, mirrored=True, initial_camera_from_world=POSE, notes={"note": "kept"})
    values = read_geometry(path)
    assert values.sdd_mm.value == CAMERA.sdd_mm and "geometry.json" in values.sdd_mm.origin
    assert values.pixel_spacing_mm.value == CAMERA.pixel_spacing_mm and values.principal_point_px.value == CAMERA.principal_point_px
    assert (values.intensity.value, values.inverted.value, values.mirrored.value) == ("display", True, True)
    np.testing.assert_allclose(values.initial_camera_from_world.value, POSE, atol=1e-12)
    assert json.loads(path.read_text())["note"] == "kept"
    assert [p.name for p in tmp_path.iterdir()] == ["geometry.json"]  # no temporary file is left


def test_refused_geometry_leaves_the_old_file(tmp_path):
    path = tmp_path / "geometry.json"
    write_geometry(path, CAMERA)
    before = path.read_bytes()
    with pytest.raises(InputError, match="not rigid"):
        write_geometry(path, CAMERA, initial_camera_from_world=np.diag([2.0, 2, 2, 1]))
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_size_and_principal_point_may_be_left_to_the_image(case):
    edit(case / "geometry.json", size_px=..., principal_point_px=...)
    camera = load_case(case).views[0].radiograph.camera
    assert camera.size_px == (40, 32) and camera.principal_point_px == (19.5, 15.5)


def test_rounded_rotation_is_accepted_and_made_exact():
    exact = parse_geometry({"initial_camera_from_world": np.round(POSE, 4).tolist()}).initial_camera_from_world.value
    np.testing.assert_allclose(exact[:3, :3].T @ exact[:3, :3], np.eye(3), atol=1e-14)
    np.testing.assert_allclose(exact, POSE, atol=2e-4)


BAD_GEOMETRY = {
    "sdd missing": ({"sdd_mm": ...}, "source-to-detector distance is not known"),
    "spacing missing": ({"pixel_spacing_mm": ...}, "pixel spacing is not known"),
    "sdd as text": ({"sdd_mm": "1020"}, "sdd_mm is '1020', expected a number"),
    "sdd as boolean": ({"sdd_mm": True}, "sdd_mm is True, expected a number"),
    "sdd zero": ({"sdd_mm": 0.0}, "sdd_mm is 0, expected a length in mm above zero"),
    "sdd NaN": ({"sdd_mm": float("nan")}, "sdd_mm is nan, expected a finite number"),
    "sdd in metres": ({"sdd_mm": 1.02}, "geometry.json: sdd_mm is 1.02, expected 100 to 5000 mm: is it given in another unit"),
    "sdd in micrometres": ({"sdd_mm": 1.02e6}, "sdd_mm is 1.02e.06, expected 100 to 5000 mm"),
    "sod in metres": ({"sod_mm": 0.7}, "sod_mm is 0.7, expected 10 to 5000 mm"),
    "spacing in metres": ({"pixel_spacing_mm": [0.0003, 0.0003]}, r"pixel_spacing_mm\[0\] is 0.0003, expected 0.005 to 20 mm"),
    "spacing in micrometres": ({"pixel_spacing_mm": [0.3, 300]}, r"pixel_spacing_mm\[1\] is 300, expected 0.005 to 20 mm"),
    "mirrored misspelt": ({"miror": True}, "geometry.json: unknown key 'miror', did you mean 'mirrored'"),
    "mirrored in capitals": ({"Mirrored": True}, "unknown key 'Mirrored', did you mean 'mirrored'"),
    "sdd without its unit": ({"sdd": 1000}, "unknown key 'sdd', did you mean 'sdd_mm'"),
    "inverse relation": ({"camera1_from_camera2": POSE.tolist()}, "did you mean 'camera2_from_camera1'"),
    "spacing zero": ({"pixel_spacing_mm": [0.0, 0.2]}, r"pixel_spacing_mm\[0\] is 0"),
    "spacing one number": ({"pixel_spacing_mm": 0.2}, r"pixel_spacing_mm is 0.2, expected two numbers"),
    "spacing three numbers": ({"pixel_spacing_mm": [1, 1, 1]}, "pixel_spacing_mm is .* expected two numbers"),
    "size of another image": ({"size_px": [32, 40]}, r"has 40 x 32 pixels .* says 32 x 40"),
    "size fraction": ({"size_px": [40.5, 32]}, r"size_px\[0\] is 40.5, expected a whole number"),
    "principal point text": ({"principal_point_px": ["a", 1]}, r"principal_point_px\[0\] is 'a'"),
    "unknown intensity": ({"intensity": "photons"}, "intensity is 'photons', expected one of counts"),
    "inverted as text": ({"inverted": "yes"}, "inverted is 'yes', expected true or false"),
    "mirrored as number": ({"mirrored": 1}, "mirrored is 1, expected true or false"),
    "pose 3 x 4": ({"initial_camera_from_world": POSE[:3].tolist()}, r"initial_camera_from_world has shape \(3, 4\)"),
    "pose ragged": ({"initial_camera_from_world": [[1, 2], [3]]}, "initial_camera_from_world is not a matrix"),
    "pose scaled": ({"initial_camera_from_world": np.diag([2.0, 2, 2, 1]).tolist()}, "initial_camera_from_world is not rigid"),
    "pose mirrored": ({"initial_camera_from_world": np.diag([-1.0, 1, 1, 1]).tolist()}, "initial_camera_from_world is a reflection"),
    "pose transposed": ({"initial_camera_from_world": POSE.T.tolist()}, "is it transposed"),
    "pose NaN": ({"initial_camera_from_world": np.full((4, 4), np.nan).tolist()}, "not finite"),
}


@pytest.mark.parametrize("kind", BAD_GEOMETRY)
def test_bad_geometry_names_file_and_key(case, kind):
    changes, message = BAD_GEOMETRY[kind]
    edit(case / "geometry.json", **changes)
    (case / "ct.nii.gz").write_bytes(b"never read: the geometry is checked first")
    with pytest.raises(InputError, match=message) as error:
        load_case(case)
    assert str(case) in str(error.value) and "\n" not in str(error.value)


def _remove(name):
    return lambda case: (case / name).unlink()


def _write(name, text):
    return lambda case: (case / name).write_text(text)


def _second_view(geometry: bool, relation=None):
    def change(case):
        write_xray(case / "xray_2.png")
        if geometry:
            write_geometry(case / "geometry_2.json", CAMERA, camera_from_camera1=relation, view=2)

    return change


def _start(matrix):
    return lambda case: edit(case / "geometry.json", initial_camera_from_world=matrix.tolist())


def _shift(x, y, z):
    matrix = np.eye(4)
    matrix[:3, 3] = x, y, z
    return matrix


BAD_CASES = {
    "start behind the source": (_start(_shift(0, 0, -500)), "lies behind the X-ray source.*inverse"),
    "start with the source in the CT": (_start(_shift(8, 12, -15)), "source stands in the CT.*inverse"),
    "start behind the detector": (_start(_shift(0, 0, 1500)), "lies behind the detector"),
    "X-ray misses the CT": (_start(_shift(400, 0, 700)), "projected beside the X-ray: the two do not overlap"),
    "frame as text": (lambda case: edit(case / "geometry.json", frame="first"), "frame is 'first', expected a number"),
    "frame out of range": (lambda case: edit(case / "geometry.json", frame=3), "has 1 frame, frame 3 was asked for"),
    "i0 negative": (lambda case: edit(case / "geometry.json", i0=-1), "i0 is -1, expected a number above zero"),
    "no CT": (_remove("ct.nii.gz"), "has no CT"),
    "no X-ray": (_remove("xray.png"), "has no X-ray"),
    "no geometry": (_remove("geometry.json"), "xray.png: .* give sdd_mm in geometry.json .*; .* give pixel_spacing_mm .* in geometry.json"),
    "two CTs": (lambda case: write_ct(case / "ct.nrrd"), "several files for ct: ct.nii.gz, ct.nrrd"),
    "two X-rays": (lambda case: write_xray(case / "xray.tif"), "several files for xray"),
    "geometry empty": (_write("geometry.json", ""), "geometry.json is empty"),
    "geometry not JSON": (_write("geometry.json", '{"sdd_mm": 1000,}'), "not valid JSON: .* line 1"),
    "geometry is a list": (_write("geometry.json", "[1, 2]"), "holds a JSON list, expected an object"),
    "geometry is binary": (lambda case: (case / "geometry.json").write_bytes(b"\xff\xfe\x00\x81"), "not a UTF-8 text file"),
    "case.json leads nowhere": (_write("case.json", '{"ct": "../nowhere.nii.gz"}'), "ct leads to .* does not exist"),
    "case.json misspelt": (_write("case.json", '{"x_ray": "xray.png"}'), "case.json: unknown key 'x_ray', did you mean 'xray'"),
    "case.json without underscore": (_write("case.json", '{"xray2": "xray.png"}'), "unknown key 'xray2', did you mean 'xray_2'"),
    "case.json in capitals": (_write("case.json", '{"CT": "ct.nii.gz"}'), "unknown key 'CT', did you mean 'ct'"),
    "case.json wrong type": (_write("case.json", '{"xray": 7}'), "xray is 7, expected a path as text"),
    "second view without geometry": (_second_view(False), "xray_2.png: camera2_from_camera1 is missing: give it in geometry_2.json"),
    "second view without relation": (_second_view(True), "camera2_from_camera1 is missing"),
    "second geometry without X-ray": (
        lambda case: write_geometry(case / "geometry_2.json", CAMERA, camera_from_camera1=POSE, view=2),
        "has geometry_2.json, but no xray_2",
    ),
    "second mask without X-ray": (lambda case: write_xray(case / "mask_2.png"), "has mask_2.png, but no xray_2"),
    "third X-ray without second": (lambda case: write_xray(case / "xray_3.png"), "has xray_3.png, but no xray_2"),
    "second geometry in case.json without X-ray": (
        _write("case.json", '{"geometry_2": "geometry.json"}'),
        "\"geometry_2\" in case.json, but no xray_2",
    ),
    "X-ray number one": (lambda case: write_xray(case / "xray_1.png"), "has xray_1.png, but no xray \\(the first X-ray has no number"),
    "mask of another size": (
        lambda case: sitk.WriteImage(sitk.GetImageFromArray(np.ones((9, 9), np.uint8)), str(case / "mask.png")),
        "mask.png has .* expected the X-ray's",
    ),
}


@pytest.mark.parametrize("kind", BAD_CASES)
def test_bad_case_is_named(case, kind):
    change, message = BAD_CASES[kind]
    change(case)
    with pytest.raises(InputError, match=message) as error:
        pose_to_start_from(None, load_case(case))
    assert str(case) in str(error.value) and "\n" not in str(error.value)


def test_other_keys_are_notes(case):
    notes = ["note", "name", "comment", "patient", "date", "source", "view", "camera", "device", "kv", "dose", "history", "anatomy", "side"]
    edit(case / "geometry.json", **dict.fromkeys(notes, 1), camera3_from_camera1=None)
    (case / "case.json").write_text(json.dumps(dict.fromkeys(notes, 1)))
    assert load_case(case).views[0].radiograph.camera == CAMERA


def test_a_camera_in_another_unit_is_named_with_its_origin(case):
    with pytest.raises(InputError, match=r"xray.png: sdd_mm is 1.02 \(user\), expected 100 to 5000 mm"):
        Radiograph.read(case / "xray.png", Camera(1.02, (0.0015, 0.00125), (40, 32), (18.0, 17.25)))
    with pytest.raises(InputError, match=r"pixel_spacing_mm is 0.0015, 0.00125 \(user\), expected 0.005 to 20 mm"):
        Radiograph.read(case / "xray.png", Camera(1020, (0.0015, 0.00125), (40, 32), (18.0, 17.25)))


def test_missing_folder_and_file_instead_of_folder(case):
    with pytest.raises(InputError, match="does not exist"):
        find_case_files(case / "nothing")
    with pytest.raises(InputError, match="is a file, expected a case folder"):
        find_case_files(case / "xray.png")


def test_parse_geometry_keeps_the_user_as_origin():
    assert parse_geometry({"sdd_mm": 1000}).sdd_mm.origin == "user"
