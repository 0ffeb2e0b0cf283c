"""What the simulated beam passes through: mass attenuation coefficients, and what a Hounsfield unit is made of.

Coefficients (cm^2/g, coherent scattering included) are those of NIST's tables (Hubbell & Seltzer, NISTIR 5632, 1995) for liquid water,
ICRU-44 cortical bone, titanium, iron and aluminium, at the photon energies of `_ENERGIES_KEV`; between them they are interpolated linearly in
log-log. None of the materials has an absorption edge in that range.

The volume's own calibration is undone with the same tables: a voxel's Hounsfield unit is read as a mixture of water-like tissue and cortical
bone that gives this unit at the CT's effective energy. The registration's renderer knows one material and one energy.
"""

from __future__ import annotations

import numpy as np

MATERIALS: tuple[str, ...] = ("water", "bone", "titanium", "iron")
"""Order of the first axis of every array of areal densities (g/cm^2). Titanium: implants in the CT; iron: tools and wires (steel)."""

DENSITY_G_PER_CM3 = {"water": 1.0, "bone": 1.92, "titanium": 4.5, "iron": 7.9, "aluminium": 2.70}

CT_EFFECTIVE_KEV = 70.0
"""Effective energy of a 120 kVp CT, at which Hounsfield units are understood."""

SOFT_TISSUE_HU = 100.0
"""Up to here a voxel is water of another density (air, fat, muscle, blood); above, bone is mixed in."""

METAL_HU = 2600.0
"""Above the hardest bone: a voxel becomes titanium over the 400 HU up to the usual saturation of a 12-bit CT."""

_METAL_FULL_HU = 3000.0
_ENERGIES_KEV = np.array([10.0, 15, 20, 30, 40, 50, 60, 80, 100, 150])
_CM2_PER_G = {
    "water": np.array([5.329, 1.673, 0.8096, 0.3756, 0.2683, 0.2269, 0.2059, 0.1837, 0.1707, 0.1505]),
    "bone": np.array([28.51, 9.032, 4.001, 1.331, 0.6655, 0.4242, 0.3148, 0.2229, 0.1855, 0.1480]),
    "titanium": np.array([110.7, 35.87, 15.85, 4.972, 2.214, 1.213, 0.7661, 0.4052, 0.2721, 0.1649]),
    "iron": np.array([170.6, 57.08, 25.68, 8.176, 3.629, 1.958, 1.205, 0.5952, 0.3717, 0.1964]),
    "aluminium": np.array([26.23, 7.955, 3.441, 1.128, 0.5685, 0.3681, 0.2778, 0.2018, 0.1704, 0.1378]),
}


def mass_attenuation(material: str, energy_kev: np.ndarray | float) -> np.ndarray:
    """Mass attenuation coefficient (cm^2/g) at energies (keV, any shape) between 10 and 150.

    Raises:
        ValueError: for a material or an energy outside the tables.
    """
    energy = np.asarray(energy_kev, dtype=np.float64)
    if material not in _CM2_PER_G:
        raise ValueError(f"no attenuation table for {material!r}: known are {', '.join(_CM2_PER_G)}")
    if energy.min() < _ENERGIES_KEV[0] or energy.max() > _ENERGIES_KEV[-1]:
        raise ValueError(f"energies must lie in {_ENERGIES_KEV[0]:g}-{_ENERGIES_KEV[-1]:g} keV, not {energy.min():g}-{energy.max():g}")
    return np.exp(np.interp(np.log(energy), np.log(_ENERGIES_KEV), np.log(_CM2_PER_G[material])))


def cortical_bone_hu(energy_kev: float = CT_EFFECTIVE_KEV) -> float:
    """Hounsfield unit of pure ICRU-44 cortical bone at an energy (about 1600 at 70 keV)."""
    ratio = DENSITY_G_PER_CM3["bone"] * mass_attenuation("bone", energy_kev) / mass_attenuation("water", energy_kev)
    return 1000.0 * (float(ratio) - 1.0)


def tissue_densities(hu: np.ndarray) -> np.ndarray:
    """Partial densities (g/cm^3) of water, bone and titanium in a voxel, (..., 3) float64, from its Hounsfield unit (...).

    At `CT_EFFECTIVE_KEV` the mixture attenuates exactly as the Hounsfield unit says, up to `METAL_HU`; air and padding hold nothing.
    """
    hu = np.asarray(hu, dtype=np.float64)
    full_bone = cortical_bone_hu()
    fraction = np.clip((hu - SOFT_TISSUE_HU) / (full_bone - SOFT_TISSUE_HU), 0.0, 1.0)
    water = np.where(hu < SOFT_TISSUE_HU, np.clip(1.0 + hu / 1000.0, 0.0, None), (1.0 - fraction) * (1.0 + SOFT_TISSUE_HU / 1000.0))
    compact = np.clip((np.minimum(hu, METAL_HU) + 1000.0) / (full_bone + 1000.0), 1.0, None)  # denser than cortical bone: more of it
    bone = fraction * compact * DENSITY_G_PER_CM3["bone"]
    metal = np.clip((hu - METAL_HU) / (_METAL_FULL_HU - METAL_HU), 0.0, 1.0)
    return np.stack([water, bone * (1.0 - metal), metal * DENSITY_G_PER_CM3["titanium"]], axis=-1)
