"""Poses from landmarks: round trips, noise, planes, lines, mirrored X-rays, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.distances import rotation_angle
from SphericalRegLib.geometry.p3p import align, poses_from_three
from SphericalRegLib.geometry.pnp import LandmarkPose, pose_from_landmarks
from SphericalRegLib.geometry.rigid import checked_rigid
from SphericalRegLib.geometry.se3 import local
from SphericalRegLib.geometry.views import c_arm_view

CAMERA = Camera(1020.0, (0.39, 0.42), (512, 480), (250.0, 236.0))
CENTRE = np.array([10.0, -20.0, 300.0])
# two iliac spines, two hips, the symphysis, the sacrum: where a pelvis has them, mm from its middle
PELVIS = np.array([[115, 45, 40], [-115, 45, 40], [90, 10, -35], [-88, 12, -35], [2, 55, -45], [0, -60, 30]], np.float64) / 1.5 + CENTRE


def view(primary: float = 176.0, secondary: float = 5.0) -> np.ndarray:
    return c_arm_view(primary, secondary, CAMERA, CENTRE.tolist()).numpy()


def project(pose: np.ndarray, points: np.ndarray, camera: Camera = CAMERA) -> np.ndarray:
    return camera.project(points @ pose[:3, :3].T + pose[:3, 3])


def angle_deg(a: np.ndarray, b: np.ndarray) -> float:
    return math.degrees(float(rotation_angle(torch.from_numpy(a), torch.from_numpy(b))))


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(4, 12),
    thickness=st.sampled_from([0.0, 5.0, 50.0]),
    primary=st.floats(-180, 180),
    secondary=st.floats(-90, 90),
)
def test_round_trip(seed, count, thickness, primary, secondary):
    """Landmarks anywhere, in a plane too, seen from anywhere."""
    rng = np.random.default_rng(seed)
    corners = np.array([[40, 0, 0], [-30, 35, 0], [-30, -35, 0], [5, 20, 1]]) * [1, 1, thickness]
    points = np.concatenate((corners, rng.uniform(-40, 40, (count - 4, 3)) * [1, 1, thickness / 40]))
    points = points @ np.linalg.qr(rng.normal(size=(3, 3)))[0].T + CENTRE
    truth = view(primary, secondary)
    found = pose_from_landmarks(points, project(truth, points), CAMERA)
    assert np.array_equal(checked_rigid(found.camera_from_world, "pose"), found.camera_from_world)  # to round-off
    assert found.camera_from_world == pytest.approx(truth, abs=1e-4)
    assert found.residual_px == pytest.approx(0, abs=1e-6)
    assert found.hint == ""


def test_noise_is_in_the_residuals_and_the_covariance():
    """With clicks of 1.5 pixels the pose is off by what the covariance says, over many trials (chi-square per degree of freedom)."""
    rng, truth, square = np.random.default_rng(3), view(), []
    points = np.concatenate((PELVIS, CENTRE + rng.uniform(-50, 50, (10, 3))))
    for _ in range(16):
        clicked = project(truth, points) + rng.normal(0, 1.5, (len(points), 2))
        found = pose_from_landmarks(points, clicked, CAMERA, CENTRE)
        assert 0.8 < found.rms_px / math.sqrt(2) < 2.2
        assert found.rms_mm == pytest.approx(found.rms_px * 0.4 * 0.75, rel=0.1)  # at three quarters of the way to the detector
        off = local(torch.from_numpy(found.camera_from_world), torch.from_numpy(truth), torch.from_numpy(CENTRE)).numpy()
        square.append(off @ np.linalg.solve(found.covariance, off))
    assert 3 < np.mean(square) < 11
    deviation = np.sqrt(np.diag(found.covariance))
    assert deviation[4] > 3 * max(deviation[3], deviation[5]), "the beam runs along y: that is the least certain direction"


def test_the_centre_of_the_covariance_is_the_landmarks_mean_unless_it_is_given():
    pixels = project(view(), PELVIS) + np.random.default_rng(0).normal(size=(6, 2))
    free, bound = pose_from_landmarks(PELVIS, pixels, CAMERA), pose_from_landmarks(PELVIS, pixels, CAMERA, CENTRE + 200)
    assert np.array_equal(free.centre, PELVIS.mean(0))
    assert np.array_equal(free.camera_from_world, bound.camera_from_world)
    assert np.array_equal(free.covariance[:3, :3].round(12), bound.covariance[:3, :3].round(12))
    assert bound.covariance[3, 3] > free.covariance[3, 3]


def test_the_order_of_the_landmarks_does_not_matter():
    pixels = project(view(), PELVIS) + np.random.default_rng(1).normal(size=(6, 2))
    order = [3, 0, 5, 1, 4, 2]
    a, b = pose_from_landmarks(PELVIS, pixels, CAMERA), pose_from_landmarks(PELVIS[order].tolist(), pixels[order].tolist(), CAMERA)
    assert a.camera_from_world == pytest.approx(b.camera_from_world, abs=1e-6)
    assert a.residual_px[order] == pytest.approx(b.residual_px, abs=1e-6)


def test_a_wrong_pair_stands_out():
    pixels = project(view(), PELVIS)
    pixels[[0, 1]] = pixels[[0, 1]] + [[25, 0], [0, 0]]
    found = pose_from_landmarks(PELVIS, pixels, CAMERA)
    assert found.residual_px.argmax() == 0
    assert found.rms_px > 3


def test_a_mirrored_xray_is_noticed():
    """From the front and mirrored looks like from behind, but for the perspective."""
    rng = np.random.default_rng(2)
    pixels = project(view(), PELVIS) + rng.normal(0, 0.7, (6, 2))
    mirrored = np.stack((CAMERA.columns - 1 - pixels[:, 0], pixels[:, 1]), axis=1)
    found = pose_from_landmarks(PELVIS, mirrored, CAMERA.flip_columns())
    assert "mirrored X-ray fits the landmarks far better" in found.hint
    assert pose_from_landmarks(PELVIS, pixels, CAMERA).hint == ""


def test_landmarks_beyond_the_detector_are_noticed():
    far = Camera(300.0, (0.39 * 300 / 1020, 0.42 * 300 / 1020), CAMERA.size_px, CAMERA.principal_point_px)  # the same angles, another detector
    found = pose_from_landmarks(PELVIS, project(view(), PELVIS), far)
    assert "beyond the detector" in found.hint


def flat_and_far() -> tuple[np.ndarray, np.ndarray]:
    """A small plane, tilted, with clicks of a pixel: which way it is tilted cannot be seen."""
    points = np.array([[20, 0, 20], [-20, 0, 20], [20, 0, -20], [-20, 0, -20], [5, 0, 3]], np.float64) + CENTRE
    pixels = project(view(150, 0), points) + np.random.default_rng(5).normal(0, 1.0, (5, 2))
    return points, pixels


def test_a_plane_that_may_be_tilted_either_way_is_refused_in_words():
    with pytest.raises(InputError, match=r"nearly in a plane \(0.0 mm off it.*two poses, \d+ degrees apart, fit them alike.*off that plane"):
        pose_from_landmarks(*flat_and_far(), CAMERA)


def test_one_landmark_off_the_plane_decides():
    points, _ = flat_and_far()
    points = np.concatenate((points, CENTRE[None] + [0, 40, 0]))
    truth = view(150, 0)
    found = pose_from_landmarks(points, project(truth, points) + np.random.default_rng(5).normal(0, 1.0, (6, 2)), CAMERA)
    assert angle_deg(found.camera_from_world, truth) < 4


LINE = CENTRE + np.array([[0, 0, 0], [30, 0, 10], [60, 0.3, 20], [-30, 0, -10.2], [90, 0, 30]])


@pytest.mark.parametrize(
    ("points", "pixels", "words"),
    [
        (PELVIS[:3], np.zeros((3, 2)), r"at least 4 pairs of landmarks \(three have up to four poses that fit exactly\), but there are 3"),
        (PELVIS[:0], np.zeros((0, 2)), "but there are 0"),
        (PELVIS, np.zeros((5, 2)), "6 in the CT and 5 in the X-ray"),
        (PELVIS[:, :2], np.zeros((6, 2)), r"in the CT must have 3 numbers each, but their shape is \(6, 2\)"),
        (PELVIS, np.zeros((6, 3)), "in the X-ray must have 2 numbers each"),
        (PELVIS, [["a", "b"]] * 6, "in the X-ray must be numbers"),
        (np.where(np.arange(6)[:, None] == 2, np.nan, PELVIS), np.zeros((6, 2)), "number 3 is not"),
        (LINE, np.zeros((5, 2)), "nearly on a line .* rotation about it cannot be seen"),
        (np.repeat(CENTRE[None], 4, 0), np.zeros((4, 2)), "nearly on a line"),
        (PELVIS, np.full((6, 2), 250.0), "onto their pixels before the source|do not determine"),
    ],
)
def test_what_is_refused(points, pixels, words):
    with pytest.raises(InputError, match=words):
        pose_from_landmarks(points, pixels, CAMERA)


def test_the_centre_must_be_a_point():
    with pytest.raises(InputError, match="centre must be three finite numbers"):
        pose_from_landmarks(PELVIS, project(view(), PELVIS), CAMERA, [1.0, math.nan, 2.0])


def test_landmarks_in_a_heap_do_not_determine_a_pose():
    points = CENTRE + (PELVIS - CENTRE) * 1e-3
    with pytest.raises(InputError, match="do not determine the pose"):
        pose_from_landmarks(points, project(view(), points), CAMERA)


def test_three_points_have_the_truth_among_their_poses():
    truth, points = view(), PELVIS[:3]
    rays = CAMERA.back_project(project(truth, points))
    poses = poses_from_three(points, rays / np.linalg.norm(rays, axis=1, keepdims=True))
    assert 1 <= len(poses) <= 4
    assert min(np.abs(pose - truth).max() for pose in poses) < 1e-3
    assert poses_from_three(points[[0, 0, 1]], np.eye(3)) == []


def test_alignment_never_mirrors():
    points = PELVIS - CENTRE
    assert np.linalg.det(align(points, points * [1, 1, -1])[:3, :3]) == pytest.approx(1)
    assert align(PELVIS, PELVIS @ view()[:3, :3].T + view()[:3, 3]) == pytest.approx(view(), abs=1e-9)


def test_the_result_is_frozen():
    found = pose_from_landmarks(PELVIS, project(view(), PELVIS), CAMERA)
    assert isinstance(found, LandmarkPose)
    with pytest.raises(AttributeError):
        found.hint = "x"  # type: ignore[misc]
