"""Rigid motions: SO(3) and SE(3), and the chart in which poses are optimised.

Convention. A transform (..., 4, 4) maps column vectors. Group tangents are xi = (omega, v), rotation first (rad, mm), and `se3_exp` / `se3_log` are
the group's own. The project's pose chart is not the group's: `retract` and `local` use the tangent delta = (omega, v) in world axes, applied on the
right, about a centre c. With x_cam = R (x_world - c) + t, a step gives R exp(omega) and t + R v: the CT turns about c and shifts along world axes.

All functions take any leading shape, float32 or float64, on any device; values and first and second derivatives are right at zero, and values and
gradients near pi (`so3_log` is discontinuous at pi itself). Formulas: Sola, Deray, Atchuthan, "A micro Lie theory for state estimation in robotics",
arXiv 1812.01537; Barfoot, "State Estimation for Robotics", chapter 7.
"""

from __future__ import annotations

import torch
from torch import Tensor

from SphericalRegLib.geometry.quaternions import polynomial, quaternion_from_matrix, quaternion_log, sinc, split_small


def hat(omega: Tensor) -> Tensor:
    """Cross-product matrix (..., 3, 3) of omega (..., 3): hat(a) b = a x b."""
    x, y, z = omega.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), dim=-1).unflatten(-1, (3, 3))


def so3_exp(omega: Tensor) -> Tensor:
    """Rotation matrix (..., 3, 3) of a rotation vector (..., 3), rad (Rodrigues)."""
    square = _squared_angle(omega)
    k = hat(omega)
    return _identity(omega) + sinc(square) * k + _versine(square) * (k @ k)


def so3_log(rotation: Tensor) -> Tensor:
    """Rotation vector (..., 3), rad, of norm in [0, pi], of a rotation matrix (..., 3, 3); by way of the quaternion, accurate at every angle."""
    return 2.0 * quaternion_log(quaternion_from_matrix(rotation))


def so3_left_jacobian(omega: Tensor) -> Tensor:
    """J_l (..., 3, 3) with exp(omega + d) = exp(J_l d) exp(omega) to first order in d."""
    square = _squared_angle(omega)
    k = hat(omega)
    return _identity(omega) + _versine(square) * k + _sine_remainder(square) * (k @ k)


def so3_right_jacobian(omega: Tensor) -> Tensor:
    """J_r (..., 3, 3) with exp(omega + d) = exp(omega) exp(J_r d) to first order in d."""
    return so3_left_jacobian(-omega)


def so3_left_jacobian_inverse(omega: Tensor) -> Tensor:
    """Inverse (..., 3, 3) of `so3_left_jacobian`; |omega| < 2 pi."""
    k = hat(omega)
    return _identity(omega) - 0.5 * k + _cotangent_remainder(_squared_angle(omega)) * (k @ k)


def so3_right_jacobian_inverse(omega: Tensor) -> Tensor:
    """Inverse (..., 3, 3) of `so3_right_jacobian`; |omega| < 2 pi."""
    return so3_left_jacobian_inverse(-omega)


def se3_exp(xi: Tensor) -> Tensor:
    """Transform (..., 4, 4) of xi = (omega, v) (..., 6), rad and mm: the group's own exponential, translation J_l(omega) v."""
    omega, v = xi[..., :3], xi[..., 3:]
    return make_transform(so3_exp(omega), _apply(so3_left_jacobian(omega), v))


def se3_log(transform: Tensor) -> Tensor:
    """xi = (omega, v) (..., 6), rad and mm, of a transform (..., 4, 4), with |omega| <= pi."""
    omega = so3_log(transform[..., :3, :3])
    return torch.cat((omega, _apply(so3_left_jacobian_inverse(omega), transform[..., :3, 3])), dim=-1)


def make_transform(rotation: Tensor, translation: Tensor) -> Tensor:
    """Transform (..., 4, 4) from a rotation (..., 3, 3) and a translation (..., 3); leading shapes broadcast."""
    shape = torch.broadcast_shapes(rotation.shape[:-2], translation.shape[:-1])
    top = torch.cat((rotation.expand(*shape, 3, 3), translation[..., None].expand(*shape, 3, 1)), dim=-1)
    bottom = torch.eye(4, dtype=top.dtype, device=top.device)[3:].expand(*shape, 1, 4)
    return torch.cat((top, bottom), dim=-2)


def invert(transform: Tensor) -> Tensor:
    """Inverse (..., 4, 4) of rigid transforms (..., 4, 4)."""
    transposed = transform[..., :3, :3].transpose(-1, -2)
    return make_transform(transposed, -_apply(transposed, transform[..., :3, 3]))


