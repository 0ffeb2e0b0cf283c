"""The X-ray tube: a filtered bremsstrahlung spectrum, and what of it comes through."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..imaging.nist import DENSITY_G_PER_CM3, mass_attenuation
from .materials import MATERIALS

TUBE_KVP = (40.0, 150.0)
"""Tube voltages that the spectrum is made for."""


@dataclass(frozen=True)
class Spectrum:
    """Photon energies (keV, (E,)) and the share of the open-field detector signal that each carries ((E,), sum 1)."""

    energy_kev: np.ndarray
    weight: np.ndarray


def tungsten_spectrum(kvp: float, filtration_mm_al: float = 3.0, bin_kev: float = 2.0) -> Spectrum:
    """Bremsstrahlung of a thick target at `kvp` behind `filtration_mm_al` of aluminium, as an energy-integrating detector weighs it.

    Kramers' law (H. A. Kramers, Phil. Mag. 46, 1923; e.g. Bushberg et al., The Essential Physics of Medical Imaging, ch. 6): the photon fluence
    is proportional to (kvp - E) / E. It is filtered by exp(-mu_Al d), inherent filtration included in d. An energy-integrating detector of
    constant efficiency multiplies by E. Tungsten's characteristic lines (a few per cent of the fluence above 70 kVp) are left out.

    Raises:
        ValueError: for a voltage outside 40-150 kVp or negative filtration.
    """
    if not TUBE_KVP[0] <= kvp <= TUBE_KVP[1]:
        raise ValueError(f"tube voltage must lie in {TUBE_KVP[0]:g}-{TUBE_KVP[1]:g} kVp, not {kvp:g}")
    if filtration_mm_al < 0.0:
        raise ValueError(f"filtration must not be negative, not {filtration_mm_al:g} mm Al")
    count = max(1, int(np.ceil((kvp - 10.0) / bin_kev)))
    edges = np.linspace(10.0, kvp, count + 1)
    energy = 0.5 * (edges[1:] + edges[:-1])
    fluence = (kvp - energy) / energy
    fluence *= np.exp(-mass_attenuation("aluminium", energy) * DENSITY_G_PER_CM3["aluminium"] * filtration_mm_al / 10.0)
    signal = fluence * energy
    return Spectrum(energy, signal / signal.sum())


def transmission(areal_density: np.ndarray, spectrum: Spectrum) -> np.ndarray:
    """Share of the open-field signal that reaches the detector, (...) float64 in (0, 1].

    Args:
        areal_density: (M, ...) g/cm^2 along each ray, one plane per entry of `MATERIALS` (its first M).
        spectrum: the beam.
    """
    planes = np.asarray(areal_density, dtype=np.float64)
    coefficients = np.stack([mass_attenuation(name, spectrum.energy_kev) for name in MATERIALS[: len(planes)]])
    total = np.zeros(planes.shape[1:])
    for weight, mu in zip(spectrum.weight, coefficients.T):  # one energy at a time: memory stays that of an image
        total += weight * np.exp(-np.tensordot(mu, planes, axes=1))
    return total
