"""What the simulated beam passes through: which materials, and what a Hounsfield unit is made of.

The volume's own calibration is undone with the table that the beam is made from, `imaging.nist`: a voxel's Hounsfield unit is read as a mixture of
water-like tissue and cortical bone that gives this unit at the CT's effective energy. The registration's renderer knows one material and one energy.
"""

from __future__ import annotations

import numpy as np

from ..imaging.attenuation import water_bone_fractions
from ..imaging.nist import DENSITY_G_PER_CM3

MATERIALS: tuple[str, ...] = ("water", "bone", "titanium", "iron")
"""Order of the first axis of every array of areal densities (g/cm^2). Titanium: implants in the CT; iron: tools and wires (steel)."""

CT_EFFECTIVE_KEV = 70.0
"""Effective energy of a 120 kVp CT, at which Hounsfield units are understood."""

METAL_HU = 2600.0
"""Above the hardest bone: a voxel becomes titanium over the 400 HU up to the usual saturation of a 12-bit CT. (Fiducials keep further off,
`poses.FIDUCIAL_HU`.)"""

_METAL_FULL_HU = 3000.0


def tissue_densities(hu: np.ndarray) -> np.ndarray:
    """Partial densities (g/cm^3) of water, bone and titanium in a voxel, (..., 3) float64, from its Hounsfield unit (...).

    At `CT_EFFECTIVE_KEV` the mixture attenuates exactly as the Hounsfield unit says, up to `METAL_HU`; air and padding hold nothing.
    """
    hu = np.asarray(hu, dtype=np.float64)
    water, bone = water_bone_fractions(np.minimum(hu, METAL_HU), CT_EFFECTIVE_KEV)
    metal = np.clip((hu - METAL_HU) / (_METAL_FULL_HU - METAL_HU), 0.0, 1.0)
    return np.stack([water, bone * DENSITY_G_PER_CM3["bone"] * (1.0 - metal), metal * DENSITY_G_PER_CM3["titanium"]], axis=-1)
