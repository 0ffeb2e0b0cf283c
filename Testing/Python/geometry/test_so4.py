"""SO(4): the double cover's metric against the logarithm of the actual 4 x 4 matrix, the joint sign, and the embedding of SE(3)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import logm
from scipy.spatial.transform import Rotation

from SphericalRegLib.geometry import se3, so4
from SphericalRegLib.geometry.distances import double_geodesic, rotation_angle, so4_pose_distance
from SphericalRegLib.geometry.quaternions import quaternion_log_and_jacobian

F64 = torch.float64
IDENTITY = torch.tensor([1.0, 0, 0, 0], dtype=F64)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    q = torch.randn(*shape, 4, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return q / q.norm(dim=-1, keepdim=True)


def half_angle(angle: float, axis: tuple[float, float, float]) -> torch.Tensor:
    return so4.quaternion_exp(angle * torch.nn.functional.normalize(torch.tensor(axis, dtype=F64), dim=0))


# quaternions


def test_product_conjugate_and_matrix_agree_with_scipy_and_roma():
    p, q = unit(50, seed=1), unit(50, seed=2)
    product = so4.quaternion_multiply(p, q)
    expected = Rotation.from_quat(p.numpy(), scalar_first=True) * Rotation.from_quat(q.numpy(), scalar_first=True)
    assert np.abs(so4.matrix_from_quaternion(product).numpy() - expected.as_matrix()).max() < 1e-14
    xyzw = roma.quat_product(p[:, [1, 2, 3, 0]], q[:, [1, 2, 3, 0]])
    assert (product[:, [1, 2, 3, 0]] - xyzw).abs().max() < 1e-15
    assert (so4.quaternion_multiply(p, so4.quaternion_conjugate(p)) - IDENTITY).abs().max() < 1e-15


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-6, 1e-3, 1.0, math.pi - 1e-9, math.pi])
def test_quaternion_of_a_matrix(angle):
    rotation = se3.so3_exp(angle * torch.tensor([0.48, -0.6, 0.64], dtype=F64))
    q = so4.quaternion_from_matrix(rotation)
    assert q[0] >= 0
    assert (so4.matrix_from_quaternion(q) - rotation).abs().max() < 1e-15


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matrix_conversions_agree_with_roma_in_value_and_gradient(dtype):
    """Every quadrant of the sphere, and a matrix that is not quite orthogonal."""
    q = torch.cat((unit(200, seed=3), torch.eye(4, dtype=F64), -torch.eye(4, dtype=F64))).to(dtype).reshape(2, 104, 4)
    close = 10 * torch.finfo(dtype).eps

    def of_roma(matrix):
        xyzw = roma.rotmat_to_unitquat(matrix)
        wxyz = xyzw[..., [3, 0, 1, 2]]
        return torch.where(wxyz[..., :1] < 0, -wxyz, wxyz)

    matrix = so4.matrix_from_quaternion(q)
    assert matrix.shape == (2, 104, 3, 3) and matrix.dtype == dtype
    assert (matrix - roma.unitquat_to_rotmat(q[..., [1, 2, 3, 0]])).abs().max() < close
    skewed = (matrix + 1e-3 * torch.randn(matrix.shape, generator=torch.Generator().manual_seed(4), dtype=F64).to(dtype)).requires_grad_()
    ours, theirs = so4.quaternion_from_matrix(skewed), of_roma(skewed)
    assert (ours - theirs).abs().max() < close
    weight = torch.randn(ours.shape, generator=torch.Generator().manual_seed(5), dtype=F64).to(dtype)
    gradients = [torch.autograd.grad((weight * value).sum(), skewed)[0] for value in (ours, theirs)]
    assert (gradients[0] - gradients[1]).abs().max() < 10 * close


@pytest.mark.parametrize("angle", [0.0, 1e-300, 1e-12, 1e-6, 1e-3, 0.19, 0.21, 0.5, 1.5, 1.6, 3.0, math.pi - 1e-6])
def test_log_inverts_exp_beyond_a_quarter_turn(angle):
    u = angle * torch.tensor([0.48, -0.6, 0.64], dtype=F64)
    assert (so4.quaternion_log(so4.quaternion_exp(u)) - u).abs().max() < 2e-15 + (1e-9 if angle > 3.1 else 0)
    assert (so4.quaternion_log(7.0 * so4.quaternion_exp(u)) - u).abs().max() < 2e-15 + (1e-9 if angle > 3.1 else 0)
    if angle:
        assert (so4.quaternion_log(so4.quaternion_exp(u)) - u).norm() / angle < 1e-9


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-6, 1e-3, 0.2, 0.5, 2.0])
def test_exp_and_log_derivatives(angle):
    u = (angle * torch.tensor([0.48, -0.6, 0.64], dtype=F64)).requires_grad_()
    for function in (so4.quaternion_exp, lambda x: so4.quaternion_log(3 * so4.quaternion_exp(x))):
        assert torch.autograd.gradcheck(function, (u,), atol=1e-8)
        assert torch.autograd.gradgradcheck(function, (u,), atol=1e-7)
    gradient = torch.autograd.functional.jacobian(lambda x: so4.quaternion_log(so4.quaternion_exp(x)), u.detach().float())
    assert (gradient - torch.eye(3)).abs().max() < 1e-5


def test_log_at_the_antipode_has_the_right_length_and_a_finite_gradient():
    q = -IDENTITY.clone().requires_grad_()
    log = so4.quaternion_log(q)
    assert abs(log.norm().item() - math.pi) < 1e-15
    (gradient,) = torch.autograd.grad(log.sum(), q)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, 0.15, 0.1974, 0.25, 1.0, math.pi / 2, 2.5, 3.14])
def test_jacobian_of_the_logarithm_is_its_derivative(angle):
    q = 1.7 * half_angle(angle, (1, -2, 0.5))
    exact = torch.autograd.functional.jacobian(so4.quaternion_log, q)
    largest = max(1.0, exact.abs().max().item())
    for precision, tolerance in ((F64, 1e-12), (torch.float32, 2e-5)):
        log, jacobian = quaternion_log_and_jacobian(q.to(precision))
        assert torch.equal(log, so4.quaternion_log(q.to(precision))) and log.dtype == precision
        assert (jacobian.double() - exact).abs().max() < tolerance * largest
    log, jacobian = quaternion_log_and_jacobian(torch.stack((q, -q, -IDENTITY)).expand(2, 3, 4))
    assert jacobian.shape == (2, 3, 3, 4) and (jacobian[1, 0] - exact).abs().max() < 1e-12 * largest
    assert bool((jacobian[:, 2] == 0).all())


@pytest.mark.parametrize("angle", [0.0, 0.1973, 0.1975, 1.0, 2.5])
def test_training_goes_through_the_logarithms_jacobian(angle):
    q = (1.3 * half_angle(angle, (1, -2, 0.5))).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: quaternion_log_and_jacobian(x)[1], (q,), atol=1e-7)


@pytest.mark.parametrize("seed", range(6))
def test_the_residual_carries_tangents_as_forward_mode_does(seed):
    p1, q1 = unit(2, seed=seed)
    p2, q2 = unit(2, 5, seed=seed + 1)  # on both sides of the cut locus
    tangents = torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(seed), dtype=F64)
    residual, along = so4.so4_residual_and_tangent(p1, q1, p2, q2, *tangents)
    assert torch.equal(residual, so4.so4_residual(p1, q1, p2, q2))
    for k in range(3):
        _, expected = torch.func.jvp(lambda p, q: so4.so4_residual(p1, q1, p, q), (p2, q2), (tangents[0, ..., k], tangents[1, ..., k]))
        assert (along[..., k] - expected).abs().max() < 1e-10


# the metric


def rotation_of_four_space(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """x -> p x conj(q) as a matrix (4, 4) on (w, x, y, z)."""
    columns = so4.quaternion_multiply(so4.quaternion_multiply(p, torch.eye(4, dtype=F64)), so4.quaternion_conjugate(q))
    return columns.mT


def frobenius_log(p: torch.Tensor, q: torch.Tensor) -> float:
    return float(np.linalg.norm(logm(rotation_of_four_space(p, q).numpy())))


@pytest.mark.parametrize("seed", range(12))
def test_distance_is_the_norm_of_the_matrix_logarithm(seed):
    p1, q1, p2, q2 = unit(4, seed=seed)
    relative = so4.quaternion_multiply(so4.quaternion_conjugate(p1), p2), so4.quaternion_multiply(so4.quaternion_conjugate(q1), q2)
    matrix = rotation_of_four_space(p1, q1).T @ rotation_of_four_space(p2, q2)
    assert (matrix - rotation_of_four_space(*relative)).abs().max() < 1e-14
    expected = np.linalg.norm(logm(matrix.numpy()))
    assert abs(so4.so4_distance(p1, q1, p2, q2).item() - expected) < 1e-10
    residual = so4.so4_residual(p1, q1, p2, q2)
    assert abs((residual @ residual).item() - expected**2 / 4) < 1e-10


def test_a_pair_of_quaternions_is_a_rotation_with_the_stated_plane_angles():
    p, q = half_angle(0.7, (1, 2, 3)), half_angle(0.4, (-1, 0, 2))
    matrix = rotation_of_four_space(p, q).numpy()
    assert np.abs(matrix.T @ matrix - np.eye(4)).max() < 1e-15
    assert abs(np.linalg.det(matrix) - 1) < 1e-14
    angles = np.sort(np.abs(np.angle(np.linalg.eigvals(matrix))))
    assert np.allclose(angles, [0.3, 0.3, 1.1, 1.1], atol=1e-12)
    assert abs(2 * math.hypot(0.7, 0.4) - frobenius_log(p, q)) < 1e-12


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_metric_axioms_bi_invariance_and_joint_sign(seed):
    p1, q1, p2, q2, p3, q3 = unit(6, seed=seed)
    d = so4.so4_distance
    d12 = d(p1, q1, p2, q2)
    assert abs(d12 - d(p2, q2, p1, q1)) < 1e-12
    assert d12 <= d(p1, q1, p3, q3) + d(p3, q3, p2, q2) + 1e-12
    m = so4.quaternion_multiply
    assert abs(d12 - d(m(p3, p1), m(q3, q1), m(p3, p2), m(q3, q2))) < 1e-12
    assert abs(d12 - d(m(p1, p3), m(q1, q3), m(p2, p3), m(q2, q3))) < 1e-12
    assert abs(d12 - d(-p1, -q1, p2, q2)) < 1e-12
    assert d12 <= 2 * math.pi + 1e-12  # of -I, which turns both planes by pi


def test_single_sign_is_another_rotation():
    p, q = half_angle(0.3, (1, 0, 0)), half_angle(0.2, (0, 1, 0))
    same = so4.so4_distance(IDENTITY, IDENTITY, p, q).item()
    joint = so4.so4_distance(IDENTITY, IDENTITY, -p, -q).item()
    single = so4.so4_distance(IDENTITY, IDENTITY, p, -q).item()
    assert abs(same - joint) < 1e-14
    assert abs(same - 2 * math.hypot(0.3, 0.2)) < 1e-14
    assert abs(single - 2 * math.hypot(math.pi - 0.3, 0.2)) < 1e-12  # the shorter of (0.3, pi - 0.2) and (pi - 0.3, 0.2)
    assert abs(single - frobenius_log(p, -q)) < 1e-7


def test_the_farthest_rotation_is_minus_one():
    assert so4.so4_distance(IDENTITY, IDENTITY, -IDENTITY, IDENTITY).item() == pytest.approx(2 * math.pi)


def test_residual_at_identity_has_a_regular_derivative():
    """d residual / d (u, v) of p = exp(u), q = exp(v) is the identity there: arccos would have given inf."""

    def residual(x):
        return so4.so4_residual(IDENTITY, IDENTITY, so4.quaternion_exp(x[:3]), so4.quaternion_exp(x[3:]))

    jacobian = torch.autograd.functional.jacobian(residual, torch.zeros(6, dtype=F64))
    assert torch.equal(jacobian, torch.eye(6, dtype=F64))
    for scale in (1e-12, 1e-6, 1e-3, 0.3, 1.0):
        x = (scale * torch.tensor([0.4, -0.2, 0.1, 0.3, 0.6, -0.5], dtype=F64)).requires_grad_()
        assert torch.autograd.gradcheck(residual, (x,), atol=1e-8)
        assert torch.autograd.gradgradcheck(residual, (x,), atol=1e-7)


def test_distance_of_equal_rotations_has_a_finite_gradient():
    p = unit(2, seed=3).requires_grad_()
    distance = so4.so4_distance(IDENTITY, IDENTITY, IDENTITY * p[0, 0] / p[0, 0], IDENTITY)
    assert distance.item() == 0
    (gradient,) = torch.autograd.grad(distance, p)
    assert torch.isfinite(gradient).all()


def test_batches_broadcast_and_keep_the_precision():
    p, q = unit(5, 7, seed=4).float(), unit(5, 7, seed=5).float()
    got = so4.so4_residual(p[:, :1], q[:, :1], p, q)
    assert got.shape == (5, 7, 6)
    assert got.dtype == torch.float32
    one = so4.so4_residual(p[2, 0].double(), q[2, 0].double(), p[2, 4].double(), q[2, 4].double())
    assert (got[2, 4] - one).abs().max() < 2e-6


# the embedding of SE(3)


def steps(degrees: float, mm: float, n: int = 2000, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(n, 2, 3, generator=generator, dtype=F64), dim=-1)
    lengths = torch.rand(n, 2, 1, generator=generator, dtype=F64) * torch.tensor([[math.radians(degrees)], [mm]], dtype=F64)
    return (directions * lengths).flatten(1)


def relative_transform(delta: torch.Tensor) -> torch.Tensor:
    return se3.make_transform(se3.so3_exp(delta[..., :3]), delta[..., 3:])


def test_embedding_is_first_order_isometric():
    delta = steps(1e-4, 1e-3)
    g, h = so4.so4_from_se3(relative_transform(delta), 510.0)
    got = 510.0 / math.sqrt(2) * so4.so4_distance(IDENTITY, IDENTITY, g, h)
    expected = torch.hypot(510.0 * delta[:, :3].norm(dim=-1), delta[:, 3:].norm(dim=-1))
    assert (got / expected - 1).abs().max() < 1e-9


@pytest.mark.parametrize(("degrees", "mm", "tolerance"), [(5, 10, 2e-5), (20, 40, 3e-4), (45, 100, 1.6e-3)])
def test_so4_metric_is_near_the_double_geodesic_on_relative_poses(degrees, mm, tolerance):
    centre, rho = torch.tensor([10.0, -20.0, 400.0], dtype=F64), 510.0
    pose = se3.se3_exp(torch.tensor([0.3, -1.2, 0.5, 20.0, -30.0, 765.0], dtype=F64))
    other = se3.retract(pose, steps(degrees, mm), centre)
    ratio = so4_pose_distance(pose, other, centre, rho) / double_geodesic(pose, other, centre, rho)
    assert (ratio - 1).abs().max() < tolerance


def test_absolute_poses_are_no_input_for_the_embedding():
    """At 800 mm depth the embedded distance between *absolute* poses is off by many per cent: why `so4_pose_distance` embeds the relative pose."""
    depth = torch.eye(4, dtype=F64)
    depth[2, 3] = 800.0
    centre, rho = torch.zeros(3, dtype=F64), 510.0
    other = se3.retract(depth, steps(45, 100), centre)
    g1, h1 = so4.so4_from_se3(depth, rho)
    g2, h2 = so4.so4_from_se3(other, rho)
    absolute = rho / math.sqrt(2) * so4.so4_distance(g1, h1, g2, h2)
    off = (absolute / double_geodesic(depth, other, centre, rho) - 1).abs().max()
    assert 0.05 < off < 0.5


def test_pose_distances_on_known_motions():
    centre, rho = torch.tensor([5.0, 6.0, 7.0], dtype=F64), 100.0
    pose = se3.se3_exp(torch.tensor([0.3, -1.2, 0.5, 20.0, -30.0, 765.0], dtype=F64))
    turned = se3.retract(pose, torch.tensor([0.0, 0.1, 0, 0, 0, 0], dtype=F64), centre)
    shifted = se3.retract(pose, torch.tensor([0.0, 0, 0, 3.0, 0, 4.0], dtype=F64), centre)
    assert abs(rotation_angle(pose, turned).item() - 0.1) < 1e-14
    assert abs(double_geodesic(pose, turned, centre, rho).item() - 10.0) < 1e-10
    assert abs(double_geodesic(pose, shifted, centre, rho).item() - 5.0) < 1e-10
    assert abs(so4_pose_distance(pose, shifted, centre, rho).item() - 5.0) < 1e-10
    assert abs(so4_pose_distance(pose, turned, centre, rho).item() - 10.0) < 1e-10
    assert abs(rotation_angle(pose[:3, :3], turned[:3, :3]).item() - 0.1) < 1e-14


@pytest.mark.parametrize("distance", [double_geodesic, so4_pose_distance])
def test_pose_distance_gradients(distance):
    centre, rho = torch.tensor([5.0, 6.0, 7.0], dtype=F64), 100.0
    truth = se3.se3_exp(torch.tensor([0.3, -1.2, 0.5, 20.0, -30.0, 765.0], dtype=F64))

    def from_truth(delta):
        return distance(se3.retract(truth, delta, centre), truth, centre, rho)

    zero = torch.zeros(6, dtype=F64, requires_grad=True)
    (gradient,) = torch.autograd.grad(from_truth(zero), zero)
    assert torch.isfinite(gradient).all()
    for scale in (1e-3, 1.0):
        delta = (scale * torch.tensor([0.1, -0.2, 0.1, 10.0, 20.0, -10.0], dtype=F64)).requires_grad_()
        assert torch.autograd.gradcheck(from_truth, (delta,), eps=1e-7 * scale, atol=1e-4)


def test_gradient_of_the_squared_double_geodesic_in_closed_form():
    """h_r = -2 rho^2 log(R^T R_gt), h_t = -2 R^T (t_gt - t): the target of gradient matching."""
    centre, rho = torch.tensor([5.0, 6.0, 7.0], dtype=F64), 100.0
    pose, truth = se3.se3_exp(torch.tensor([[0.3, -1.2, 0.5, 20.0, -30.0, 765.0], [0.2, -1.0, 0.6, 10.0, -33.0, 740.0]], dtype=F64))
    zero = torch.zeros(6, dtype=F64, requires_grad=True)
    squared = double_geodesic(se3.retract(pose, zero, centre), truth, centre, rho) ** 2
    (got,) = torch.autograd.grad(squared, zero)
    delta = se3.local(pose, truth, centre)
    expected = torch.cat((-2 * rho**2 * delta[:3], -2 * delta[3:]))
    assert (got - expected).abs().max() < 1e-8


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-3, 1.0, math.pi - 1e-6, math.pi])
def test_rotation_angle_and_its_gradient_are_finite_everywhere(angle):
    rotation = se3.so3_exp(angle * torch.tensor([0.48, -0.6, 0.64], dtype=F64)).requires_grad_()
    got = rotation_angle(torch.eye(3, dtype=F64), rotation)
    assert abs(got.item() - angle) < 1e-14
    (gradient,) = torch.autograd.grad(got, rotation)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-3, 0.5, 2.0])
def test_the_embedding_of_se3_is_inverted(size):
    torch.manual_seed(0)
    motion = se3.se3_exp(size * torch.randn(20, 6, dtype=F64) * torch.tensor([1.0] * 3 + [40.0] * 3, dtype=F64))
    back = so4.se3_from_so4(*so4.so4_from_se3(motion, 100.0), 100.0)
    assert (back - motion).abs().max() < 1e-11


def test_half_of_a_step_in_so4_is_a_turn_and_half_a_shift():
    """(exp a, 1) is a screw: a turn by |a| about a and a shift by rho |a| along it."""
    a = torch.tensor([0.0, 0.3, 0.0], dtype=F64)
    motion = so4.se3_from_so4(so4.quaternion_exp(a), IDENTITY, 100.0)
    assert (motion[:3, :3] - se3.so3_exp(a)).abs().max() < 1e-12
    assert (motion[:3, 3] - 100.0 * a).abs().max() < 1e-10
