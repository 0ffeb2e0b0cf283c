"""A metric of SE(3) for learning: what an X-ray shows of a motion decides how much it weighs.

A shift along the ray changes a fluoroscopy image by the change of its magnification alone, several times less than the same shift across it. A metric
that weighs both alike asks a similarity for what is not in the image, and the rest of its gradient pays for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.pose_range import PoseRange
from SphericalRegLib.geometry.quaternions import quaternion_conjugate, quaternion_exp, quaternion_from_matrix, quaternion_multiply
from SphericalRegLib.geometry.se3 import local, make_transform, so3_right_jacobian
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

    def log(self, from_pose: Tensor, to_pose: Tensor, centre: Tensor) -> Tensor:
        """(..., 6) from one camera_from_world (..., 4, 4) to another: (omega in world axes, the shift of `centre` (3,) in camera axes), radians.
        Its norm is the distance between the two."""
        return self.coordinates(from_pose, local(from_pose, to_pose, centre))

    def coordinates(self, pose: Tensor, delta: Tensor) -> Tensor:
        """(..., 6) of a tangent (omega, v) (..., 6) at a pose, as in `geometry.se3.retract`."""
        return torch.cat((delta[..., :3], _turned(pose, delta[..., 3:]) / self._lengths(delta)), dim=-1)

    def gradient(self, pose: Tensor, gradient: Tensor) -> Tensor:
        """(..., 6) derivative by these coordinates, of one by the tangent (omega, v) (..., 6)."""
        return torch.cat((gradient[..., :3], _turned(pose, gradient[..., 3:]) * self._lengths(gradient)), dim=-1)

    def in_so4(self, pose: Tensor, reference: Tensor, centre: Tensor) -> Tensor:
        """(..., 2, 4): poses (..., 4, 4) as rotations of four-space, pairs of unit quaternions; near the `reference` pose this keeps distances."""
        turn, shift = self._from_reference(pose, reference, centre)
        return torch.stack(so4_from_se3(make_transform(turn, shift), 1.0), dim=-2)

    def in_so4_and_tangent(self, pose: Tensor, reference: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
        """`in_so4` and its derivative (..., 2, 4, 6) by the tangent (omega, v) of `geometry.se3.retract` about the centre.

        With the turn's quaternion Q and D = exp(s / 2) of the shift s, the place is (D Q, conj(D) Q). Q moves with half of R omega on its left, D
        with half of J_r(s) ds on its right (Sola, Deray and Atchuthan, "A micro Lie theory for state estimation in robotics", 2018).
        """
        turn, shift = self._from_reference(pose, reference, centre)
        axes = pose[..., :3, :3].mT  # rows: the world's axes in the camera's
        still = torch.zeros_like(axes)
        moved = axes / self._lengths(axes) @ so3_right_jacobian(shift).mT
        q, d = quaternion_from_matrix(turn)[..., None, :], quaternion_exp(shift / 2)[..., None, :]
        q_along = quaternion_multiply(_half(torch.cat((axes, still), dim=-2)), q)  # (..., 6, 4)
        d_along = quaternion_multiply(d, _half(torch.cat((still, moved), dim=-2)))
        sides = ((d, d_along), (quaternion_conjugate(d), quaternion_conjugate(d_along)))
        place = torch.cat([quaternion_multiply(side, q) for side, _ in sides], dim=-2)
        along = [quaternion_multiply(side_along, q) + quaternion_multiply(side, q_along) for side, side_along in sides]
        return place, torch.stack(along, dim=-3).mT

    def _from_reference(self, pose: Tensor, reference: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
        """Turn (..., 3, 3) and shift of the centre (..., 3), in radians, of the way from the reference to poses, both in camera axes."""
        turn = pose[..., :3, :3] @ reference[:3, :3].mT
        shift = pose[..., :3, :3] @ centre + pose[..., :3, 3] - (reference[:3, :3] @ centre + reference[:3, 3])
        return turn, shift / self._lengths(shift)

    def _lengths(self, like: Tensor) -> Tensor:
        return like.new_tensor([self.rho_mm, self.rho_mm, self.depth_mm])


@dataclass(frozen=True)
class Places:
    """Where poses lie in SO(4): what embeddings are anchored to.

    Attributes:
        metric: of SE(3).
        reference: camera_from_world (4, 4) whose place is the identity.
        centre: (3,), of the CT.
    """

    metric: PoseMetric
    reference: Tensor
    centre: Tensor

    @classmethod
    def around(cls, poses: PoseRange, metric: PoseMetric, camera: Camera, centre: Tensor) -> Places:
        """Those of a training over a range of poses, whose middle is the reference; on the device of `centre` (3,)."""
        return cls(metric, poses.middle(camera, centre.cpu()).to(centre.device), centre)

    def of(self, pose: Tensor) -> Tensor:
        """(..., 2, 4) of poses (..., 4, 4): `PoseMetric.in_so4`."""
        return self.metric.in_so4(pose, self.reference, self.centre)

    def log(self, from_pose: Tensor, to_pose: Tensor) -> Tensor:
        """(..., 6) from one camera_from_world (..., 4, 4) to another: `PoseMetric.log`."""
        return self.metric.log(from_pose, to_pose, self.centre)

    def with_tangent(self, pose: Tensor) -> tuple[Tensor, Tensor]:
        """`of`, and its derivative (..., 2, 4, 6) by (omega, v) about the centre: `PoseMetric.in_so4_and_tangent`."""
        return self.metric.in_so4_and_tangent(pose, self.reference, self.centre)

    def to(self, device: torch.device | str) -> Places:
        return replace(self, reference=self.reference.to(device), centre=self.centre.to(device))


def _turned(pose: Tensor, vector: Tensor) -> Tensor:
    """A vector of the world (..., 3) in camera axes."""
    return (pose[..., :3, :3].to(vector) @ vector[..., None])[..., 0]


def _half(omega: Tensor) -> Tensor:
    """(..., 4): the tangent at the identity of the unit quaternion that turns about omega (..., 3)."""
    return torch.cat((torch.zeros_like(omega[..., :1]), omega / 2), dim=-1)
