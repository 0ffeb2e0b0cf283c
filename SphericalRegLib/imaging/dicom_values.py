"""What the values of a DICOM X-ray mean, as far as its header tells: modality LUT, display curve, kind of intensity, polarity.

How stored values relate to the beam is said by Pixel Intensity Relationship (LIN, LOG, DISP) and its sign; where they are missing, by custom:
fluoroscopy (XA, RF) shows air bright, general radiography (CR, DX) shows bone bright, and MONOCHROME1 turns either round.
A linear window is for looking at an image and only clips it, so it is not applied; a VOI LUT or a sigmoid is part of a display image's curve and is.
"""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset

from SphericalRegLib.imaging.dicom_header import Header, tag_text
from SphericalRegLib.imaging.geometry_values import Sourced, assumed

try:
    from pydicom.pixels import apply_modality_lut, apply_voi_lut
except ImportError:  # before pydicom 3, as in Slicer up to 5.10
    from pydicom.pixel_data_handlers.util import apply_modality_lut, apply_voi_lut  # type: ignore[no-redef]

FLUOROSCOPY = ("XA", "RF")
_DISPLAY = ("VOILUTSequence", "VOILUTFunction", "WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept")


def rescaled(header: Header, stored: np.ndarray) -> np.ndarray:
    """Stored values after the modality LUT, float64."""
    if header.raw("ModalityLUTSequence") is not None:
        return np.asarray(apply_modality_lut(stored, header.image_group("ModalityLUTSequence")), dtype=np.float64)
    intercept = header.number("RescaleIntercept")
    return stored.astype(np.float64) * _slope(header) + (0.0 if intercept is None else intercept.value)


def displayed(header: Header, grey: np.ndarray) -> np.ndarray:
    """Values of a display image after its VOI LUT or sigmoid, if it has one."""
    has_lut, function = header.raw("VOILUTSequence") is not None, header.text("VOILUTFunction")
    if not has_lut and (function is None or function.value != "SIGMOID"):
        return grey
    values = np.round(grey).astype(np.int32) if has_lut else grey
    return np.asarray(apply_voi_lut(values, header.image_group(*_DISPLAY), prefer_lut=has_lut), dtype=np.float64)


def full_scale(header: Header) -> Sourced[float] | None:
    """The largest value that the pixels can have after the modality LUT; None for floating point."""
    bits = header.number("BitsStored")
    if bits is None or not 1 <= bits.value <= 32:
        return None
    return Sourced(float(rescaled(header, np.array(stored_range(int(bits.value), header.dataset))).max()), bits.origin)


def stored_range(bits: int, dataset: Dataset) -> tuple[int, int]:
    """The lowest and the highest value of so many bits, signed or not."""
    lowest = -(2 ** (bits - 1)) if int(dataset.get("PixelRepresentation", 0) or 0) == 1 else 0
    return lowest, lowest + 2**bits - 1


def intensity_kind(header: Header, modality: str) -> Sourced[str]:
    """ "counts", "display" or "line_integral"."""
    if header.raw("ModalityLUTSequence") is not None and modality in FLUOROSCOPY:
        return Sourced("counts", f"{tag_text('ModalityLUTSequence')} makes the values linear")
    relationship = header.text("PixelIntensityRelationship")
    if relationship is not None:
        kind = {"LIN": "counts", "LOG": "line_integral"}.get(relationship.value, "display")
        return Sourced(kind, f"{relationship.origin} {relationship.value}")
    purpose = header.text("PresentationIntentType")
    if purpose is not None and purpose.value == "FOR PROCESSING":
        return assumed("counts", f"{purpose.origin} FOR PROCESSING")
    return assumed("display", f"{tag_text('PixelIntensityRelationship')} is missing")


def bone_bright(header: Header, modality: str) -> Sourced[bool]:
    """Whether the values after the modality LUT are higher where the beam is weaker."""
    sign = header.number("PixelIntensityRelationshipSign")
    if sign is not None and sign.value in (-1, 1):
        # The sign is about stored values; a negative slope turns it round.
        return Sourced((sign.value < 0) != (header.raw("ModalityLUTSequence") is None and _slope(header) < 0), sign.origin)
    dark_first = is_dark_first(header)
    custom = "fluoroscopy shows air bright" if modality in FLUOROSCOPY else "radiography shows bone bright"
    return assumed((modality not in FLUOROSCOPY) != dark_first, f"{custom}, {'MONOCHROME1 (0028,0004)' if dark_first else 'MONOCHROME2'}")


def is_dark_first(header: Header) -> bool:
    """MONOCHROME1: the lowest value is shown white."""
    photometric = header.text("PhotometricInterpretation")
    return photometric is not None and photometric.value == "MONOCHROME1"


def _slope(header: Header) -> float:
    slope = header.number("RescaleSlope")
    if slope is not None and slope.value == 0:
        header.warn(f"{tag_text('RescaleSlope')} is 0: ignored")
    return 1.0 if slope is None or slope.value == 0 else slope.value
