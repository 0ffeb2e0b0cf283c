"""X-ray geometry from DICOM tags (XA, RF, DX, CR and their enhanced kin), the origin of each value kept.

What the tags mean, and where they mislead (PS3.3, C.8.7, C.8.11, C.8.19, 10.7):

- Imager Pixel Spacing is the spacing on the detector and is what projection needs. Pixel Spacing may have been calibrated to the plane of the
  patient; it is the second choice, and brought back to the detector when its calibration and the magnification are known.
- Both give the distance between *rows* first.
- A distance of 0.000 means "unknown"; angle tags may be there and empty.
- Detector Active Origin and Field of View Origin count physical detector pixels (row, column), not mm.
- The stored image is the field of view turned clockwise by Field of View Rotation, then flipped if Field of View Horizontal Flip says so.
- Patient Orientation says where the image's rows and columns point in the patient. With the direction of the beam it tells whether the image is
  mirrored: rows x columns must point along the beam.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.dicom_header import Header, read_dataset, tag_text
from SphericalRegLib.imaging.dicom_values import bone_bright, full_scale, intensity_kind, is_dark_first
from SphericalRegLib.imaging.geometry_values import GeometryValues, Sourced
from SphericalRegLib.imaging.starts import PATIENT_DIRECTIONS_RAS, Start

XRAY_MODALITIES = ("XA", "RF", "DX", "CR", "RG", "MG", "IO", "PX", "XC", "OT", "SC", "")
# View Position as written by general radiography, as our named views: the side named is the one at the detector.
VIEW_POSITIONS = {"AP": "ap", "PA": "pa", "LL": "left", "RL": "right"}
SHORTEST_SDD_MM = 100.0


@dataclass(frozen=True)
class DicomGeometry:
    """What a DICOM header says about an X-ray.

    Attributes:
        values: geometry, value by value, with tags as origins. Lengths mm, pairs (column, row).
        modality: e.g. "XA".
        size_px: (columns, rows).
        frames: number of frames; ``values`` belong to ``frame``.
        dark_first: MONOCHROME1, the lowest value is shown white.
    """

    values: GeometryValues
    modality: str
    size_px: tuple[int, int]
    frames: int
    frame: int
    dark_first: bool = False

    @property
    def as_read_by_itk(self) -> GeometryValues:
        """``values`` for the image as ITK reads it, and Slicer with it: MONOCHROME1 comes turned round."""
        return turned_round(self.values) if self.dark_first else self.values


def turned_round(values: GeometryValues) -> GeometryValues:
    """The values for the negative of the image."""
    said = {name: getattr(values, name) for name in ("inverted", "logarithm_inverted")}
    return replace(values, **{name: replace(known, value=not known.value) for name, known in said.items() if known is not None})


def read_dicom_geometry(path: str | Path, frame: int = 0) -> DicomGeometry:
    """Read the geometry of one frame.

    Raises:
        InputError: not DICOM, not an image, or not an X-ray.
    """
    path = Path(path)
    return geometry_of(Header(read_dataset(path, pixels=False), frame), f"X-ray {path}")


def geometry_of(header: Header, where: str) -> DicomGeometry:
    """The geometry in a header that is already read; ``where``: how messages call the file."""
    dataset = header.dataset
    modality = str(dataset.get("Modality", "") or "").upper()
    if modality not in XRAY_MODALITIES:
        raise InputError(f"{where} is a DICOM file of modality {modality}, expected a projection X-ray (XA, RF, DX or CR)")
    columns, rows = int(dataset.get("Columns", 0) or 0), int(dataset.get("Rows", 0) or 0)
    if columns < 1 or rows < 1:
        raise InputError(f"{where} is a DICOM file without an image (no Rows and Columns)")
    sdd, sod = _distances(header)
    spacing = _pixel_spacing(header, columns, sdd, sod)
    start = _start(header)
    intensity, inverted = intensity_kind(header, modality), bone_bright(header, modality)
    values = GeometryValues(
        sdd_mm=sdd,
        sod_mm=sod,
        pixel_spacing_mm=spacing,
        size_px=Sourced((columns, rows), "Columns (0028,0011), Rows (0028,0010)"),
        principal_point_px=_principal_point(header, columns, rows, spacing),
        intensity=intensity,
        inverted=inverted,
        logarithm_inverted=inverted if intensity.value == "line_integral" or not inverted.is_default else None,
        full_scale=full_scale(header),
        mirrored=_mirrored(header, start),
        start=start,
        image_axes=_image_axes(header),
    )
    frames = int(header.dataset.get("NumberOfFrames", 1) or 1)
    return DicomGeometry(replace(values, warnings=tuple(header.warnings)), modality, (columns, rows), frames, header.frame, is_dark_first(header))


def _distances(header: Header) -> tuple[Sourced[float] | None, Sourced[float] | None]:
    sdd = header.positive("DistanceSourceToDetector")
    if sdd is not None and sdd.value < SHORTEST_SDD_MM:
        header.warn(f"{sdd.origin} is {sdd.value:g}, too short to be in mm")
        sdd = None
    sod = header.positive("DistanceSourceToPatient") or header.positive("DistanceSourceToIsocenter")
    magnification = header.positive("EstimatedRadiographicMagnificationFactor")
    if sdd is None and sod is not None and magnification is not None and magnification.value > 1:
        sdd = Sourced(sod.value * magnification.value, f"{sod.origin} x {magnification.origin}")
    if sod is None and sdd is not None and magnification is not None and magnification.value > 1:
        sod = Sourced(sdd.value / magnification.value, f"{sdd.origin} / {magnification.origin}")
    if sdd is not None and sod is not None and not 0 < sod.value < sdd.value:
        header.warn(f"{sod.origin} is {sod.value:g} mm, not between source and detector ({sdd.value:g} mm)")
        sod = None
    return sdd, sod


def _pixel_spacing(
    header: Header, columns: int, sdd: Sourced[float] | None, sod: Sourced[float] | None
) -> Sourced[tuple[float, float]] | None:
    """On the detector, of the stored pixels."""
    imager = header.spacing("ImagerPixelSpacing")
    plain = header.spacing("PixelSpacing")
    field_mm = _field_width(header)
    if imager is not None:
        if plain is not None and abs(plain.value[0] / imager.value[0] - 1) > 1e-3:
            ratio = imager.value[0] / plain.value[0]
            header.warn(f"{plain.origin} differs by a factor of {ratio:.3f}: it is calibrated to the patient and not used for the detector")
        if field_mm is not None and abs(field_mm.value / (columns * imager.value[0]) - 1) > 0.1:
            header.warn(
                f"{field_mm.origin} is {field_mm.value:g} mm, but {columns} columns of {imager.origin} make {columns * imager.value[0]:.0f} mm: "
                "the image may have been resized or cropped after acquisition"
            )
        return imager
    if plain is not None:
        return _from_patient_plane(header, plain, header.text("PixelSpacingCalibrationType"), sdd, sod)
    in_beam = header.spacing("ObjectPixelSpacingInCenterOfBeam")
    if in_beam is not None:
        return _from_patient_plane(header, in_beam, Sourced("CENTER OF BEAM", in_beam.origin), sdd, sod)
    element = header.spacing("DetectorElementSpacing")
    binning = header.numbers("DetectorBinning", 2)
    if element is not None and binning is not None and min(binning.value) > 0:
        across, down = element.value[0] * binning.value[1], element.value[1] * binning.value[0]
        return Sourced((across, down), f"{element.origin} x {binning.origin}")
    if element is not None and field_mm is not None and abs(field_mm.value / (columns * element.value[0]) - 1) < 0.02:
        return element
    scanned = header.spacing("NominalScannedPixelSpacing")
    if scanned is not None:
        header.warn(f"the pixel spacing is {scanned.origin}, that of a digitised film: it holds if the film was scanned at its own size")
        return scanned
    if field_mm is not None:
        header.warn(f"the pixel spacing is estimated: {field_mm.origin} of {field_mm.value:g} mm over {columns} columns")
        aspect = header.spacing("PixelAspectRatio") or Sourced((1.0, 1.0), "")
        across, down = (field_mm.value / columns * side / aspect.value[0] for side in aspect.value)
        return Sourced((across, down), f"{field_mm.origin} / Columns (0028,0011){aspect.origin and f' x {aspect.origin}'}")
    return None


def _from_patient_plane(
    header: Header, plain: Sourced[tuple[float, float]], calibration: Sourced[str] | None, sdd: Sourced[float] | None, sod: Sourced[float] | None
) -> Sourced[tuple[float, float]] | None:
    """Pixel Spacing as the only spacing: on the detector if it is not calibrated, else enlarged by the magnification."""
    if calibration is None:
        header.warn(f"the pixel spacing is {plain.origin}, which may be calibrated to the patient: check it against the detector's size")
        return plain
    magnification = None
    if sdd is not None and sod is not None:
        magnification = Sourced(sdd.value / sod.value, f"{sdd.origin} / {sod.origin}")
    if magnification is None:
        header.warn(
            f"{plain.origin} is calibrated to the patient ({calibration.value}) and the distance of the patient is not known, "
            "so the spacing on the detector is not"
        )
        return None
    header.warn(f"{plain.origin} is calibrated to the patient ({calibration.value}): multiplied by the magnification {magnification.value:.3f}")
    across, down = plain.value[0] * magnification.value, plain.value[1] * magnification.value
    return Sourced((across, down), f"{plain.origin} x {magnification.origin}")


def _field_width(header: Header) -> Sourced[float] | None:
    """Extent in mm along the stored rows: the field of view (height first, then width; or one diameter), else the image intensifier's diameter."""
    for keyword in ("FieldOfViewDimensions", "FieldOfViewDimensionsInFloat"):
        found = header.numbers(keyword)
        if found is not None and min(found.value) > 0:
            return Sourced(found.value[-1], found.origin)
    return header.positive("IntensifierSize") or _cassette_width(header)


