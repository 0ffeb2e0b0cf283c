"""The least-squares problem of one or several X-rays in the pose of the CT."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..geometry.camera import Camera
from ..rendering.projector import Projector
from ..similarity.base import Similarity

PIXELS_AT_ONCE = 2**19
"""Rendered pixels that are worked on at a time: with their six tangent columns and the filters' copies about 150 MB."""


@dataclass(frozen=True)
class ViewTerm:
    """One X-ray's part: how it is rendered, how it is compared, and where its camera stands.

    Attributes:
        projector: the CT through this view's camera.
        similarity: bound to this view's X-ray on the same grid.
        camera_from_camera1: (4, 4) float64; the identity for the first view.
    """

    projector: Projector
    similarity: Similarity
    camera_from_camera1: Tensor

    def pose(self, camera1_from_world: Tensor) -> Tensor:
        """This view's camera_from_world (B, 4, 4)."""
        return self.camera_from_camera1 @ camera1_from_world

    def valid(self, camera_from_world: Tensor) -> Tensor | None:
        """Pixels (B, H, W) whose ray does not leave through a cut end of the CT; None if the CT has none."""
        if not any(self.projector.attenuation.cut_faces) or not hasattr(self.projector, "validity"):
            return None
        return self.projector.validity(camera_from_world)

    def residual_and_jacobian(self, camera1_from_world: Tensor) -> tuple[Tensor, Tensor]:
        """r (B, N) and J (B, N, 6). A step on the right turns and shifts the CT alike in every camera, so J needs no change of frame."""
        pose = self.pose(camera1_from_world)
        image, jacobian = self.projector.project_with_jacobian(pose)
        jacobian = without_motion_along_rays(jacobian, pose, self.projector.camera, self.projector.centre)
        return self.similarity.residual_and_jacobian(image, jacobian, self.valid(pose))

    def score(self, camera1_from_world: Tensor) -> Tensor:
        """(B,), higher is better."""
        pose = self.pose(camera1_from_world)
        return self.similarity.score(self.projector.project(pose), self.valid(pose))


def without_motion_along_rays(jacobian: Tensor, camera_from_world: Tensor, camera: Camera, centre: Tensor) -> Tensor:
    """The image Jacobian (B, H, W, 6) freed from what a motion of the CT *along* each ray contributes.

    A rigid motion displaces the points of a ray with unit direction d by w; its part along the ray, w.d, is the same for all of them, and so is its
    share of the derivative, (w.d) times the integral of grad mu . d, which is mu at the ray's end minus mu at its beginning: zero, both lie in air.
    Summed over samples it is not zero but noise, as large as the whole derivative by depth, where optimisation then stalls. With c the centre, s the
    source and e = J_v . d that share per millimetre, J_v - e d and J_omega - e (s - c) x d are exact.
    """
    rotation = camera_from_world[:, :3, :3]
    rays = camera.back_project(_pixel_centres(camera).to(camera_from_world))
    rays = rays / rays.norm(dim=-1, keepdim=True)
    source = -(rotation.mT @ (rotation @ centre + camera_from_world[:, :3, 3])[..., None])[..., 0]
    direction = (rays.flatten(0, 1) @ rotation).unflatten(1, rays.shape[:2]).to(jacobian.dtype)  # (B, H, W, 3): R^T d
    moment = torch.linalg.cross(source[:, None, None].to(jacobian.dtype).expand_as(direction), direction)
    along = (jacobian[..., 3:] * direction).sum(-1, keepdim=True)
    return jacobian - along * torch.cat((moment, direction), dim=-1)


def _pixel_centres(camera: Camera) -> Tensor:
    """(H, W, 2) (column, row)."""
    rows, columns = torch.meshgrid(torch.arange(camera.rows), torch.arange(camera.columns), indexing="ij")
    return torch.stack((columns, rows), dim=-1).double()


@dataclass(frozen=True)
class MultiViewProblem:
    """The residuals of all views stacked, in the pose of the CT in the first camera; an `optimization.LeastSquaresProblem`.

    Views enter with equal weight whatever their number of pixels: each residual is scaled to the number of pixels of the first.
    """

    terms: Sequence[ViewTerm]

    @property
    def centre(self) -> Tensor:
        return self.terms[0].projector.centre

    def residual_and_jacobian(self, poses: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        parts = [self._stacked(chunk) for chunk in self._chunks(poses)]
        return torch.cat([r for r, _ in parts]), torch.cat([j for _, j in parts])

    def score(self, poses: Tensor) -> Tensor:
        """The views' mean score (B,)."""
        return torch.cat([torch.stack([term.score(chunk) for term in self.terms]).mean(0) for chunk in self._chunks(poses)])

    def _stacked(self, poses: Tensor) -> tuple[Tensor, Tensor]:
        if len(self.terms) == 1:
            return self.terms[0].residual_and_jacobian(poses)
        residuals, jacobians = [], []
        for term in self.terms:
            residual, jacobian = term.residual_and_jacobian(poses)
            scale = math.sqrt(_pixels(self.terms[0]) / _pixels(term))
            residuals.append(scale * residual)
            jacobians.append(scale * jacobian)
        return torch.cat(residuals, dim=1), torch.cat(jacobians, dim=1)

    def _chunks(self, poses: Tensor) -> Iterator[Tensor]:
        size = max(1, PIXELS_AT_ONCE // max(_pixels(term) for term in self.terms))
        return iter(poses.split(size))


def _pixels(term: ViewTerm) -> int:
    camera = term.projector.camera
    return camera.columns * camera.rows
