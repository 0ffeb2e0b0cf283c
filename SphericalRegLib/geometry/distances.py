"""How far two poses are from each other.

Poses are camera_from_world (..., 4, 4), leading shapes broadcast. `centre` (3,) is the point of the world (mm) about which the pose is split into
a rotation and a translation, x_cam = R (x_world - centre) + t; `rho_mm` is the length that weighs a radian (SDD / 2 in reports).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from SphericalRegLib.geometry.se3 import local, make_transform, so3_exp, so3_log, transform_points
from SphericalRegLib.geometry.so4 import safe_norm, so4_distance, so4_from_se3


def rotation_angle(a: Tensor, b: Tensor) -> Tensor:
    """Angle (...), rad in [0, pi], between the rotations of two transforms (..., 4, 4) or rotation matrices (..., 3, 3); gradient zero at zero."""
    return safe_norm(so3_log(a[..., :3, :3].transpose(-1, -2) @ b[..., :3, :3]))


def double_geodesic(a: Tensor, b: Tensor, centre: Tensor, rho_mm: float) -> Tensor:
    """sqrt((rho theta)^2 + |t_a - t_b|^2) (...), mm: the metric of DiffPose and xvr; gradient zero at equal poses."""
    delta = local(a, b, centre)
    return safe_norm(torch.cat((rho_mm * delta[..., :3], delta[..., 3:]), dim=-1))


def so4_pose_distance(a: Tensor, b: Tensor, centre: Tensor, rho_mm: float) -> Tensor:
    """rho ||log||_F / sqrt(2) (...), mm, of the relative pose embedded in SO(4) (`so4_from_se3`); gradient zero at equal poses.

    Equal to the double geodesic to first order; within 0.16 % up to 45 degrees and 100 mm at rho = 510 mm.
    """
    delta = local(a, b, centre)
    g, h = so4_from_se3(make_transform(so3_exp(delta[..., :3]), delta[..., 3:]), rho_mm)
    identity = torch.eye(4, dtype=g.dtype, device=g.device)[0]
    return rho_mm / math.sqrt(2.0) * so4_distance(identity, identity, g, h)


def mean_displacement(a: Tensor, b: Tensor, points: Tensor) -> Tensor:
    """Mean distance (...), mm, between where two poses bring the points (N, 3) of the world: the mean target registration error of one of them."""
    return (transform_points(b, points) - transform_points(a, points)).norm(dim=-1).mean(-1)


def in_plane_and_depth(truth: Tensor, estimate: Tensor, fiducials: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """The two parts of `mean_displacement`: what a single view shows, and what it hardly does, mm.

    With the fiducial displacements d in camera axes and n the unit vector from the source to the CT's centre (3,) under the true pose, the first is
    the mean of |d - (d.n) n| and the second the mean of |d.n|.
    """
    truth, estimate, fiducials = truth.double(), estimate.double(), fiducials.double()
    displacement = transform_points(estimate, fiducials) - transform_points(truth, fiducials)
    ray = transform_points(truth, centre.double()[None])
    ray = ray / ray.norm(dim=-1, keepdim=True)
    along = (displacement * ray).sum(-1, keepdim=True)
    return (displacement - along * ray).norm(dim=-1).mean(-1), along.abs().mean((-2, -1))
