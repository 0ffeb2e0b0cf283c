"""Coarse copies of a CT: a volume no finer than the image it is projected to is faster and does not alias."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..geometry.camera import Camera
from ..imaging import grid
from ..imaging.attenuation import Attenuation
from ..rendering.projector import Projector
from ..rendering.unseen import UnseenRays


def coarsened(attenuation: Attenuation, spacing_mm: float) -> Attenuation:
    """The mean over whole blocks of voxels, as many along each axis as do not exceed `spacing_mm` by more than a quarter.

    Line integrals are conserved: where the last block reaches beyond the grid it is filled with air.
    """
    factors = block_factors(attenuation, spacing_mm)
    if factors == (1, 1, 1):
        return attenuation
    mu = torch.from_numpy(np.ascontiguousarray(attenuation.mu))
    for axis, factor in enumerate(factors):
        mu = _block_mean(mu, axis, factor)
    affine = attenuation.world_from_voxel.copy()
    affine[:3, 3] += affine[:3, :3] @ ((np.array(factors) - 1) / 2)
    affine[:3, :3] *= factors
    return replace(attenuation, mu=mu.numpy(), world_from_voxel=affine)


def block_factors(attenuation: Attenuation, spacing_mm: float) -> tuple[int, int, int]:
    """How many voxels along each axis make one coarse voxel."""
    spacing = grid.voxel_spacing(attenuation.world_from_voxel)
    i, j, k = (max(1, min(int(1.25 * spacing_mm / step), size // 8)) for step, size in zip(spacing, attenuation.mu.shape))
    return i, j, k


def content_corners(attenuation: Attenuation) -> np.ndarray:
    """Corners (8, 3), world mm, of the smallest box of voxels that holds everything that attenuates more than a hundredth of the maximum."""
    return grid.content_corners(attenuation.mu > 0.01 * attenuation.mu.max(), attenuation.world_from_voxel)


class VolumePyramid:
    """Projectors of one CT at several resolutions, made on demand and kept: all stages, views and further X-rays of the CT share them.

    Args:
        attenuation: the CT.
        device: where it is rendered.
    """

    def __init__(self, attenuation: Attenuation, device: Any = "cpu") -> None:
        self.attenuation = attenuation
        self.device = torch.device(device)
        self.corners = torch.from_numpy(content_corners(attenuation)).to(self.device)
        self._projectors: dict[tuple[int, int, int], Projector] = {}
        self._unseen = UnseenRays(attenuation, self.device)
        self._unseen.prepare()

    @property
    def centre(self) -> Tensor:
        """(3,) float64: the point that the CT turns about."""
        return torch.as_tensor(self.attenuation.centre_ras_mm, dtype=torch.float64, device=self.device)

    def projector(self, camera: Camera, spacing_mm: float) -> Projector:
        """The CT through a camera, with voxels that suit pixels of `spacing_mm` at the CT."""
        factors = block_factors(self.attenuation, spacing_mm)
        if factors not in self._projectors:
            self._projectors[factors] = Projector(coarsened(self.attenuation, spacing_mm), camera, device=self.device, unseen=self._unseen)
        return self._projectors[factors].with_camera(camera)


def _block_mean(values: Tensor, axis: int, factor: int) -> Tensor:
    if factor == 1:
        return values
    size = values.shape[axis]
    whole = size // factor * factor
    parts = [values.narrow(axis, 0, whole).unflatten(axis, (-1, factor)).sum(axis + 1)]
    if whole < size:
        parts.append(values.narrow(axis, whole, size - whole).sum(axis, keepdim=True))
    return torch.cat(parts, axis) / factor
