"""Poses that are trained on: around the views that were named, within the range that was stated, and no others."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.distances import rotation_angle
from SphericalRegLib.geometry.pose_range import PoseRange
from SphericalRegLib.geometry.rigid import checked_rigid
from SphericalRegLib.geometry.se3 import local, retract, transform_points
from SphericalRegLib.geometry.views import c_arm_view, named_view
from SphericalRegLib.simulation.cases import flat_panel
from SphericalRegLib.training.camera import training_camera
from SphericalRegLib.training.poses import Perturbation

CAMERA = Camera(1000.0, (6.0, 6.0), (64, 64), (31.5, 31.5))
CENTRE = torch.tensor([20.0, -10.0, 300.0], dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_range_of_nothing_is_the_view() -> None:
    nothing = PoseRange(("left",), 0, 0, 0, 0, 0)
    expected = named_view("left", CAMERA, CENTRE)
    assert torch.allclose(nothing.sample(3, CAMERA, CENTRE, generator()), expected.expand(3, 4, 4), atol=1e-9)
    assert torch.allclose(nothing.middle(CAMERA, CENTRE), expected, atol=1e-9)


def test_each_parameter_keeps_to_its_range() -> None:
    poses = PoseRange(("ap", "pa"), in_plane_mm=30.0, depth_mm=100.0).sample(400, CAMERA, CENTRE, generator())
    assert all(np.array_equal(checked_rigid(pose, "pose"), pose) for pose in poses)  # to round-off
    centre = transform_points(poses, CENTRE[None])[:, 0] - torch.tensor([0.0, 0.0, 750.0]).double()
    # The turn in the image plane is about the central ray, so that it moves a centre on it not at all.
    assert centre[:, :2].abs().max() <= 30.0 and centre[:, :2].abs().max() > 27.0
    assert centre[:, 2].abs().max() <= 100.0 and centre[:, 2].abs().max() > 90.0
    beam = poses[:, 2, :3]  # the central ray in the world
    for view in ("ap", "pa"):
        middle = named_view(view, CAMERA, CENTRE)[2, :3]
        near = beam[(beam @ middle) > 0]
        assert 150 < len(near) < 250
        assert (near @ middle).min() >= math.cos(math.radians(45.0)) * math.cos(math.radians(25.0)) - 1e-9


def test_angles_are_those_of_the_c_arm() -> None:
    for primary, secondary in ((30.0, 0.0), (0.0, 20.0)):
        poses = PoseRange(("ap",), primary, secondary, 0, 0, 0).sample(200, CAMERA, CENTRE, generator())
        angles = torch.rad2deg(rotation_angle(c_arm_view(0, 0, CAMERA, CENTRE, base="ap").expand(200, 4, 4), poses))
        assert 0.9 * max(primary, secondary) < angles.max() <= max(primary, secondary) + 1e-6
        assert abs(float(angles.mean()) - max(primary, secondary) / 2) < 2.0


def test_a_pose_can_be_the_middle() -> None:
    """Of a patient who lies head down, say, which no named view shows."""
    begin = retract(named_view("ap", CAMERA, CENTRE), torch.tensor([0.3, -0.2, 3.0, 40.0, -20.0, 60.0]).double(), CENTRE)
    rows = tuple(map(tuple, begin.tolist()))
    nothing = PoseRange(primary_deg=0, secondary_deg=0, in_plane_deg=0, in_plane_mm=0, depth_mm=0, about=rows)
    assert torch.allclose(nothing.sample(2, CAMERA, CENTRE, generator()), begin.expand(2, 4, 4), atol=1e-9)
    assert torch.equal(nothing.middle(CAMERA, CENTRE), begin)
    turning = PoseRange(primary_deg=30, secondary_deg=0, in_plane_deg=0, in_plane_mm=0, depth_mm=0, about=rows)
    turned = turning.sample(200, CAMERA, CENTRE, generator())
    assert all(np.array_equal(checked_rigid(pose, "pose"), pose) for pose in turned)
    centres = transform_points(turned, CENTRE[None])[:, 0]
    assert torch.allclose(centres, transform_points(begin, CENTRE[None])[0].expand(200, 3), atol=1e-9)
    relative = turned[:, :3, :3] @ begin[:3, :3].mT
    assert torch.allclose(relative[:, 1, 1], torch.ones(200).double())  # about the camera's y axis
    angles = torch.rad2deg(rotation_angle(begin.expand(200, 4, 4), turned))
    assert 27.0 < angles.max() <= 30.0 + 1e-6
    with pytest.raises(InputError, match="lies about"):
        PoseRange(about=((1.0, 0.0, 0.0, 0.0), (0.0, 2.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0)))


def test_a_seed_is_a_seed() -> None:
    a, b, c = (PoseRange().sample(5, CAMERA, CENTRE, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_perturbations_are_in_camera_axes_and_of_all_sizes() -> None:
    truth = PoseRange(("left",)).sample(600, CAMERA, CENTRE, generator())
    moved = Perturbation(10.0, 5.0, 40.0).sample(truth, CENTRE, generator(1))
    delta = local(truth, moved, CENTRE)
    shift = transform_points(moved, CENTRE[None])[:, 0] - transform_points(truth, CENTRE[None])[:, 0]
    root = math.sqrt(1 / 3)  # of the mean square of a factor uniform in [0, 1]
    assert torch.allclose(shift.square().mean(0).sqrt(), root * torch.tensor([5.0, 5.0, 40.0]).double(), rtol=0.15)
    assert torch.allclose(delta[:, :3].square().mean(0).sqrt(), torch.full((3,), root * math.radians(10.0)).double(), rtol=0.15)
    assert (delta[:, :3].norm(dim=1) < math.radians(2.0)).double().mean() > 0.05


@pytest.mark.parametrize("fraction", [0.0, 1.0, float("nan")])
def test_a_centre_that_is_not_between_source_and_detector_is_named(fraction) -> None:
    with pytest.raises(InputError, match="sod_fraction"):
        PoseRange(sod_fraction=fraction)


@pytest.mark.parametrize("views", [(), ("top",), ("ap", "oblique")])
def test_unknown_views_are_named(views) -> None:
    with pytest.raises(InputError, match="ap, pa"):
        PoseRange(views)


def test_the_training_camera_sees_what_the_detector_sees() -> None:
    detector = Camera(1020.0, (0.5, 0.4), (800, 600), (380.0, 320.0))
    camera = training_camera(detector, 64)
    assert camera.size_px == (64, 64) and camera.sdd_mm == 1020.0
    assert camera.pixel_spacing_mm == (400 / 64, 400 / 64)
    # Middles of both detectors lie on one ray, and so do the left and right edges.
    for of_detector, of_training in (((399.5, 299.5), (31.5, 31.5)), ((-0.5, 299.5), (-0.5, 31.5)), ((799.5, 299.5), (63.5, 31.5))):
        rays = [c.back_project(torch.tensor(p, dtype=torch.float64)) for c, p in ((detector, of_detector), (camera, of_training))]
        assert torch.allclose(rays[0], rays[1], atol=1e-9)
    assert training_camera(flat_panel(), 64).principal_point_px == (31.5, 31.5)
