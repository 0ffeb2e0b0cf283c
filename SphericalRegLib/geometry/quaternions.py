"""Unit quaternions (w, x, y, z), Hamilton product, any leading shape.

The logarithm is the *half-angle* one: exp(u) = (cos |u|, sin |u| u / |u|), so a rotation by the vector omega is exp(omega / 2). Everything here is
twice differentiable at the identity: functions of an angle are written as functions of the angle's square, as a power series where it is small.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_SERIES_BELOW = 0.25  # of the squared angle: there nine terms of every series used here are exact in float64, and no closed form cancels


def polynomial(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """sum_k coefficients[k] x^k, by Horner's rule."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


def split_small(squared_angle: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(small, squared angle for the series, angle for the closed form): each branch gets harmless values where the other one is taken.

    `torch.where` multiplies the gradient of the branch not taken by zero, so that branch must be finite there too.
    """
    small = squared_angle < _SERIES_BELOW
    return small, torch.where(small, squared_angle, 0.0), torch.where(small, 1.0, squared_angle).sqrt()


def sinc(squared_angle: Tensor) -> Tensor:
    """sin(a) / a of a^2."""
    small, square, angle = split_small(squared_angle)
    series = polynomial(square, (1.0, -1 / 6, 1 / 120, -1 / 5040, 1 / 362880, -1 / 39916800, 1 / 6227020800, -1 / 1307674368000))
    return torch.where(small, series, torch.sin(angle) / angle)


def cosine(squared_angle: Tensor) -> Tensor:
    """cos(a) of a^2."""
    small, square, angle = split_small(squared_angle)
    series = polynomial(square, (1.0, -1 / 2, 1 / 24, -1 / 720, 1 / 40320, -1 / 3628800, 1 / 479001600, -1 / 87178291200))
    return torch.where(small, series, torch.cos(angle))


def quaternion_multiply(p: Tensor, q: Tensor) -> Tensor:
    """Hamilton product p q (..., 4); as rotations, q acts first."""
    pw, px, py, pz = p.unbind(-1)
    qw, qx, qy, qz = q.unbind(-1)
    return torch.stack(
        (
            pw * qw - px * qx - py * qy - pz * qz,
            pw * qx + px * qw + py * qz - pz * qy,
            pw * qy - px * qz + py * qw + pz * qx,
            pw * qz + px * qy - py * qx + pz * qw,
        ),
        dim=-1,
    )


def quaternion_conjugate(q: Tensor) -> Tensor:
    """(w, -x, -y, -z) (..., 4): the inverse of a unit quaternion."""
    return torch.cat((q[..., :1], -q[..., 1:]), dim=-1)


def quaternion_exp(u: Tensor) -> Tensor:
    """Unit quaternion (..., 4) of a half-angle vector (..., 3), rad."""
    square = (u * u).sum(-1, keepdim=True)
    return torch.cat((cosine(square), sinc(square) * u), dim=-1)


def quaternion_log(q: Tensor) -> Tensor:
    """Half-angle vector (..., 3), rad, of norm in [0, pi], of a quaternion (..., 4); its scale does not matter.

    Signs are kept: log(q) and log(-q) differ. The logarithm of -1 has no direction: there the value is (pi, 0, 0) with a zero gradient.
    """
    return _log(q, _log_branch(q))


def quaternion_log_and_jacobian(q: Tensor) -> tuple[Tensor, Tensor]:
    """`quaternion_log` (..., 3) and its derivative (..., 3, 4) by the quaternion (..., 4): what automatic differentiation gives, at a fraction of its
    cost.

    With q = (w, v) and u = s v, s = atan2(|v|, w) / |v|:  du/dw = -v / |q|^2  and  du/dv = s I + (w / |q|^2 - s) / |v|^2 v v^T.
    """
    w, v = q[..., :1], q[..., 1:]
    branch = _log_branch(q)
    series = polynomial(branch.x_square, tuple((-1.0) ** (k + 1) * (2 * k + 2) / (2 * k + 3) for k in range(12))) / branch.safe_w**3
    curvature = torch.where(branch.near, series, (w / branch.norm_square - branch.scale) / branch.length.square())
    by_v = torch.diag_embed(branch.scale.expand_as(v)) + (curvature * v)[..., :, None] * v[..., None, :]
    jacobian = torch.cat(((-v / branch.norm_square)[..., None], by_v), dim=-1)
    return _log(q, branch), torch.where(branch.antipode[..., None], 0.0, jacobian)


@dataclass(frozen=True)
class _LogBranch:
    """Which formula the logarithm of each quaternion (..., 4) takes, and what goes into it, all (..., 1)."""

    near: Tensor  # to the identity: a series in x = |v| / w
    antipode: Tensor
    safe_w: Tensor  # w where it is near
    x_square: Tensor
    length: Tensor  # |v| where it is far
    norm_square: Tensor
    scale: Tensor  # of v


def _log(q: Tensor, branch: _LogBranch) -> Tensor:
    return torch.where(branch.antipode, q.new_tensor((torch.pi, 0.0, 0.0)), branch.scale * q[..., 1:])


def _log_branch(q: Tensor) -> _LogBranch:
    w, v = q[..., :1], q[..., 1:]
    square = (v * v).sum(-1, keepdim=True)
    norm_square = square + w * w
    # atan(x) / (x w) of x = |v| / w, a smooth function of x^2 near the identity ...
    near = (w > 0) & (square < 0.04 * w * w)
    safe_w = torch.where(near, w, 1.0)
    x_square = torch.where(near, square, 0.0) / (safe_w * safe_w)
    series = polynomial(x_square, tuple((-1.0) ** k / (2 * k + 1) for k in range(12))) / safe_w
    # ... and atan2 elsewhere: arccos would have an infinite slope at both ends.
    antipode = (w < 0) & (square <= torch.finfo(q.dtype).eps ** 2 * norm_square)
    length = torch.where(near | antipode, 1.0, square).sqrt()
    return _LogBranch(near, antipode, safe_w, x_square, length, norm_square, torch.where(near, series, torch.atan2(length, w) / length))


def quaternion_from_matrix(rotation: Tensor) -> Tensor:
    """Unit quaternion (..., 4) with w >= 0 of a rotation matrix (..., 3, 3).

    Markley, "Unit quaternion from rotation matrix", J. Guidance, Control, and Dynamics 31(2), 2008: no cancellation at any angle. roma has it too,
    but importing roma loads PyTorch's compiler, which takes longer than all the rest that a start needs.
    """
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in rotation.unbind(-2))
    # Rows of 4 q q^T: each is q but for its length, and the one with the largest diagonal entry is the longest.
    rows = torch.stack(
        (
            *(1 + xx + yy + zz, zy - yz, xz - zx, yx - xy),
            *(zy - yz, 1 + xx - yy - zz, xy + yx, xz + zx),
            *(xz - zx, xy + yx, 1 - xx + yy - zz, yz + zy),
            *(yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz),
        ),
        dim=-1,
    ).unflatten(-1, (4, 4))
    longest = rows.diagonal(dim1=-2, dim2=-1).argmax(-1)
    q = torch.take_along_dim(rows, longest[..., None, None], dim=-2)[..., 0, :]
    q = q / q.norm(dim=-1, keepdim=True)
    return torch.where(q[..., :1] < 0, -q, q)


def matrix_from_quaternion(q: Tensor) -> Tensor:
    """Rotation matrix (..., 3, 3) of a unit quaternion (..., 4): (w^2 - v.v) I + 2 v v^T + 2 w [v]."""
    w, v = q[..., :1], q[..., 1:]
    x, y, z = (2 * w * v).unbind(-1)
    zero = torch.zeros_like(x)
    turned = torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), dim=-1).unflatten(-1, (3, 3))
    straight = torch.diag_embed((w * w - (v * v).sum(-1, keepdim=True)).expand_as(v))
    return straight + 2 * v[..., :, None] * v[..., None, :] + turned
