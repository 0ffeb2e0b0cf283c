"""Arithmetic of other grids: resampling with anti-aliasing, and the part of a grid that a camera sees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera


def resampled_grid(shape: Sequence[int], world_from_voxel: np.ndarray, spacing_mm: np.ndarray) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and affine of a grid with the same axes, the same centre, the spacing asked for, and the same extent to within half a voxel."""
    ratio = spacing_mm / np.linalg.norm(world_from_voxel[:3, :3], axis=0)
    new_shape = tuple(max(2, round(size / r)) for size, r in zip(shape, ratio))
    old_from_new = np.eye(4)
    old_from_new[:3, :3] = np.diag(ratio)
    old_from_new[:3, 3] = (np.asarray(shape) - 1) / 2 - ratio * (np.asarray(new_shape) - 1) / 2
    return new_shape, world_from_voxel @ old_from_new


def resample(values: np.ndarray, valid: np.ndarray | None, shape: Sequence[int], ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Values (I, J, K) on a concentric grid of another shape whose steps are `ratio` times as long, and their validity.

    Each new voxel is a weighted mean under a triangle as wide as two new voxels, or two old ones where those are larger. Along an axis that gets
    coarser this is the anti-aliasing filter: its first zero lies at the new sampling frequency, and for whole ratios every old voxel counts the
    same in total, so line integrals are kept; for others the weights are tilted a little so that linear ramps stay where they are. Along an axis
    that gets finer it is linear interpolation. Padding has no weight; a new voxel is valid if at least half of its weight was.
    """
    kernels = [_kernel(old, new, r) for old, new, r in zip(values.shape, shape, ratio)]
    if valid is None:
        return _apply_kernels(values, kernels), None
    weight = _apply_kernels(valid.astype(np.float32), kernels)
    mean = _apply_kernels(np.where(valid, values, np.float32(0)), kernels)
    np.divide(mean, weight, out=mean, where=weight > 0)
    return mean, weight >= 0.5


def seen_box(shape: Sequence[int], world_from_voxel: np.ndarray, camera: Camera, camera_from_world: np.ndarray, margin_mm: float) -> np.ndarray:
    """Smallest box of voxels (2, 3), first and past-the-last, that holds all of a grid that a camera sees at poses (..., 4, 4).

    What is seen is the pyramid from the source to the detector's outline, widened by `margin_mm` on all sides; its part within the grid is a convex
    body, whose extent along each axis is a small linear programme.

    Raises:
        InputError: if the grid is seen at none of the poses.
    """
    from scipy.optimize import linprog  # slow to import, and reading a CT does not need it

    poses = np.asarray(camera_from_world, dtype=np.float64).reshape(-1, 4, 4)
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    bounds = [(-0.5, size - 0.5) for size in shape]
    normals, offsets = _pyramid(camera, margin_mm)
    for pose in poses:
        camera_from_voxel = pose @ world_from_voxel
        a, b = normals @ camera_from_voxel[:3, :3], offsets - normals @ camera_from_voxel[:3, 3]
        for axis in range(3):
            for sign in (1.0, -1.0):
                solved = linprog(sign * np.eye(3)[axis], A_ub=a, b_ub=b, bounds=bounds, method="highs")
                if solved.status == 0:
                    value = solved.x[axis]
                    low[axis], high[axis] = min(low[axis], value), max(high[axis], value)
    if not np.isfinite(low).all():
        raise InputError("The CT lies outside the X-ray's field of view at the given pose; expected it between source and detector.")
    first = np.clip(np.floor(low + 0.5 - 1e-6), 0, np.asarray(shape) - 1)
    return np.stack([first, np.clip(np.ceil(high + 0.5 + 1e-6), first + 1, shape)]).astype(int)


def _pyramid(camera: Camera, margin_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Half-spaces (6, 3), (6,): x_camera is seen if normals @ x <= offsets."""
    spacing, size, centre = (np.asarray(v, dtype=np.float64) for v in (camera.pixel_spacing_mm, camera.size_px, camera.principal_point_px))
    slope_low, slope_high = (-0.5 - centre) * spacing / camera.sdd_mm, (size - 0.5 - centre) * spacing / camera.sdd_mm
    normals, offsets = [], []
    for axis in range(2):
        for slope, sign in ((slope_low[axis], -1.0), (slope_high[axis], 1.0)):
            normal = np.array([0.0, 0.0, -slope])
            normal[axis] = 1.0
            normals.append(sign * normal)
            offsets.append(margin_mm * float(np.linalg.norm(normal)))
    normals += [np.array([0.0, 0.0, -1.0]), np.array([0.0, 0.0, 1.0])]
    offsets += [margin_mm, camera.sdd_mm + margin_mm]
    return np.array(normals), np.array(offsets)


def _kernel(old: int, new: int, ratio: float) -> np.ndarray:
    """(new, old) float32 weights: rows sum to one and, away from the ends, have their mean where the new voxel is."""
    centres = np.clip((np.arange(new) - (new - 1) / 2) * ratio + (old - 1) / 2, 0, old - 1)[:, None]
    distance = np.arange(old) - centres
    width = max(ratio, 1.0)
    weights = np.maximum(1.0 - np.abs(distance) / width, 0.0)
    mean, square = (weights * distance).sum(axis=1, keepdims=True), (weights * distance**2).sum(axis=1, keepdims=True)
    inside = (centres - width >= -1) & (centres + width <= old) & (square > 1e-12)
    weights *= 1.0 - np.divide(mean, square, out=np.zeros_like(mean), where=inside) * distance
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _apply_kernels(values: np.ndarray, kernels: Sequence[np.ndarray]) -> np.ndarray:
    """Along each axis in turn, on Fortran order (reshaping is free), the one that shrinks most first."""
    values = np.asfortranarray(values, dtype=np.float32)
    for axis in sorted(range(3), key=lambda a: kernels[a].shape[0] / kernels[a].shape[1]):
        kernel = kernels[axis]
        i, j, k = values.shape
        if axis == 0:
            values = (kernel @ values.reshape(i, j * k, order="F")).reshape(-1, j, k, order="F")
        elif axis == 2:
            values = (values.reshape(i * j, k, order="F") @ kernel.T).reshape(i, j, -1, order="F")
        else:
            result = np.empty((i, kernel.shape[0], k), dtype=np.float32, order="F")
            for index in range(k):
                result[:, :, index] = values[:, :, index] @ kernel.T
            values = result
    return np.asfortranarray(values)

