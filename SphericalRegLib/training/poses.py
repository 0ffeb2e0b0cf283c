"""How far from the truth the DRRs of a training are taken."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.se3 import retract


@dataclass(frozen=True)
class Perturbation:
    """How far from the true pose the encoder's DRRs are taken: normal per axis, times a factor uniform in [0, 1] so that all distances occur."""

    rotation_deg: float = 20.0
    in_plane_mm: float = 35.0
    depth_mm: float = 50.0

    def __post_init__(self) -> None:
        if not all(0 <= value < math.inf for value in (self.rotation_deg, self.in_plane_mm, self.depth_mm)):
            raise InputError(
                f"DRRs are taken {self.rotation_deg} deg, {self.in_plane_mm} mm and {self.depth_mm} mm from the truth; expected numbers that are not "
                "negative."
            )

    def sample(self, camera_from_world: Tensor, centre: Tensor, generator: torch.Generator) -> Tensor:
        """Perturb poses (B, 4, 4): rotations about the CT's centre (world axes), translations along the camera's axes."""
        count = len(camera_from_world)
        draws = torch.randn(count, 6, dtype=torch.float64, generator=generator) * torch.rand(count, 1, dtype=torch.float64, generator=generator)
        omega = math.radians(self.rotation_deg) * draws[:, :3]
        shift_camera = draws[:, 3:] * torch.tensor([self.in_plane_mm, self.in_plane_mm, self.depth_mm], dtype=torch.float64)
        shift_world = (camera_from_world[:, :3, :3].transpose(1, 2) @ shift_camera[..., None])[..., 0]
        return retract(camera_from_world, torch.cat((omega, shift_world), dim=1), centre)
