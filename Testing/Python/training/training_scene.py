"""An analytic renderer: Gaussian blobs, whose line integrals are Gaussians of the distance between ray and centre; double precision."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.se3 import make_transform, retract, so3_exp, transform_points

CAMERA = Camera(1000.0, (14.0, 14.0), (32, 32), (15.0, 16.2))
CENTRE = torch.tensor([10.0, -20.0, 30.0], dtype=torch.float64)
SIZE_MM = 30.0


def blobs() -> Tensor:
    offsets = torch.tensor([[50, 10, -30], [-40, 30, 20], [0, -50, 50], [-20, -30, -60], [40, -10, 60], [5, 60, 0]], dtype=torch.float64)
    return CENTRE + offsets


@dataclass(frozen=True)
class BlobProjector:
    """What `training.paired.PairedProblem` and the losses need of a `Projector`."""

    points: Tensor = field(default_factory=blobs)
    camera: Camera = CAMERA
    centre: Tensor = field(default_factory=lambda: CENTRE)

    def image(self, pose: Tensor) -> Tensor:
        """(H, W) of one pose (4, 4)."""
        rows, columns = torch.meshgrid(torch.arange(self.camera.rows), torch.arange(self.camera.columns), indexing="ij")
        rays = self.camera.back_project(torch.stack((columns, rows), dim=-1).double())
        rays = rays / rays.norm(dim=-1, keepdim=True)
        at = transform_points(pose, self.points)
        along = rays @ at.T
        squared = at.square().sum(-1) - along.square()
        return torch.exp(-0.5 * squared / SIZE_MM**2).sum(-1)

    def project(self, poses: Tensor) -> Tensor:
        return torch.stack([self.image(pose) for pose in poses])

    def validity(self, poses: Tensor) -> Tensor:
        return torch.ones(len(poses), self.camera.rows, self.camera.columns, dtype=torch.bool)

    def project_with_jacobian(self, poses: Tensor) -> tuple[Tensor, Tensor]:
        def at(pose: Tensor) -> Tensor:
            return torch.func.jacfwd(lambda delta: self.image(retract(pose, delta, self.centre)))(pose.new_zeros(6))

        return self.project(poses).detach(), torch.stack([at(pose) for pose in poses]).detach()


def poses(count: int, seed: int = 0) -> Tensor:
    """Poses about a view along y, (count, 4, 4)."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.tensor([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]], dtype=torch.float64)
    rotation = base @ so3_exp(0.2 * torch.randn(count, 3, dtype=torch.float64, generator=generator))
    shift = torch.tensor([0.0, 0.0, 750.0], dtype=torch.float64) + 10 * torch.randn(count, 3, dtype=torch.float64, generator=generator)
    return make_transform(rotation, shift - rotation @ CENTRE)
