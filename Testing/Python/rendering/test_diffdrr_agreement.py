"""The Warp renderer against DiffDRR's integrators, in value and gradient."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import scenes

from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.rendering.projector import Projector

pytest.importorskip("diffdrr")

CAMERA = Camera(sdd_mm=1000.0, pixel_spacing_mm=(6.0, 4.5), size_px=(24, 20), principal_point_px=(9.3, 12.8))
SHAPE, STEP = (82, 96, 74), 0.05  # sums of a gradient that jumps from cell to cell agree as fast as samples get dense, whoever places them


@pytest.mark.parametrize("kind", ["oblique", "left-handed", "sheared"])
def test_trilinear_image_and_jacobian(kind):
    attenuation = scenes.smooth_attenuation(kind, SHAPE, centre_offset=(8.0, -5.0, 12.0))
    pose = scenes.pose(attenuation)
    ours = Projector(attenuation, CAMERA, step_mm=STEP).project_with_jacobian(pose)
    theirs = Projector(attenuation, CAMERA, step_mm=STEP, backend="diffdrr-trilinear").project_with_jacobian(pose)
    assert scenes.relative_error(ours[0], theirs[0]) < 1e-3
    for axis in range(6):
        assert scenes.relative_error(ours[1][..., axis], theirs[1][..., axis]) < 1e-3, axis


def test_siddon_image():
    attenuation = scenes.smooth_attenuation("oblique", SHAPE)
    pose = scenes.pose(attenuation)
    ours = Projector(attenuation, CAMERA).project(pose)
    theirs = Projector(attenuation, CAMERA, backend="diffdrr-siddon").project(pose)
    assert scenes.relative_error(ours, theirs) < 0.02


def test_project_of_the_reference_is_differentiable_like_ours():
    attenuation = scenes.smooth_attenuation("oblique", SHAPE)
    pose = scenes.pose(attenuation).requires_grad_()
    grads = []
    for backend in ("warp", "diffdrr-trilinear"):
        Projector(attenuation, CAMERA, step_mm=STEP, backend=backend).project(pose).square().sum().backward()
        grads.append(pose.grad.clone())
        pose.grad = None
    assert scenes.relative_error(grads[0], grads[1]) < 1e-3
