"""A CT from a folder of DICOM slices.

The place of each voxel comes from the slices' own positions, not from a nominal spacing: the third column of the affine is the step from slice
to slice, so a tilted gantry gives a sheared grid, as it was measured. Slices that are missing, doubled or unevenly spaced have no affine and are
refused.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset

from SphericalRegLib.errors import InputError

from .dicom_header import read_dataset, signed_as_stored
from .grid import RAS_FROM_LPS
from .pixels import DICOM_SUFFIXES

_HEADER = [
    "SeriesInstanceUID", "SeriesNumber", "SeriesDescription", "Modality", "ImageType", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "PixelPaddingValue", "RescaleSlope", "RescaleIntercept", "PixelRepresentation",
    "BitsAllocated",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
_UNEVEN = 0.1  # of the slice distance; scanners round positions to about 0.01 mm
_CROOKED_MM = 0.1  # how far a slice may lie beside the line through the first and the last


@dataclass(frozen=True, eq=False)
class DicomSeries:
    """The images of one series in a folder: (file, header) in the order of their names."""

    uid: str
    images: tuple[tuple[Path, Dataset], ...]

    @property
    def first(self) -> Dataset:
        return self.images[0][1]

    @property
    def modality(self) -> str:
        return str(self.first.get("Modality", "") or "unknown")

    @property
    def slices(self) -> int:
        return sum(int(header.get("NumberOfFrames", 1) or 1) for _, header in self.images)

    @property
    def is_scout(self) -> bool:
        return "LOCALIZER" in [str(part).upper() for part in self.first.get("ImageType", [])]

    def __str__(self) -> str:
        number, text = self.first.get("SeriesNumber"), str(self.first.get("SeriesDescription", "") or "no description")
        return f"series {number if number is not None else '?'} ({text}; {self.modality}, {self.slices} slices, UID {self.uid})"


def find_series(folder: Path) -> list[DicomSeries]:
    """All DICOM series with images in a folder and the folders below it."""
    return _series_among(folder.rglob("*"))


def _series_among(paths: Iterable[Path]) -> list[DicomSeries]:
    found: dict[str, list[tuple[Path, Dataset]]] = defaultdict(list)
    for path in sorted(path for path in paths if path.is_file()):
        try:
            header = _header(path) if _may_be_dicom(path) else Dataset()
        except (InputError, OSError):
            continue  # a DICOMDIR, a viewer's files, notes: whatever else lies on a patient's disc
        if "Rows" in header and "SeriesInstanceUID" in header:
            found[str(header.SeriesInstanceUID or "")].append((path, header))
    return [DicomSeries(uid, tuple(images)) for uid, images in found.items()]


def _header(path: Path) -> Dataset:
    return read_dataset(path, pixels=False, what="CT", only=_HEADER)


def _may_be_dicom(path: Path) -> bool:
    """By its first bytes, or by its name: a search must not read through films and archives. A file without a preamble begins with group 8 or 2."""
    with path.open("rb") as stream:
        head = stream.read(132)
    return head[128:] == b"DICM" or head[:2] in (b"\x08\0", b"\0\x08", b"\x02\0") or path.suffix.lower() in DICOM_SUFFIXES


def choose_series(folder: Path, wanted: str | None) -> DicomSeries:
    """The CT series of a folder, or the one asked for by UID, the end of its UID, or its number.

    Raises:
        InputError: no DICOM images, no CT among them, several candidates (they are listed), or none or several that fit what was asked for.
    """
    everything = find_series(folder)
    if not everything:
        raise InputError(f"{folder} holds no DICOM images; expected a folder with a CT series.")
    if wanted is not None:
        fitting = [series for series in everything if series.uid == wanted or str(series.first.get("SeriesNumber")) == wanted]
        fitting = fitting or [series for series in everything if wanted and series.uid.endswith(wanted)]
        if len(fitting) != 1:
            raise InputError(f"{len(fitting) or 'No'} series of {folder} fit {wanted!r}; expected one of: {_listed(fitting or everything)}.")
        everything = fitting
    candidates = _cts(everything, folder)
    candidates = [series for series in candidates if series.slices > 1 and not series.is_scout] or candidates
    if len(candidates) > 1:
        raise InputError(f"{folder} holds {len(candidates)} CT series; choose one by its number or UID (`series`): {_listed(candidates)}.")
    return candidates[0]


def series_of(path: Path) -> DicomSeries:
    """The CT that a file belongs to: itself, if it holds several slices, else the files of its series beside it.

    Raises:
        InputError: not DICOM, no CT, or a slice that does not tell its series.
    """
    header = _header(path)
    uid = str(header.get("SeriesInstanceUID", "") or "")
    alone = DicomSeries(uid, ((path, header),))
    (alone,) = _cts([alone], path)
    if alone.slices > 1:
        return alone
    if not uid:
        raise InputError(f"{path} is one slice and has no SeriesInstanceUID; expected a slice that tells its series, or the folder of a CT.")
    return next((series for series in _series_among(path.parent.iterdir()) if series.uid == uid), alone)


def _cts(found: list[DicomSeries], where: Path) -> list[DicomSeries]:
    candidates = [series for series in found if series.modality == "CT"]
    if not candidates:
        raise InputError(f"{where} holds no CT; expected a DICOM series with modality CT, found {_listed(found)}.")
    return candidates


def read_series(series: DicomSeries) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Values (I, J, K) float32 after the rescale, world_from_voxel (4, 4) RAS mm, and the declared padding after the rescale (or None).

    Raises:
        InputError: one slice; colour; slices of different size or orientation, without position, doubled, missing, unevenly spaced; unreadable ones.
    """
    for path, header in series.images:
        if int(header.get("SamplesPerPixel", 1) or 1) != 1:
            raise InputError(f"{path} has {header.SamplesPerPixel} values a pixel (colour); expected a CT slice.")
    if any(int(header.get("NumberOfFrames", 1) or 1) > 1 for _, header in series.images):
        return _read_enhanced(series)
    if len(series.images) == 1:
        raise InputError(f"{series.images[0][0]} is the only slice of {series}; expected a CT with several slices.")
    _check_alike(series)
    planes = [_plane(header, header, path) for path, header in series.images]
    order, affine = _stack(planes, str(series))
    first = series.first
    values = np.empty((int(first.Columns), int(first.Rows), len(order)), dtype=np.float32, order="F")
    for k, index in enumerate(order):
        values[:, :, k] = _pixels(series.images[index][0]).T
    return values, affine, _declared_padding(first)


