"""What is known about an X-ray's geometry, value by value, and where each value comes from.

A DICOM header, a ``geometry.json`` and a user each know a part. Each part is a ``GeometryValues``; ``first_known`` lays them over each other
and ``complete`` makes the whole that a reader needs, or refuses with the name of what is missing. Nothing is ever filled in silently: an
assumed value is marked as one.

Frames: all values describe the image *as stored in its file*. A mirrored image is un-mirrored, and its camera with it, by ``Radiograph.read``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, TypeVar

import numpy as np

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.starts import Start

T = TypeVar("T")

INTENSITIES = ("counts", "display", "line_integral")

NEEDED = {
    "sdd_mm": "the source-to-detector distance is not known: give sdd_mm in geometry.json (about 1000 on a C-arm)",
    "pixel_spacing_mm": "the detector's pixel spacing is not known: give pixel_spacing_mm [column, row] in geometry.json",
}
"""What nobody may assume, and how to give it."""

PLAUSIBLE_MM = {"sdd_mm": (100.0, 5000.0), "sod_mm": (10.0, 5000.0), "pixel_spacing_mm": (0.005, 20.0)}
"""From a specimen scanner to a room-sized set-up, from a micrometre detector to a resampled thumbnail: what lies outside has another unit."""


@dataclass(frozen=True)
class Sourced(Generic[T]):
    """A value and where it comes from: a tag's name and number, a file, "default: ..." or "user". ``is_default``: it is assumed, not known."""

    value: T
    origin: str
    is_default: bool = False


def assumed(value: T, why: str) -> Sourced[T]:
    """A value that nobody gave."""
    return Sourced(value, f"default: {why}", is_default=True)


@dataclass(frozen=True)
class GeometryValues:
    """The part of an X-ray's geometry that one source knows; ``None`` where it does not.

    Pairs are (column, row). ``inverted``: white is bone. ``mirrored``: the stored image is the one seen from the detector's side.
    ``logarithm_inverted``: the same of line integrals, where a header tells it. By ``inverted: false`` a file or a user says nothing of them: bone is
    white in line integrals by what they are. ``full_scale``: the largest value that the image's type can hold, in the image's own values; inverted
    counts are taken from it.
    ``initial_camera_from_world`` and ``camera_from_camera1`` are (4, 4) float64 and belong to the un-mirrored camera. ``start``: C-arm angles or
    a named view. ``image_axes``: patient directions (of RLAPHF) in which the stored rows and columns run. ``frame``: which of several, from 0.
    ``i0``: detector counts without an object. ``collimator``: whether its border is to be searched for.
    """

    sdd_mm: Sourced[float] | None = None
    sod_mm: Sourced[float] | None = None
    pixel_spacing_mm: Sourced[tuple[float, float]] | None = None
    size_px: Sourced[tuple[int, int]] | None = None
    principal_point_px: Sourced[tuple[float, float]] | None = None
    intensity: Sourced[str] | None = None
    inverted: Sourced[bool] | None = None
    logarithm_inverted: Sourced[bool] | None = None
    full_scale: Sourced[float] | None = None
    mirrored: Sourced[bool] | None = None
    initial_camera_from_world: Sourced[np.ndarray] | None = None
    camera_from_camera1: Sourced[np.ndarray] | None = None
    start: Sourced[Start] | None = None
    image_axes: Sourced[tuple[str, str]] | None = None
    frame: Sourced[int] | None = None
    i0: Sourced[float] | None = None
    collimator: Sourced[bool] | None = None
    warnings: tuple[str, ...] = ()


NOTHING = GeometryValues()
"""What is known where nobody says anything."""


@dataclass(frozen=True)
class ViewGeometry:
    """Everything a reader needs to know about one stored image. ``values`` holds the origin of each entry."""

    camera: Camera
    intensity: str
    inverted: bool
    mirrored: bool
    values: GeometryValues


def from_camera(camera: Camera, origin: str = "user") -> GeometryValues:
    return GeometryValues(
        sdd_mm=Sourced(camera.sdd_mm, origin),
        pixel_spacing_mm=Sourced(camera.pixel_spacing_mm, origin),
        size_px=Sourced(camera.size_px, origin),
        principal_point_px=Sourced(camera.principal_point_px, origin),
    )


def told(mirrored: bool | None = None, frame: int | None = None, origin: str = "user") -> GeometryValues:
    """What is often not known of a file and tried: which way round the image is stored, and which of its frames is meant. None: not told."""
    return GeometryValues(
        mirrored=None if mirrored is None else Sourced(mirrored, origin),
        frame=None if frame is None else Sourced(frame, origin),
    )


def first_known(*parts: GeometryValues) -> GeometryValues:
    """The first part that knows a value wins; warnings are kept from all parts."""
    chosen: dict[str, Any] = {}
    for entry in fields(GeometryValues):
        if entry.name != "warnings":
            chosen[entry.name] = next((v for v in (getattr(part, entry.name) for part in parts) if v is not None), None)
    return GeometryValues(**chosen, warnings=tuple(w for part in parts for w in part.warnings))


