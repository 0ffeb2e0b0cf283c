"""SO(3) and SE(3): values and gradients at zero, at tiny angles and near pi, against SciPy, RoMa and differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from SphericalRegLib.geometry import se3

F64 = torch.float64
TINY = [0.0, 1e-300, 1e-12, 1e-9, 1e-6, 1e-4, 1e-3, 0.01, 0.1, 0.49, 0.51, 1.0, 2.0, 3.0]
NEAR_PI = [math.pi - gap for gap in (1e-1, 1e-3, 1e-6, 1e-9, 1e-12)]
AXIS = torch.tensor([0.48, -0.6, 0.64], dtype=F64)


def rotation_vectors(angles: list[float], dtype: torch.dtype = F64) -> torch.Tensor:
    return (torch.tensor(angles, dtype=F64)[:, None] * AXIS).to(dtype)


def random_poses(n: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    xi = torch.randn(n, 6, generator=generator, dtype=F64)
    return se3.se3_exp(xi * torch.tensor([1.0, 1, 1, 100, 100, 100], dtype=F64))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-15), (torch.float32, 3e-7)])
def test_so3_exp_agrees_with_scipy_and_roma(dtype, tolerance):
    omega = rotation_vectors(TINY + NEAR_PI + [math.pi, 5.0], dtype)
    expected = Rotation.from_rotvec(omega.double().numpy()).as_matrix()
    got = se3.so3_exp(omega)
    assert got.dtype == dtype
    assert np.abs(got.double().numpy() - expected).max() < 2 * tolerance
    assert (got - roma.rotvec_to_rotmat(omega)).abs().max() < 2 * tolerance


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-15), (torch.float32, 5e-7)])
def test_so3_exp_keeps_small_angles_to_full_relative_precision(dtype, relative):
    angles = [1e-12, 1e-9, 1e-6, 1e-4, 1e-3]
    omega = rotation_vectors(angles, dtype)
    rotation = se3.so3_exp(omega)
    got = 0.5 * (rotation[:, 2, 1] - rotation[:, 1, 2])
    expected = AXIS[0] * torch.tensor([math.sin(angle) for angle in angles], dtype=F64)
    assert (got / expected - 1).abs().max() < 4 * relative


@pytest.mark.parametrize(("dtype", "absolute"), [(torch.float64, 1e-14), (torch.float32, 3e-6)])
def test_so3_log_inverts_exp_and_agrees_with_scipy(dtype, absolute):
    omega = rotation_vectors(TINY + NEAR_PI[: 5 if dtype == F64 else 2], dtype)
    rotation = se3.so3_exp(omega)
    assert (se3.so3_log(rotation) - omega).abs().max() < absolute
    assert np.abs(se3.so3_log(rotation).numpy() - Rotation.from_matrix(rotation.numpy()).as_rotvec()).max() < absolute


def test_so3_log_keeps_tiny_angles_to_relative_precision():
    omega = rotation_vectors([1e-12, 1e-9, 1e-6, 1e-3])
    assert ((se3.so3_log(se3.so3_exp(omega)) - omega).norm(dim=-1) / omega.norm(dim=-1)).max() < 1e-13


def test_so3_log_at_pi_is_one_of_the_two_vectors():
    for axis in [*torch.eye(3, dtype=F64).tolist(), AXIS.tolist(), (-AXIS).tolist()]:
        axis = torch.tensor(axis, dtype=F64)
        rotation = 2 * axis[:, None] * axis - torch.eye(3, dtype=F64)  # exactly half a turn
        omega = se3.so3_log(rotation)
        assert abs(omega.norm() - math.pi) < 1e-14
        assert abs(abs(omega @ axis) - math.pi) < 1e-14


def central_differences(function, x: torch.Tensor, h: float) -> torch.Tensor:
    columns = [(function(x + h * e) - function(x - h * e)) / (2 * h) for e in torch.eye(x.numel(), dtype=x.dtype)]
    return torch.stack(columns, dim=-1)


@pytest.mark.parametrize("angle", [*TINY[:-2], 3.0, math.pi - 1e-3])
@pytest.mark.parametrize("function", [se3.so3_exp, se3.so3_left_jacobian, se3.so3_left_jacobian_inverse], ids=lambda f: f.__name__)
def test_gradients_match_central_differences_in_float64(function, angle):
    omega = angle * AXIS
    got = torch.autograd.functional.jacobian(function, omega)
    assert torch.isfinite(got).all()
    assert (got - central_differences(function, omega, 1e-6)).abs().max() < 1e-9


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-6, 1e-3, 0.3, 0.5, 2.0, math.pi - 1e-2])
def test_gradient_of_log_matches_central_differences_along_the_group(angle):
    rotation = se3.so3_exp(angle * AXIS)

    def log_of_step(step):
        return se3.so3_log(rotation @ se3.so3_exp(step))

    zero = torch.zeros(3, dtype=F64)
    got = torch.autograd.functional.jacobian(log_of_step, zero)
    assert (got - central_differences(log_of_step, zero, 1e-6)).abs().max() < 1e-8
    assert (got - se3.so3_right_jacobian_inverse(angle * AXIS)).abs().max() < 1e-12


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-6, 1e-3, 0.5, 2.0, math.pi - 1e-6])
def test_gradients_in_float32_are_those_of_float64(angle):
    omega = angle * AXIS
    for function in (se3.so3_exp, se3.so3_left_jacobian, se3.so3_left_jacobian_inverse):
        exact = torch.autograd.functional.jacobian(function, omega)
        got = torch.autograd.functional.jacobian(function, omega.float())
        assert got.dtype == torch.float32
        assert (got - exact).abs().max() < 2e-5


@pytest.mark.parametrize("angle", [0.0, 1e-9, 0.499, 0.501, 3.0])
def test_first_and_second_derivatives_pass_gradcheck(angle):
    xi = torch.cat((angle * AXIS, torch.tensor([3.0, -2.0, 5.0], dtype=F64))).requires_grad_()

    def round_trip(x):
        return se3.se3_log(se3.se3_exp(x))

    for function in (se3.se3_exp, round_trip):
        assert torch.autograd.gradcheck(function, (xi,), atol=1e-7)
        assert torch.autograd.gradgradcheck(function, (xi,), atol=1e-6)


def test_second_derivative_at_zero_is_exact():
    """exp(w) = I + hat(w) + hat(w)^2 / 2 + ... (RoMa's rotvec_to_rotmat gives nan for this: why `so3_exp` is our own)."""
    zero = torch.zeros(3, dtype=F64)
    hessian = torch.autograd.functional.hessian(lambda w: se3.so3_exp(w)[0, 0], zero)
    assert torch.allclose(hessian, torch.diag(torch.tensor([0.0, -1.0, -1.0], dtype=F64)))


def test_forward_mode_and_vmap():
    omega = rotation_vectors([0.0, 1e-8, 0.4, 2.0])
    forward = torch.func.vmap(torch.func.jacfwd(se3.so3_exp))(omega)
    backward = torch.func.vmap(torch.func.jacrev(se3.so3_exp))(omega)
    assert (forward - backward).abs().max() < 1e-14
    log = torch.func.vmap(torch.func.jacfwd(lambda x: se3.se3_log(se3.se3_exp(x))))(torch.cat((omega, omega), -1))
    assert (log - torch.eye(6, dtype=F64)).abs().max() < 1e-12


@pytest.mark.parametrize("angle", TINY)
def test_se3_exp_is_the_matrix_exponential(angle):
    xi = torch.cat((angle * AXIS, torch.tensor([10.0, -20.0, 30.0], dtype=F64)))
    generator = np.zeros((4, 4))
    generator[:3, :3] = se3.hat(xi[:3]).numpy()
    generator[:3, 3] = xi[3:].numpy()
    assert np.abs(se3.se3_exp(xi).numpy() - expm(generator)).max() < 2e-13


@pytest.mark.parametrize("angle", TINY + NEAR_PI)
def test_jacobians_and_their_inverses(angle):
    omega, step = angle * AXIS, torch.tensor([1e-7, -2e-7, 3e-7], dtype=F64)
    identity = torch.eye(3, dtype=F64)
    assert (se3.so3_left_jacobian(omega) @ se3.so3_left_jacobian_inverse(omega) - identity).abs().max() < 1e-13
    assert (se3.so3_right_jacobian(omega) @ se3.so3_right_jacobian_inverse(omega) - identity).abs().max() < 1e-13
    left = se3.so3_exp(se3.so3_left_jacobian(omega) @ step) @ se3.so3_exp(omega)
    right = se3.so3_exp(omega) @ se3.so3_exp(se3.so3_right_jacobian(omega) @ step)
    assert (se3.so3_exp(omega + step) - left).abs().max() < 1e-12
    assert (se3.so3_exp(omega + step) - right).abs().max() < 1e-12


finite = st.floats(-1.0, 1.0, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(st.lists(finite, min_size=6, max_size=6), st.floats(1e-12, 3.1))
def test_round_trip_for_any_tangent(direction, angle):
    direction = torch.tensor(direction, dtype=F64)
    norm = direction[:3].norm()
    if norm < 1e-3:
        return
    xi = torch.cat((direction[:3] / norm * angle, 200 * direction[3:]))
    back = se3.se3_log(se3.se3_exp(xi))
    assert (back[:3] - xi[:3]).abs().max() < 1e-13
    assert (back[3:] - xi[3:]).abs().max() < 1e-10


@pytest.mark.parametrize("shape", [(), (1,), (0,), (5,), (2, 3), (2, 1, 3)])
def test_any_leading_shape(shape):
    xi = 0.3 * torch.randn(*shape, 6, generator=torch.Generator().manual_seed(0), dtype=F64)
    transform = se3.se3_exp(xi)
    assert transform.shape == (*shape, 4, 4)
    assert se3.se3_log(transform).shape == (*shape, 6)
    assert se3.so3_left_jacobian_inverse(xi[..., :3]).shape == (*shape, 3, 3)
    assert se3.invert(transform).shape == (*shape, 4, 4)
    assert se3.transform_points(transform, torch.zeros(7, 3, dtype=F64)).shape == (*shape, 7, 3)
    assert se3.transform_points(transform, torch.zeros(3, dtype=F64)).shape == (*shape, 3)
    assert se3.retract(transform, xi, torch.zeros(3, dtype=F64)).shape == (*shape, 4, 4)


def test_invert_and_transform_points():
    poses, points = random_poses(4), 100 * torch.randn(4, 9, 3, generator=torch.Generator().manual_seed(1), dtype=F64)
    assert (se3.invert(poses) @ poses - torch.eye(4, dtype=F64)).abs().max() < 1e-12
    assert (se3.invert(poses) - torch.linalg.inv(poses)).abs().max() < 1e-11
    homogeneous = torch.cat((points, torch.ones(4, 9, 1, dtype=F64)), -1)
    assert (se3.transform_points(poses, points) - (homogeneous @ poses.mT)[..., :3]).abs().max() < 1e-11


def test_retract_turns_about_the_centre_and_shifts_along_world_axes():
    pose, centre = random_poses(1)[0], torch.tensor([12.0, -40.0, 700.0], dtype=F64)
    delta = torch.tensor([0.1, -0.2, 0.3, 4.0, 5.0, -6.0], dtype=F64)
    point = torch.tensor([100.0, 50.0, 650.0], dtype=F64)
    # the CT's point is first turned about the centre and shifted in the world, then seen by the old camera
    moved = centre + se3.so3_exp(delta[:3]) @ (point - centre) + delta[3:]
    assert (se3.transform_points(se3.retract(pose, delta, centre), point) - se3.transform_points(pose, moved)).abs().max() < 1e-11
    rotation, t = pose[:3, :3], se3.transform_points(pose, centre)
    stepped = se3.retract(pose, delta, centre)
    assert (stepped[:3, :3] - rotation @ se3.so3_exp(delta[:3])).abs().max() < 1e-14
    assert (se3.transform_points(stepped, centre) - (t + rotation @ delta[3:])).abs().max() < 1e-11


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1.7, 1.7), min_size=6, max_size=6), st.integers(0, 1000))
def test_local_inverts_retract(values, seed):
    pose, centre = random_poses(1, seed)[0], torch.tensor([10.0, -300.0, 1200.0], dtype=F64)
    delta = torch.tensor(values, dtype=F64) * torch.tensor([1, 1, 1, 100, 100, 100], dtype=F64)
    other = se3.retract(pose, delta, centre)
    assert (se3.local(pose, other, centre) - delta).abs().max() < 1e-9
    assert (se3.retract(pose, se3.local(pose, other, centre), centre) - other).abs().max() < 1e-9


