"""Named views and C-arm angles: who stands where, and which way is left in the image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.rigid import checked_rigid
from SphericalRegLib.geometry.se3 import invert, transform_points
from SphericalRegLib.geometry.views import NAMED_VIEWS, c_arm_view, named_view

CAMERA = Camera(1000.0, (1.0, 1.0), (300, 200), (120.0, 90.0))
CENTRE = torch.tensor([10.0, -20.0, 300.0], dtype=torch.float64)
RIGHT, ANTERIOR, SUPERIOR = torch.eye(3, dtype=torch.float64)
LEFT, POSTERIOR = -RIGHT, -ANTERIOR


def source(pose: torch.Tensor) -> torch.Tensor:
    """Source position in the world, from the centre."""
    return invert(pose)[:3, 3] - CENTRE


def pixel(pose: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    return CAMERA.project(transform_points(pose, CENTRE + offset))


@pytest.mark.parametrize(
    ("name", "source_side", "seen_on_the_right"),
    [("ap", ANTERIOR, LEFT), ("pa", POSTERIOR, RIGHT), ("left", RIGHT, ANTERIOR), ("right", LEFT, POSTERIOR)],
)
def test_named_views(name, source_side, seen_on_the_right):
    pose = named_view(name, CAMERA, CENTRE)
    assert np.array_equal(checked_rigid(pose, name), pose)  # to round-off
    assert pose.dtype == torch.float64
    assert torch.allclose(source(pose), 750.0 * source_side)
    principal = torch.tensor(CAMERA.principal_point_px, dtype=torch.float64)
    assert torch.allclose(pixel(pose, 0 * RIGHT), principal)  # the centre is on the central ray
    head = pixel(pose, 10 * SUPERIOR) - principal
    assert torch.allclose(head, torch.tensor([0.0, -10 / 0.75], dtype=torch.float64))  # head up
    side = pixel(pose, 10 * seen_on_the_right) - principal
    assert torch.allclose(side, torch.tensor([10 / 0.75, 0.0], dtype=torch.float64))


def test_sod_fraction_and_plain_sequences():
    pose = named_view("ap", CAMERA, CENTRE.tolist(), sod_fraction=0.5)
    assert torch.allclose(source(pose), 500.0 * ANTERIOR)


@pytest.mark.parametrize(("primary", "name"), [(0, "pa"), (180, "ap"), (-180, "ap"), (90, "left"), (-90, "right"), (270, "right")])
def test_primary_angle_meets_the_named_views(primary, name):
    assert torch.equal(c_arm_view(primary, 0, CAMERA, CENTRE), named_view(name, CAMERA, CENTRE))


@pytest.mark.parametrize("primary", [-120.0, -30.0, 0.0, 45.0])
@pytest.mark.parametrize("secondary", [-90.0, -25.0, 0.0, 25.0, 90.0])
def test_the_detector_is_where_dicom_says(primary, secondary):
    pose = c_arm_view(primary, secondary, CAMERA, CENTRE)
    assert np.array_equal(checked_rigid(pose, "pose"), pose)
    detector = -source(pose) / 750.0
    p, s = math.radians(primary), math.radians(secondary)
    expected = math.cos(s) * (math.cos(p) * ANTERIOR + math.sin(p) * LEFT) + math.sin(s) * SUPERIOR
    assert torch.allclose(detector, expected)
    assert (pixel(pose, 10 * SUPERIOR) - pixel(pose, 0 * SUPERIOR))[0].abs() < 1e-9  # the head never leans sideways
    if abs(secondary) < 90:
        assert pixel(pose, 10 * SUPERIOR)[1] < pixel(pose, 0 * SUPERIOR)[1]


def test_signs_are_lao_and_cranial():
    assert -source(c_arm_view(30, 0, CAMERA, CENTRE)) @ LEFT > 0  # LAO 30: the detector towards the patient's left
    assert -source(c_arm_view(0, 20, CAMERA, CENTRE)) @ SUPERIOR > 0  # cranial 20: towards the head


@pytest.mark.parametrize("base", NAMED_VIEWS)
def test_base_is_where_primary_zero_starts(base):
    assert torch.equal(c_arm_view(0, 0, CAMERA, CENTRE, base=base), named_view(base, CAMERA, CENTRE))
    start = {"pa": 0, "left": 90, "ap": 180, "right": -90}[base]
    assert torch.allclose(c_arm_view(20, 10, CAMERA, CENTRE, base=base), c_arm_view(start + 20, 10, CAMERA, CENTRE))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "front"}, "'front' is unknown: expected one of ap, pa, left, right"),
        ({"centre": [1.0, 2.0]}, "three finite numbers"),
        ({"centre": [1.0, 2.0, math.nan]}, "three finite numbers"),
        ({"sod_fraction": 1.0}, "between 0 and 1"),
        ({"sod_fraction": -0.5}, "between 0 and 1"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(InputError, match=words):
        named_view(**{"name": "ap", "camera": CAMERA, "centre": CENTRE, **arguments})


def test_angles_must_be_finite():
    with pytest.raises(InputError, match="finite"):
        c_arm_view(math.nan, 0, CAMERA, CENTRE)
