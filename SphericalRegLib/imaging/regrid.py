"""Resampling a grid: values with anti-aliasing, labels by nearest neighbour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import grid

SAME_VOXEL = 0.01
"""Grids that are less than this part of a voxel apart have the same voxels."""


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


def nearest(values: np.ndarray, world_from_source: np.ndarray, shape: Sequence[int], world_from_target: np.ndarray) -> np.ndarray:
    """Values (I, J, K) of a grid at the voxels of another, by nearest neighbour, 0 outside; the given array itself where both grids are the same."""
    source_from_target = np.linalg.inv(world_from_source) @ world_from_target
    corners = grid.box_corners(shape)
    if values.shape == tuple(shape) and np.abs(grid.apply(source_from_target, corners) - corners).max() < SAME_VOXEL:
        return values
    result = np.zeros(shape, dtype=values.dtype, order="F")
    reach = grid.apply(np.linalg.inv(source_from_target), grid.box_corners(values.shape))  # of the source, in voxels of the target
    first = np.clip(np.floor(reach.min(axis=0)), 0, shape).astype(int)
    end = np.clip(np.ceil(reach.max(axis=0)) + 1, 0, shape).astype(int)
    if (first < end).all():
        part = result[tuple(map(slice, first, end))]
        steps, start = source_from_target[:3, :3], grid.apply(source_from_target, first)
        along = _parallel_axes(steps, part.shape)
        if along is None:
            _fill(part, values, steps, start)
        else:
            _fill_by_axes(part, values, steps, start, along)
    return result


def _parallel_axes(steps: np.ndarray, shape: Sequence[int]) -> tuple[int, ...] | None:
    """The target's axis that each of the source's is parallel to, or None; `steps` (3, 3) are source voxels for a step along each target axis."""
    ways = np.abs(steps) * shape
    along = tuple(int(axis) for axis in ways.argmax(axis=1))
    others = ways.sum(axis=1) - ways.max(axis=1)
    return along if sorted(along) == [0, 1, 2] and others.max() < SAME_VOXEL else None


def _fill_by_axes(part: np.ndarray, values: np.ndarray, steps: np.ndarray, start: np.ndarray, along: tuple[int, ...]) -> None:
    """Fill `part` where the axes are parallel: an index for each axis alone."""
    target = [slice(0)] * 3
    for axis, other in enumerate(along):
        index = np.rint(start[axis] + steps[axis, other] * np.arange(part.shape[other])).astype(int)
        inside = np.flatnonzero((index >= 0) & (index < values.shape[axis]))
        target[other] = slice(inside[0], inside[-1] + 1) if len(inside) else slice(0)
        values = values.T.take(index[inside], axis=2 - axis).T  # `take` writes the last axis fastest, which here is the first
    part[tuple(target)] = values.transpose(np.argsort(along))


def _fill(part: np.ndarray, values: np.ndarray, steps: np.ndarray, start: np.ndarray) -> None:
    """Fill `part`, a slice at a time, from the values with a border of zeros, to which what lies outside is clipped."""
    bordered = np.pad(values, 1)
    flat, strides = bordered.ravel(order="F"), np.cumprod([1, *bordered.shape[:2]])
    planes = [step[1] * np.arange(part.shape[1])[:, None] + step[0] * np.arange(part.shape[0]) for step in steps]  # i fastest, as in the values
    for k in range(part.shape[2]):
        index = np.zeros(planes[0].shape)
        for plane, place, step, size, stride in zip(planes, start, steps, values.shape, strides):
            rounded = np.rint(plane + (place + k * step[2]))
            index += stride * (np.clip(rounded, -1, size, out=rounded) + 1)
        part[:, :, k] = flat[index.astype(np.intp)].T
