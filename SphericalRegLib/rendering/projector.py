"""`Projector`: line integrals of attenuation through a CT, and their Jacobian by the pose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .autograd import DifferentiableProjection
from .backends import Backend, make_backend

if TYPE_CHECKING:
    from ..geometry.camera import Camera
    from ..imaging.attenuation import Attenuation


class Projector:
    """Projects one CT through one camera at many poses.

    Each pixel is the integral of the trilinearly interpolated attenuation along the ray from the X-ray source to the pixel's centre (no unit), by the
    midpoint rule: samples lie at (n + 1/2) `step_mm` from the source. They are fixed in the camera, so the image is as smooth a function of the pose
    as the interpolant is, and its Jacobian is exact. Outside the grid is air: attenuation falls to zero within one voxel.

    Args:
        attenuation: the CT in 1/mm with its affine and its centre c.
        camera: intrinsics.
        step_mm: distance between samples, mm; by default the cube root of a voxel's volume.
        device: where the volume lives and images are made.
        backend: "warp", or DiffDRR as the reference: "diffdrr-siddon", "diffdrr-trilinear".

    Raises:
        InputError: unknown backend, or a step that is not positive.
    """

    def __init__(
        self, attenuation: Attenuation, camera: Camera, *, step_mm: float | None = None, device: Any = "cpu", backend: str = "warp"
    ) -> None:
        step = default_step_mm(attenuation) if step_mm is None else float(step_mm)
        if not 0 < step < float("inf"):
            raise InputError(f"The sampling step is {step} mm; expected a positive length.")
        self._bind(attenuation, camera, step, torch.device(device), make_backend(backend, attenuation, step, torch.device(device)))

    def _bind(self, attenuation: Attenuation, camera: Camera, step_mm: float, device: torch.device, backend: Backend) -> None:
        self.attenuation = attenuation
        self.camera = camera
        self.step_mm = step_mm
        self.device = device
        self.centre = torch.as_tensor(np.asarray(attenuation.centre_ras_mm), dtype=torch.float64, device=device)
        self._backend = backend

    def with_camera(self, camera: Camera) -> Projector:
        """The same volume seen through another camera; nothing is copied."""
        other = object.__new__(Projector)
        other._bind(self.attenuation, camera, self.step_mm, self.device, self._backend)
        return other

    def project(self, camera_from_world: Tensor) -> Tensor:
        """Image (B, H, W), float32, of poses (B, 4, 4). Differentiable once by the pose, in reverse and in forward mode."""
        if not _is_differentiated(camera_from_world):
            return self._backend.project(self.camera, _check(camera_from_world))
        return DifferentiableProjection.apply(_check(camera_from_world), self.centre, self._render_with_jacobian)[0]

    def project_with_jacobian(self, camera_from_world: Tensor) -> tuple[Tensor, Tensor]:
        """Image (B, H, W) and its Jacobian (B, H, W, 6) by the tangent (omega, v): rad and mm, world axes, on the right, about `centre`."""
        return self._render_with_jacobian(_check(camera_from_world).detach())

    def _render_with_jacobian(self, camera_from_world: Tensor) -> tuple[Tensor, Tensor]:
        return self._backend.project_with_jacobian(self.camera, camera_from_world)


def default_step_mm(attenuation: Attenuation) -> float:
    """The cube root of a voxel's volume, mm."""
    return float(abs(np.linalg.det(np.asarray(attenuation.world_from_voxel)[:3, :3])) ** (1 / 3))


def _is_differentiated(pose: Tensor) -> bool:
    in_forward_mode = torch._C._functorch.maybe_current_level() is not None or torch.autograd.forward_ad.unpack_dual(pose).tangent is not None
    return in_forward_mode or (pose.requires_grad and torch.is_grad_enabled())


def _check(pose: Tensor) -> Tensor:
    if pose.ndim != 3 or pose.shape[1:] != (4, 4):
        raise InputError(f"Poses have shape {tuple(pose.shape)}; expected camera_from_world (B, 4, 4).")
    return pose
