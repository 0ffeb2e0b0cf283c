"""Analytic least-squares problems in the pose, shared by the tests of all optimisers."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.se3 import hat, retract, transform_points
from SphericalRegLib.geometry.views import named_view

CAMERA = Camera(1000.0, (0.5, 0.4), (512, 640), (250.0, 330.0))
CENTRE = torch.tensor([10.0, -20.0, 300.0], dtype=torch.float64)


@dataclass(frozen=True)
class PointProjection:
    """Reprojection residuals, pixels, of points (N, 3) against their observed pixels (B, N, 2), with the Jacobian by hand; counts its evaluations."""

    points: Tensor
    observed: Tensor
    centre: Tensor = CENTRE
    asked: list[int] = field(default_factory=list)

    def residual(self, poses: Tensor, observed: Tensor) -> Tensor:
        return (CAMERA.project(transform_points(poses, self.points)) - observed).flatten(-2)

    def residual_and_jacobian(self, poses: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        self.asked.extend(index.tolist())
        rotation = poses[:, None, :3, :3]
        x, y, z = transform_points(poses, self.points).unbind(-1)
        (fu, fv), zero = CAMERA.focal_length_px, torch.zeros_like(x)
        by_camera = torch.stack((fu / z, zero, -fu * x / z**2, zero, fv / z, -fv * y / z**2), -1).unflatten(-1, (2, 3))
        by_tangent = torch.cat((-rotation @ hat(self.points - self.centre), rotation.expand(-1, len(self.points), -1, -1)), -1)
        return self.residual(poses, self.observed[index]), (by_camera @ by_tangent).flatten(1, 2)


@dataclass(frozen=True)
class Scene:
    centre: Tensor
    truth: Tensor  # (B, 4, 4)
    start: Tensor  # (B, 4, 4)
    problem: PointProjection


@pytest.fixture
def scene():
    """A maker of scenes: B poses about an AP view, N points, starts off by about `degrees` and `mm` per axis, pixel noise."""

    def make(batch: int = 4, points: int = 20, degrees: float = 5.0, mm: float = 10.0, noise: float = 0.0, seed: int = 0) -> Scene:
        generator = torch.Generator().manual_seed(seed)
        spread = torch.tensor([degrees * torch.pi / 180] * 3 + [mm] * 3, dtype=torch.float64)
        view = named_view("ap", CAMERA, CENTRE).expand(batch, 4, 4)
        truth = retract(view, spread * torch.randn(batch, 6, generator=generator, dtype=torch.float64), CENTRE)
        start = retract(truth, spread * torch.randn(batch, 6, generator=generator, dtype=torch.float64), CENTRE)
        cloud = CENTRE + 60.0 * torch.randn(points, 3, generator=generator, dtype=torch.float64)
        observed = CAMERA.project(transform_points(truth, cloud))
        observed = observed + noise * torch.randn(observed.shape, generator=generator, dtype=torch.float64)
        return Scene(CENTRE, truth, start, PointProjection(cloud, observed))

    return make


@pytest.fixture
def quadratic():
    """A maker of problems whose residual is r0 + A delta exactly, delta = local(origin, pose) without rotation: one Newton step solves them."""

    def make(columns: list[int], rows: int = 30, seed: int = 0):
        generator = torch.Generator().manual_seed(seed)
        matrix = torch.zeros(rows, 6, dtype=torch.float64)
        matrix[:, columns] = torch.randn(rows, len(columns), generator=generator, dtype=torch.float64)
        offset = torch.randn(rows, generator=generator, dtype=torch.float64)

        def residual(poses: Tensor) -> tuple[Tensor, Tensor]:
            shift = torch.cat((torch.zeros(len(poses), 3, dtype=torch.float64), poses[:, :3, 3]), -1)  # centre 0, R = I: t is the shift itself
            return offset + shift @ matrix.T, matrix.expand(len(poses), rows, 6)

        return residual, matrix, offset

    return make
