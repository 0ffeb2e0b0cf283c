"""The X-ray camera: a point source and a flat detector.

Camera frame: origin at the source, +x along image columns (right), +y along image rows (down), +z from the source to the detector, mm. The central
ray, camera z, is perpendicular to the detector and meets it in the principal point. Pixels are (column, row); (0, 0) is the *centre* of the first
pixel, so the image covers [-0.5, columns - 0.5] x [-0.5, rows - 0.5]. The image is the one seen from the source.

No torch is needed here; where points come as tensors, tensors (differentiable) are given back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np

from SphericalRegLib.errors import InputError

Array = TypeVar("Array")  # np.ndarray or torch.Tensor

NEAREST_MM = 1.0
"""What is nearer to the source than this, or behind it, is not projected."""


@dataclass(frozen=True)
class Camera:
    """Intrinsics of one X-ray image; pairs are in (column, row) order.

    Attributes:
        sdd_mm: source-to-detector distance along the central ray.
        pixel_spacing_mm: distance between the centres of neighbouring columns, and of neighbouring rows, on the detector.
        size_px: number of columns, number of rows.
        principal_point_px: where the central ray meets the detector; may lie outside the image.

    Raises:
        InputError: naming the field that is no finite number, not positive, or no pair.
    """

    sdd_mm: float
    pixel_spacing_mm: tuple[float, float]
    size_px: tuple[int, int]
    principal_point_px: tuple[float, float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sdd_mm", _positive(_number(self.sdd_mm, "sdd_mm"), "sdd_mm"))
        spacing = _pair(self.pixel_spacing_mm, "pixel_spacing_mm")
        object.__setattr__(self, "pixel_spacing_mm", tuple(_positive(value, "pixel_spacing_mm") for value in spacing))
        object.__setattr__(self, "size_px", tuple(_count(v, "size_px") for v in _pair(self.size_px, "size_px")))
        object.__setattr__(self, "principal_point_px", _pair(self.principal_point_px, "principal_point_px"))

    @property
    def columns(self) -> int:
        return self.size_px[0]

    @property
    def rows(self) -> int:
        return self.size_px[1]

    @property
    def focal_length_px(self) -> tuple[float, float]:
        """SDD in pixels, along columns and along rows."""
        return self.sdd_mm / self.pixel_spacing_mm[0], self.sdd_mm / self.pixel_spacing_mm[1]

    # The image is changed, the intrinsics follow.

    def crop(self, left: int, top: int, columns: int, rows: int) -> Camera:
        """The camera of image[top : top + rows, left : left + columns]; a negative left or top, or a size beyond the border, is padding."""
        left, top = _integer(left, "left"), _integer(top, "top")
        u, v = self.principal_point_px
        return replace(self, size_px=(columns, rows), principal_point_px=(u - left, v - top))

    def resize(self, columns: int, rows: int) -> Camera:
        """The camera of the image resampled over the same field of view: pixel p becomes (p + 0.5) s - 0.5, s = new / old size."""
        columns, rows = _count(columns, "columns"), _count(rows, "rows")
        across, down = columns / self.columns, rows / self.rows
        return replace(
            self,
            size_px=(columns, rows),
            pixel_spacing_mm=(self.pixel_spacing_mm[0] / across, self.pixel_spacing_mm[1] / down),
            principal_point_px=((self.principal_point_px[0] + 0.5) * across - 0.5, (self.principal_point_px[1] + 0.5) * down - 0.5),
        )

    def flip_columns(self) -> Camera:
        """The camera of image[:, ::-1]. A single flip mirrors the scene as well: it is for images that are not (yet) as seen from the source."""
        return replace(self, principal_point_px=(self.columns - 1 - self.principal_point_px[0], self.principal_point_px[1]))

    def flip_rows(self) -> Camera:
        """The camera of image[::-1, :]; see `flip_columns`."""
        return replace(self, principal_point_px=(self.principal_point_px[0], self.rows - 1 - self.principal_point_px[1]))

    def rotate_180(self) -> Camera:
        """The camera of image[::-1, ::-1]. Its frame is turned about z: new camera_from_world = diag(-1, -1, 1, 1) old camera_from_world."""
        return self.flip_columns().flip_rows()

    # Matrices and points.

    def intrinsic_matrix(self) -> np.ndarray:
        """K (3, 3) float64: K (x, y, z) = z (column, row, 1) for a point of the camera frame."""
        (fu, fv), (u, v) = self.focal_length_px, self.principal_point_px
        return np.array([[fu, 0.0, u], [0.0, fv, v], [0.0, 0.0, 1.0]])

    def camera_from_pixel(self) -> np.ndarray:
        """(4, 4) float64: the camera frame, mm, on the detector from (column, row, 0); a step in the third index is 1 mm along the beam."""
        (across, down), (u, v) = self.pixel_spacing_mm, self.principal_point_px
        matrix = np.diag([across, down, 1.0, 1.0])
        matrix[:3, 3] = (-u * across, -v * down, self.sdd_mm)
        return matrix

    @classmethod
    def from_intrinsic_matrix(
        cls, matrix: np.ndarray, sdd_mm: float, size_px: tuple[int, int], pixel_spacing_mm: tuple[float, float] | None = None
    ) -> Camera:
        """From K (3, 3), which knows the SDD only in pixels. Where the spacing is given too it must agree with the SDD, to one part in a thousand.

        Raises InputError for skew, for a focal length that is not positive (the camera frame then is another one: z towards the source or a
        mirrored axis; change the pose with it first), and for a spacing that contradicts the SDD.
        """
        k = np.asarray(matrix, dtype=np.float64)
        if k.shape != (3, 3) or not np.isfinite(k).all() or k[2, 2] == 0:
            raise InputError(f"The intrinsic matrix must be 3 x 3 and finite with a non-zero last entry, but it is {k.tolist()}.")
        k = k / k[2, 2]
        focal = k[0, 0], k[1, 1]
        if abs(k[0, 1]) > 1e-6 * abs(k[0, 0]) or np.abs([k[1, 0], k[2, 0], k[2, 1]]).max() > 1e-9 * np.abs(k).max():
            raise InputError(f"The intrinsic matrix must be upper triangular without skew, but it is {k.tolist()}.")
        if min(focal) <= 0:
            raise InputError(f"The intrinsic matrix must have positive focal lengths (camera z from source to detector), but they are {focal}.")
        sdd = _positive(_number(sdd_mm, "sdd_mm"), "sdd_mm")
        camera = cls(sdd, (sdd / focal[0], sdd / focal[1]), size_px, (k[0, 2], k[1, 2]))
        if pixel_spacing_mm is None:
            return camera
        given = replace(camera, pixel_spacing_mm=pixel_spacing_mm)
        if any(abs(a / b - 1) > 1e-3 for a, b in zip(given.pixel_spacing_mm, camera.pixel_spacing_mm)):
            raise InputError(
                f"pixel_spacing_mm {given.pixel_spacing_mm} contradicts the intrinsic matrix, which says {camera.pixel_spacing_mm} at sdd_mm {sdd:g}."
            )
        return given

    def project(self, points_camera: Array) -> Array:
        """Pixels (..., 2) (column, row) of points (..., 3) of the camera frame, mm; nan where a point is not in front of the source (z <= 0)."""
        where, stack = _namespace(points_camera)
        x, y, z = points_camera[..., 0], points_camera[..., 1], points_camera[..., 2]  # type: ignore[index]
        visible = z > 0
        depth = where(visible, z, 1.0)
        (fu, fv), (u, v) = self.focal_length_px, self.principal_point_px
        return stack((where(visible, fu * x / depth + u, math.nan), where(visible, fv * y / depth + v, math.nan)), -1)

    def back_project(self, pixels: Array, depth_mm: Any = None) -> Array:
        """Points (..., 3) of the camera frame, mm, on the rays of pixels (..., 2) at a depth z (scalar or (...)); on the detector plane when None."""
        _, stack = _namespace(pixels)
        column, row = pixels[..., 0], pixels[..., 1]  # type: ignore[index]
        depth = self.sdd_mm + 0.0 * column if depth_mm is None else depth_mm + 0.0 * column
        (fu, fv), (u, v) = self.focal_length_px, self.principal_point_px
        return stack(((column - u) * depth / fu, (row - v) * depth / fv, depth), -1)

    # geometry.json

    def to_dict(self) -> dict[str, Any]:
        """The camera's keys of geometry.json."""
        return {
            "sdd_mm": self.sdd_mm,
            "pixel_spacing_mm": list(self.pixel_spacing_mm),
            "size_px": list(self.size_px),
            "principal_point_px": list(self.principal_point_px),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Camera:
        """From geometry.json's keys; others are ignored. Raises InputError naming a key that is missing or has an unusable value."""
        if not isinstance(values, Mapping):
            raise InputError(f"The camera must be a JSON object with sdd_mm, pixel_spacing_mm, size_px and principal_point_px, not {_kind(values)}.")
        keys = ("sdd_mm", "pixel_spacing_mm", "size_px", "principal_point_px")
        missing = [key for key in keys if key not in values]
        if missing:
            raise InputError(f"The camera needs {' and '.join(missing)} (keys of geometry.json: {', '.join(keys)}).")
        return cls(*(values[key] for key in keys))


def _namespace(array: Any) -> tuple[Any, Any]:
    """(where, stack) of the library that the array comes from."""
    if isinstance(array, np.ndarray):
        return np.where, np.stack
    import torch

    return torch.where, torch.stack


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (Real, np.number)) or not math.isfinite(float(value)):
        raise InputError(f"{name} must be a finite number, but it is {value!r}.")
    return float(value)


def _positive(value: float, name: str) -> float:
    if value <= 0:
        raise InputError(f"{name} must be greater than zero, but it is {value:g}.")
    return value


def _integer(value: Any, name: str) -> int:
    number = _number(value, name)
    if not isinstance(value, (Integral, np.integer)) and not number.is_integer():
        raise InputError(f"{name} must be a whole number of pixels, but it is {value!r}.")
    return int(number)


def _count(value: Any, name: str) -> int:
    return int(_positive(_integer(value, name), name))


def _pair(values: Any, name: str) -> tuple[float, float]:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, (Sequence, np.ndarray)) or len(values) != 2:
        raise InputError(f"{name} must be two numbers (column, row), but it is {values!r}.")
    return _number(values[0], name), _number(values[1], name)


def _kind(value: Any) -> str:
    return {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "a number")
