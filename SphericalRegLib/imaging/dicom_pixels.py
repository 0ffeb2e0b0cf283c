"""The pixels of a DICOM X-ray: one frame, decoded, and which of its pixels the file itself declares to be no image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.dicom import DicomGeometry, geometry_of
from SphericalRegLib.imaging.dicom_header import Header, read_dataset, signed_as_stored, tag_text
from SphericalRegLib.imaging.dicom_values import displayed, rescaled, stored_range
from SphericalRegLib.imaging.pixels import StoredImage, choose_frame, single_channel


def read_dicom(path: str | Path, frame: int | None = None) -> StoredImage:
    """Read one frame with everything that its header knows.

    Raises:
        InputError: not a DICOM X-ray, no pixels, truncated, compressed in a way that cannot be decoded, several frames and none chosen.
    """
    header, geometry, stored = stored_frame(Path(path), frame, "X-ray")
    valid = _valid_pixels(header, stored)
    grey = rescaled(header, stored)
    values = replace(geometry.values, warnings=tuple(header.warnings))
    if values.intensity is not None and values.intensity.value == "display":
        grey = displayed(header, grey)
    bits = int(header.dataset.get("BitsStored", 0) or header.dataset.get("BitsAllocated", 16))
    return StoredImage(grey.astype(np.float32), str(stored.dtype), bits, geometry.frames, geometry.frame, values, valid)


def stored_frame(path: Path, frame: int | None, what: str) -> tuple[Header, DicomGeometry, np.ndarray]:
    """One frame's header, geometry and values (H, W) as they are in the file; ``what`` is how messages call it. Raises as ``read_dicom``."""
    where = f"{what} {path}"
    dataset = read_dataset(path, what=what)
    frames = _frame_count(dataset, where)
    header = Header(dataset, choose_frame(frames, frame, where))
    geometry = geometry_of(header, where)
    if "PixelData" not in dataset and "FloatPixelData" not in dataset:
        raise InputError(f"{where} is a DICOM file without pixels")
    return header, geometry, _decode(header, path, where, geometry)


def _frame_count(dataset: Dataset, where: str) -> int:
    try:
        return max(1, int(dataset.get("NumberOfFrames", 1) or 1))
    except (TypeError, ValueError):
        raise InputError(f"{where}: {tag_text('NumberOfFrames')} is {dataset.get('NumberOfFrames')!r}, expected a number") from None


def _decode(header: Header, path: Path, where: str, geometry: DicomGeometry) -> np.ndarray:
    """(H, W) stored values of the header's frame."""
    dataset = header.dataset
    try:
        array = _pixel_array(dataset, header.frame, geometry.frames)
    except Exception as error:  # pydicom and its plugins raise nearly anything, from AttributeError to plugin-specific types
        compressed = getattr(dataset.file_meta.get("TransferSyntaxUID", None), "is_compressed", False) if hasattr(dataset, "file_meta") else False
        if not compressed:
            raise InputError(f"{where} has damaged or incomplete pixels: {_first_line(error)}") from None
        array = _decode_with_gdcm(dataset, path, where)[header.frame]
    (array,) = single_channel(array[None], where)
    columns, rows = geometry.size_px
    if array.shape != (rows, columns):
        raise InputError(f"{where} holds {array.shape} pixels (rows, columns), its header says {(rows, columns)}")
    return array


def _pixel_array(dataset: Dataset, frame: int, frames: int) -> np.ndarray:
    """(H, W) or (H, W, channels) of one frame; before pydicom 3 all of them are decoded for it."""
    try:
        from pydicom.pixels import pixel_array
    except ImportError:
        return dataset.pixel_array[frame] if frames > 1 else dataset.pixel_array
    return pixel_array(dataset, index=frame)


def _decode_with_gdcm(dataset: Dataset, path: Path, where: str) -> np.ndarray:
    """Compressed pixels through SimpleITK; it applies the rescaling and turns MONOCHROME1 round, which is then undone."""
    import SimpleITK as sitk

    try:
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    except RuntimeError:
        name = dataset.file_meta.TransferSyntaxUID.name
        raise InputError(f"{where} is compressed ({name}) and cannot be decoded: store it uncompressed, or install pylibjpeg") from None
    slope, intercept = float(dataset.get("RescaleSlope", 1) or 1), float(dataset.get("RescaleIntercept", 0) or 0)
    stored = array if (slope, intercept) == (1.0, 0.0) else np.round((array - intercept) / slope)
    return sum(stored_range(int(dataset.BitsStored), dataset)) - stored if dataset.get("PhotometricInterpretation") == "MONOCHROME1" else stored


def _valid_pixels(header: Header, stored: np.ndarray) -> np.ndarray | None:
    """(H, W) bool: inside the collimator and the display shutter, and not padding."""
    valid = np.ones(stored.shape, dtype=bool)
    for name in ("Collimator", "Shutter"):
        valid &= _inside_shape(header, name, stored.shape)
    padding = header.number("PixelPaddingValue")
    if padding is not None:
        limit = header.number("PixelPaddingRangeLimit")
        low, high = sorted(signed_as_stored(end.value, header.dataset) for end in (padding, limit or padding))
        valid &= ~((stored >= low) & (stored <= high))
    if valid.all():
        return None
    if valid.mean() < 0.01:
        header.warn("collimator, shutter and padding tags leave nothing of the image and are ignored")
        return None
    return valid


def _inside_shape(header: Header, name: str, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool for a collimator or a shutter; rows and columns are counted from 1 in DICOM."""
    inside = np.ones(shape, dtype=bool)
    found = header.raw(f"{name}Shape")
    if found is None:
        return inside
    kinds = [found[0]] if isinstance(found[0], str) else list(found[0])
    row, column = np.mgrid[1 : shape[0] + 1, 1 : shape[1] + 1]
    for kind in (str(k).upper() for k in kinds):
        if kind == "RECTANGULAR":
            edges: list[Any] = [
                header.number(f"{name}{edge}Edge") for edge in ("LeftVertical", "RightVertical", "UpperHorizontal", "LowerHorizontal")
            ]
            if all(edge is not None for edge in edges):
                left, right, upper, lower = (edge.value for edge in edges)
                if not (-1 <= left < right <= shape[1] + 2 and -1 <= upper < lower <= shape[0] + 2):
                    header.warn(f"the edges of the {name.lower()} in the header do not lie in the image and are ignored")
                    continue
                inside &= (column > left) & (column < right) & (row > upper) & (row < lower)
        elif kind == "CIRCULAR":
            centre, radius = header.numbers(f"CenterOfCircular{name}", 2), header.positive(f"RadiusOfCircular{name}")
            if centre is not None and radius is not None:
                inside &= (row - centre.value[0]) ** 2 + (column - centre.value[1]) ** 2 < radius.value**2
        elif kind == "POLYGONAL":
            vertices = header.numbers(f"VerticesOfThePolygonal{name}")
            if vertices is not None and len(vertices.value) >= 6 and len(vertices.value) % 2 == 0:
                inside &= _polygon(np.array(vertices.value).reshape(-1, 2), shape)
    return inside


def _polygon(vertices: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool of a polygon with (row, column) vertices counted from 1."""
    from PIL import Image, ImageDraw

    canvas = Image.new("1", (shape[1], shape[0]))
    ImageDraw.Draw(canvas).polygon([(column - 1, row - 1) for row, column in vertices.tolist()], fill=1)
    return np.array(canvas)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