def with_defaults(values: GeometryValues, image_size_px: tuple[int, int], default_intensity: Sourced[str]) -> GeometryValues:
    """What may be assumed filled in, with a "default" origin: the central ray through the middle of the image, white = air (in line integrals white =
    bone), an unmirrored image.

    Args:
        values: all that is known.
        image_size_px: (columns, rows) of the stored image.
        default_intensity: what the kind of file suggests.
    """
    columns, rows = image_size_px
    intensity = values.intensity or default_intensity
    inverted = values.inverted or assumed(False, "white is air")
    if intensity.value == "line_integral" and not inverted.value:
        inverted = values.logarithm_inverted or assumed(True, "line integrals show bone white")
    return replace(
        values,
        size_px=values.size_px or Sourced((columns, rows), "image"),
        principal_point_px=values.principal_point_px or assumed(((columns - 1) / 2, (rows - 1) / 2), "the central ray meets the middle of the image"),
        intensity=intensity,
        inverted=inverted,
        mirrored=values.mirrored or assumed(False, "the image is the one seen from the source"),
    )


def complete(values: GeometryValues, image_size_px: tuple[int, int], default_intensity: Sourced[str], where: str) -> ViewGeometry:
    """Check the values against the image and fill in what may be assumed.

    Distances and sizes are never assumed.

    Args:
        values, image_size_px, default_intensity: as of ``with_defaults``.
        where: the image's name, for messages.

    Raises:
        InputError: naming the value that is missing, implausible or does not fit the image, and how to give it.
    """
    columns, rows = image_size_px
    if values.sdd_mm is None or values.pixel_spacing_mm is None:
        missing = [words for name, words in NEEDED.items() if getattr(values, name) is None]
        raise InputError(f"{where}: {'; '.join(missing)}{_because(values)}")
    for name, lengths in (("sdd_mm", (values.sdd_mm.value,)), ("pixel_spacing_mm", values.pixel_spacing_mm.value)):
        problem = next((problem for length in lengths if (problem := implausible(name, length)) is not None), None)
        if problem is not None:
            shown = ", ".join(f"{length:g}" for length in lengths)
            raise InputError(f"{where}: {name} is {shown} ({getattr(values, name).origin}), {problem}")
    if values.size_px is not None and tuple(values.size_px.value) != (columns, rows):
        raise InputError(
            f"{where}: the image has {columns} x {rows} pixels (columns x rows), but size_px ({values.size_px.origin}) says "
            f"{values.size_px.value[0]} x {values.size_px.value[1]}: the geometry belongs to another image or another resolution"
        )
    filled = with_defaults(values, image_size_px, default_intensity)
    camera = Camera(
        sdd_mm=float(_value(filled.sdd_mm)),
        pixel_spacing_mm=_pair(_value(filled.pixel_spacing_mm), float),
        size_px=(columns, rows),
        principal_point_px=_pair(_value(filled.principal_point_px), float),
    )
    intensity = _value(filled.intensity)
    if intensity not in INTENSITIES:
        raise InputError(f"{where}: intensity is {intensity!r}, expected one of {', '.join(INTENSITIES)}")
    return ViewGeometry(camera, intensity, bool(_value(filled.inverted)), bool(_value(filled.mirrored)), filled)


def start_pose(values: GeometryValues, camera: Camera, centre_ras_mm: np.ndarray) -> Sourced[np.ndarray] | None:
    """camera_from_world (4, 4) float64 to start from: as given, else from C-arm angles or a view's name, else None.

    Args:
        camera: of the un-mirrored image.
        centre_ras_mm: (3,) centre of the uncropped CT grid, put on the central ray.
    """
    if values.initial_camera_from_world is not None:
        return values.initial_camera_from_world
    if values.start is None:
        return None
    down = None if values.image_axes is None else values.image_axes.value[1]
    sod = None if values.sod_mm is None else values.sod_mm.value
    return Sourced(values.start.value.pose(camera, centre_ras_mm, sod, down), values.start.origin)


def implausible(name: str, value_mm: float) -> str | None:
    """What is wrong with a length that no X-ray machine has, in words, or None."""
    low, high = PLAUSIBLE_MM[name]
    return None if low <= value_mm <= high else f"expected {low:g} to {high:g} mm: is it given in another unit?"


def describe_origins(values: GeometryValues) -> Mapping[str, Sourced[Any]]:
    """The known values by name, in a fixed order, for printing."""
    return {entry.name: v for entry in fields(GeometryValues) if isinstance(v := getattr(values, entry.name), Sourced)}


def _because(values: GeometryValues) -> str:
    return "".join(f"; {warning}" for warning in values.warnings)


def _value(sourced: Sourced[T] | None) -> T:
    assert sourced is not None
    return sourced.value


def _pair(pair: Any, kind: type) -> tuple[Any, Any]:
    return (kind(pair[0]), kind(pair[1]))
