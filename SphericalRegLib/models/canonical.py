"""Bringing an X-ray to the camera that a model was trained with.

Two cameras at the same place with the same axes see the same rays, whatever their distance to the detector, pixels and principal point: going from
one to the other is an affine map of pixels and leaves the pose alone. So one model serves every C-arm; what its field of view lacks is masked.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.radiograph import Radiograph


def resample_to_camera(radiograph: Radiograph, camera: Camera, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Image and mask (H, W), float32, of an X-ray as `camera` would have taken it; the mask is 0 where the X-ray has nothing.

    Shrinking averages over areas first, so that nothing aliases; what is left is a bilinear shift.
    """
    shrink = [_angle(radiograph.camera, axis) / _angle(camera, axis) for axis in (0, 1)]
    columns, rows = (max(1, round(size * min(1.0, factor))) for size, factor in zip(radiograph.camera.size_px, shrink))
    image, mask = radiograph.resize(columns, rows).tensor(device)
    source = radiograph.camera.resize(columns, rows)
    u, v = (_source_coordinate(camera, source, axis, device) for axis in (0, 1))
    grid = torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1)[None].to(torch.float32)
    weight = mask.to(torch.float32)
    stacked = torch.stack((image * weight, weight))[None]
    sampled = F.grid_sample(stacked, grid, mode="bilinear", padding_mode="zeros", align_corners=True)[0]
    inside = sampled[1] > 0.5
    return torch.where(inside, sampled[0] / sampled[1].clamp_min(1e-6), 0.0), inside.to(torch.float32)


def _angle(camera: Camera, axis: int) -> float:
    """Tangent of the angle one pixel covers at the principal point."""
    return camera.pixel_spacing_mm[axis] / camera.sdd_mm


def _source_coordinate(camera: Camera, source: Camera, axis: int, device: torch.device | str) -> Tensor:
    """Where each column (axis 0) or row (axis 1) of `camera` lies in `source`, from -1 at the first pixel's centre to 1 at the last's."""
    pixels = torch.arange(camera.size_px[axis], dtype=torch.float64, device=device)
    tangent = (pixels - camera.principal_point_px[axis]) * _angle(camera, axis)
    position = tangent / _angle(source, axis) + source.principal_point_px[axis]
    return 2 * position / max(source.size_px[axis] - 1, 1) - 1
