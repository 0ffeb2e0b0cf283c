"""The pixels of a DICOM X-ray: frame, modality LUT, what the values mean, and which of them the file itself declares to be no image.

How stored values relate to the beam is said by Pixel Intensity Relationship (LIN, LOG, DISP) and its sign; where they are missing, by custom:
fluoroscopy (XA, RF) shows air bright, general radiography (CR, DX) shows bone bright, and MONOCHROME1 turns either round. A linear window is for
looking at an image and only clips it, so it is not applied; a VOI LUT or a sigmoid is part of a display image's curve and is.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.dicom import FLUOROSCOPY, DicomGeometry, geometry_of
from SphericalRegLib.imaging.dicom_header import Header, read_dataset, tag_text
from SphericalRegLib.imaging.geometry_values import Sourced, assumed
from SphericalRegLib.imaging.pixels import StoredImage, choose_frame, single_channel


def read_dicom(path: str | Path, frame: int | None = None) -> StoredImage:
    """Read one frame with everything that its header knows.

    Raises:
        InputError: not a DICOM X-ray, no pixels, truncated, compressed in a way that cannot be decoded, several frames and none chosen.
    """
    path = Path(path)
    dataset = read_dataset(path)
    frames = _frame_count(dataset, path)
    chosen = choose_frame(frames, frame, path)
    header = Header(dataset, chosen)
    geometry = geometry_of(header, path)
    if "PixelData" not in dataset and "FloatPixelData" not in dataset:
        raise InputError(f"X-ray {path} is a DICOM file without pixels")
    stored = _decode(dataset, path, frames, geometry)[chosen]
    valid = _valid_pixels(header, stored)
    grey, slope = _rescaled(header, stored)
    intensity, inverted, negate = _meaning(header, geometry.modality, slope)
    if negate:
        grey = grey.max() - grey
    elif intensity.value == "display":
        grey = _display_curve(dataset, grey)
    bits = int(dataset.get("BitsStored", 0) or dataset.get("BitsAllocated", 16))
    values = replace(geometry.values, intensity=intensity, inverted=inverted, warnings=tuple(header.warnings))
    return StoredImage(grey.astype(np.float32), str(stored.dtype), bits, frames, chosen, values, valid)


def _frame_count(dataset: Dataset, path: Path) -> int:
    try:
        return max(1, int(dataset.get("NumberOfFrames", 1) or 1))
    except (TypeError, ValueError):
        raise InputError(f"X-ray {path}: {tag_text('NumberOfFrames')} is {dataset.get('NumberOfFrames')!r}, expected a number") from None


def _decode(dataset: Dataset, path: Path, frames: int, geometry: DicomGeometry) -> np.ndarray:
    """(frames, H, W) stored values."""
    try:
        array = dataset.pixel_array
    except Exception as error:  # pydicom and its plugins raise nearly anything, from AttributeError to plugin-specific types
        compressed = getattr(dataset.file_meta.get("TransferSyntaxUID", None), "is_compressed", False) if hasattr(dataset, "file_meta") else False
        if not compressed:
            raise InputError(f"X-ray {path} has damaged or incomplete pixels: {_first_line(error)}") from None
        array = _decode_with_gdcm(dataset, path)
    if int(dataset.get("SamplesPerPixel", 1) or 1) > 1:
        array = array if array.ndim == 4 else array[None]
    elif array.ndim == 2:
        array = array[None]
    array = single_channel(array, path)
    columns, rows = geometry.size_px
    if array.shape != (frames, rows, columns):
        raise InputError(f"X-ray {path} holds {array.shape} pixels (frames, rows, columns), its header says {(frames, rows, columns)}")
    return array


def _decode_with_gdcm(dataset: Dataset, path: Path) -> np.ndarray:
    """Compressed pixels through SimpleITK; it applies the rescaling, which is then undone."""
    import SimpleITK as sitk

    try:
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    except RuntimeError:
        name = dataset.file_meta.TransferSyntaxUID.name
        raise InputError(f"X-ray {path} is compressed ({name}) and cannot be decoded: store it uncompressed, or install pylibjpeg") from None
    slope, intercept = float(dataset.get("RescaleSlope", 1) or 1), float(dataset.get("RescaleIntercept", 0) or 0)
    return array if (slope, intercept) == (1.0, 0.0) else np.round((array - intercept) / slope)


def _rescaled(header: Header, stored: np.ndarray) -> tuple[np.ndarray, float]:
    """Values after the modality LUT, and the sign of its slope."""
    if header.raw("ModalityLUTSequence") is not None:
        from pydicom.pixels import apply_modality_lut

        return np.asarray(apply_modality_lut(stored, header.dataset), dtype=np.float64), 1.0
    slope, intercept = header.number("RescaleSlope"), header.number("RescaleIntercept")
    factor = 1.0 if slope is None else slope.value
    if factor == 0:
        header.warn(f"{tag_text('RescaleSlope')} is 0: ignored")
        factor = 1.0
    return stored.astype(np.float64) * factor + (0.0 if intercept is None else intercept.value), factor


def _meaning(header: Header, modality: str, slope: float) -> tuple[Sourced[str], Sourced[bool], bool]:
    """Intensity kind, whether white is bone, and whether the values must be negated to be line integrals."""
    relationship = header.text("PixelIntensityRelationship")
    sign = header.number("PixelIntensityRelationshipSign")
    photometric = header.text("PhotometricInterpretation")
    if sign is not None and sign.value in (-1, 1):
        # The sign is about stored values; a negative slope turns it round.
        bone_bright = Sourced((sign.value < 0) != (slope < 0), sign.origin)
    else:
        dark_first = photometric is not None and photometric.value == "MONOCHROME1"
        custom = "fluoroscopy shows air bright" if modality in FLUOROSCOPY else "radiography shows bone bright"
        bone_bright = assumed((modality not in FLUOROSCOPY) != dark_first, f"{custom}, {'MONOCHROME1 (0028,0004)' if dark_first else 'MONOCHROME2'}")
    if header.raw("ModalityLUTSequence") is not None and modality in FLUOROSCOPY:
        return Sourced("counts", f"{tag_text('ModalityLUTSequence')} makes the values linear"), bone_bright, False
    if relationship is not None and relationship.value == "LIN":
        return Sourced("counts", f"{relationship.origin} LIN"), bone_bright, False
    if relationship is not None and relationship.value == "LOG":
        return Sourced("line_integral", f"{relationship.origin} LOG"), bone_bright, not bone_bright.value
    purpose = header.text("PresentationIntentType")
    if purpose is not None and purpose.value == "FOR PROCESSING" and relationship is None:
        return assumed("counts", f"{purpose.origin} FOR PROCESSING"), bone_bright, False
    if relationship is not None:
        return Sourced("display", f"{relationship.origin} {relationship.value}"), bone_bright, False
    return assumed("display", f"{tag_text('PixelIntensityRelationship')} is missing"), bone_bright, False


def _display_curve(dataset: Dataset, grey: np.ndarray) -> np.ndarray:
    """The VOI LUT or sigmoid of a display image, if it has one."""
    has_lut = bool(dataset.get("VOILUTSequence"))
    if not has_lut and str(dataset.get("VOILUTFunction", "")).upper() != "SIGMOID":
        return grey
    from pydicom.pixels import apply_voi_lut

    values = np.round(grey).astype(np.int32) if has_lut else grey
    return np.asarray(apply_voi_lut(values, dataset, prefer_lut=has_lut), dtype=np.float64)


def _valid_pixels(header: Header, stored: np.ndarray) -> np.ndarray | None:
    """(H, W) bool: inside the collimator and the display shutter, and not padding."""
    valid = np.ones(stored.shape, dtype=bool)
    for name in ("Collimator", "Shutter"):
        valid &= _inside_shape(header, name, stored.shape)
    padding = header.number("PixelPaddingValue")
    if padding is not None:
        limit = header.number("PixelPaddingRangeLimit")
        low, high = sorted((padding.value, padding.value if limit is None else limit.value))
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
