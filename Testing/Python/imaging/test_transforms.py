"""Transform files against SimpleITK's own TransformPoint, and against what is written in the conventions."""

import json

import numpy as np
import pytest
import SimpleITK as sitk

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.transforms import itk_from_ras, matrix_of, ras_from_itk, read_pose, read_transform, write_transform

LPS = np.array([-1.0, -1.0, 1.0])


def rigid(seed=0):
    rng = np.random.default_rng(seed)
    versor = sitk.VersorTransform()
    axis = rng.normal(size=3)
    versor.SetRotation((axis / np.linalg.norm(axis)).tolist(), float(rng.uniform(0.2, 2.5)))
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(versor.GetMatrix(), (3, 3))
    matrix[:3, 3] = rng.normal(scale=200, size=3)
    return matrix


def centred(transform):
    transform.SetCenter((12.0, -30.0, 55.0))
    return transform


def euler():
    transform = centred(sitk.Euler3DTransform())
    transform.SetRotation(0.3, -0.8, 1.4)
    transform.SetTranslation((10, -20, 30))
    return transform


def versor():
    transform = centred(sitk.VersorRigid3DTransform())
    transform.SetRotation((0.6, 0.0, 0.8), 2.0)
    transform.SetTranslation((-1, 2, 300))
    return transform


def affine():
    transform = centred(sitk.AffineTransform(3))
    transform.SetMatrix(rigid(3)[:3, :3].ravel().tolist())
    transform.SetTranslation((4, 5, 6))
    return transform


def translation():
    return sitk.TranslationTransform(3, (1.5, -2.5, 3.5))


def composite():
    return sitk.CompositeTransform([euler(), versor(), affine()])


@pytest.mark.parametrize("make", [euler, versor, affine, translation, composite])
@pytest.mark.parametrize("suffix", [".tfm", ".txt", ".h5"])
def test_every_rigid_itk_transform_is_read_as_the_inverse_of_its_point_map_in_ras(tmp_path, make, suffix):
    transform, path = make(), tmp_path / f"pose{suffix}"
    sitk.WriteTransform(transform, str(path))
    parent_from_node = read_pose(path)
    for point_in_parent_lps in np.random.default_rng(1).normal(scale=100, size=(5, 3)):
        point_in_node_lps = np.array(transform.TransformPoint(point_in_parent_lps.tolist()))
        mapped = parent_from_node[:3, :3] @ (point_in_node_lps * LPS) + parent_from_node[:3, 3]
        np.testing.assert_allclose(mapped, point_in_parent_lps * LPS, atol=1e-9)


@pytest.mark.parametrize("suffix", [".tfm", ".txt", ".h5"])
def test_what_is_written_is_read_back_by_us_and_means_the_inverse_in_lps_to_itk(tmp_path, suffix):
    parent_from_node = rigid(5)
    write_transform(tmp_path / f"t{suffix}", parent_from_node)
    np.testing.assert_allclose(read_pose(tmp_path / f"t{suffix}"), parent_from_node, atol=1e-9)
    transform = sitk.ReadTransform(str(tmp_path / f"t{suffix}"))
    point = np.array([30.0, -40.0, 70.0])
    moved = parent_from_node[:3, :3] @ point + parent_from_node[:3, 3]
    np.testing.assert_allclose(transform.TransformPoint((moved * LPS).tolist()), point * LPS, atol=1e-9)
    assert [entry.name for entry in tmp_path.iterdir()] == [f"t{suffix}"]


def test_translation_by_hand():
    """A node moved by +10 mm to the right (RAS +x): ITK keeps the way back, -10 mm right, which is +10 mm along L."""
    matrix = np.eye(4)
    matrix[0, 3] = 10.0
    assert itk_from_ras(matrix)[0, 3] == 10.0
    matrix[:3, 3] = 0, 0, 10.0
    assert itk_from_ras(matrix)[2, 3] == -10.0


def test_ras_and_itk_undo_each_other():
    np.testing.assert_allclose(itk_from_ras(ras_from_itk(rigid(7))), rigid(7), atol=1e-12)


def test_affine_transform_is_a_transform_but_no_pose(tmp_path):
    scaled = rigid(2) @ np.diag([1.0, 1.1, 1.0, 1.0])
    write_transform(tmp_path / "scaled.tfm", scaled)
    np.testing.assert_allclose(read_transform(tmp_path / "scaled.tfm"), scaled, atol=1e-9)
    with pytest.raises(InputError, match="not rigid"):
        read_pose(tmp_path / "scaled.tfm")


