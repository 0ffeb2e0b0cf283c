"""What is known of an X-ray node's geometry: what was kept with it, what its DICOM instance says, and what a file says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import slicer
from slicer.i18n import tr as _

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.geometry_file import read_geometry, write_geometry
from SphericalRegLib.imaging.geometry_values import GeometryValues, Sourced, describe_origins, first_known, implausible, with_defaults
from SphericalRegLib.mrml.detector import placed_camera
from SphericalRegLib.mrml.geometry_attribute import keep_geometry, kept_geometry
from SphericalRegLib.mrml.xrays import DICOM_UIDS, node_geometry, stored_image

if TYPE_CHECKING:
    from SphericalRegLib.imaging.dicom import DicomGeometry

PLACED = "the placed detector"


def known_geometry(xray: Any) -> GeometryValues:
    """All that is known of an X-ray node's geometry: what was kept with it, its DICOM instance, its spacing, and assumptions where there is none.

    Raises:
        InputError: a node without an image that can be used, or on a detector that no camera can have.
    """
    placed = placed_camera(xray)
    if placed is not None:
        return GeometryValues(
            **{name: Sourced(value, PLACED) for name, value in vars(placed.camera).items()},
            intensity=Sourced("line_integral", PLACED),
            inverted=Sourced(True, PLACED),
            mirrored=Sourced(False, PLACED),
        )
    stored = stored_image(xray, 0)
    known = first_known(_readable(xray), dicom_geometry(xray), node_geometry(xray))
    return with_defaults(known, stored.size_px, stored.likely_intensity)


def kept_geometry_of(xray: Any) -> GeometryValues:
    """What was kept with an X-ray's node and what its DICOM instance says.

    Raises:
        InputError: what was kept is damaged.
    """
    return first_known(kept_geometry(xray), dicom_geometry(xray))


def _readable(xray: Any) -> GeometryValues:
    """What was kept with a node; where that is damaged, a warning in its place: what is entered next is kept instead."""
    try:
        return kept_geometry(xray)
    except InputError as error:
        return GeometryValues(warnings=(str(error),))


def implausible_lengths(values: GeometryValues) -> tuple[str, ...]:
    """What is wrong with lengths that no X-ray machine has, each in a sentence. They are not kept: `kept_geometry` refuses them."""
    said = {
        "sdd_mm": _("The source-to-detector distance is {lengths} mm, {problem}"),
        "pixel_spacing_mm": _("The pixel spacing is {lengths} mm, {problem}"),
    }
    found = []
    for name, words in said.items():
        known = getattr(values, name)
        lengths = () if known is None else known.value if isinstance(known.value, tuple) else (known.value,)
        problem = next((problem for length in lengths if (problem := implausible(name, length)) is not None), None)
        if problem is not None:
            found.append(words.format(lengths=" x ".join(f"{length:g}" for length in lengths), problem=problem))
    return tuple(found)


def dicom_geometry(xray: Any) -> GeometryValues:
    """What the node's DICOM instance says of the image as Slicer has read it; nothing for a node of another origin."""
    try:
        header = dicom_header(xray)
    except InputError as error:
        return GeometryValues(warnings=(str(error),))
    return GeometryValues() if header is None else header.as_read_by_itk


def dicom_header(xray: Any) -> DicomGeometry | None:
    """The geometry in the node's DICOM instance; None for a node of another origin. Raises InputError where it cannot be read."""
    uids = (xray.GetAttribute(DICOM_UIDS) or "").split()
    database = getattr(slicer, "dicomDatabase", None)
    path = database.fileForInstance(uids[0]) if uids and database is not None else ""
    if not path:
        return None
    from SphericalRegLib.imaging.dicom import read_dicom_geometry

    return read_dicom_geometry(path)


def as_in_the_file(values: GeometryValues, xray: Any) -> GeometryValues:
    """Values of the image as Slicer has it for the image as stored, or the other way round: they differ where ITK has turned it round on reading."""
    from SphericalRegLib.imaging.dicom import turned_round

    try:
        header = dicom_header(xray)
    except InputError:
        return values
    return turned_round(values) if header is not None and header.dark_first else values


def load(path: str | Path, xray: Any) -> None:
    """Take a geometry file for an X-ray and keep it with the node, before what was kept there, or in its place where that is damaged.

    Raises:
        InputError: the file, or its size against the image.
    """
    given = as_in_the_file(read_geometry(path), xray)
    size = stored_image(xray, 0).size_px
    if given.size_px is not None and tuple(given.size_px.value) != size:
        (across, down), (columns, rows) = given.size_px.value, size
        raise InputError(f"{path} is for an image of {across} x {down} pixels; expected the {columns} x {rows} of the X-ray {xray.GetName()!r}.")
    keep_geometry(xray, first_known(given, _readable(xray)))


def save(path: str | Path, values: GeometryValues, xray: Any) -> None:
    """Write the values of an X-ray to a geometry file, which describes the image as stored.

    Raises:
        InputError: a value is missing, or the file cannot be written.
    """
    known = describe_origins(as_in_the_file(values, xray))
    missing = [name for name in ("sdd_mm", "pixel_spacing_mm", "size_px", "principal_point_px") if name not in known]
    if missing:
        raise InputError(f"The geometry lacks {', '.join(missing)}: enter it before saving.")
    camera = Camera(*(known[name].value for name in ("sdd_mm", "pixel_spacing_mm", "size_px", "principal_point_px")))
    flags = {name: known[name].value for name in ("intensity", "inverted", "mirrored") if name in known}
    write_geometry(path, camera, **flags)
