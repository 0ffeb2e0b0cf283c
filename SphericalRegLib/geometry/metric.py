"""A metric of SE(3) for learning: what an X-ray shows of a motion decides how much it weighs.

A shift along the ray changes a fluoroscopy image by the change of its magnification alone, several times less than the same shift across it. A metric
that weighs both alike asks a similarity for what is not in the image, and the rest of its gradient pays for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from SphericalRegLib.geometry.se3 import local, make_transform
from SphericalRegLib.geometry.so4 import so4_from_se3


@dataclass(frozen=True)
class PoseMetric:
    """Coordinates of the way from one pose to another in which it is as long as it looks; the metric is left-invariant up to the weights.

    Attributes:
        rho_mm: the shift across the central ray that weighs a radian.
        depth_mm: the shift along the camera's z axis that does.
    """

    rho_mm: float = 100.0
    depth_mm: float = 400.0

    def way(self, from_pose: Tensor, to_pose: Tensor, centre: Tensor) -> Tensor:
        """(..., 6) from one camera_from_world (..., 4, 4) to another: (omega in world axes, the shift of `centre` (3,) in camera axes), radians."""
        return self.coordinates(from_pose, local(from_pose, to_pose, centre))

    def coordinates(self, pose: Tensor, delta: Tensor) -> Tensor:
        """(..., 6) of a tangent (omega, v) (..., 6) at a pose, as in `geometry.se3.retract`."""
        return torch.cat((delta[..., :3], _turned(pose, delta[..., 3:]) / self._lengths(delta)), dim=-1)

    def gradient(self, pose: Tensor, gradient: Tensor) -> Tensor:
        """(..., 6) derivative by these coordinates, of one by the tangent (omega, v) (..., 6)."""
        return torch.cat((gradient[..., :3], _turned(pose, gradient[..., 3:]) * self._lengths(gradient)), dim=-1)

    def in_so4(self, pose: Tensor, reference: Tensor, centre: Tensor) -> Tensor:
        """(..., 2, 4): poses (..., 4, 4) as rotations of four-space, pairs of unit quaternions; near the `reference` pose this keeps distances."""
        turn = pose[..., :3, :3] @ reference[:3, :3].mT
        shift = pose[..., :3, :3] @ centre + pose[..., :3, 3] - (reference[:3, :3] @ centre + reference[:3, 3])
        return torch.stack(so4_from_se3(make_transform(turn, shift / self._lengths(shift)), 1.0), dim=-2)

    def _lengths(self, like: Tensor) -> Tensor:
        return like.new_tensor([self.rho_mm, self.rho_mm, self.depth_mm])


def _turned(pose: Tensor, vector: Tensor) -> Tensor:
    """A vector of the world (..., 3) in camera axes."""
    return (pose[..., :3, :3].to(vector) @ vector[..., None])[..., 0]
