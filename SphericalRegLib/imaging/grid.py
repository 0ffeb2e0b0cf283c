"""Voxel grids in the world: affines between voxel indices and RAS millimetres.

A grid is a shape (I, J, K) and `world_from_voxel` (4, 4), any invertible affine: oblique, left-handed (a flipped axis) and sheared (gantry tilt)
ones are ordinary. ITK's world is LPS, ours is RAS; they differ by diag(-1, -1, 1), applied once, here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk

from SphericalRegLib.errors import InputError

RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""Its own inverse."""

SMALLEST_SPACING_MM = 0.01
LARGEST_SPACING_MM = 30.0
LARGEST_EXTENT_MM = 3000.0


def checked_affine(matrix: np.ndarray, what: str = "the volume") -> np.ndarray:
    """A copy of an affine as (4, 4) float64.

    Raises:
        InputError: wrong shape, NaN or infinity, last row not (0, 0, 0, 1), or singular (an axis of length zero, or two parallel axes).
    """
    try:
        affine = np.array(matrix, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"The affine of {what} does not hold numbers; expected a 4 x 4 matrix world_from_voxel in mm.") from None
    if affine.shape != (4, 4):
        raise InputError(f"The affine of {what} has shape {affine.shape}; expected a 4 x 4 matrix world_from_voxel in mm.")
    if not np.isfinite(affine).all():
        raise InputError(f"The affine of {what} holds NaN or infinite values; expected a finite 4 x 4 matrix world_from_voxel in mm.")
    if not np.allclose(affine[3], (0, 0, 0, 1)):
        raise InputError(f"The affine of {what} has the last row {affine[3].tolist()}; expected 0, 0, 0, 1.")
    lengths = voxel_spacing(affine)
    if lengths.min() <= 0:
        raise InputError(f"The affine of {what} is singular: voxel spacing {_mm(lengths)}; expected three positive lengths.")
    if abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-4:
        raise InputError(f"The affine of {what} is singular: its three axes lie in one plane; expected independent directions.")
    return affine


def check_extent(affine: np.ndarray, shape: Sequence[int], what: str) -> None:
    """Raise InputError for a spacing or an extent that no CT has (metres or micrometres taken for millimetres, for instance)."""
    spacing = voxel_spacing(affine)
    extent = spacing * np.asarray(shape)
    if spacing.min() < SMALLEST_SPACING_MM or spacing.max() > LARGEST_SPACING_MM:
        raise InputError(
            f"The voxel spacing of {what} is {_mm(spacing)}; expected {SMALLEST_SPACING_MM:g} to {LARGEST_SPACING_MM:g} mm (are the units wrong?)."
        )
    if extent.max() > LARGEST_EXTENT_MM:
        raise InputError(f"The grid of {what} measures {_mm(extent)}; expected at most {LARGEST_EXTENT_MM:g} mm a side (are the units wrong?).")


def voxel_spacing(world_from_voxel: np.ndarray) -> np.ndarray:
    """Lengths (3,) of the steps along i, j, k in mm."""
    return np.linalg.norm(np.asarray(world_from_voxel, dtype=np.float64)[:3, :3], axis=0)


def is_sheared(world_from_voxel: np.ndarray, tolerance: float = 1e-3) -> bool:
    """Whether the grid's axes are not perpendicular: the cosine between any two exceeds the tolerance."""
    directions = world_from_voxel[:3, :3] / voxel_spacing(world_from_voxel)
    return bool(np.abs(directions.T @ directions - np.eye(3)).max() > tolerance)


def grid_centre(world_from_voxel: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """World position (3,) of the grid's centre."""
    return apply(world_from_voxel, (np.asarray(shape, dtype=np.float64) - 1.0) / 2.0)


def apply(affine: np.ndarray, points: np.ndarray | Sequence[float]) -> np.ndarray:
    """Map points (..., 3) by an affine (4, 4)."""
    return np.asarray(points, dtype=np.float64) @ affine[:3, :3].T + affine[:3, 3]


def box_corners(shape: Sequence[int]) -> np.ndarray:
    """The eight outer corners (8, 3) of a grid in voxel coordinates: half a voxel outside the centres of its corner voxels."""
    unit = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), axis=-1).reshape(8, 3)
    return unit * np.asarray(shape, dtype=np.float64) - 0.5


def content_corners(present: np.ndarray, world_from_voxel: np.ndarray) -> np.ndarray:
    """Corners (8, 3), world mm, of the smallest box of whole voxels that holds everything that is `present` (I, J, K) bool; something must be."""
    bounds = []
    for axis in range(3):
        hit = np.flatnonzero(present.any(axis=tuple(other for other in range(3) if other != axis)))
        bounds.append((hit[0] - 0.5, hit[-1] + 0.5))
    corners = np.stack(np.meshgrid(*bounds, indexing="ij"), axis=-1).reshape(8, 3)
    return apply(world_from_voxel, corners)


def world_from_voxel_of(image: sitk.Image) -> np.ndarray:
    """`world_from_voxel` (RAS) of a 3D SimpleITK image, whose own origin, spacing and direction are LPS."""
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.asarray(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    return RAS_FROM_LPS @ lps


def place(image: sitk.Image, world_from_voxel: np.ndarray) -> sitk.Image:
    """Give a 3D SimpleITK image the place in the world that an affine (RAS) says; returns the image."""
    lps = RAS_FROM_LPS @ world_from_voxel
    spacing = voxel_spacing(lps)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def _mm(values: np.ndarray) -> str:
    return " x ".join(f"{value:.4g}" for value in values) + " mm"
