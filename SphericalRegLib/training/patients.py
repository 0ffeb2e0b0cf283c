"""More patients from few: a CT bent, stretched and of another density.

For patient-agnostic training, where there are never enough CTs. What comes out is anatomy of a plausible kind, not a patient: vertebrae are not fused
or missing, implants bend with the bone. It teaches a network not to rely on one patient's exact shape.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.grid import apply
from SphericalRegLib.imaging.volume import Volume

SOFT_TISSUE_HU = 150.0
"""What is denser is bone, contrast agent or metal."""


@dataclass(frozen=True)
class PatientVariation:
    """How far made-up patients lie from the one they are made of.

    Attributes:
        stretch: each axis of the grid is stretched by a factor uniform in 1 +- this.
        bend_mm: standard deviation of the shift at each knot of a smooth displacement, per axis.
        knots_mm: distance of the knots; several times `bend_mm`, or tissue folds over.
        bone_gain: factor, uniform, on what Hounsfield units exceed soft tissue's.

    Raises:
        InputError: values with which anatomy folds over or turns into something else.
    """

    stretch: float = 0.1
    bend_mm: float = 6.0
    knots_mm: float = 80.0
    bone_gain: tuple[float, float] = (0.75, 1.3)

    def __post_init__(self) -> None:
        if not (0 <= self.stretch < 0.5 and 0 <= self.bend_mm < self.knots_mm / 6 and 0 < self.bone_gain[0] <= self.bone_gain[1]):
            raise InputError(
                f"Made-up patients are stretched by {self.stretch:g}, bent by {self.bend_mm:g} mm between knots {self.knots_mm:g} mm apart, bone "
                f"times {self.bone_gain}; expected less than 0.5, less than a sixth of the knots' distance, and two positive factors in order."
            )


def another_patient(volume: Volume, seed: int, variation: PatientVariation = PatientVariation()) -> Volume:
    """A made-up patient: the CT on a stretched grid, bent about its centre, its bone of another density; labels and padding go along.

    The same seed gives the same patient on the same grid. On another one of the same CT it does, up to interpolation, only where both have as many
    knots, which their extents decide: a crop, or slices of another thickness, may make another patient. The centre stays where it was.
    """
    rng = np.random.default_rng([0x504154, seed])
    factors = rng.uniform(1 - variation.stretch, 1 + variation.stretch, 3)
    gain = rng.uniform(*variation.bone_gain)
    voxels = _bent_voxels(volume, variation, rng)
    hu = _sampled(volume.hu, voxels, order=1)
    hu = np.where(hu > SOFT_TISSUE_HU, SOFT_TISSUE_HU + gain * (hu - SOFT_TISSUE_HU), hu).astype(np.float32)
    labels, valid = (None if array is None else _sampled(array, voxels, order=0) for array in (volume.labels, volume.valid))
    affine = volume.world_from_voxel.copy()
    middle = apply(affine, (np.array(volume.shape) - 1) / 2)
    affine[:3, :3] *= factors
    affine[:3, 3] += middle - apply(affine, (np.array(volume.shape) - 1) / 2)
    name = f"{volume.name or 'CT'}, made-up patient {seed}"
    return replace(volume, hu=hu, labels=labels, valid=valid, world_from_voxel=affine, name=name)


def _bent_voxels(volume: Volume, variation: PatientVariation, rng: np.random.Generator) -> np.ndarray:
    """(3, I, J, K): where in the CT each voxel of the new patient comes from."""
    from scipy.ndimage import map_coordinates  # SciPy is slow to load, and most trainings need no other patients

    extent = np.array(volume.shape) * volume.spacing_mm
    knots = np.maximum(4, np.ceil(extent / variation.knots_mm).astype(int) + 3)  # one more beyond each face
    shifts = rng.normal(0.0, variation.bend_mm, (3, *knots))
    along = [1 + (np.arange(n) + 0.5) * spacing / variation.knots_mm for n, spacing in zip(volume.shape, volume.spacing_mm)]
    at = np.stack(np.meshgrid(*along, indexing="ij"))
    index = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij")).astype(np.float64)
    for axis in range(3):
        index[axis] += map_coordinates(shifts[axis], at, order=3, mode="nearest") / volume.spacing_mm[axis]
    return index


def _sampled(values: np.ndarray, voxels: np.ndarray, order: int) -> np.ndarray:
    """Beyond the grid the nearest voxel's value: a patient goes on there."""
    from scipy.ndimage import map_coordinates

    wide = values.astype(np.uint8) if values.dtype == bool else values
    return map_coordinates(wide, voxels, order=order, mode="nearest").astype(values.dtype)


def made_up_patients(volume: Volume, count: int, first_seed: int = 0, spacing_mm: float = 2.0) -> list[Volume]:
    """Patients with the seeds from `first_seed` on; where the CT is finer than `spacing_mm`, of a copy as coarse as that (training is coarser)."""
    coarse = volume.resample(np.maximum(volume.spacing_mm, spacing_mm)) if count and volume.spacing_mm.min() < spacing_mm else volume
    return [another_patient(coarse, first_seed + number) for number in range(count)]
