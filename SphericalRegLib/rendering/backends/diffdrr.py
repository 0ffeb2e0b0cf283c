"""DiffDRR (Gopalakrishnan & Golland 2022) as the reference renderer: its Siddon and trilinear integrators on this package's rays.

Only the integrators are used, on rays given in voxel indices, so DiffDRR's own frames (AP/PA reorientation, reversed x axis) play no part. Automatic
differentiation gives one gradient, not an image Jacobian; but a pixel depends on its own ray alone, so with a tangent of its own for each ray one
backward pass yields the whole Jacobian.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ..rays import pixel_targets, relative_to_centre

if TYPE_CHECKING:
    from ...geometry.camera import Camera
    from ...imaging.attenuation import Attenuation

_SAMPLES_AT_ONCE = 2**23  # some 30 tensors of this size live in a backward pass


class DiffDrrBackend:
    """A volume as DiffDRR wants it, and one of its integrators ("siddon": exact for constant voxels; "trilinear": with this package's step)."""

    def __init__(self, integrator: str, attenuation: Attenuation, step_mm: float, device: torch.device) -> None:
        try:
            from diffdrr.renderers import Siddon, Trilinear
        except ImportError as error:
            raise InputError(f"The renderer backend 'diffdrr-{integrator}' needs the package diffdrr, which is not installed.") from error
        self._integrator = {"siddon": Siddon, "trilinear": Trilinear}[integrator]()
        self._is_trilinear = integrator == "trilinear"
        self._step_mm = step_mm
        self._device = device
        self._mu = torch.as_tensor(np.asarray(attenuation.mu), dtype=torch.float32, device=device)
        self._voxel_from_world = torch.as_tensor(np.linalg.inv(attenuation.world_from_voxel), dtype=torch.float64, device=device)
        self._centre = torch.as_tensor(np.asarray(attenuation.centre_ras_mm), dtype=torch.float64, device=device)

    def project(self, camera: Camera, camera_from_world: Tensor) -> Tensor:
        return self._render(camera, camera_from_world, with_jacobian=False)[0]

    def project_with_jacobian(self, camera: Camera, camera_from_world: Tensor) -> tuple[Tensor, Tensor]:
        return self._render(camera, camera_from_world, with_jacobian=True)

    def _render(self, camera: Camera, camera_from_world: Tensor, with_jacobian: bool) -> tuple[Tensor, Tensor]:
        columns, rows = camera.size_px
        targets = pixel_targets(camera, self._device).view(-1, 3)
        images, jacobians = [], []
        for pose in camera_from_world.detach().to(self._device, torch.float64):
            options, samples = self._sampling(camera, pose)
            parts = [self._integrate(pose, chunk, options, with_jacobian) for chunk in targets.split(max(1, _SAMPLES_AT_ONCE // samples))]
            images.append(torch.cat([image for image, _ in parts]).view(rows, columns))
            jacobians.append(torch.cat([jacobian for _, jacobian in parts]).view(rows, columns, 6))
        if not images:
            empty = torch.zeros(0, rows, columns, device=self._device)
            return empty, empty.new_zeros(0, rows, columns, 6)
        return torch.stack(images), torch.stack(jacobians)

    def _sampling(self, camera: Camera, pose: Tensor) -> tuple[dict[str, object], int]:
        """Arguments for the integrator, and samples per ray. All rays of a flat detector share the fraction alpha = depth / SDD."""
        if not self._is_trilinear:
            return {}, sum(self._mu.shape) + 3
        ends = [torch.tensor([-1.0, float(n)], dtype=torch.float64, device=self._device) for n in self._mu.shape]
        corners = torch.cartesian_prod(*ends)
        world = torch.linalg.solve(self._voxel_from_world[:3, :3], (corners - self._voxel_from_world[:3, 3]).T).T
        alphas = ((world @ pose[:3, :3].T + pose[:3, 3])[:, 2] / camera.sdd_mm).clamp(0.0, 1.0)
        low, high = float(alphas.min()), float(alphas.max())
        longest = float(pixel_targets(camera, self._device).norm(dim=-1).max())
        samples = max(2, math.ceil((high - low) * longest / self._step_mm) + 1)
        return {"n_points": samples, "alphamin": low, "alphamax": high}, samples

    def _integrate(self, pose: Tensor, targets: Tensor, options: dict[str, object], with_jacobian: bool) -> tuple[Tensor, Tensor]:
        """Image (N,) and Jacobian (N, 6) of N rays."""
        with torch.set_grad_enabled(with_jacobian):
            tangent = torch.zeros(targets.shape[0], 6, dtype=torch.float64, device=self._device, requires_grad=with_jacobian)
            source, target = (self._in_voxels(pose, points, tangent) for points in (torch.zeros_like(targets), targets))
            length = targets.norm(dim=-1).to(torch.float32)[None, None]
            image = self._integrator(self._mu, source[None], target[None], length, **options)[0, 0]
            if not with_jacobian:
                return image, tangent.to(torch.float32)
            (jacobian,) = torch.autograd.grad(image.sum(), tangent)
        return image.detach(), jacobian.to(torch.float32)

    def _in_voxels(self, pose: Tensor, points_camera: Tensor, tangent: Tensor) -> Tensor:
        """Voxel indices (N, 3) of camera points, each moved by its own tangent (N, 6), to first order: y + y x omega - v."""
        y = relative_to_centre(pose, points_camera, self._centre)
        y = y + torch.linalg.cross(y, tangent[:, :3]) - tangent[:, 3:]
        linear = self._voxel_from_world[:3, :3]
        return ((y + self._centre) @ linear.T + self._voxel_from_world[:3, 3]).to(torch.float32)