def _cassette_width(header: Header) -> Sourced[float] | None:
    """Of a CR cassette named by its size, e.g. 35CMX43CM."""
    size, orientation = header.text("CassetteSize"), header.text("CassetteOrientation")
    named = None if size is None else re.fullmatch(r"(\d+)\s*(CM|IN)\s*X\s*(\d+)\s*(CM|IN)", size.value)
    if size is None or named is None or named[2] != named[4]:
        return None
    sides = sorted(float(named[k]) * (10.0 if named[2] == "CM" else 25.4) for k in (1, 3))
    if sides[0] != sides[1] and orientation is None:
        return None
    return Sourced(sides[1 if orientation is not None and orientation.value == "LANDSCAPE" else 0], size.origin)


def _principal_point(
    header: Header, columns: int, rows: int, spacing: Sourced[tuple[float, float]] | None
) -> Sourced[tuple[float, float]] | None:
    """Where the central ray meets the stored image, from the place of the field of view on the detector; None where the tags do not say.

    The central ray is taken to pass through the isocentre's projection where that was measured, else through the middle of the detector.
    """
    element = header.spacing("DetectorElementSpacing")
    field_origin = header.numbers("FieldOfViewOrigin", 2)
    if element is None or field_origin is None or spacing is None:
        return None
    centre = _detector_centre(header, element)
    if centre is None:
        return None
    middle = np.array(centre.value)
    rotation = _rotation(header)
    field_spacing = np.array(spacing.value if rotation in (0, 180) else spacing.value[::-1])
    inside = (middle - np.array(field_origin.value[::-1])) * np.array(element.value) / field_spacing - 0.5
    field_size = np.array([columns, rows] if rotation in (0, 180) else [rows, columns])
    across, down = _turn(inside, field_size, rotation)
    flip = header.text("FieldOfViewHorizontalFlip")
    if flip is not None and flip.value.startswith("Y"):
        across = columns - 1 - across
    if not (-0.25 * columns < across < 1.25 * columns and -0.25 * rows < down < 1.25 * rows):
        header.warn(f"{field_origin.origin} puts the central ray far outside the image ({across:.0f}, {down:.0f}): the image's middle is used")
        return None
    return Sourced((float(across), float(down)), f"{centre.origin}, {field_origin.origin}")


