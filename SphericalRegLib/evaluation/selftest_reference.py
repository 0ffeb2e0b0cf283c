"""Line integrals written down a second time, plainly: float64, SciPy's interpolation, no kernel. What `selftest` compares the renderer with."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.attenuation import Attenuation
from SphericalRegLib.imaging.grid import apply, box_corners


def blob() -> Attenuation:
    """Two soft ellipsoids in 1/mm on an oblique, left-handed grid of 2 x 2.5 x 3 mm; zero well before the border."""
    shape = (56, 48, 40)
    axes = np.linalg.qr(np.array([[1.0, 0.2, -0.1], [-0.15, 1.0, 0.3], [0.2, -0.25, 1.0]]))[0]
    if np.linalg.det(axes) > 0:
        axes[:, 2] = -axes[:, 2]
    world_from_voxel = np.eye(4)
    world_from_voxel[:3, :3] = axes * [2.0, 2.5, 3.0]
    world_from_voxel[:3, 3] = [30.0, -20.0, 100.0]
    index = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    one = np.clip(1 - (index[0] / 0.8) ** 2 - (index[1] / 0.7) ** 2 - (index[2] / 0.75) ** 2, 0, None) ** 2
    other = np.clip(1 - ((index[0] - 0.3) / 0.3) ** 2 - ((index[1] + 0.2) / 0.4) ** 2 - ((index[2] - 0.1) / 0.35) ** 2, 0, None) ** 2
    return Attenuation((0.02 * one + 0.04 * other).astype(np.float32), world_from_voxel)


def line_integrals(body: Attenuation, camera: Camera, camera_from_world: np.ndarray, step_mm: float) -> Tensor:
    """Image (H, W) float64 by the midpoint rule, samples at (n + 1/2) `step_mm` from the source, trilinear, air outside the grid."""
    columns, rows = camera.size_px
    pixels = torch.stack(torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy"), dim=-1).double()
    on_detector = camera.back_project(pixels).numpy()  # (H, W, 3), camera frame
    length = np.linalg.norm(on_detector, axis=-1, keepdims=True)
    distances = (np.arange(int(np.ceil(length.max() / step_mm))) + 0.5) * step_mm
    corners = apply(camera_from_world @ body.world_from_voxel, box_corners(body.mu.shape))
    in_grid = (distances > corners[:, 2].min()) & (distances < np.linalg.norm(corners, axis=-1).max())
    voxel_from_camera = np.linalg.inv(body.world_from_voxel) @ np.linalg.inv(camera_from_world)
    directions = (on_detector / length) @ voxel_from_camera[:3, :3].T
    image = np.zeros((rows, columns))
    for distance in distances[in_grid]:
        samples = map_coordinates(body.mu.astype(np.float64), np.moveaxis(voxel_from_camera[:3, 3] + distance * directions, -1, 0), order=1)
        image += step_mm * samples * (distance < length[..., 0])
    return torch.from_numpy(image)


def without_motion_along_rays(jacobian: Tensor, camera_from_world: Tensor, camera: Camera, centre: Tensor) -> Tensor:
    """The derivative (H, W, 6) of sums along rays freed of what a motion *along* each ray makes of them: noise, as the integral does not change.

    The points of a ray with unit direction d are displaced alike along it. With c the centre, s the source and e = J_v . d, the sum's share of a
    millimetre along d, J_v - e d and J_omega - e (s - c) x d are left.
    """
    columns, rows = camera.size_px
    pixels = torch.stack(torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy"), dim=-1).double()
    rays = camera.back_project(pixels)
    rotation = camera_from_world[:3, :3]
    direction = rays / rays.norm(dim=-1, keepdim=True) @ rotation
    source = -rotation.T @ (rotation @ centre + camera_from_world[:3, 3])  # from c, in world axes
    along = (jacobian[..., 3:] * direction).sum(-1, keepdim=True)
    return jacobian - along * torch.cat((torch.linalg.cross(source.expand_as(direction), direction), direction), dim=-1)
