"""Looking values up in a DICOM header, with their origin.

Real headers hold zeros, empty strings and text where numbers belong. Each such value is reported as a warning and then treated as absent, so
that nothing downstream divides by a distance of 0.000 mm.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import Tag

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.files import require_file
from SphericalRegLib.imaging.geometry_values import Sourced


def read_dataset(path: str | Path, pixels: bool = True, what: str = "X-ray", only: list[str] | None = None) -> Dataset:
    """A DICOM file.

    Args:
        pixels: read them, too.
        what: how messages call it.
        only: keywords of the elements to read; those that tell what kind of file it is must be among them. None: all.

    Raises:
        InputError: it is missing, empty, or not DICOM.
    """
    path = Path(path)
    require_file(path, what)
    try:
        # Files sent over a network often lack the preamble; "force" reads them, and anything else as well, hence the check below.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about values of odd length or kind, which are told below in our own words
            dataset = pydicom.dcmread(path, force=True, stop_before_pixels=not pixels, specific_tags=only)
            known = sum(element.tag in (0x00080016, 0x00080060, 0x00280010, 0x00280011) for element in dataset)
    except (InvalidDicomError, EOFError, OSError, ValueError, KeyError, NotImplementedError, AttributeError, TypeError) as error:
        raise InputError(f"{what} {path} cannot be read as DICOM: {error}") from None
    if known == 0:
        raise InputError(f"{what} {path} is not a DICOM file: it has neither a modality nor an image size")
    return dataset


def signed_as_stored(value: float, dataset: Dataset) -> float:
    """A value that a header gives of signed pixels, where it was written as if they were unsigned."""
    bits = int(dataset.get("BitsAllocated", 16) or 16)
    signed = int(dataset.get("PixelRepresentation", 0) or 0) == 1
    return value - 2**bits if signed and value >= 2 ** (bits - 1) else value


def tag_text(keyword: str) -> str:
    """ "DistanceSourceToDetector (0018,1110)" """
    tag = tag_for_keyword(keyword)
    assert tag is not None, keyword
    return f"{keyword} ({Tag(tag).group:04x},{Tag(tag).element:04x})"


class Header:
    """One frame's view of a header: the frame's own functional group, then the shared one, then the top level."""

    def __init__(self, dataset: Dataset, frame: int = 0) -> None:
        self.dataset = dataset
        self.frame = frame
        self.warnings: list[str] = []

    def raw(self, keyword: str) -> tuple[Any, str] | None:
        """The value as pydicom gives it and its origin, or None where it is absent or empty."""
        for part, suffix in self._parts():
            element = _find(part, keyword)
            if element is None or element.value is None or element.VM == 0:
                continue
            value = element.value
            if isinstance(value, str) and not value.strip():
                continue
            return value, tag_text(keyword) + suffix
        return None

    def text(self, keyword: str) -> Sourced[str] | None:
        found = self.raw(keyword)
        if found is None:
            return None
        value = found[0]
        return Sourced(str(value[0] if isinstance(value, (list, pydicom.multival.MultiValue)) else value).strip().upper(), found[1])

    def numbers(self, keyword: str, count: int | None = None) -> Sourced[tuple[float, ...]] | None:
        """All values as finite numbers; anything else is a warning."""
        found = self.raw(keyword)
        if found is None:
            return None
        value, origin = found
        items = list(value) if isinstance(value, (list, tuple, pydicom.multival.MultiValue)) else [value]
        try:
            numbers = tuple(float(item) for item in items)
        except (TypeError, ValueError):
            self.warn(f"{origin} is {str(value)!r}, not a number")
            return None
        if not all(math.isfinite(number) for number in numbers) or (count is not None and len(numbers) != count):
            self.warn(f"{origin} is {str(value)!r}, expected {count or 'finite'} number{'' if count == 1 else 's'}")
            return None
        return Sourced(numbers, origin)

    def number(self, keyword: str) -> Sourced[float] | None:
        found = self.numbers(keyword, 1)
        return None if found is None else Sourced(found.value[0], found.origin)

    def positive(self, keyword: str) -> Sourced[float] | None:
        """A length or ratio; zero, which many machines write for "unknown", is a warning."""
        found = self.number(keyword)
        if found is not None and found.value <= 0:
            self.warn(f"{found.origin} is {found.value:g}, which means that it was not recorded")
            return None
        return found

    def spacing(self, keyword: str) -> Sourced[tuple[float, float]] | None:
        """(column, row) distances from DICOM's order, which is the distance between rows first."""
        found = self.numbers(keyword, 2)
        if found is None:
            return None
        if min(found.value) <= 0:
            self.warn(f"{found.origin} is {found.value[0]:g}\\{found.value[1]:g}, which means that it was not recorded")
            return None
        return Sourced((found.value[1], found.value[0]), found.origin)

    def image_group(self, *keywords: str) -> Dataset:
        """Group 0028 of the top level, and these elements of it as this frame has them."""
        group = self.dataset.group_dataset(0x0028)
        for keyword in keywords:
            found = self.raw(keyword)
            if found is not None:
                setattr(group, keyword, found[0])
        return group

    def warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)

    def _parts(self) -> Iterator[tuple[Dataset, str]]:
        per_frame = self.dataset.get("PerFrameFunctionalGroupsSequence")
        if per_frame and self.frame < len(per_frame):
            yield per_frame[self.frame], f" of frame {self.frame}"
        shared = self.dataset.get("SharedFunctionalGroupsSequence")
        if shared:
            yield shared[0], " of all frames"
        yield self.dataset, ""


def _find(dataset: Dataset, keyword: str, depth: int = 3) -> Any:
    """The element at this level, or inside the single-item sequences that functional groups are made of."""
    if keyword in dataset:
        return dataset[keyword]
    if depth == 0:
        return None
    for element in dataset:
        if element.VR == "SQ" and element.value and len(element.value) == 1 and _is_group(element.keyword):
            found = _find(element.value[0], keyword, depth - 1)
            if found is not None:
                return found
    return None


_GROUPS = {
    "CollimatorShapeSequence", "FieldOfViewSequence", "FrameAnatomySequence", "FrameContentSequence", "FrameDetectorParametersSequence",
    "FrameDisplayShutterSequence", "FramePixelDataPropertiesSequence", "FrameVOILUTSequence", "IsocenterReferenceSystemSequence",
    "PatientOrientationInFrameSequence", "PixelIntensityRelationshipLUTSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence",
    "PositionerPositionSequence", "TablePositionSequence", "XRayGeometrySequence",
}  # fmt: skip


def _is_group(keyword: str) -> bool:
    return keyword in _GROUPS
