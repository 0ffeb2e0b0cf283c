"""Reading voxels and their place in the world from files, without judging the values."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SphericalRegLib.errors import InputError

from . import grid
from .nifti import is_nifti, read_nifti
from .pixels import is_dicom

MOST_VOXELS = 2**31
"""8.6 GB as float32; more is a damaged header."""


@dataclass(frozen=True, eq=False)
class StoredGrid:
    """What a file holds: values (I, J, K), its affine (4, 4) to RAS mm, its name, and the value that it declares as padding, if it does.

    The values are in the file's type or float32, nobody else's (they may be written to), and Fortran-contiguous where they come from a file or image.
    """

    values: np.ndarray
    world_from_voxel: np.ndarray
    name: str = ""
    declared_padding: float | None = None


def read_grid(path: Path, series: str | None = None) -> StoredGrid:
    """Read a 3D image with one value a voxel from a file, or a CT from a folder of DICOM slices (or from one slice of it).

    Raises:
        InputError: missing, empty, truncated, unreadable; not 3D; several values a voxel; a singular grid; what `dicom_series` refuses.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    if path.is_dir():
        return _read_dicom(path, series)
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty (0 bytes); expected a CT.")
        if is_nifti(path):
            return StoredGrid(*read_nifti(path, MOST_VOXELS), path.name)
        if is_dicom(path):
            return _read_dicom(path, series)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None
    return grid_from_sitk(_read_with_itk(path), path.name)


def _read_dicom(path: Path, series: str | None) -> StoredGrid:
    from . import dicom_series  # pydicom is slow to import, and other formats do not need it

    chosen = dicom_series.choose_series(path, series) if path.is_dir() else dicom_series.series_of(path)
    values, affine, padding = dicom_series.read_series(chosen)
    return StoredGrid(values, affine, path.name, padding)


def grid_from_sitk(image: sitk.Image, name: str) -> StoredGrid:
    """Values, as float32, and affine of a 3D SimpleITK image with one value a voxel.

    Raises:
        InputError: another dimension, several values a voxel, complex values.
    """
    _check_kind(image, name)
    values = np.empty(image.GetSize()[:3], dtype=np.float32, order="F")
    values.T[...] = sitk.GetArrayViewFromImage(image).reshape(values.T.shape)
    if image.GetDimension() > 3:  # a series of one
        image = image[(slice(None),) * 3 + (0,) * (image.GetDimension() - 3)]
    return StoredGrid(values, grid.world_from_voxel_of(image), name)


def _read_with_itk(path: Path) -> sitk.Image:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        _check_kind(reader, path.name)
        voxels = float(np.prod([float(size) for size in reader.GetSize()]))
        if voxels > MOST_VOXELS:
            raise InputError(f"{path.name} has {' x '.join(map(str, reader.GetSize()))} voxels; expected at most {MOST_VOXELS:,}.")
        return reader.Execute()
    except RuntimeError as error:
        raise InputError(f"{path} cannot be read: {_reason(error)}; expected a CT as NIfTI, NRRD, MHA or a DICOM folder.") from None


def _check_kind(image: sitk.Image | sitk.ImageFileReader, name: str) -> None:
    """Header checks that an image and a reader have in common."""
    components = image.GetNumberOfComponents() if isinstance(image, sitk.ImageFileReader) else image.GetNumberOfComponentsPerPixel()
    if components != 1 or "complex" in sitk.GetPixelIDValueAsString(image.GetPixelIDValue()):
        raise InputError(f"{name} has {max(components, 2)} values a voxel (colour, vectors or complex numbers); expected one value a voxel.")
    size = image.GetSize()
    if len(size) < 3 or any(length > 1 for length in size[3:]):
        raise InputError(f"{name} is {len(size)}D with size {tuple(size)}; expected a 3D volume.")


def _reason(error: RuntimeError) -> str:
    """What ITK means, in words, from the last of its lines that says something."""
    text = str(error)
    for sign, meaning in (
        ("Zero-valued spacing", "one of its voxel spacings is zero"),
        ("determinant is 0", "its axes are singular"),
        ("Unable to determine ImageIO", "it is damaged or of an unknown format"),
        ("MetaImageIO", "it is truncated or damaged, or its data file is missing"),
    ):
        if sign in text:
            return meaning
    lines = [re.sub(r"^.*?ERROR:\s*|\w+\(0x[0-9a-f]+\):\s*", "", line).strip() for line in text.splitlines()]
    return f"it is truncated or damaged ({next((line for line in reversed(lines) if line), 'no reason given').rstrip('.')})"
