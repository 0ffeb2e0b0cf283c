"""The four metrics, their traps, and the summary."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from SphericalRegLib.evaluation import metrics
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.se3 import make_transform, retract, so3_exp
from SphericalRegLib.geometry.views import named_view

CAMERA = Camera(1020.0, (0.2, 0.2), (1500, 1400), (740.0, 705.0))
CENTRE = torch.tensor([15.0, -40.0, 120.0], dtype=torch.float64)
TRUTH = named_view("ap", CAMERA, CENTRE)
FIDUCIALS = CENTRE + 60.0 * torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (200, 3)))


def step(camera_motion: torch.Tensor) -> torch.Tensor:
    """TRUTH after a motion (4, 4) in camera axes."""
    return camera_motion @ TRUTH


def shift(x, y, z):
    return make_transform(torch.eye(3, dtype=torch.float64), torch.tensor([x, y, z], dtype=torch.float64))


def turn(x, y, z):
    return make_transform(so3_exp(torch.deg2rad(torch.tensor([x, y, z], dtype=torch.float64))), torch.zeros(3, dtype=torch.float64))


def test_the_roll_trap():
    """Two degrees of roll about the central ray: invisible to (b) and (c), 1.3 to 2.3 mm in truth."""
    rolled = step(turn(0, 0, 2))
    radius = torch.linalg.norm((FIDUCIALS @ TRUTH[:3, :3].T + TRUTH[:3, 3])[:, :2], dim=1).mean()
    expected = 2 * math.sin(math.radians(1)) * float(radius)
    assert 1.0 < expected < 3.0
    assert float(metrics.mtre_3d(TRUTH, rolled, FIDUCIALS)) == pytest.approx(expected, rel=1e-9)
    assert float(metrics.mrpe(TRUTH, rolled, FIDUCIALS, CAMERA)) < 1e-9
    assert float(metrics.mrpe_scaled(TRUTH, rolled, FIDUCIALS, CAMERA)) < 1e-9
    assert float(metrics.mpe_2d(TRUTH, rolled, FIDUCIALS, CAMERA)) > 1.0


def test_roll_of_published_size():
    """Fiducials 66 mm from the axis on average: 2 degrees make 2.3 mm."""
    angles = torch.linspace(0, 6, 50, dtype=torch.float64)
    ring = torch.stack([66 * angles.cos(), 66 * angles.sin(), torch.full_like(angles, 760.0)], dim=1)
    identity = torch.eye(4, dtype=torch.float64)
    rolled = turn(0, 0, 2)
    assert float(metrics.mtre_3d(identity, rolled, ring)) == pytest.approx(2.30, abs=0.01)
    assert float(metrics.mrpe(identity, rolled, ring, CAMERA)) == pytest.approx(0.0, abs=1e-9)


def test_an_in_plane_shift_by_hand():
    moved = step(shift(3.0, 4.0, 0.0))
    depth = (FIDUCIALS @ TRUTH[:3, :3].T + TRUTH[:3, 3])[:, 2]
    magnified = float((1020.0 / depth).mean()) * 5.0
    assert float(metrics.mtre_3d(TRUTH, moved, FIDUCIALS)) == pytest.approx(5.0)
    assert float(metrics.mpe_2d(TRUTH, moved, FIDUCIALS, CAMERA)) == pytest.approx(magnified)
    in_plane, along = metrics.in_plane_and_depth(TRUTH, moved, FIDUCIALS, CENTRE)
    assert (float(in_plane), float(along)) == (pytest.approx(5.0), pytest.approx(0.0, abs=1e-12))
    # (b): the frame moves by 5 mm the other way while the point moves by 5 mm times the magnification
    assert float(metrics.mrpe(TRUTH, moved, FIDUCIALS, CAMERA)) == pytest.approx(magnified - 5.0)
    assert float(metrics.mrpe_scaled(TRUTH, moved, FIDUCIALS, CAMERA)) == pytest.approx(0.2 * (magnified - 5.0))
    assert float(metrics.translation_error_mm(TRUTH, moved, CENTRE)) == pytest.approx(5.0)
    assert float(metrics.rotation_error_deg(TRUTH, moved)) == pytest.approx(0.0, abs=1e-6)


def test_a_depth_shift_is_depth():
    moved = step(shift(0.0, 0.0, 8.0))
    in_plane, along = metrics.in_plane_and_depth(TRUTH, moved, FIDUCIALS, CENTRE)
    assert (float(in_plane), float(along)) == (pytest.approx(0.0, abs=1e-12), pytest.approx(8.0))
    assert float(metrics.mpe_2d(TRUTH, moved, FIDUCIALS, CAMERA)) < 1.0


def test_the_split_follows_the_ray_to_the_centre():
    """With the CT off the axis, depth is along its own ray: moving along that ray leaves the in-plane part at zero."""
    aside = shift(150.0, -80.0, 0.0) @ TRUTH
    ray = aside[:3, :3] @ CENTRE + aside[:3, 3]
    ray = 6.0 * ray / ray.norm()
    in_plane, along = metrics.in_plane_and_depth(aside, shift(*ray.tolist()) @ aside, FIDUCIALS, CENTRE)
    assert (float(in_plane), float(along)) == (pytest.approx(0.0, abs=1e-9), pytest.approx(6.0))


def test_a_turn_about_the_centre_moves_no_centre():
    turned = retract(TRUTH, torch.tensor([0.0, math.radians(3.0), 0, 0, 0, 0], dtype=torch.float64), CENTRE)
    assert float(metrics.rotation_error_deg(TRUTH, turned)) == pytest.approx(3.0)
    assert float(metrics.translation_error_mm(TRUTH, turned, CENTRE)) == pytest.approx(0.0, abs=1e-9)
    assert float(metrics.mtre_3d(TRUTH, turned, FIDUCIALS)) > 1.0


def test_batches_and_single_poses_agree():
    poses = torch.stack([step(shift(1.0, 0, 0)), step(turn(1, 2, 3)), TRUTH])
    for metric in (metrics.mrpe, metrics.mpe_2d, metrics.mrpe_scaled):
        one_by_one = torch.stack([metric(TRUTH, p, FIDUCIALS, CAMERA) for p in poses])
        torch.testing.assert_close(metric(TRUTH, poses, FIDUCIALS, CAMERA), one_by_one)
    torch.testing.assert_close(metrics.mtre_3d(TRUTH, poses, FIDUCIALS), torch.stack([metrics.mtre_3d(TRUTH, p, FIDUCIALS) for p in poses]))
    torch.testing.assert_close(metrics.mtre_3d(TRUTH.float(), TRUTH.float(), FIDUCIALS), torch.tensor(0.0, dtype=torch.float64))


def test_all_errors_of_one_pose():
    errors = metrics.pose_errors(TRUTH.numpy(), step(shift(3.0, 4.0, 0.0)).numpy(), FIDUCIALS.numpy(), CAMERA, CENTRE.numpy())
    assert errors.mtre_3d == pytest.approx(5.0) and errors.translation == pytest.approx(5.0)
    assert next(iter(errors.to_dict())) == "mtre_3d"
    behind = metrics.pose_errors(TRUTH.numpy(), step(shift(0.0, 0.0, -900.0)).numpy(), FIDUCIALS.numpy(), CAMERA, CENTRE.numpy())
    assert behind.mtre_3d == pytest.approx(900.0)
    assert behind.mpe_2d == behind.mrpe == math.inf


def test_summary_counts_failures_as_worst():
    summary = metrics.summarise([0.5, 0.9, 1.0, 1.5, 2.0, 9.0, 10.0, 11.0, math.nan, math.inf])
    assert (summary.count, summary.failed) == (10, 2)
    assert (summary.below_1mm, summary.below_2mm, summary.above_10mm) == (0.2, 0.4, 0.3)
    assert summary.p50 == pytest.approx(5.5) and summary.p95 == math.inf
    all_failed = metrics.summarise([math.inf, math.nan])
    assert (all_failed.p25, all_failed.p95, all_failed.above_10mm) == (math.inf, math.inf, 1.0)
    with pytest.raises(ValueError, match="nothing"):
        metrics.summarise([])


def test_percentiles_are_numpys():
    values = np.random.default_rng(0).gamma(2.0, 2.0, 37)
    summary = metrics.summarise(values)
    np.testing.assert_allclose([summary.p25, summary.p50, summary.p75, summary.p95], np.percentile(values, [25, 50, 75, 95]))