def test_json_pose_with_rounded_decimals_becomes_an_exact_rotation(tmp_path):
    pose = rigid(9)
    (tmp_path / "pose.json").write_text(json.dumps({"note": 1, "camera_from_world": np.round(pose, 4).tolist()}))
    read = read_pose(tmp_path / "pose.json")
    np.testing.assert_allclose(read, pose, atol=1e-4)
    np.testing.assert_allclose(read[:3, :3] @ read[:3, :3].T, np.eye(3), atol=1e-12)


MIRROR = np.diag([-1.0, 1, 1, 1]).tolist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"pose": 1}, "has no camera_from_world"),
        ({"camera_from_world": [[1, 2], [3, 4]]}, "shape \\(2, 2\\)"),
        ({"camera_from_world": "identity"}, "not a matrix of numbers"),
        ({"camera_from_world": [[1, 0, 0, 0], [0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]}, "not a matrix of numbers"),
        ({"camera_from_world": MIRROR}, "is a reflection"),
        ({"camera_from_world": np.diag([1, 1, 1, 2]).tolist()}, "last row"),
        ([1, 2], "expected an object"),
    ],
)
def test_bad_json_poses(tmp_path, content, message):
    (tmp_path / "pose.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_pose(tmp_path / "pose.json")


def test_bad_transform_files(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_pose(tmp_path / "none.tfm")
    (tmp_path / "empty.tfm").touch()
    with pytest.raises(InputError, match="empty"):
        read_pose(tmp_path / "empty.tfm")
    (tmp_path / "words.tfm").write_text("not a transform")
    with pytest.raises(InputError, match="cannot be read as an ITK transform"):
        read_pose(tmp_path / "words.tfm")
    (tmp_path / "pose.pt").write_text("x")
    with pytest.raises(InputError, match=r"expected \.tfm"):
        read_pose(tmp_path / "pose.pt")
    sitk.WriteTransform(sitk.Euler2DTransform(), str(tmp_path / "flat.tfm"))
    with pytest.raises(InputError, match=r"flat\.tfm: The transform is 2D"):
        read_pose(tmp_path / "flat.tfm")
    sitk.WriteTransform(sitk.BSplineTransform(3, 3), str(tmp_path / "spline.tfm"))
    with pytest.raises(InputError, match="not linear"):
        read_pose(tmp_path / "spline.tfm")
    singular = sitk.AffineTransform(3)
    (tmp_path / "singular.tfm").write_text(
        "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"
        "Parameters: 1 0 0 0 1 0 0 0 0 0 0 0\nFixedParameters: 0 0 0\n"
    )
    with pytest.raises(InputError):
        read_pose(tmp_path / "singular.tfm")
    assert np.array_equal(matrix_of(singular), np.eye(4))


def test_refusals_to_write(tmp_path):
    with pytest.raises(InputError, match="finite, invertible"):
        write_transform(tmp_path / "a.tfm", np.zeros((4, 4)))
    with pytest.raises(InputError, match="suffix"):
        write_transform(tmp_path / "a.png", np.eye(4))
    assert not list(tmp_path.iterdir())


def test_where_the_ct_is_placed_for_slicer_is_not_taken_for_a_pose(tmp_path):
    pose, reference = rigid(11), rigid(12)
    write_transform(tmp_path / "ct_to_xray.tfm", reference @ pose)
    with pytest.raises(InputError, match=r"ct_to_xray\.tfm is where a registration places the CT for 3D Slicer.*result\.json"):
        read_pose(tmp_path / "ct_to_xray.tfm")  # by its name alone
    content = {"camera_from_world": pose.tolist(), "world_from_camera_reference": reference.tolist()}
    (tmp_path / "result.json").write_text(json.dumps(content))
    write_transform(tmp_path / "renamed.h5", reference @ pose)
    write_transform(tmp_path / "pose.tfm", pose)
    for name in ("ct_to_xray.tfm", "renamed.h5"):
        with pytest.raises(InputError, match=r"not a pose; expected .*result\.json"):
            read_pose(tmp_path / name)
        np.testing.assert_allclose(read_transform(tmp_path / name), reference @ pose, atol=1e-9)
    for name in ("pose.tfm", "result.json"):  # poses are read, beside a result and out of it
        np.testing.assert_allclose(read_pose(tmp_path / name), pose, atol=1e-9)
    content["world_from_camera_reference"] = np.eye(4).tolist()  # the camera stands at the world's origin: both are the same
    (tmp_path / "result.json").write_text(json.dumps(content))
    write_transform(tmp_path / "ct_to_xray.tfm", pose)
    np.testing.assert_allclose(read_pose(tmp_path / "ct_to_xray.tfm"), pose, atol=1e-9)
