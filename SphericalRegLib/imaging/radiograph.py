"""An X-ray image with its camera and its mask: one object holds all three, so that they cannot drift apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.collimator import open_mask
from SphericalRegLib.imaging.geometry_file import parse_geometry, read_geometry
from SphericalRegLib.imaging.geometry_values import GeometryValues, complete, first_known, from_camera
from SphericalRegLib.imaging.normalization import air_bright, to_line_integral
from SphericalRegLib.imaging.pixels import StoredImage, read_mask, read_pixels
from SphericalRegLib.imaging.starts import sod_fraction

if TYPE_CHECKING:
    import torch

Geometry = Camera | GeometryValues | Mapping[str, Any] | str | Path | None


@dataclass(frozen=True)
class Radiograph:
    """An X-ray as registration needs it: seen from the source, bone bright, with the camera that belongs to it.

    Attributes:
        image: (H, W) float32, line-integral-like (no unit, bone bright). What is not a finite number where the mask is False becomes the median of
            where it is True: no consumer has to look.
        mask: (H, W) bool, True where the image may be used (inside the collimator, inside the user's mask).
        camera: intrinsics of this very grid.
        intensity: what the stored values were: "counts", "display" or "line_integral".
        mirrored: the stored image was mirrored and has been un-mirrored; show it mirrored again.
        name: the file's name, for messages and reports.
        known: the geometry of the *stored* image, value by value with its origin.

    Raises:
        InputError: image, mask and camera are of different sizes, or the image holds what is not a finite number inside the mask.
    """

    image: np.ndarray
    mask: np.ndarray
    camera: Camera
    intensity: str = "line_integral"
    mirrored: bool = False
    name: str = ""
    known: GeometryValues = field(default_factory=GeometryValues, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "image", np.asarray(self.image).astype(np.float32, copy=False))
        object.__setattr__(self, "mask", np.asarray(self.mask).astype(bool, copy=False))
        if self.image.ndim != 2 or self.image.shape != self.mask.shape:
            raise InputError(f"X-ray {self.name}: image {self.image.shape} and mask {self.mask.shape} must be two-dimensional and alike")
        rows, columns = self.image.shape
        if tuple(self.camera.size_px) != (columns, rows):
            raise InputError(f"X-ray {self.name}: the camera is for {self.camera.size_px} pixels, the image has {(columns, rows)} (columns, rows)")
        if not np.isfinite(self.image.sum(dtype=np.float64)):  # one pass in the common case
            object.__setattr__(self, "image", self._finite())

    def _finite(self) -> np.ndarray:
        finite = np.isfinite(self.image)
        broken = int(np.count_nonzero(~finite & self.mask))
        if broken:
            raise InputError(f"X-ray {self.name}: {broken} pixels inside its mask are not finite numbers (NaN or infinity); expected them masked out")
        return np.where(finite, self.image, np.median(self.image[self.mask]) if self.mask.any() else 0).astype(np.float32)

    @classmethod
    def read(
        cls,
        path: str | Path,
        geometry: Geometry = None,
        *,
        intensity: str | None = None,
        inverted: bool | None = None,
        mirrored: bool | None = None,
        mask: str | Path | np.ndarray | None = None,
        collimator: bool | None = None,
        frame: int | None = None,
        i0: float | None = None,
    ) -> Radiograph:
        """Read an X-ray. What is given here wins over ``geometry``, and that over the file's own header.

        Args:
            path: PNG, TIFF, NRRD, MHA, NPY or DICOM.
            geometry: a ``Camera``, a mapping with the keys of geometry.json, such a file, or None for a DICOM file that knows its own. It
                describes the image as stored; what it leaves open is taken from the DICOM header.
            intensity: "counts", "display" or "line_integral".
            inverted: white is bone, as it is in line integrals unless a DICOM header says otherwise.
            mirrored: stored as seen from the detector's side. The image and its camera are un-mirrored.
            mask: file or (H, W) array of the stored image; zero excludes a pixel.
            collimator: find the collimated border and mask it (by default yes).
            frame: which frame of a multi-frame file, from 0.
            i0: detector counts without an object, for "counts".

        Raises:
            InputError: anything that cannot be used, in one sentence.
        """
        path = Path(path)
        said = {"intensity": intensity, "inverted": inverted, "mirrored": mirrored, "frame": frame, "collimator": collimator, "i0": i0}
        values = first_known(parse_geometry(said, f"X-ray {path}"), geometry_values(geometry))
        stored = read_pixels(path, None if values.frame is None else values.frame.value)
        return cls.from_stored(stored, values, mask=mask, name=path.name, where=f"X-ray {path}")

    @classmethod
    def from_stored(
        cls,
        stored: StoredImage,
        values: GeometryValues,
        *,
        mask: str | Path | np.ndarray | None = None,
        collimator: bool | None = None,
        name: str = "",
        where: str = "",
    ) -> Radiograph:
        """Take grey values that are in memory already; what ``values`` leaves open is taken from ``stored.header``. Otherwise as ``read``.

        Args:
            stored: the grey values.
            values: what is known of the geometry of the image as stored.
            mask: file or (H, W) array of the stored image; zero excludes a pixel.
            collimator: find the collimated border and mask it; by default as ``values`` say, else yes.
            name: of the result.
            where: how messages call the image.
        """
        where = where or f"X-ray {name}".strip()
        view = complete(first_known(values, stored.header), stored.size_px, stored.likely_intensity, where)
        usable = usable_pixels(stored, mask, where)
        if collimator is None:
            collimator = view.values.collimator is None or view.values.collimator.value
        if collimator:
            usable = usable & open_field(stored, usable, view.inverted)[0]
        i0, full_scale = (None if known is None else known.value for known in (view.values.i0, view.values.full_scale))
        image = to_line_integral(stored.grey, usable, view.intensity, view.inverted, i0, full_scale, where)
        radiograph = cls(image, usable, view.camera, view.intensity, view.mirrored, name, view.values)
        return radiograph._flip_columns() if view.mirrored else radiograph

    @property
    def sod_fraction(self) -> float:
        """Where a view puts the CT's centre between source (0) and detector (1)."""
        known = self.known.sod_mm
        return sod_fraction(None if known is None else known.value, self.camera)

    def crop(self, left: int, top: int, columns: int, rows: int) -> Radiograph:
        """The part of ``columns`` x ``rows`` pixels whose first pixel is (left, top).

        Raises:
            InputError: the part reaches outside the image or is empty.
        """
        width, height = self.camera.size_px
        if columns < 1 or rows < 1 or left < 0 or top < 0 or left + columns > width or top + rows > height:
            raise InputError(
                f"X-ray {self.name}: cannot crop {columns} x {rows} pixels at column {left}, row {top} from an image of {width} x {height}"
            )
        part = np.s_[top : top + rows, left : left + columns]
        return replace(self, image=self.image[part], mask=self.mask[part], camera=self.camera.crop(left, top, columns, rows))

    def resize(self, columns: int, rows: int) -> Radiograph:
        """The same field of view on another grid: the mean over each new pixel's area when shrinking, linear interpolation when enlarging.

        Only usable pixels enter a mean; a new pixel is usable where at least half of its area is.
        """
        if columns < 1 or rows < 1:
            raise InputError(f"X-ray {self.name}: cannot resize to {columns} x {rows} pixels")
        if (columns, rows) == tuple(self.camera.size_px):
            return self
        vertical = resampling_weights(self.image.shape[0], rows)
        horizontal = resampling_weights(self.image.shape[1], columns).T
        share = vertical @ self.mask.astype(np.float32) @ horizontal
        plain = vertical @ self.image @ horizontal
        masked = vertical @ np.where(self.mask, self.image, np.float32(0)) @ horizontal
        image = np.where(share > 1e-3, masked / np.maximum(share, 1e-3), plain).astype(np.float32)
        return replace(self, image=image, mask=share >= 0.5, camera=self.camera.resize(columns, rows))

    def tensor(self, device: str | torch.device = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
        """Image (H, W) float32 and mask (H, W) bool on a device."""
        import torch

        return (
            torch.from_numpy(np.ascontiguousarray(self.image)).to(device),
            torch.from_numpy(np.ascontiguousarray(self.mask)).to(device),
        )

    def _flip_columns(self) -> Radiograph:
        return replace(
            self, image=np.ascontiguousarray(self.image[:, ::-1]), mask=np.ascontiguousarray(self.mask[:, ::-1]), camera=self.camera.flip_columns()
        )


def geometry_values(geometry: Geometry, view: int = 1) -> GeometryValues:
    """Whatever a caller may give as geometry, as ``GeometryValues``."""
    if geometry is None:
        return GeometryValues()
    if isinstance(geometry, GeometryValues):
        return geometry
    if isinstance(geometry, Camera):
        return from_camera(geometry)
    if isinstance(geometry, Mapping):
        return parse_geometry(geometry, view=view)
    if isinstance(geometry, (str, Path)):
        return read_geometry(geometry, view)
    raise InputError(f"geometry is a {type(geometry).__name__}, expected a Camera, a mapping with the keys of geometry.json or a path to one")


def usable_pixels(stored: StoredImage, mask: str | Path | np.ndarray | None, where: str) -> np.ndarray:
    """(H, W) bool from a mask file or array.

    Raises:
        InputError: the mask has another size, leaves nothing, or leaves pixels that are not finite.
    """
    usable = np.ones(stored.grey.shape, dtype=bool) if stored.valid is None else stored.valid.copy()
    if mask is not None:
        name = "mask" if isinstance(mask, np.ndarray) else f"mask {mask}"
        kept = mask != 0 if isinstance(mask, np.ndarray) else read_mask(mask)
        if kept.shape != usable.shape:
            raise InputError(f"{name} has {kept.shape[::-1]} pixels (columns, rows), expected the X-ray's {stored.size_px}")
        usable &= kept
        if not usable.any():
            raise InputError(f"{name} excludes every pixel of {where}: zero excludes, anything else includes")
    broken = int(np.count_nonzero(~np.isfinite(stored.grey) & usable))
    if broken:
        raise InputError(f"{where} has {broken} pixels that are not finite numbers (NaN or infinity): exclude them with a mask file")
    return usable


def open_field(stored: StoredImage, usable: np.ndarray, inverted: bool) -> tuple[np.ndarray, str]:
    """(H, W) bool: pixels that the collimator leaves open, and its shape in words ("" where there is none). ``inverted``: white is bone."""
    mask, fields = open_mask(stored.grey, usable, not inverted, lambda counted: air_bright(stored.grey, counted, inverted))
    return mask, " in a blanked ".join(field.shape for field in reversed(fields))


def resampling_weights(old: int, new: int) -> np.ndarray:
    """(new, old) float32 weights, rows summing to 1: overlap of pixel areas when shrinking, linear interpolation of centres when enlarging."""
    scale = old / new
    if new <= old:
        start = np.arange(new)[:, None] * scale
        cell = np.arange(old)[None, :]
        overlap = np.minimum(start + scale, cell + 1) - np.maximum(start, cell)
        return (np.clip(overlap, 0, None) / scale).astype(np.float32)
    centre = np.clip((np.arange(new) + 0.5) * scale - 0.5, 0, old - 1)[:, None]
    return np.clip(1 - np.abs(centre - np.arange(old)[None, :]), 0, None).astype(np.float32)
