"""SO(4) by its double cover S3 x S3, and the pose metric that comes with it.

A pair of unit quaternions (p, q), each (..., 4) as (w, x, y, z), acts on a quaternion x as p x conj(q); (p, q) and (-p, -q) are one rotation of R^4,
(p, q) and (p, -q) are two. With theta_p = arccos Re p and theta_q = arccos Re q the rotation turns two orthogonal planes by theta_p + theta_q and
theta_p - theta_q, so that ||log||_F = 2 sqrt(theta_p^2 + theta_q^2), minimised over the joint sign.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from SphericalRegLib.geometry.quaternions import (
    matrix_from_quaternion,
    quaternion_conjugate,
    quaternion_exp,
    quaternion_from_matrix,
    quaternion_log,
    quaternion_log_and_jacobian,
    quaternion_multiply,
)
from SphericalRegLib.geometry.se3 import make_transform

__all__ = [
    "matrix_from_quaternion",
    "quaternion_conjugate",
    "quaternion_exp",
    "quaternion_from_matrix",
    "quaternion_log",
    "quaternion_multiply",
    "se3_from_so4",
    "so4_distance",
    "so4_from_se3",
    "so4_residual",
    "so4_residual_and_tangent",
]


def so4_residual(p1: Tensor, q1: Tensor, p2: Tensor, q2: Tensor) -> Tensor:
    """[Log p; Log q] (..., 6), rad, of the rotation conj(1) 2: half-angle logarithms, with the joint sign that makes the vector shortest.

    The squared norm is ||log||_F^2 / 4. The four quaternions (..., 4) broadcast; their scale does not matter. The residual jumps at the cut locus
    alone (theta_p + theta_q = pi: half a turn of one of the two planes).
    """
    p, q, sign = _relative(p1, q1, p2, q2)
    return torch.cat((quaternion_log(sign * p), quaternion_log(sign * q)), dim=-1)


def so4_residual_and_tangent(
    p1: Tensor, q1: Tensor, p2: Tensor, q2: Tensor, p2_tangent: Tensor, q2_tangent: Tensor
) -> tuple[Tensor, Tensor]:
    """`so4_residual` (..., 6), and its derivative (..., 6, M) along M tangents (..., 4, M) of p2 and of q2."""
    p, q, sign = _relative(p1, q1, p2, q2)
    log_p, by_p = quaternion_log_and_jacobian(sign * p)
    log_q, by_q = quaternion_log_and_jacobian(sign * q)
    along_p = by_p @ (sign[..., None] * _left_matrix(quaternion_conjugate(p1))) @ p2_tangent
    along_q = by_q @ (sign[..., None] * _left_matrix(quaternion_conjugate(q1))) @ q2_tangent
    return torch.cat((log_p, log_q), dim=-1), torch.cat((along_p, along_q), dim=-2)


def so4_distance(p1: Tensor, q1: Tensor, p2: Tensor, q2: Tensor) -> Tensor:
    """Bi-invariant distance ||log||_F (...), rad; at equal rotations, where it has a cusp, the gradient given is zero."""
    return 2.0 * safe_norm(so4_residual(p1, q1, p2, q2))


def so4_from_se3(transform: Tensor, rho_mm: float) -> tuple[Tensor, Tensor]:
    """(g, h), each (..., 4), of a rigid transform (..., 4, 4): the translation t becomes a rotation by |t| / rho_mm out of the space of R^3.

    With R the unit quaternion Q, t = |t| n and D = exp(t / (2 rho)): (g, h) = (D Q, conj(D) Q). To first order rho ||log||_F / sqrt(2) is
    sqrt((rho theta)^2 + |t|^2), so apply it to relative motions, small beside rho. Etzel and McCarthy, "A metric for spatial displacement using
    biquaternions on SO(4)", ICRA 1996.
    """
    q = quaternion_from_matrix(transform[..., :3, :3])
    d = quaternion_exp(transform[..., :3, 3] / (2.0 * rho_mm))
    return quaternion_multiply(d, q), quaternion_multiply(quaternion_conjugate(d), q)


def se3_from_so4(g: Tensor, h: Tensor, rho_mm: float) -> Tensor:
    """The rigid transform (..., 4, 4) that `so4_from_se3` embeds as (g, h), each (..., 4): t = rho Log(g conj(h)), |t| < pi rho.

    Every rotation of four-space is the image of one, so that (Log g, Log h) are six coordinates of a rigid motion.
    """
    half = 0.5 * quaternion_log(quaternion_multiply(g, quaternion_conjugate(h)))
    rotation = matrix_from_quaternion(quaternion_multiply(quaternion_exp(-half), g))
    return make_transform(rotation, 2.0 * rho_mm * half)


def safe_norm(vector: Tensor) -> Tensor:
    """Euclidean norm over the last axis, with a zero gradient at zero."""
    square = (vector * vector).sum(-1)
    zero = square == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, square).sqrt())


def _relative(p1: Tensor, q1: Tensor, p2: Tensor, q2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rotation conj(1) 2, and the joint sign (..., 1) that makes its logarithms shortest."""
    p = quaternion_multiply(quaternion_conjugate(p1), p2)
    q = quaternion_multiply(quaternion_conjugate(q1), q2)
    return p, q, torch.where(_half_angle(p) + _half_angle(q) > math.pi, -1.0, 1.0).to(p.dtype)


def _left_matrix(q: Tensor) -> Tensor:
    """(..., 4, 4): its product with a quaternion as a column is q times that."""
    return quaternion_multiply(q[..., None, :], torch.eye(4, dtype=q.dtype, device=q.device)).transpose(-1, -2)


def _half_angle(q: Tensor) -> Tensor:
    """Angle (..., 1) in [0, pi] between q (..., 4) and the identity, for the choice of a sign (no gradient)."""
    q = q.detach()
    return torch.atan2(torch.linalg.vector_norm(q[..., 1:], dim=-1, keepdim=True), q[..., :1])
