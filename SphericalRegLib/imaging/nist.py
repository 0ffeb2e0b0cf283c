"""NIST's mass attenuation coefficients: the one table that both the renderer's attenuation and the simulated beam are made from.

From Hubbell & Seltzer, NISTIR 5632 (1995), coherent scattering included, in cm^2/g, for liquid water, ICRU-44 cortical bone, titanium, iron and
aluminium. None of the materials has an absorption edge between the energies of the table.
"""

from __future__ import annotations

import numpy as np

DENSITY_G_PER_CM3 = {"water": 1.0, "bone": 1.92, "titanium": 4.5, "iron": 7.9, "aluminium": 2.70}

_ENERGIES_KEV = np.array([10.0, 15, 20, 30, 40, 50, 60, 80, 100, 150, 200])
# Tissues up to the last of these energies, metals up to 150 keV, which is as far as an X-ray tube goes.
_CM2_PER_G = {
    "water": np.array([5.329, 1.673, 0.8096, 0.3756, 0.2683, 0.2269, 0.2059, 0.1837, 0.1707, 0.1505, 0.1370]),
    "bone": np.array([28.51, 9.032, 4.001, 1.331, 0.6655, 0.4242, 0.3148, 0.2229, 0.1855, 0.1480, 0.1309]),
    "titanium": np.array([110.7, 35.87, 15.85, 4.972, 2.214, 1.213, 0.7661, 0.4052, 0.2721, 0.1649]),
    "iron": np.array([170.6, 57.08, 25.68, 8.176, 3.629, 1.958, 1.205, 0.5952, 0.3717, 0.1964]),
    "aluminium": np.array([26.23, 7.955, 3.441, 1.128, 0.5685, 0.3681, 0.2778, 0.2018, 0.1704, 0.1378]),
}


def mass_attenuation(material: str, energy_kev: np.ndarray | float) -> np.ndarray:
    """Mass attenuation coefficient (cm^2/g) at energies (keV, any shape) from 10 to 150, of water and bone to 200.

    Linear in log-log between the table's energies: within 1 %, bone within 2 %, from 20 keV on.

    Raises:
        ValueError: for a material or an energy outside the table.
    """
    energy = np.asarray(energy_kev, dtype=np.float64)
    if material not in _CM2_PER_G:
        raise ValueError(f"no attenuation table for {material!r}: known are {', '.join(_CM2_PER_G)}")
    values = _CM2_PER_G[material]
    known = _ENERGIES_KEV[: len(values)]
    if energy.min() < known[0] or energy.max() > known[-1]:
        raise ValueError(f"energies must lie in {known[0]:g}-{known[-1]:g} keV for {material}, not {energy.min():g}-{energy.max():g}")
    return np.exp(np.interp(np.log(energy), np.log(known), np.log(values)))


def linear_attenuation(material: str, energy_kev: np.ndarray | float) -> np.ndarray:
    """Linear attenuation coefficient (1/mm) at the material's density; energies and errors as of `mass_attenuation`."""
    return mass_attenuation(material, energy_kev) * DENSITY_G_PER_CM3[material] / 10.0
