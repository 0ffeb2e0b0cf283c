"""Resampling a grid with anti-aliasing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


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