def _detector_centre(header: Header, element: Sourced[tuple[float, float]]) -> Sourced[tuple[float, float]] | None:
    """Where the central ray meets the detector, (column, row) in detector elements from the detector's top left *corner*."""
    isocentre = header.numbers("PositionOfIsocenterProjection", 2)
    if isocentre is not None:
        return Sourced((isocentre.value[1] + 0.5, isocentre.value[0] + 0.5), isocentre.origin)
    size = header.numbers("PhysicalDetectorSize", 2)
    if size is not None and min(size.value) > 0:
        return Sourced((size.value[1] / element.value[0] / 2, size.value[0] / element.value[1] / 2), f"middle of {size.origin}")
    active = header.numbers("DetectorActiveDimensions")
    if active is None or min(active.value) <= 0:
        return None
    # Height first, then width, or one diameter; the origin is (row, column) and counts detector elements, not mm.
    origin = header.numbers("DetectorActiveOrigin", 2)
    row, column = (0.0, 0.0) if origin is None else origin.value
    across, down = column + active.value[-1] / element.value[0] / 2, row + active.value[0] / element.value[1] / 2
    return Sourced((across, down), f"middle of {active.origin}")


def _turn(point: np.ndarray, size: np.ndarray, clockwise_deg: int) -> tuple[float, float]:
    """A pixel's place after its image of ``size`` (columns, rows) is turned clockwise."""
    across, down = point
    columns, rows = size
    places = {0: (across, down), 90: (rows - 1 - down, across), 180: (columns - 1 - across, rows - 1 - down), 270: (down, columns - 1 - across)}
    return places[clockwise_deg]


