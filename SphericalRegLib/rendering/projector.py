"""`Projector`: line integrals of attenuation through a CT, and their Jacobian by the pose."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .autograd import DifferentiableProjection, is_differentiated
from .backends import make_backend
from .unseen import TOLERANCE_MM, UnseenRays

if TYPE_CHECKING:
    from ..geometry.camera import Camera
    from ..imaging.attenuation import Attenuation


class Projector:
    """Projects one CT through one camera at many poses.

    Each pixel is the integral of the trilinearly interpolated attenuation along the ray from the X-ray source to the pixel's centre (no unit), by the
    midpoint rule: samples lie at (n + 1/2) `step_mm` from the source. They are fixed in the camera, so the image is as smooth a function of the pose
    as the interpolant is. Its Jacobian is that of the integral, freed of what the sampling makes of motions along the rays (see kernel.py; exact as
    long as source and detector lie outside the CT). Outside the grid is air: attenuation falls to zero within one voxel.

    Poses are camera_from_world (B, 4, 4); the image of one that is not finite is NaN throughout (with "warp"). The Jacobian is by the tangent
    (omega, v), rad and mm, in world axes, on the right, about `centre`: with x_cam = R (x_world - c) + t, a step gives R exp(omega) and t + R v.

    Args:
        attenuation: the CT in 1/mm with its affine and its centre c. For one bone of several, or bone alone, make it so.
        camera: intrinsics.
        step_mm: distance between samples, mm; by default `default_step_mm`.
        device: where the volume lives and images are made.
        backend: "warp", or DiffDRR as the reference: "diffdrr-siddon", "diffdrr-trilinear".
        threads: how many of the CPU's cores to use; all by default.
        unseen: what goes on beyond the CT's ends, where projectors of one CT on several grids share it; by default found in `attenuation`.

    Attributes:
        attenuation, camera, step_mm, device: as given.
        centre: (3,) float64 tensor, c in mm.

    Raises:
        InputError: unknown backend or one whose package is missing, a step or a number of threads that is not positive, attenuation that is
            negative or not finite.
    """

    def __init__(
        self,
        attenuation: Attenuation,
        camera: Camera,
        *,
        step_mm: float | None = None,
        device: torch.device | str = "cpu",
        backend: str = "warp",
        threads: int | None = None,
        unseen: UnseenRays | None = None,
    ) -> None:
        step = default_step_mm(attenuation) if step_mm is None else float(step_mm)
        if not 0 < step < float("inf"):
            raise InputError(f"The sampling step is {step} mm; expected a positive length.")
        if threads is not None and threads < 1:
            raise InputError(f"The renderer was given {threads} threads; expected at least 1.")
        self.attenuation = attenuation
        self.camera = camera
        self.step_mm = step
        self.device = torch.device(device)
        self.centre = torch.as_tensor(np.asarray(attenuation.centre_ras_mm), dtype=torch.float64, device=self.device)
        self._backend = make_backend(backend, attenuation, step, self.device, threads)
        self._unseen = UnseenRays(attenuation, self.device, threads) if unseen is None else unseen

    def with_camera(self, camera: Camera) -> Projector:
        """The same volume seen through another camera; nothing is copied."""
        other = copy(self)
        other.camera = camera
        return other

    def project(self, camera_from_world: Tensor) -> Tensor:
        """Images (B, H, W), float32, of poses (B, 4, 4). Differentiable by the pose once, in reverse and in forward mode (batched by vmap too).

        Derivatives are those along rigid motions: what is not one in a change of the matrix is projected away.
        """
        pose = _checked(camera_from_world)
        if not is_differentiated(pose):
            return self._backend.project(self.camera, pose)
        return DifferentiableProjection.apply(pose, self.centre, self._render_with_jacobian)[0]

    def project_with_jacobian(self, camera_from_world: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, H, W) and their Jacobians (B, H, W, 6) by the tangent (omega, v) of the class's docstring; constants to autograd."""
        return self._render_with_jacobian(_checked(camera_from_world).detach())

    def validity(self, camera_from_world: Tensor) -> Tensor:
        """(B, H, W) bool: False where the ray would meet body beyond an end of the CT that cuts the body (`Attenuation.cut_faces`; see unseen.py)."""
        pose = _checked(camera_from_world).detach()
        return self._unseen.lengths_mm(self.camera, pose) < TOLERANCE_MM

    def _render_with_jacobian(self, camera_from_world: Tensor) -> tuple[Tensor, Tensor]:
        return self._backend.project_with_jacobian(self.camera, camera_from_world)


def default_step_mm(attenuation: Attenuation) -> float:
    """The cube root of a voxel's volume, mm: in a body, whose rays are hundreds of samples long, the rule's error is then some 0.1 %."""
    return float(abs(np.linalg.det(np.asarray(attenuation.world_from_voxel)[:3, :3])) ** (1 / 3))


def _checked(pose: Tensor) -> Tensor:
    if pose.ndim != 3 or pose.shape[1:] != (4, 4):
        raise InputError(f"Poses have shape {tuple(pose.shape)}; expected camera_from_world (B, 4, 4).")
    return pose
