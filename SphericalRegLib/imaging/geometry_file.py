"""``geometry.json``: an X-ray's geometry as text.

Keys, with units and frames (pairs are [column, row]; the image is the one stored in the file):

- ``sdd_mm``: source-to-detector distance.
- ``pixel_spacing_mm``: distance between the centres of neighbouring detector pixels, on the detector.
- ``size_px``: optional; checked against the image.
- ``principal_point_px``: where the central ray meets the detector; (0, 0) is the centre of the first pixel. Optional: the image's middle.
- ``sod_mm``: optional, source to the centre of the object; only starts from named views use it.
- ``intensity``: "counts", "display" or "line_integral"; ``inverted``: white is bone, as it is in line integrals unless a DICOM
  header says otherwise.
- ``mirrored``: stored as seen from the detector's side.
- ``frame``: which frame of a multi-frame X-ray, from 0; ``i0``: detector counts without an object; ``collimator``: false switches the search for its
  border off. All optional.
- ``initial_camera_from_world``, ``camera2_from_camera1`` (in geometry_2.json): 4 x 4, rigid, mm, of the un-mirrored camera.

Any other key is a note and is ignored, unless it is nearly one of these: that is refused as misspelt.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.rigid import checked_rigid
from SphericalRegLib.imaging.files import read_json_object, refuse_misspelt, write_json
from SphericalRegLib.imaging.geometry_values import INTENSITIES, GeometryValues, Sourced, implausible

_RELATION = re.compile(r"camera\d*_from_camera1")
_NO_KEYS = {"camera_from_camera1", "full_scale", "logarithm_inverted", "start", "image_axes", "warnings"}
KEYS = frozenset(entry.name for entry in fields(GeometryValues)) - _NO_KEYS | {"camera2_from_camera1"}
"""Of a geometry file."""


def read_geometry(path: str | Path, view: int = 1) -> GeometryValues:
    """Read a geometry file.

    Args:
        view: number of the view it belongs to; view 2 and later look for ``camera<view>_from_camera1``.

    Raises:
        InputError: naming the file and the key at fault.
    """
    path = Path(path)
    return parse_geometry(read_json_object(path, "geometry file"), str(path), path.name, view)


def parse_geometry(content: Mapping[str, Any], where: str = "geometry", origin: str = "user", view: int = 1) -> GeometryValues:
    """The values of a mapping with the keys of ``geometry.json``; None is as good as no key.

    Args:
        where: named in messages.
        origin: kept with each value.

    Raises:
        InputError: a key is misspelt, has the wrong type, is not positive, not finite, not plausible in its unit, or is not a rigid transform.
    """
    refuse_misspelt(content, KEYS | {key for key in content if _RELATION.fullmatch(key)}, where)

    def sourced(key: str, check: Any) -> Sourced[Any] | None:
        if key not in content or content[key] is None:
            return None
        return Sourced(check(content[key], f"{where}: {key}"), f"{origin}: {key}" if origin != "user" else "user")

    return GeometryValues(
        sdd_mm=sourced("sdd_mm", _length("sdd_mm")),
        sod_mm=sourced("sod_mm", _length("sod_mm")),
        pixel_spacing_mm=sourced("pixel_spacing_mm", _pair_of(_length("pixel_spacing_mm"))),
        size_px=sourced("size_px", _pair_of(_count)),
        principal_point_px=sourced("principal_point_px", _pair_of(_number)),
        intensity=sourced("intensity", _intensity),
        inverted=sourced("inverted", _boolean),
        mirrored=sourced("mirrored", _boolean),
        frame=sourced("frame", _index),
        i0=sourced("i0", _above_zero),
        collimator=sourced("collimator", _boolean),
        initial_camera_from_world=sourced("initial_camera_from_world", checked_rigid),
        camera_from_camera1=sourced(f"camera{view}_from_camera1", checked_rigid) if view > 1 else None,
    )


def write_geometry(
    path: str | Path,
    camera: Camera,
    *,
    intensity: str = "counts",
    inverted: bool | None = None,
    mirrored: bool = False,
    initial_camera_from_world: np.ndarray | None = None,
    camera_from_camera1: np.ndarray | None = None,
    view: int = 1,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write a geometry file (atomically) that ``read_geometry`` reads back to the same values.

    Args:
        camera: of the image as stored (mirrored if ``mirrored``).
        inverted: white is bone; None: as is usual with ``intensity``. Line integrals are written as showing it white.
        notes: further keys, kept beside the others.

    Raises:
        InputError: the values would not be accepted on reading.
    """
    content: dict[str, Any] = {
        **(notes or {}),
        "sdd_mm": float(camera.sdd_mm),
        "pixel_spacing_mm": [float(v) for v in camera.pixel_spacing_mm],
        "size_px": [int(v) for v in camera.size_px],
        "principal_point_px": [float(v) for v in camera.principal_point_px],
        "intensity": intensity,
        "inverted": intensity == "line_integral" or bool(inverted),
        "mirrored": mirrored,
    }
    if initial_camera_from_world is not None:
        content["initial_camera_from_world"] = np.asarray(initial_camera_from_world, dtype=float).tolist()
    if camera_from_camera1 is not None:
        content[f"camera{view}_from_camera1"] = np.asarray(camera_from_camera1, dtype=float).tolist()
    parse_geometry(content, str(path), view=view)
    write_json(Path(path), content)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise InputError(f"{where} is {value!r}, expected a number")
    number = float(value)
    if not math.isfinite(number):
        raise InputError(f"{where} is {value!r}, expected a finite number")
    return number


def _length(name: str) -> Any:
    def length(value: Any, where: str) -> float:
        number = _number(value, where)
        if number <= 0:
            raise InputError(f"{where} is {number:g}, expected a length in mm above zero")
        problem = implausible(name, number)
        if problem is not None:
            raise InputError(f"{where} is {number:g}, {problem}")
        return number

    return length


def _above_zero(value: Any, where: str) -> float:
    number = _number(value, where)
    if number <= 0:
        raise InputError(f"{where} is {number:g}, expected a number above zero")
    return number


def _index(value: Any, where: str) -> int:
    number = _number(value, where)
    if number != int(number) or number < 0:
        raise InputError(f"{where} is {value!r}, expected a frame number, 0 for the first")
    return int(number)


def _count(value: Any, where: str) -> int:
    number = _number(value, where)
    if number != int(number) or number < 1:
        raise InputError(f"{where} is {value!r}, expected a whole number of pixels")
    return int(number)


def _pair_of(check: Any) -> Any:
    def pair(value: Any, where: str) -> tuple[Any, Any]:
        if isinstance(value, str) or not hasattr(value, "__len__") or len(value) != 2:
            raise InputError(f"{where} is {value!r}, expected two numbers [column, row]")
        return (check(value[0], f"{where}[0]"), check(value[1], f"{where}[1]"))

    return pair


def _boolean(value: Any, where: str) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise InputError(f"{where} is {value!r}, expected true or false")
    return bool(value)


def _intensity(value: Any, where: str) -> str:
    if value not in INTENSITIES:
        raise InputError(f"{where} is {value!r}, expected one of {', '.join(INTENSITIES)}")
    return value
