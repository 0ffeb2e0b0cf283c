"""From Hounsfield units to linear attenuation, the only thing that the renderer knows of a CT.

**Model.** A voxel is a mixture of water-like tissue and cortical bone, `water_bone_fractions`, and at the X-ray's effective energy E

    mu(HU) = a_w(HU) mu_w(E) + a_b(HU) mu_b(E)    [1/mm]

with mu_w, mu_b of water (1 g/cm3) and of ICRU-44 cortical bone (1.92 g/cm3) from NIST's tables (Hubbell & Seltzer, NISTIR 5632). The mixture is
made so that at the energy of the CT it gives the Hounsfield unit's own definition, mu = mu_w (1 + HU / 1000). So with `ct_energy_kev` left out (the
CT's energy taken to be the X-ray's) the model *is* that line, clipped at 0; with another energy bone gets its own slope, the bilinear model in use
since Schneider, Pedroni & Lomax, Phys. Med. Biol. 41 (1996) 111.

Everything below `air_below_hu` is exactly zero, so that the renderer can skip it. The default, -950 HU, removes the noise of the air around the
patient (standard deviation 10 to 20 HU) and keeps the lungs, of which it zeroes only the emptiest voxels.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from SphericalRegLib.errors import InputError

from .grid import grid_centre, voxel_spacing
from .nist import linear_attenuation

if TYPE_CHECKING:
    from .volume import Volume

ENERGIES_KEV = (20.0, 200.0)
"""Effective energies that make sense for the model."""

SOFT_TISSUE_HU = 100.0
"""Up to here a voxel is water of another density; above, cortical bone is mixed in."""

BLOOD_HU = 40.0

_SLAB = 16  # rows worked on at a time: memory stays that of the result; slabs of j suit both Fortran order (from files) and C order (the result)


def mu_water_per_mm(energy_kev: float) -> float:
    """Linear attenuation of water at 1 g/cm3; 0.02059 / mm at 60 keV.

    Log-log interpolation of NIST's table, 20 to 200 keV (else InputError); between its energies within 1 % (bone: 2 %).
    """
    return _linear_per_mm("water", energy_kev)


def mu_bone_per_mm(energy_kev: float) -> float:
    """Linear attenuation of ICRU-44 cortical bone at 1.92 g/cm3; 0.06044 / mm at 60 keV."""
    return _linear_per_mm("bone", energy_kev)


def cortical_bone_hu(energy_kev: float) -> float:
    """Hounsfield unit of solid cortical bone at an energy: 1935 at 60 keV, about 1590 at the 70 keV of a 120 kVp CT."""
    return 1000.0 * (mu_bone_per_mm(energy_kev) / mu_water_per_mm(energy_kev) - 1.0)


def water_bone_fractions(hu: np.ndarray, ct_energy_kev: float = 70.0) -> tuple[np.ndarray, np.ndarray]:
    """Parts of water and of cortical bone, (a_w, a_b), each of the shape of `hu` and its precision (float32 at least), that make up a voxel.

    Relative to the solid material: a_w grams of water per cm3 and 1.92 a_b grams of bone, so mu(E) = a_w mu_w(E) + a_b mu_b(E) at any energy.
    With s = `SOFT_TISSUE_HU` and b = `cortical_bone_hu(ct_energy_kev)`:

    - HU <= s: a_w = max(0, 1 + HU / 1000), a_b = 0 (air, fat, muscle: water of another density);
    - s < HU <= b: a_b = (HU - s) / (b - s), a_w = (1 - a_b) (1 + s / 1000) (soft tissue gives way to bone by volume);
    - HU > b: a_w = 0, a_b = (1 + HU / 1000) / (1 + b / 1000) (denser than bone: more of it).

    Both are continuous, so is the mass, and at the CT's energy the mixture attenuates exactly as the Hounsfield unit says.
    """
    hu = np.asarray(hu)
    hu = hu.astype(np.result_type(hu, np.float32), copy=False)
    full = cortical_bone_hu(ct_energy_kev)
    share = np.clip((hu - SOFT_TISSUE_HU) / (full - SOFT_TISSUE_HU), 0.0, 1.0)
    water = (1.0 - share) * np.clip(1.0 + np.minimum(hu, SOFT_TISSUE_HU) / 1000.0, 0.0, None)
    bone = share * np.maximum((1.0 + hu / 1000.0) / (1.0 + full / 1000.0), 1.0)
    return water, bone


@dataclass(frozen=True)
class AttenuationModel:
    """How Hounsfield units become attenuation; see the module for the formula.

    Attributes:
        energy_kev: effective energy of the X-ray, 20 to 200. 60 keV is that of a filtered 100-120 kVp beam behind a patient.
        ct_energy_kev: effective energy of the CT (70 for 120 kVp); None takes the X-ray's: one straight line.
        air_below_hu: voxels below are exactly zero.
        metal_clamp_hu: values above are set to it: tames metal, whose streaks and overshoot are no attenuation; None leaves them.
        bone_only: keep bone alone, by a smooth step in HU: 0 at `bone_threshold_hu` - `bone_width_hu` / 2, 1 at + `bone_width_hu` / 2.
        bone_threshold_hu: middle of that step. (300 to 500 keeps the contrasted vessels of a rotational angiogram.)
        bone_width_hu: width of that step; a hard threshold would make voxels flicker with noise.
        contrast_labels: labels (vessels, heart, kidneys, bladder) whose contrast agent is removed, for an X-ray without it: what lies above
            `SOFT_TISSUE_HU` there, and in the unlabelled voxels next to them, becomes blood (40 HU). Empty keeps it. By its values alone contrast
            agent cannot be told from cancellous bone, so labels are needed.
        label_softness_mm: standard deviation of the Gaussian that softens the border of a label subset; 0 cuts at the voxel.

    Raises:
        InputError: an energy outside the table, a width that is not positive, thresholds that are not finite.
    """

    energy_kev: float = 60.0
    ct_energy_kev: float | None = None
    air_below_hu: float = -950.0
    metal_clamp_hu: float | None = None
    bone_only: bool = False
    bone_threshold_hu: float = 250.0
    bone_width_hu: float = 150.0
    contrast_labels: tuple[int, ...] = ()
    label_softness_mm: float = 0.0

    def __post_init__(self) -> None:
        # Numpy's integers, as labels read off a map are, cannot be written to result.json.
        object.__setattr__(self, "contrast_labels", tuple(int(label) for label in self.contrast_labels))
        mu_water_per_mm(self.energy_kev)
        mu_water_per_mm(self.energy_kev if self.ct_energy_kev is None else self.ct_energy_kev)
        for field in ("air_below_hu", "bone_threshold_hu", "bone_width_hu", "label_softness_mm"):
            if not np.isfinite(getattr(self, field)):
                raise InputError(f"{field} of the attenuation model is {getattr(self, field)}; expected a finite number.")
        if self.bone_width_hu <= 0 or self.label_softness_mm < 0:
            raise InputError(
                f"The attenuation model has bone_width_hu {self.bone_width_hu} and label_softness_mm {self.label_softness_mm}; "
                "expected a positive width and a softness of at least 0."
            )

    def mu(self, hu: np.ndarray) -> np.ndarray:
        """Attenuation in 1/mm, float32, of Hounsfield units of any shape (no labels, no padding here)."""
        hu = np.asarray(hu, dtype=np.float32)
        if self.metal_clamp_hu is not None:
            hu = np.minimum(hu, np.float32(self.metal_clamp_hu))
        if self.ct_energy_kev is None:
            mu = np.maximum(1.0 + hu * np.float32(1e-3), 0.0) * np.float32(mu_water_per_mm(self.energy_kev))
        else:
            water, bone = water_bone_fractions(hu, self.ct_energy_kev)
            mu = water * np.float32(mu_water_per_mm(self.energy_kev)) + bone * np.float32(mu_bone_per_mm(self.energy_kev))
        if self.bone_only:
            step = np.clip((hu - self.bone_threshold_hu) / self.bone_width_hu + 0.5, 0.0, 1.0)
            mu *= step * step * (3.0 - 2.0 * step)
        mu[hu < self.air_below_hu] = 0.0
        return mu.astype(np.float32, copy=False)


@dataclass(frozen=True, eq=False)
class Attenuation:
    """A CT as the renderer sees it.

    Attributes:
        mu: (I, J, K) float32 in 1/mm, C-contiguous, exactly 0 in air and padding.
        world_from_voxel: (4, 4) float64, RAS.
        centre_ras_mm: (3,) centre of the uncropped grid, about which poses are perturbed.
        cut_faces: whether the body goes on beyond each of the grid's faces: (i low, i high, j low, j high, k low, k high).
        model, labels: what `attenuation` made it with; None where it was made otherwise, and no labels where all of the CT is shown.
    """

    mu: np.ndarray
    world_from_voxel: np.ndarray
    centre_ras_mm: np.ndarray = None  # type: ignore[assignment]  # filled in by __post_init__
    cut_faces: tuple[bool, bool, bool, bool, bool, bool] = (False,) * 6
    model: AttenuationModel | None = None
    labels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "mu", np.ascontiguousarray(self.mu, dtype=np.float32))
        object.__setattr__(self, "world_from_voxel", np.asarray(self.world_from_voxel, dtype=np.float64))
        if self.centre_ras_mm is None:
            object.__setattr__(self, "centre_ras_mm", grid_centre(self.world_from_voxel, self.mu.shape))


def attenuation(volume: Volume, model: AttenuationModel | None = None, labels: Collection[int] | None = None) -> Attenuation:
    """Attenuation of a CT, or of those of its voxels that carry one of `labels` (one bone of several).

    Raises:
        InputError: labels asked of a volume that has none or not those; nothing left that attenuates.
    """
    model = AttenuationModel() if model is None else model
    subset = None if labels is None else _subset(volume, labels, model.label_softness_mm)
    contrast = _contrast(volume, model.contrast_labels) if model.contrast_labels else None
    mu = np.zeros(volume.shape, dtype=np.float32)
    for start in range(0, mu.shape[1], _SLAB):
        slab = np.s_[:, start : start + _SLAB]
        hu = volume.hu[slab]
        if contrast is not None:
            hu = np.where(contrast[slab] & (hu > SOFT_TISSUE_HU), np.float32(BLOOD_HU), hu)
        values = model.mu(hu)
        if volume.valid is not None:
            values *= volume.valid[slab]
        if subset is not None:
            values *= subset[slab]
        mu[slab] = values
    if not mu.any():
        chosen = "" if labels is None else f" under the labels {sorted(labels)}"
        raise InputError(f"Nothing in {volume.name or 'the volume'}{chosen} attenuates X-rays; expected {'bone' if model.bone_only else 'tissue'}.")
    faces = cut_faces(mu, volume.valid, 0.5 * mu_water_per_mm(model.energy_kev))
    shown = None if labels is None else tuple(int(label) for label in labels)
    return Attenuation(mu, volume.world_from_voxel, volume.centre_ras_mm, faces, model, shown)


def cut_faces(
    mu: np.ndarray, valid: np.ndarray | None, tissue_per_mm: float, share: float = 0.005
) -> tuple[bool, bool, bool, bool, bool, bool]:
    """Which faces of the grid cut through the body: (i low, i high, j low, j high, k low, k high).

    A face does if more than `share` of its measured (not padded) voxels attenuate more than `tissue_per_mm`. A body that ends at the rim of a
    padded field of view is cut too, but not at a face of the grid: it is not told here.
    """
    faces = []
    for axis in range(3):
        for end in (0, -1):
            face = (slice(None),) * axis + (end,)  # a view; `take` would copy the whole volume into C order first
            tissue = np.count_nonzero(mu[face] > tissue_per_mm)
            measured = mu[face].size if valid is None else np.count_nonzero(valid[face])
            faces.append(bool(tissue > share * measured))
    return tuple(faces)  # type: ignore[return-value]


def _subset(volume: Volume, labels: Collection[int], softness_mm: float) -> np.ndarray:
    mask = _labelled(volume, labels)
    if softness_mm == 0:
        return mask
    return ndimage.gaussian_filter(mask.astype(np.float32), softness_mm / voxel_spacing(volume.world_from_voxel), truncate=3.0)


def _contrast(volume: Volume, labels: Collection[int]) -> np.ndarray:
    """The labels' voxels and the unlabelled ones next to them, where partial volumes of the contrast agent lie."""
    mask = _labelled(volume, labels)
    return ndimage.binary_dilation(mask, np.ones((3, 3, 3)), mask=mask | (volume.labels == 0))


def _labelled(volume: Volume, labels: Collection[int]) -> np.ndarray:
    if volume.labels is None:
        raise InputError(f"{volume.name or 'The volume'} has no label map, but the labels {sorted(labels)} were asked for.")
    mask = np.isin(volume.labels, list(labels))
    if not mask.any():
        present = [int(label) for label in np.unique(volume.labels) if label]
        raise InputError(f"{volume.name or 'The volume'} has no voxel with the labels {sorted(labels)}; it has {present}.")
    return mask


def _linear_per_mm(material: str, energy_kev: float) -> float:
    low, high = ENERGIES_KEV
    if not low <= energy_kev <= high:
        raise InputError(f"The effective energy is {energy_kev} keV; expected {low:g} to {high:g} keV.")
    return float(linear_attenuation(material, energy_kev))