def test_retract_gradients_in_step_pose_and_centre():
    pose = random_poses(2).requires_grad_()
    centre = torch.tensor([1.0, 2.0, 3.0], dtype=F64, requires_grad=True)
    delta = torch.zeros(2, 6, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(se3.retract, (pose, delta, centre), atol=1e-6)
    fixed, middle = pose.detach()[0], centre.detach()
    zero = torch.zeros(6, dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d: se3.local(fixed, se3.retract(fixed, d, middle), middle), (zero,))


def test_centre_may_come_in_another_precision():
    pose, delta = random_poses(1), torch.full((1, 6), 0.1, dtype=F64)
    centre = torch.tensor([1.0, 2.0, 3.0])
    assert torch.equal(se3.retract(pose, delta, centre), se3.retract(pose, delta, centre.double()))


def test_orthonormalise_gives_the_nearest_rotation():
    pose = random_poses(3)
    drifted = pose.clone()
    drifted[:, :3, :3] += 1e-5 * torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    fixed = se3.orthonormalise(drifted)
    assert (fixed[:, :3, :3].mT @ fixed[:, :3, :3] - torch.eye(3, dtype=F64)).abs().max() < 1e-14
    assert (fixed - pose).abs().max() < 5e-5
    assert (roma.special_procrustes(drifted[:, :3, :3]) - fixed[:, :3, :3]).abs().max() < 1e-13
