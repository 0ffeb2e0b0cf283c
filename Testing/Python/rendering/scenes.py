"""Smooth phantoms, awkward cameras and a float64 reference renderer that shares no code with the package."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from scipy.spatial.transform import Rotation


def affine(kind: str, shape: tuple[int, int, int]) -> np.ndarray:
    spacing = {"plain": (2.0, 2.0, 2.0), "oblique": (1.7, 2.3, 3.1), "left-handed": (-2.1, 1.9, 2.6), "sheared": (1.7, 2.3, 3.1)}[kind]
    shear = np.array([[1.0, 0.0, 0.2], [0.0, 1.0, 0.4], [0.0, 0.0, 1.0]]) if kind == "sheared" else np.eye(3)  # a gantry tilted by 24 degrees
    rotation = np.eye(3) if kind == "plain" else Rotation.from_euler("xyz", [0.3, -0.5, 0.8]).as_matrix()
    out = np.eye(4)
    out[:3, :3] = rotation @ shear @ np.diag(spacing)
    out[:3, 3] = np.array([30.0, -50.0, 70.0]) - out[:3, :3] @ ((np.array(shape) - 1) / 2)
    return out


def smooth_attenuation(kind: str = "oblique", shape: tuple[int, int, int] = (41, 48, 37), centre_offset=(0.0, 0.0, 0.0)) -> SimpleNamespace:
    """Smooth blobs (1/mm) that fade to zero before the border."""
    rng = np.random.default_rng(3)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"), axis=-1)
    mu = np.zeros(shape)
    for _ in range(6):
        centre, width = rng.uniform(-0.35, 0.35, 3), rng.uniform(0.25, 0.4)
        mu += rng.uniform(0.005, 0.02) * np.exp(-0.5 * np.sum((grid - centre) ** 2, axis=-1) / width**2)
    mu *= np.prod(np.cos(0.5 * np.pi * grid) ** 2, axis=-1)
    world_from_voxel = affine(kind, shape)
    centre = world_from_voxel[:3, :3] @ ((np.array(shape) - 1) / 2) + world_from_voxel[:3, 3] + np.asarray(centre_offset)
    return SimpleNamespace(mu=mu.astype(np.float32), world_from_voxel=world_from_voxel, centre_ras_mm=centre, cut_faces=None)


def pose(attenuation, angles=(0.4, -0.3, 0.7), shift=(6.0, -9.0, 700.0)) -> torch.Tensor:
    """(1, 4, 4) float64: c lies at `shift` in camera coordinates."""
    rotation = Rotation.from_euler("xyz", angles).as_matrix()
    out = np.eye(4)
    out[:3, :3] = rotation
    out[:3, 3] = np.asarray(shift) - rotation @ attenuation.centre_ras_mm
    return torch.as_tensor(out)[None]


def retract(camera_from_world: torch.Tensor, delta: np.ndarray, centre: np.ndarray) -> torch.Tensor:
    rotation = camera_from_world[0, :3, :3].numpy()
    t = rotation @ centre + camera_from_world[0, :3, 3].numpy()
    new_rotation = rotation @ Rotation.from_rotvec(delta[:3]).as_matrix()
    out = np.eye(4)
    out[:3, :3] = new_rotation
    out[:3, 3] = t + rotation @ delta[3:] - new_rotation @ centre
    return torch.as_tensor(out)[None]


def reference_image(attenuation, camera, camera_from_world: torch.Tensor, step_mm: float) -> np.ndarray:
    """Float64 midpoint sums with SciPy's interpolation, air outside the grid."""
    from scipy.ndimage import map_coordinates

    pose_ = camera_from_world[0].numpy()
    columns, rows = camera.size_px
    u = (np.arange(columns) - camera.principal_point_px[0]) * camera.pixel_spacing_mm[0]
    v = (np.arange(rows) - camera.principal_point_px[1]) * camera.pixel_spacing_mm[1]
    u, v = np.meshgrid(u, v)
    target = np.stack([u, v, np.full((rows, columns), camera.sdd_mm)], axis=-1)
    length = np.linalg.norm(target, axis=-1, keepdims=True)
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(attenuation.mu.shape) + 1) - 1  # a voxel beyond the grid
    world = corners @ attenuation.world_from_voxel[:3, :3].T + attenuation.world_from_voxel[:3, 3]
    middle = world.mean(axis=0) @ pose_[:3, :3].T + pose_[:3, 3]
    radius = np.linalg.norm(world - world.mean(axis=0), axis=1).max()
    first = max(0, int((np.linalg.norm(middle) - radius) / step_mm))  # samples that are nearer or farther see air
    last = min(int(length.max() / step_mm), int((np.linalg.norm(middle) + radius) / step_mm) + 1)
    s = (np.arange(first, last) + 0.5) * step_mm
    points = (target / length)[:, :, None] * s[:, None]
    voxel_from_camera = np.linalg.inv(pose_ @ attenuation.world_from_voxel)
    index = points @ voxel_from_camera[:3, :3].T + voxel_from_camera[:3, 3]
    padded = np.pad(attenuation.mu.astype(np.float64), 2)
    values = map_coordinates(padded, np.moveaxis(index + 2, -1, 0), order=1, mode="constant", cval=0.0)
    return np.where(s <= length, values, 0.0).sum(axis=-1) * step_mm


def reference_jacobian(attenuation, camera, camera_from_world: torch.Tensor, step_mm: float) -> np.ndarray:
    """Central differences of `reference_image`: 1e-5 rad, 1e-3 mm."""
    columns = []
    for axis in range(6):
        h = 1e-5 if axis < 3 else 1e-3
        delta = np.zeros(6)
        delta[axis] = h
        forward = reference_image(attenuation, camera, retract(camera_from_world, delta, attenuation.centre_ras_mm), step_mm)
        backward = reference_image(attenuation, camera, retract(camera_from_world, -delta, attenuation.centre_ras_mm), step_mm)
        columns.append((forward - backward) / (2 * h))
    return np.stack(columns, axis=-1)


def relative_error(a, b) -> float:
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
