"""`Volume`: a CT in Hounsfield units with its place in the world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SphericalRegLib.errors import InputError

from . import grid
from .files import write_atomically
from .hounsfield import AIR_HU, Padding, check_finite, check_hounsfield, find_padding
from .reading import MOST_VOXELS, StoredGrid, grid_from_sitk, read_grid
from .regrid import nearest, resample, resampled_grid


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT: `hu[i, j, k]` with `world_from_voxel`, in the CT's own RAS frame.

    Made by `read`, `from_sitk` or `from_array`, which check that the values can be Hounsfield units and find the padding (imaging.hounsfield has the
    rule). The plain constructor checks shapes and the affine only.

    Attributes:
        hu: (I, J, K) float32; padding is set to -1000, so that whoever ignores `valid` sees air. Memory order is free: what comes from a file is
            Fortran-contiguous (i fastest, as it lies in the file), which spares a copy.
        world_from_voxel: (4, 4) float64, RAS mm from voxel indices; any invertible affine.
        centre_ras_mm: (3,) centre of the *uncropped* grid: the point that the CT turns about; crops and resampled copies carry it along.
        labels: (I, J, K) integers on the same grid, 0 is background; None if there are none.
        valid: (I, J, K) bool, False where the file holds padding; None if it holds none.
        name: for messages and reports.

    Raises:
        InputError: arrays that are not 3D or differ in shape, fewer than two voxels along an axis, an affine that is not finite or is singular.
    """

    hu: np.ndarray
    world_from_voxel: np.ndarray
    centre_ras_mm: np.ndarray = None  # type: ignore[assignment]  # filled in by __post_init__
    labels: np.ndarray | None = None
    valid: np.ndarray | None = None
    name: str = ""

    def __post_init__(self) -> None:
        hu = np.asarray(self.hu)
        if hu.ndim != 3 or min(hu.shape) < 2:
            raise InputError(f"{self._title} has shape {hu.shape}; expected a 3D CT with at least two voxels along each axis.")
        for field in ("labels", "valid"):
            array = getattr(self, field)
            if array is not None and np.shape(array) != hu.shape:
                raise InputError(f"The {field} of {self._title} have shape {np.shape(array)}; expected the shape of the CT, {hu.shape}.")
        affine = grid.checked_affine(self.world_from_voxel, self._title)
        centre = grid.grid_centre(affine, hu.shape) if self.centre_ras_mm is None else np.array(self.centre_ras_mm, dtype=np.float64)
        if centre.shape != (3,) or not np.isfinite(centre).all():
            raise InputError(f"The centre of {self._title} is {centre.tolist()}; expected three finite numbers in mm.")
        object.__setattr__(self, "hu", hu.astype(np.float32, copy=False))
        object.__setattr__(self, "world_from_voxel", affine)
        object.__setattr__(self, "centre_ras_mm", centre)

    # ---- making one

    @classmethod
    def read(
        cls, path: str | Path, labels: str | Path | None = None, *, series: str | None = None, padding: Padding = "auto", name: str | None = None
    ) -> Volume:
        """Read a CT from a NIfTI, NRRD, MHA/MHD file (or whatever else SimpleITK reads), or from a folder with a DICOM series.

        Memory: four bytes a voxel for the result (and one for padding, where there is any), and on the way the file's own voxels beside it. A
        512 x 512 x 600 CT of 16-bit integers takes 0.79 GB and 1.1 GB at the peak; no reader needs more than twice the file's voxels besides.

        Args:
            path: file or folder.
            labels: a label map in a file; brought to the CT's grid by nearest neighbour if it has another.
            series: which DICOM series of a folder: the series instance UID, the end of it, or the series number. Needed only where several fit.
            padding: "auto", or the value of the padding (and everything below it), or None.
            name: instead of the file's.

        Raises:
            InputError: the path is missing, empty, truncated, unreadable; not a 3D CT with one value a voxel; its grid is singular or absurd; the
                values are not finite or cannot be Hounsfield units; several series, gaps or another modality in a DICOM folder; labels that are not
                whole numbers or lie elsewhere.
        """
        stored = read_grid(Path(path), series=series)
        volume = cls._from_stored(stored, padding, stored.name if name is None else name)
        return volume if labels is None else volume.with_labels(labels)

    @classmethod
    def from_sitk(cls, image: sitk.Image, labels: sitk.Image | None = None, *, padding: Padding = "auto", name: str = "") -> Volume:
        """Take a SimpleITK image (LPS) in Hounsfield units; raises InputError as `read` does."""
        volume = cls._from_stored(grid_from_sitk(image, name or "the image"), padding, name)
        return volume if labels is None else volume.with_labels(labels)

    @classmethod
    def from_array(
        cls, hu: np.ndarray, world_from_voxel: np.ndarray, *, labels: np.ndarray | None = None, padding: Padding = "auto", name: str = ""
    ) -> Volume:
        """Take an array (I, J, K) in Hounsfield units and its affine (RAS); raises InputError as `read` does.

        Slicer's `arrayFromVolume` is [k, j, i]: pass its transpose, and the node's IJKToRAS matrix. The values are copied.
        """
        hu = np.asarray(hu)
        if hu.dtype.kind not in "iufb" or hu.ndim != 3:
            raise InputError(f"The array of {name or 'the volume'} has shape {hu.shape} and type {hu.dtype}; expected a 3D array of real numbers.")
        volume = cls._from_stored(StoredGrid(np.array(hu, dtype=np.float32), np.asarray(world_from_voxel), name), padding, name)
        return volume if labels is None else replace(volume, labels=_as_labels(labels, "the label array"))

    @classmethod
    def _from_stored(cls, stored: StoredGrid, padding: Padding, name: str) -> Volume:
        what = stored.name or "the volume"
        volume = cls(stored.values, stored.world_from_voxel, name=name)  # shape and affine are checked first: they cost nothing
        grid.check_extent(volume.world_from_voxel, volume.hu.shape, what)
        check_finite(volume.hu, what)
        check_hounsfield(volume.hu, what)
        mask = find_padding(volume.hu, padding, stored.declared_padding)
        if mask is None:
            return volume
        if mask.all():
            raise InputError(f"Every voxel of {what} is padding; expected a CT.")
        volume.hu[mask] = AIR_HU
        if volume.hu.max() < -500:
            raise InputError(f"{what} holds padding and air only; expected a CT with tissue.")
        return replace(volume, valid=np.logical_not(mask, out=mask))

    def with_labels(self, labels: str | Path | sitk.Image) -> Volume:
        """The same CT with a label map from a file or image, brought to this grid by nearest neighbour (0 outside it)."""
        stored = grid_from_sitk(labels, "the label map") if isinstance(labels, sitk.Image) else read_grid(Path(labels))
        what = stored.name or "the label map"
        values = _as_labels(stored.values, what)
        on_grid = nearest(values, grid.checked_affine(stored.world_from_voxel, what), self.hu.shape, self.world_from_voxel)
        if not on_grid.any():
            raise InputError(f"No label of {what} lies inside {self._title}; expected a label map of the same patient and frame.")
        return replace(self, labels=on_grid)

    # ---- looking at it

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.hu.shape  # type: ignore[return-value]

    @property
    def spacing_mm(self) -> np.ndarray:
        """Lengths (3,) of the steps along i, j, k."""
        return grid.voxel_spacing(self.world_from_voxel)

    @property
    def voxel_from_world(self) -> np.ndarray:
        """(4, 4) float64."""
        return np.linalg.inv(self.world_from_voxel)

    def box_corners_ras(self) -> np.ndarray:
        """The grid's eight outer corners (8, 3) in the world, half a voxel outside the centres of the corner voxels."""
        return grid.apply(self.world_from_voxel, grid.box_corners(self.shape))

    # ---- other grids; the centre stays that of the whole CT

    def crop_to_box(self, first: Sequence[int], end: Sequence[int]) -> Volume:
        """The voxels first <= (i, j, k) < end, copied. What lies outside the grid is left out.

        Raises:
            InputError: if fewer than two voxels are left along an axis.
        """
        low = np.clip(np.asarray(first, dtype=int), 0, self.shape)
        high = np.clip(np.asarray(end, dtype=int), 0, self.shape)
        if (high - low < 2).any():
            raise InputError(
                f"The box from {list(first)} to {list(end)} leaves less than two voxels of {self._title}, shape {self.shape}, along an axis."
            )
        box = tuple(slice(*pair) for pair in zip(low, high))
        affine = self.world_from_voxel.copy()
        affine[:3, 3] = grid.apply(self.world_from_voxel, low)
        labels, valid = (None if array is None else array[box].copy(order="K") for array in (self.labels, self.valid))
        return replace(self, hu=self.hu[box].copy(order="K"), world_from_voxel=affine, labels=labels, valid=valid)

    def resample(self, spacing_mm: float | Sequence[float]) -> Volume:
        """The CT on a grid with the same axes and centre and another spacing (one number, or one for each axis).

        Anti-aliased by a triangle of twice the new voxel's width where it gets coarser, linear where it gets finer; padding has no weight. Labels go
        by nearest neighbour.

        Raises:
            InputError: a spacing that is not positive, or so fine that the result would have more than 2^31 voxels.
        """
        spacing = np.broadcast_to(np.asarray(spacing_mm, dtype=np.float64), 3)
        if not (np.isfinite(spacing).all() and spacing.min() > 0):
            raise InputError(f"The new spacing of {self._title} is {spacing_mm}; expected one or three positive lengths in mm.")
        shape, affine = resampled_grid(self.shape, self.world_from_voxel, spacing)
        if np.prod([float(size) for size in shape]) > MOST_VOXELS:
            raise InputError(f"Resampling {self._title} to {spacing_mm} mm would give shape {shape}; expected at most {MOST_VOXELS:,} voxels.")
        hu, valid = resample(self.hu, self.valid, shape, spacing / self.spacing_mm)
        if valid is not None:
            hu[~valid] = AIR_HU
        labels = None if self.labels is None else nearest(self.labels, self.world_from_voxel, shape, affine)
        return replace(self, hu=hu, world_from_voxel=affine, labels=labels, valid=valid)

    # ---- handing it on

    def to_sitk(self) -> sitk.Image:
        """The Hounsfield units as a SimpleITK image (LPS); a sheared grid keeps its shear in the direction matrix."""
        return grid.place(sitk.GetImageFromArray(self.hu.T), self.world_from_voxel)

    def labels_to_sitk(self) -> sitk.Image:
        """The labels as a SimpleITK image (LPS).

        Raises:
            InputError: if there are none.
        """
        if self.labels is None:
            raise InputError(f"{self._title} has no labels.")
        return grid.place(sitk.GetImageFromArray(self.labels.T), self.world_from_voxel)

    def write(self, path: str | Path) -> None:
        """Write the Hounsfield units to .nii, .nii.gz, .nrrd or .mha, atomically; as 16-bit integers where that loses nothing.

        Padding is written as the -1000 that it is in `hu`; the centre of an uncropped grid is not kept by these formats.

        Raises:
            InputError: an unknown suffix, a sheared grid into NIfTI (ITK would store an orthogonal one), or a folder that cannot be written.
        """
        path = Path(path)
        if not path.name.lower().endswith((".nii", ".nii.gz", ".nrrd", ".mha")):
            raise InputError(f"{path} has no suffix of a volume; expected .nii.gz, .nii, .nrrd or .mha.")
        if path.name.lower().endswith((".nii", ".nii.gz")) and grid.is_sheared(self.world_from_voxel):
            raise InputError(f"The grid of {self._title} is sheared, which NIfTI cannot be given by ITK; write .nrrd or .mha instead of {path.name}.")
        image = self.to_sitk()
        if self.hu.min() >= -(2**15) and self.hu.max() < 2**15 and all((plane == np.rint(plane)).all() for plane in self.hu.T):
            image = sitk.Cast(image, sitk.sitkInt16)
        try:
            write_atomically(path, lambda temporary: sitk.WriteImage(image, str(temporary), useCompression=True))
        except (OSError, RuntimeError) as error:
            raise InputError(f"{path} cannot be written: {error}") from None

    @property
    def _title(self) -> str:
        return self.name or "the volume"


def _as_labels(values: np.ndarray, what: str) -> np.ndarray:
    """Whole numbers in the smallest type that holds them."""
    values = np.asarray(values)
    if values.dtype.kind not in "iufb":
        raise InputError(f"{what} has type {values.dtype}; expected whole numbers.")
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.floor(values)).all()):
        raise InputError(f"{what} holds values that are not whole numbers; expected a label map (0 is background).")
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 2**24:
        raise InputError(f"The labels of {what} span {low} to {high}; expected 0 (background) to 16777216.")
    return values.astype(np.uint8 if high < 2**8 else np.uint16 if high < 2**16 else np.int32)