def transform_points(transform: Tensor, points: Tensor) -> Tensor:
    """Points (..., N, 3) mapped by transforms (..., 4, 4); leading shapes broadcast, and a single point (3,) is mapped as well."""
    if points.ndim == 1:
        return transform_points(transform, points[None])[..., 0, :]
    return points @ transform[..., :3, :3].transpose(-1, -2) + transform[..., None, :3, 3]


def about_centre(camera_from_world: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """(R, t), (..., 3, 3) and (..., 3), of x_cam = R (x_world - c) + t, c being `centre` (3,); t is where c lies in the camera, mm."""
    rotation = camera_from_world[..., :3, :3]
    return rotation, camera_from_world[..., :3, 3] + _apply(rotation, _like(centre, camera_from_world))


def retract(camera_from_world: Tensor, delta: Tensor, centre: Tensor) -> Tensor:
    """The pose (..., 4, 4) that a step delta = (omega, v) (..., 6), rad and mm in world axes on the right about `centre` (3,), leads to."""
    rotation, translation = about_centre(camera_from_world, centre)
    turned = rotation @ so3_exp(delta[..., :3])
    shifted = translation + _apply(rotation, delta[..., 3:])
    return _from_centre(turned, shifted, centre)


def local(camera_from_world_a: Tensor, camera_from_world_b: Tensor, centre: Tensor) -> Tensor:
    """The step delta (..., 6) with retract(a, delta, centre) == b: rad and mm in world axes on the right about `centre` (3,)."""
    rotation_a, translation_a = about_centre(camera_from_world_a, centre)
    rotation_b, translation_b = about_centre(camera_from_world_b, centre)
    inverse = rotation_a.transpose(-1, -2)
    return torch.cat((so3_log(inverse @ rotation_b), _apply(inverse, translation_b - translation_a)), dim=-1)


def recentred(camera_from_world: Tensor, centre: Tensor, new_centre: Tensor) -> Tensor:
    """The pose (..., 4, 4) of the same body in a shifted world, where what lay at `centre` (3,) lies at `new_centre`: R and t about it stay."""
    rotation, translation = about_centre(camera_from_world, centre)
    return _from_centre(rotation, translation, new_centre)


def orthonormalise(transform: Tensor) -> Tensor:
    """The rigid transform (..., 4, 4) nearest to one that drifted by round-off (polar decomposition of the rotation, by the SVD)."""
    u, _, vh = torch.linalg.svd(transform[..., :3, :3])
    sign = torch.linalg.det(u @ vh)
    last = torch.stack((torch.ones_like(sign), torch.ones_like(sign), sign), dim=-1)
    return make_transform((u * last[..., None, :]) @ vh, transform[..., :3, 3])


def _from_centre(rotation: Tensor, translation: Tensor, centre: Tensor) -> Tensor:
    return make_transform(rotation, translation - _apply(rotation, _like(centre, rotation)))


def _like(values: Tensor, other: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=other.dtype, device=other.device)


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]


def _identity(omega: Tensor) -> Tensor:
    return torch.eye(3, dtype=omega.dtype, device=omega.device)


def _squared_angle(omega: Tensor) -> Tensor:
    return (omega * omega).sum(-1)[..., None, None]


def _versine(square: Tensor) -> Tensor:
    """(1 - cos a) / a^2 = sinc(a / 2)^2 / 2 of a^2."""
    half = sinc(square / 4)
    return 0.5 * half * half


def _sine_remainder(square: Tensor) -> Tensor:
    """(a - sin a) / a^3 of a^2."""
    small, x, angle = split_small(square)
    series = polynomial(x, (1 / 6, -1 / 120, 1 / 5040, -1 / 362880, 1 / 39916800, -1 / 6227020800, 1 / 1307674368000))
    return torch.where(small, series, (angle - torch.sin(angle)) / angle**3)


def _cotangent_remainder(square: Tensor) -> Tensor:
    """(1 - (a / 2) cot(a / 2)) / a^2 of a^2; the series' coefficients are 2 zeta(2n) / (2 pi)^2n (Bernoulli numbers)."""
    small, x, angle = split_small(square)
    series = polynomial(x, (1 / 12, 1 / 720, 1 / 30240, 1 / 1209600, 1 / 47900160, 691 / 1307674368000, 1 / 74724249600))
    return torch.where(small, series, (1 - 0.5 * angle * torch.cos(0.5 * angle) / torch.sin(0.5 * angle)) / angle**2)