def _rotation(header: Header) -> int:
    found = header.number("FieldOfViewRotation")
    if found is None:
        return 0
    if found.value not in (0, 90, 180, 270):
        header.warn(f"{found.origin} is {found.value:g}, expected 0, 90, 180 or 270")
        return 0
    return int(found.value)


def _start(header: Header) -> Sourced[Start] | None:
    """Where the detector stands, from the C-arm's angles or from the view's name."""
    primary, secondary = header.number("PositionerPrimaryAngle"), header.number("PositionerSecondaryAngle")
    if primary is not None and abs(primary.value) <= 360:
        first = primary.value + _increment(header, "PositionerPrimaryAngleIncrement")
        second = 0.0 if secondary is None else secondary.value + _increment(header, "PositionerSecondaryAngleIncrement")
        # Angles that nobody set read 0 and 0 on many tables; for fluoroscopy that is a frontal view all the same.
        origin = primary.origin + ("" if secondary is None else f", {secondary.origin}")
        if secondary is None:
            header.warn(f"{tag_text('PositionerSecondaryAngle')} is empty: the start assumes 0 degrees cranial/caudal")
        return Sourced(Start("pa", first, second), origin)
    view = header.text("ViewPosition")
    if view is not None and view.value in VIEW_POSITIONS:
        return Sourced(Start(VIEW_POSITIONS[view.value], 0.0, 0.0), view.origin)
    return None


def _increment(header: Header, keyword: str) -> float:
    """Degrees from the first frame: one number is the average step, several are each frame's offset (C.8.7.5.1.3)."""
    found = header.numbers(keyword)
    if found is None:
        return 0.0
    if len(found.value) == 1:
        return found.value[0] * header.frame
    return found.value[header.frame] if header.frame < len(found.value) else 0.0


def _image_axes(header: Header) -> Sourced[tuple[str, str]] | None:
    """Patient directions (one of RLAPHF) in which the stored rows and columns run."""
    found = header.raw("PatientOrientation")
    if found is None or isinstance(found[0], str) or len(found[0]) != 2:
        return None
    letters = tuple(str(item).strip().upper()[:1] for item in found[0])
    if any(letter not in PATIENT_DIRECTIONS_RAS for letter in letters):
        return None
    return Sourced((letters[0], letters[1]), found[1])


def _mirrored(header: Header, start: Sourced[Start] | None) -> Sourced[bool] | None:
    """Rows x columns against the beam; else the flip that the machine says it has applied."""
    flip = header.text("FieldOfViewHorizontalFlip")
    flipped = None if flip is None else Sourced(flip.value.startswith("Y"), flip.origin)
    axes = _image_axes(header)
    if axes is None or start is None:
        return flipped
    right, down = (np.array(PATIENT_DIRECTIONS_RAS[letter], dtype=float) for letter in axes.value)
    along = float(np.cross(right, down) @ start.value.beam_ras())
    if abs(along) < 0.5:
        return flipped
    seen = Sourced(along < 0, f"{axes.origin} with {start.origin}")
    if flipped is not None and flipped.value != seen.value:
        header.warn(f"{seen.origin} say that the image is {'' if seen.value else 'not '}mirrored, {flipped.origin} says the opposite: try both")
    return seen
