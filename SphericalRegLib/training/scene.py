"""What training renders: one CT as attenuation, and as water and bone for the randomised physics."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.attenuation import Attenuation, AttenuationModel, attenuation, water_bone_fractions
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.rendering.projector import Projector


@dataclass(frozen=True)
class TrainingScene:
    """Three projectors of one CT through the training camera, on a grid as coarse as the training images are.

    Attributes:
        drr: attenuation, what registration renders.
        water, bone: fractions of solid water and solid cortical bone, whose line integrals are paths in mm.
    """

    drr: Projector
    water: Projector
    bone: Projector

    @classmethod
    def of(cls, volume: Volume, camera: Camera, device: torch.device | str = "cpu", model: AttenuationModel | None = None) -> TrainingScene:
        """Coarsen the CT to the size that a pixel of `camera` has at three quarters of the way to the detector, where a patient lies."""
        coarse = volume.resample(0.75 * min(camera.pixel_spacing_mm))
        mu = attenuation(coarse, model)
        water, bone = water_bone_fractions(coarse.hu)
        body = mu.mu > 0
        parts = [Attenuation(part * body, mu.world_from_voxel, mu.centre_ras_mm) for part in (water, bone)]
        return cls(*(Projector(part, camera, device=device) for part in (mu, *parts)))

    @property
    def centre(self) -> Tensor:
        """Centre of the uncropped CT, (3,)."""
        return self.drr.centre

    def tissues(self, camera_from_world: Tensor) -> tuple[Tensor, Tensor]:
        """Paths through water and bone (B, H, W), mm, at poses (B, 4, 4)."""
        return self.water.project(camera_from_world), self.bone.project(camera_from_world)
