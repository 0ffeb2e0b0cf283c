"""Reading voxels and their place in the world from files, without judging the values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SphericalRegLib.errors import InputError

from . import grid

MOST_VOXELS = 2**32


@dataclass(frozen=True, eq=False)
class StoredGrid:
    """What a file holds: values (I, J, K) float32, its affine (4, 4) to RAS mm, and the value that it declares as padding, if it does."""

    values: np.ndarray
    world_from_voxel: np.ndarray
    name: str = ""
    declared_padding: float | None = None


def read_grid(path: Path, series: str | None = None) -> StoredGrid:
    """Read a file with one value a voxel; raises InputError."""
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read as an image: {str(error).strip().splitlines()[-1]}") from None
    return grid_from_sitk(image, path.name)


def grid_from_sitk(image: sitk.Image, name: str) -> StoredGrid:
    """Values and affine of a 3D image with one value a voxel; raises InputError."""
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"{name} has {image.GetNumberOfComponentsPerPixel()} values a voxel (colour or a vector field); expected one value a voxel.")
    if image.GetDimension() != 3:
        raise InputError(f"{name} is {image.GetDimension()}D with size {image.GetSize()}; expected a 3D volume.")
    values = np.empty(image.GetSize(), dtype=np.float32, order="F")
    values.T[...] = sitk.GetArrayViewFromImage(image)
    return StoredGrid(values, grid.world_from_voxel_of(image), name)
