"""What training renders: one CT as attenuation, and as water and bone for the randomised physics."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.attenuation import Attenuation, attenuation, water_bone_fractions
from SphericalRegLib.imaging.grid import voxel_spacing
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.rendering.projector import Projector

BEYOND_MM = 150.0
"""How far a patient goes on beyond the CT's ends where a training has it go on."""


@dataclass(frozen=True)
class TrainingScene:
    """Projectors of one CT through the training camera, on a grid as coarse as the training images are.

    Attributes:
        drr: attenuation, what registration renders: the CT, or a part of it.
        ct: fractions of solid water and of solid cortical bone, whose line integrals are paths in mm.
        patient: the same, with the body going on beyond the ends of the CT: a patient does, and a network that has only ever seen CTs end reads
            depth off the ends.
    """

    drr: Projector
    ct: tuple[Projector, Projector]
    patient: tuple[Projector, Projector]

    @classmethod
    def of(cls, volume: Volume, camera: Camera, device: torch.device | str = "cpu", labels: tuple[int, ...] | None = None) -> TrainingScene:
        """Coarsen the CT to the size that a pixel of `camera` has at three quarters of the way to the detector, where a patient lies.

        Raises:
            InputError: labels that the CT has not.
        """
        coarse = volume.resample(0.75 * min(camera.pixel_spacing_mm))
        mu = attenuation(coarse)
        body = mu.mu > 0
        fractions = [replace(mu, mu=part * body) for part in water_bone_fractions(coarse.hu)]
        ct, patient = (tuple(Projector(part, camera, device=device) for part in parts) for parts in (fractions, map(continued, fractions)))
        shown = mu if labels is None else attenuation(coarse, labels=labels)
        return cls(Projector(shown, camera, device=device), ct, patient)  # type: ignore[arg-type]  # pairs, as there are two fractions

    @property
    def centre(self) -> Tensor:
        """Centre of the uncropped CT, (3,)."""
        return self.drr.centre

    @property
    def bone(self) -> Projector:
        """Of the CT alone."""
        return self.ct[1]

    def tissues(self, camera_from_world: Tensor, *, goes_on: bool) -> tuple[Tensor, Tensor]:
        """Paths through water and bone (B, H, W), mm, at poses (B, 4, 4); of a patient who goes on beyond the CT's ends, or of what the CT shows."""
        water, bone = self.patient if goes_on else self.ct
        return water.project(camera_from_world), bone.project(camera_from_world)


def continued(attenuation: Attenuation, beyond_mm: float = BEYOND_MM) -> Attenuation:
    """The volume with the slices at its cut ends repeated outwards."""
    spacing = voxel_spacing(attenuation.world_from_voxel)
    faces = np.array(attenuation.cut_faces).reshape(3, 2)
    width = faces * np.ceil(beyond_mm / spacing).astype(int)[:, None]
    affine = attenuation.world_from_voxel.copy()
    affine[:3, 3] -= affine[:3, :3] @ width[:, 0]
    return replace(attenuation, mu=np.pad(attenuation.mu, width, mode="edge"), world_from_voxel=affine)
