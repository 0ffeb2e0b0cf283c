"""From changes of a pose matrix to tangent vectors and back: what ties the image Jacobian to automatic differentiation.

The pose maps x_cam = R (x_world - c) + t. A tangent delta = (omega, v), rad and mm, in world axes, gives R exp(omega) and t + R v.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..geometry.se3 import hat


def tangent_from_matrix(camera_from_world: Tensor, change: Tensor, centre: Tensor) -> Tensor:
    """Tangent (..., 6) of a change (..., 4, 4) of the pose matrix; what is not a rigid motion in it is projected away."""
    rotation_t = camera_from_world[..., :3, :3].mT
    omega_hat = rotation_t @ change[..., :3, :3]
    omega = 0.5 * torch.stack(
        [
            omega_hat[..., 2, 1] - omega_hat[..., 1, 2],
            omega_hat[..., 0, 2] - omega_hat[..., 2, 0],
            omega_hat[..., 1, 0] - omega_hat[..., 0, 1],
        ],
        dim=-1,
    )
    shift = change[..., :3, :3] @ centre.to(change) + change[..., :3, 3]
    return torch.cat([omega, (rotation_t @ shift[..., None])[..., 0]], dim=-1)


def matrix_from_tangent_gradient(camera_from_world: Tensor, gradient: Tensor, centre: Tensor) -> Tensor:
    """The adjoint of `tangent_from_matrix`: gradient (..., 6) by the tangent -> gradient (..., 4, 4) by the pose matrix (last row zero)."""
    rotation = camera_from_world[..., :3, :3]
    g_omega, g_v = gradient[..., :3], gradient[..., 3:]
    g_shift = (rotation @ g_v[..., None])[..., 0]
    g_rotation = 0.5 * rotation @ hat(g_omega) + g_shift[..., :, None] * centre.to(gradient)
    out = torch.zeros_like(camera_from_world)
    out[..., :3, :3] = g_rotation
    out[..., :3, 3] = g_shift
    return out
