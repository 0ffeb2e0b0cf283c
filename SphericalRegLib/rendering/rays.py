"""Rays of a camera, in its own coordinates and in the world's less the CT's centre, in torch: for what is not worth a kernel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..geometry.camera import Camera


def pixel_targets(camera: Camera, device: torch.device) -> Tensor:
    """Pixel centres on the detector (H, W, 3) in camera coordinates, mm, float64; the source is the origin."""
    columns, rows = camera.size_px
    u = (torch.arange(columns, dtype=torch.float64, device=device) - camera.principal_point_px[0]) * camera.pixel_spacing_mm[0]
    v = (torch.arange(rows, dtype=torch.float64, device=device) - camera.principal_point_px[1]) * camera.pixel_spacing_mm[1]
    y, x = torch.meshgrid(v, u, indexing="ij")
    return torch.stack([x, y, torch.full_like(x, camera.sdd_mm)], dim=-1)


def relative_to_centre(camera_from_world: Tensor, points_camera: Tensor, centre: Tensor) -> Tensor:
    """World coordinates less c, (..., 3), of camera points (..., 3) under one pose (4, 4): R^T (x_cam - t), t = R c + translation."""
    rotation = camera_from_world[:3, :3]
    return (points_camera - (rotation @ centre + camera_from_world[:3, 3])) @ rotation