def _read_enhanced(series: DicomSeries) -> tuple[np.ndarray, np.ndarray, float | None]:
    """One file with all the slices as frames (Enhanced CT)."""
    if len(series.images) > 1:
        raise InputError(f"{series} has several files with frames; expected one multi-frame file, or one file per slice.")
    path, header = series.images[0]
    shared = (header.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    frames = header.get("PerFrameFunctionalGroupsSequence") or []
    if len(frames) != int(header.NumberOfFrames):
        raise InputError(f"{path} has {header.NumberOfFrames} frames but {len(frames)} positions; expected an Enhanced CT with a position for each.")
    order, affine = _stack([_plane(frame, shared, path) for frame in frames], str(series))
    stored = _pixels(path)
    values = np.empty((stored.shape[2], stored.shape[1], stored.shape[0]), dtype=np.float32, order="F")
    for k, index in enumerate(order):
        values[:, :, k] = stored[index].T
    return values, affine, None


@dataclass(frozen=True, eq=False)
class _Plane:
    """Where a slice lies, LPS mm: the centre of its first pixel, its row and column directions, the steps between columns and rows."""

    position: np.ndarray
    orientation: np.ndarray
    spacing: np.ndarray


def _plane(own: Dataset, shared: Dataset, path: Path) -> _Plane:
    position = _numbers(_find(own, shared, "PlanePositionSequence", "ImagePositionPatient"), 3)
    orientation = _numbers(_find(own, shared, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    spacing = _numbers(_find(own, shared, "PixelMeasuresSequence", "PixelSpacing"), 2)
    for value, name in ((position, "ImagePositionPatient"), (orientation, "ImageOrientationPatient"), (spacing, "PixelSpacing")):
        if value is None:
            raise InputError(f"{path} has no usable {name}; expected the geometry of a CT slice.")
    assert position is not None and orientation is not None and spacing is not None
    if spacing.min() <= 0:
        raise InputError(f"{path} has the PixelSpacing {spacing.tolist()}; expected two positive lengths in mm.")
    across, down = orientation.reshape(2, 3)
    if np.abs([across @ across - 1, down @ down - 1, across @ down]).max() > 0.01:
        raise InputError(f"{path} has the ImageOrientationPatient {orientation.tolist()}; expected two perpendicular unit vectors.")
    # Written with few digits they are neither quite of length 1 nor quite perpendicular, which would scale and shear the grid.
    across = across / np.linalg.norm(across)
    down = down - (across @ down) * across
    return _Plane(position, np.concatenate((across, down / np.linalg.norm(down))), spacing[::-1])  # PixelSpacing is (between rows, between columns)


def _find(own: Dataset, shared: Dataset, group: str, name: str) -> object:
    """An attribute of a slice, or of the functional group that an Enhanced CT keeps it in, per frame or shared."""
    for dataset in (own, shared):
        if name in dataset:
            return dataset.get(name)
        if dataset.get(group):
            return dataset.get(group)[0].get(name)
    return None


def _numbers(value: object, count: int) -> np.ndarray | None:
    try:
        numbers = np.array([float(part) for part in value], dtype=np.float64)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        return None
    return numbers if numbers.shape == (count,) and np.isfinite(numbers).all() else None


def _check_alike(series: DicomSeries) -> None:
    for name in ("Rows", "Columns"):
        sizes = sorted({int(header.get(name, 0)) for _, header in series.images})
        if len(sizes) > 1:
            raise InputError(f"The slices of {series} differ in {name}: {sizes}; expected slices of one size.")


def _stack(planes: Sequence[_Plane], what: str) -> tuple[list[int], np.ndarray]:
    """The order of parallel slices along their normal, and world_from_voxel (RAS) of their stack."""
    first = planes[0]
    for plane in planes:
        if np.abs(plane.orientation - first.orientation).max() > 1e-3 or np.abs(plane.spacing - first.spacing).max() > 1e-3 * first.spacing.max():
            raise InputError(f"The slices of {what} differ in orientation or pixel spacing; expected parallel slices of one grid.")
    normal = np.cross(first.orientation[:3], first.orientation[3:])
    heights = np.array([plane.position @ normal for plane in planes])
    order = np.argsort(heights, kind="stable").tolist()
    steps = np.diff(heights[order])
    usual = float(np.median(steps))
    if steps.min() < 0.01:
        where = heights[order][int(steps.argmin())]
        raise InputError(f"{what} has two slices at {where:.2f} mm along its normal (several phases?); expected one in each place.")
    worst = int(np.abs(steps - usual).argmax())
    if abs(steps[worst] - usual) > max(_UNEVEN * usual, 0.02):
        raise InputError(
            f"The slices of {what} are unevenly spaced: {steps[worst]:.3g} mm between slices {worst + 1} and {worst + 2}, {usual:.3g} mm elsewhere "
            "(missing slices?); expected even spacing."
        )
    positions = np.array([planes[index].position for index in order])
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    crooked = np.linalg.norm(np.cross(positions - positions[0], step / np.linalg.norm(step)), axis=1).max()
    if crooked > _CROOKED_MM:
        raise InputError(f"The slices of {what} are shifted sideways by up to {crooked:.2g} mm against each other; expected a straight stack.")
    lps = np.eye(4)
    lps[:3, 0] = first.orientation[:3] * first.spacing[0]
    lps[:3, 1] = first.orientation[3:] * first.spacing[1]
    lps[:3, 2] = step
    lps[:3, 3] = positions[0]
    return order, RAS_FROM_LPS @ lps


def _pixels(path: Path) -> np.ndarray:
    """Rescaled pixels, (rows, columns) of a slice or (frames, rows, columns)."""
    try:
        image = sitk.ReadImage(str(path), imageIO="GDCMImageIO")
    except RuntimeError:
        raise InputError(f"The pixels of {path} cannot be read: the file is truncated, damaged or compressed in an unknown way.") from None
    array = sitk.GetArrayFromImage(image)
    return array[0] if array.ndim == 3 and array.shape[0] == 1 else array


def _declared_padding(header: Dataset) -> float | None:
    value = header.get("PixelPaddingValue")
    if value is None:
        return None
    return signed_as_stored(float(value), header) * float(header.get("RescaleSlope", 1) or 1) + float(header.get("RescaleIntercept", 0) or 0)


def _listed(series: Iterable[DicomSeries]) -> str:
    return "; ".join(str(one) for one in series)
